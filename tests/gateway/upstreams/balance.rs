//! Weights, and callers that stay with their server.

use super::{gateway_of, numbered};
use crate::support::{Client, Gateway, Upstream};

const PASSWORD: &str = "correct horse battery staple";

/// Who answers so many requests.
fn answers(client: &Client, count: usize) -> Vec<String> {
    (0..count).map(|_| client.get("/x").send().expect(200).text()).collect()
}

fn is_one(answers: &[String]) -> bool {
    answers.windows(2).all(|pair| pair[0] == pair[1])
}

#[test]
fn servers_get_requests_by_their_weight() {
    let servers = numbered(2);
    let lines = format!(
        "servers = [{:?}, {{ url = {:?}, weight = 3 }}]\nbalance = \"round_robin\"",
        servers[0].url(),
        servers[1].url()
    );
    let gateway = Gateway::new().server("workers = 1").route_to("path = \"/{*rest}\"", &lines).auth(&["none"]).start();

    let mut answered = answers(&gateway.client(), 8);
    answered.sort();

    assert_eq!(answered, ["0", "0", "1", "1", "1", "1", "1", "1"]);
}

#[test]
fn a_session_stays_with_its_server_and_others_with_theirs() {
    let servers = numbered(4);
    let gateway = gateway_of(&servers, "sticky = \"session\"").user("alice", PASSWORD, &["user"]).start();

    let sessions: Vec<Vec<String>> = (0..12).map(|_| answers(&gateway.log_in("alice"), 4)).collect();

    assert!(sessions.iter().all(|session| is_one(session)), "{sessions:?}");
    assert!(sessions.iter().any(|session| session[0] != sessions[0][0]), "each session is one of its own");
}

#[test]
fn a_subject_stays_with_its_server_whatever_it_comes_with() {
    let servers = numbered(4);
    let gateway = gateway_of(&servers, "sticky = \"subject\"").user("alice", PASSWORD, &["user"]).admin().start();

    let sessions: Vec<String> = (0..6).flat_map(|_| answers(&gateway.log_in("alice"), 1)).collect();
    let others: Vec<String> = (0..12)
        .flat_map(|number| {
            answers(&gateway.open_session(&serde_json::json!({ "subject": format!("user-{number}") })), 1)
        })
        .collect();

    assert!(is_one(&sessions), "{sessions:?}");
    assert!(!is_one(&others), "{others:?}");
}

#[test]
fn an_anonymous_caller_stays_by_its_address_whatever_it_says_of_itself() {
    let servers = numbered(4);
    let gateway = gateway_of(&servers, "sticky = \"session\"").auth(&["none"]).start();

    let plain = answers(&gateway.client(), 3);
    let invented: Vec<String> = (0..6)
        .flat_map(|number| answers(&gateway.client().always("Cookie", &format!("__Host-portcullis={number}")), 1))
        .collect();

    assert!(is_one(&[plain, invented].concat()));
}

#[test]
fn a_caller_moves_while_its_server_refuses_and_comes_back() {
    let mut servers: Vec<Option<Upstream>> = numbered(3).into_iter().map(Some).collect();
    let urls: Vec<String> = servers.iter().flatten().map(Upstream::url).collect();
    let lines = format!("servers = {urls:?}\nsticky = \"session\"\nmax_idle = 0");
    let gateway = Gateway::new().route_to("path = \"/{*rest}\"", &lines).user("alice", PASSWORD, &["user"]).start();
    let alice = gateway.log_in("alice");
    let home: usize = answers(&alice, 1)[0].parse().unwrap();

    let address = servers[home].take().expect("it runs").address();
    let away = answers(&alice, 3);

    assert!(is_one(&away) && away[0] != home.to_string(), "{away:?}");
    let back = Upstream::start_at(address);
    crate::support::eventually("the caller is back", || {
        alice.get("/x").send().expect(200);
        back.request_count() > 0
    });
}
