//! Routes to several upstreams by weight: who goes where, and that nothing else depends on it.

use std::{collections::HashSet, time::Duration};

use super::numbered;
use crate::support::{Client, Gateway, Issuer, Reply, Shell, Upstream, gateway::Running};

/// The upstreams `side0`, `side1` …, and a route with this split and rule.
fn gateway(sides: &[Upstream], split: &str, route: &str, issuer: &Issuer) -> Running {
    let mut tables = String::new();
    for (number, side) in sides.iter().enumerate() {
        tables.push_str(&format!("[upstream.side{number}]\nservers = [{:?}]\n", side.url()));
    }
    let route = format!("[[route]]\nname = \"split\"\nmatch = {{ path = \"/{{*rest}}\" }}\nsplit = {split}\n{route}\n");
    // Behind all others, as its keys stand alone.
    Gateway::new().admin().issuer(issuer).table(&tables).table(&route).start()
}

fn of(client: &Client, issuer: &Issuer, gateway: &Running, subject: &str) -> String {
    let token = issuer.sign(&Issuer::claims(subject, &["user"], gateway.now()));
    client.get("/any").bearer(&token).send().expect(200).text()
}

#[test]
fn who_is_known_stays_on_one_side_and_both_get_their_share() {
    let (sides, issuer) = (numbered(2), Issuer::es256());
    let gateway = gateway(&sides, "{ side0 = 50, side1 = 50 }", "auth = [\"jwt\"]", &issuer);
    let client = gateway.client();
    let subjects: Vec<String> = (0..40).map(|number| format!("user-{number}")).collect();

    let first: Vec<String> = subjects.iter().map(|subject| of(&client, &issuer, &gateway, subject)).collect();
    let again: Vec<String> = subjects.iter().map(|subject| of(&client, &issuer, &gateway, subject)).collect();

    assert_eq!(first, again);
    let on_first = first.iter().filter(|side| *side == "0").count();
    // By chance neither gets fewer than four of forty once in a hundred million times.
    assert!((4..=36).contains(&on_first), "{on_first}");
    let line = gateway.access_line("/any");
    assert!(["side0", "side1"].contains(&line["upstream"].as_str().unwrap()), "{line}");
    for (name, side) in [("side0", &sides[0]), ("side1", &sides[1])] {
        let seconds = gateway.metric("portcullis_upstream_duration_seconds_count", &[("upstream", name)]);
        assert_eq!(seconds, side.request_count() as f64, "{name}");
    }
}

/// Told by the code that chooses.
#[test]
fn explain_says_which_side_a_caller_gets() {
    let (sides, issuer) = (numbered(2), Issuer::es256());
    let rule = "auth = [\"jwt\"]\noptional = true";
    let gateway = gateway(&sides, "{ side0 = 1, side1 = 1 }", rule, &issuer);
    let config = gateway.folder().join("gateway.toml");
    let explain = |more: &[&str]| {
        let shell = Shell::empty();
        let config = config.to_str().expect("a path");
        let said = shell.run(&[&["--config", config, "explain", "GET", "https://app.test/any"], more].concat());
        said.expect(0).out
    };

    let mut told = HashSet::new();
    for number in 0..12 {
        let subject = format!("user-{number}");
        let side = of(&gateway.client(), &issuer, &gateway, &subject);
        let said = explain(&["--as", &format!("sub={subject}")]);
        assert!(said.contains(&format!("side0 (1), side1 (1); this caller gets side{side}\n")), "{said}");
        told.insert(side);
    }

    assert_eq!(told.len(), 2, "both sides were told of: who is on which is the same in every run");
    let said = explain(&[]);
    assert!(said.contains("; whoever is not known gets one by chance, each time\n"), "{said}");
}

/// The session and the token of the same person lead to the same side.
#[test]
fn a_person_is_on_one_side_whatever_they_come_with() {
    let (sides, issuer) = (numbered(2), Issuer::es256());
    let rule = "auth = [\"jwt\", \"session\"]";
    let gateway = gateway(&sides, "{ side0 = 1, side1 = 1 }", rule, &issuer);

    for number in 0..12 {
        let subject = format!("user-{number}");
        let session = gateway.open_session(&serde_json::json!({ "subject": subject }));
        let side = session.get("/any").send().expect(200).text();
        assert_eq!(side, of(&gateway.client(), &issuer, &gateway, &subject), "{subject}");
    }
}

#[test]
fn callers_that_nobody_knows_go_by_chance_and_a_weight_of_nothing_gets_nothing() {
    let (sides, issuer) = (numbered(3), Issuer::es256());
    let split = "{ side0 = 1, side1 = 0, side2 = 1 }";
    let gateway = gateway(&sides, split, "auth = [\"none\"]", &issuer);
    let client = gateway.client();

    let got: HashSet<String> = (0..100).map(|_| client.get("/any").send().expect(200).text()).collect();

    assert_eq!(got, ["0", "2"].map(String::from).into());
    assert_eq!(sides[1].connection_count(), 0);
}

/// Which side somebody would be on opens nothing, and says nothing.
#[test]
fn rules_and_headers_are_the_same_on_every_side() {
    let issuer = Issuer::es256();
    let sides: Vec<Upstream> = (0..2).map(|_| Upstream::start()).collect();
    for side in &sides {
        side.respond(|seen| Reply::ok(seen.header("x-user-id").unwrap_or("nobody")));
    }
    let rule = "auth = [\"jwt\"]\nrequire = { any = [\"role:user\"] }";
    let gateway = gateway(&sides, "{ side0 = 1, side1 = 1 }", rule, &issuer);
    let client = gateway.client();

    for number in 0..20 {
        let subject = format!("user-{number}");
        let other = issuer.sign(&Issuer::claims(&subject, &["other"], gateway.now()));
        client.get("/any").bearer(&other).send().expect(403);
        client.get("/any").header("X-User-Id", &subject).send().expect(401);
    }
    assert_eq!(sides.iter().map(Upstream::request_count).sum::<usize>(), 0);
    assert!(sides.iter().all(|side| side.bytes_seen().is_empty()));
    for number in 0..20 {
        let subject = format!("user-{number}");
        let token = issuer.sign(&Issuer::claims(&subject, &["user"], gateway.now()));
        let answer = client.get("/any").bearer(&token).header("X-User-Id", "root").send().expect(200);
        assert_eq!(answer.text(), subject);
    }
    assert!(sides.iter().all(|side| side.request_count() > 0));
}

/// A path that one side could read otherwise is refused, whichever side the caller is on.
#[test]
fn a_path_is_decided_on_as_every_side_could_read_it() {
    let (sides, issuer) = (numbered(2), Issuer::es256());
    let tables = format!(
        "[upstream.side0]\nservers = [{:?}]\n[upstream.side1]\nservers = [{:?}]\npath_quirks = [\"case_insensitive\"]\n",
        sides[0].url(),
        sides[1].url()
    );
    let route = |name: &str, path: &str, rest: &str| {
        format!("[[route]]\nname = {name:?}\nmatch = {{ path = {path:?} }}\nauth = [\"none\"]\n{rest}\n")
    };
    let gateway = Gateway::new()
        .issuer(&issuer)
        .table(&tables)
        .table(&route("split", "/{*rest}", "split = { side0 = 1, side1 = 1 }"))
        .table(&route("admin", "/admin/{*rest}", "respond = { status = 204 }"))
        .start();

    for _ in 0..10 {
        gateway.client().get("/Admin/x").send().expect(400);
        gateway.client().get("/other").send().expect(200);
    }
}

#[test]
fn a_reload_moves_the_weights_and_nobody_leaves_the_canary() {
    let (sides, issuer) = (numbered(2), Issuer::es256());
    let gateway = gateway(&sides, "{ side0 = 80, side1 = 20 }", "auth = [\"jwt\"]", &issuer);
    let client = gateway.client();
    let subjects: Vec<String> = (0..60).map(|number| format!("user-{number}")).collect();
    let on_canary = |subjects: &[String]| -> HashSet<String> {
        let is_on = |subject: &&String| of(&client, &issuer, &gateway, subject) == "1";
        subjects.iter().filter(is_on).cloned().collect()
    };
    let before = on_canary(&subjects);

    gateway.edit("{ side0 = 80, side1 = 20 }", "{ side0 = 20, side1 = 80 }");
    gateway.reload().expect(200);

    let after = on_canary(&subjects);
    assert!(before.is_subset(&after) && after.len() > before.len(), "{before:?} {after:?}");
    gateway.edit("{ side0 = 20, side1 = 80 }", "{ side0 = 1, side1 = 0 }");
    gateway.reload().expect(200);
    assert!(on_canary(&subjects).is_empty());
}
