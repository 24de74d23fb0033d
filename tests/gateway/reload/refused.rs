//! Reloads that change nothing: bad files, what needs a restart, who may not ask; and who is told why.

use std::fs;

use crate::support::{Gateway, Shell, Upstream, gateway::Running};

/// A gateway, and what `portcullis reload` needs to ask it.
fn gateway(upstream: &Upstream) -> Running {
    Gateway::new().admin().route("/a/{*rest}", upstream).auth(&["none"]).start()
}

fn ask(gateway: &Running) -> crate::support::cli::Said {
    let url = format!("http://{}", gateway.addresses().admin.expect("it listens"));
    let file = gateway.folder().join("admin.token");
    Shell::empty().run(&["reload", "--admin", &url, "--token-file", file.to_str().expect("a path")])
}

#[test]
fn a_bad_file_changes_nothing_and_says_why_wherever_one_asks() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    gateway.edit("path = \"/a/{*rest}\"", "path = \"/b/{*rest}\"");
    gateway.edit("upstream = \"u0\"", "upstream = \"u0\"\ncolour = \"red\"");

    let told = gateway.reload().expect(422).json();

    let problem = told["problems"][0].as_str().expect("a problem").to_owned();
    assert!(problem.contains("gateway.toml:") && problem.contains("colour"), "{problem}");
    assert_eq!((told["result"].as_str(), told["generation"].as_u64()), (Some("refused"), Some(1)));
    gateway.client().get("/a/x").send().expect(200);
    gateway.client().get("/b/x").send().expect(404);

    let said = ask(&gateway).expect(1);
    assert!(said.err.contains("nothing has changed") && said.err.contains(&problem), "{}", said.err);
    let last = gateway.admin().get("/api/v1/reload").send().expect(200).json();
    assert_eq!(last["last"]["problems"][0].as_str(), Some(&*problem));
    assert_eq!(last["generation"].as_u64(), Some(1));
    assert_eq!(gateway.metric("portcullis_reloads_total", &[("result", "refused")]), 2.0);
    assert_eq!(gateway.metric("portcullis_config_last_reload_successful", &[]), 0.0);
    assert_eq!(gateway.metric("portcullis_config_generation", &[]), 1.0);

    gateway.edit("\ncolour = \"red\"", "");
    let said = ask(&gateway).expect(0);
    assert!(said.out.contains("reloaded: generation 2 is in use"), "{}", said.out);
    gateway.client().get("/b/x").send().expect(200);
    assert_eq!(gateway.metric("portcullis_config_last_reload_successful", &[]), 1.0);
    assert_eq!(gateway.metric("portcullis_reloads_total", &[("result", "applied")]), 1.0);
    let told = gateway.stop_and_read_audit();
    assert_eq!(told.iter().filter(|line| line.contains("\"event\":\"reload\"")).count(), 3, "{told:?}");
}

#[test]
fn the_log_says_what_came_of_a_hangup_signal() {
    let upstream = Upstream::start();
    let process = Gateway::new().route("/a/{*rest}", &upstream).auth(&["none"]).start_process();
    let text = fs::read_to_string(process.config()).expect("gateway.toml");

    fs::write(process.config(), text.replace("upstream = \"u0\"", "upstream = \"nowhere\"")).expect("it is written");
    let said = process.reload();
    assert!(said.contains("\"level\":\"ERROR\"") && said.contains("nowhere"), "{said}");
    process.client().get("/a/x").send().expect(200);

    fs::write(process.config(), text.replace("/a/{*rest}", "/b/{*rest}")).expect("it is written");
    let said = process.reload();
    assert!(said.contains("\"generation\":2") && said.contains("\"cause\":\"signal\""), "{said}");
    process.client().get("/b/x").send().expect(200);
}

#[test]
fn what_needs_a_restart_is_named_key_by_key_and_nothing_is_applied() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    gateway.edit("path = \"/a/{*rest}\"", "path = \"/b/{*rest}\"");
    gateway.edit("workers = 2", "workers = 3");
    gateway.edit(
        "[log]\n",
        "[limits]\nmax_headers = 50\nmax_body = \"1MiB\"\n[log]\nlevel = \"debug\"\nquery = \"keep\"\n",
    );

    let told = gateway.reload().expect(409).json();

    let keys: Vec<&str> = told["keys"].as_array().expect("keys").iter().filter_map(|key| key.as_str()).collect();
    assert_eq!(keys, ["server.workers", "limits.max_headers", "log.level"]);
    gateway.client().get("/a/x").send().expect(200);
    let said = ask(&gateway).expect(1);
    assert!(said.err.contains("need a restart: server.workers, limits.max_headers, log.level"), "{}", said.err);

    gateway.edit("workers = 3", "workers = 2");
    gateway.edit("max_headers = 50\n", "");
    gateway.edit("level = \"debug\"\n", "");
    gateway.reload().expect(200);
    gateway.client().get("/b/x").send().expect(200);
}

#[test]
fn a_certificate_whose_key_does_not_fit_keeps_the_old_pair_and_all_the_rest() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let (key, folder) = (gateway.folder().join("app.test.key"), gateway.folder());
    let served = || {
        let connection = gateway.client().connect();
        connection.tls().and_then(|tls| tls.peer_certificates()).expect("a certificate")[0].to_vec()
    };
    let (before, old_key) = (served(), fs::read(&key).expect("the key"));
    gateway.pki().issue(&folder, &["app.test"]);
    let new_key = fs::read(&key).expect("the key");
    fs::write(&key, old_key).expect("it is written");
    gateway.edit("path = \"/a/{*rest}\"", "path = \"/b/{*rest}\"");

    let told = gateway.reload().expect(422).json();

    assert!(told["problems"][0].as_str().is_some_and(|problem| problem.contains("app.test.pem")), "{told}");
    assert_eq!(served(), before);
    gateway.client().get("/a/x").send().expect(200);
    fs::write(&key, new_key).expect("it is written");
    gateway.reload().expect(200);
    assert_ne!(served(), before);
    gateway.client().get("/b/x").send().expect(200);
}

#[test]
fn a_reload_needs_its_scope_and_no_browser() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/a/{*rest}", &upstream).auth(&["none"]).start();
    gateway.edit("allow = [\"all\"]", "allow = [\"reload\"]");
    gateway.reload().expect(200);

    gateway.reload().expect(200);
    gateway.admin().get("/api/v1/routes").send().expect(403);
    gateway.admin().post("/api/v1/reload", "").header("Origin", "https://evil.example").send().expect(403);
    gateway.edit("allow = [\"reload\"]", "allow = [\"routes\"]");
    gateway.reload().expect(200);
    gateway.reload().expect(403);
    gateway.admin().get("/api/v1/reload").send().expect(403);
    gateway.admin().get("/api/v1/routes").send().expect(200);
}

#[test]
fn an_admin_section_that_is_gone_is_off_and_may_come_back() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().server("watch = true").route("/a/{*rest}", &upstream).auth(&["none"]).start();
    let path = gateway.folder().join("gateway.toml");
    let text = fs::read_to_string(&path).expect("gateway.toml");
    let (before, rest) = text.split_once("\n[admin]").expect("[admin]");
    let (_, after) = rest.split_once("\n[upstream.u0]").expect("an upstream");
    fs::write(&path, format!("{before}\n[upstream.u0]{after}")).expect("it is written");
    gateway.reload().expect(200);

    gateway.admin().get("/api/v1/routes").send().expect(404);
    fs::write(&path, text).expect("it is written");
    crate::support::eventually("the watch brings it back", || {
        gateway.admin().get("/api/v1/routes").send().status == 200
    });
}
