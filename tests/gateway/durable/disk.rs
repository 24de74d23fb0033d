//! A disk that takes no more, under the real program; and the order of its system calls.

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::json;

use super::{PASSWORD, State, visit};
use crate::support::{Person, Upstream, eventually, gateway::SESSION_COOKIE, process::Process, program};

/// Lets the program write only to the first `bytes` of any file; 0 bytes are less than it needs.
fn limit_files(gateway: &Process, bytes: &str) {
    let limit = format!("--fsize={bytes}:");
    let limited = Command::new("prlimit").args(["--pid", &gateway.id().to_string(), &limit]).status();
    assert!(limited.is_ok_and(|status| status.success()), "the limit is set");
}

#[test]
fn a_full_disk_refuses_logins_and_logouts_and_lets_known_sessions_go_on() {
    let Some(_) = program::found("prlimit") else { return };
    let (upstream, state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).start_process();
    let admin = gateway.admin();
    let open = || admin.post("/api/v1/sessions", "").json(&json!({ "subject": "alice" })).send();
    let created = open().expect(201).json();
    let cookie = format!("{SESSION_COOKIE}={}", created["token"].as_str().expect("a token"));
    let end =
        || admin.request("DELETE", &format!("/api/v1/sessions/{}", created["key"].as_str().expect("a key"))).send();
    let log_out = || gateway.client().post("/_auth/logout", "").cookie(&cookie).header("Sec-Fetch-Site", "same-origin");

    limit_files(&gateway, "0");

    let refused = open().expect(503);
    assert_eq!((refused.json()["error"].as_str(), refused.header("retry-after")), (Some("not_written"), Some("5")));
    end().expect(503);
    let refused = log_out().header("Accept", "application/json").send().expect(503);
    assert_eq!(refused.header("set-cookie"), None, "who is not logged out keeps the cookie");
    assert_eq!(visit(&gateway.client(), &cookie), 200, "what was refused does not hold");
    let mut person = Person::new(gateway.client());
    let page = person.log_in("alice", PASSWORD).expect(503);
    let text = page.text();
    assert!(text.contains("role=\"alert\"") && text.contains("could not be saved and has not happened"), "{text}");
    assert!(text.contains("name=\"password\"") && text.contains("<title>Problem: "), "to try again: {text}");
    assert_eq!((page.header("retry-after"), person.cookie(SESSION_COOKIE)), (Some("5"), None));
    let form = person.submit(&page, &[("username", "alice"), ("password", PASSWORD)]).expect(503);
    assert!(form.text().contains("name=\"password\""), "the form can be sent again");
    gateway.says("state cannot be written");
    let ready = || gateway.telemetry().get("/readyz").send();
    assert!(ready().expect(503).text().contains("[\"state\"]"));
    let metrics = gateway.telemetry().get("/metrics").send().expect(200).text();
    assert!(metrics.contains("\nportcullis_state_writable 0\n"));
    assert!(!metrics.contains("\nportcullis_state_failures_total 0\n"));

    limit_files(&gateway, "unlimited");
    eventually("logins are possible again", || open().status == 201);
    log_out().send().expect(303);
    assert_eq!(visit(&gateway.client(), &cookie), 401);
    gateway.says("state can be written again");
    ready().expect(200);
}

/// Not full, not broken: it does not answer. Nobody waits for it, and what it writes in the end was never said.
#[test]
fn a_hanging_disk_refuses_logins_and_logouts_in_time_and_lets_known_sessions_go_on() {
    let Some(strace) = program::found("strace") else { return };
    let (upstream, state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).server("state_timeout = \"1s\"").start_process();
    let admin = gateway.admin();
    let open = || admin.post("/api/v1/sessions", "").json(&json!({ "subject": "alice" })).send();
    let created = open().expect(201).json();
    let cookie = format!("{SESSION_COOKIE}={}", created["token"].as_str().expect("a token"));
    let log_out = || gateway.client().post("/_auth/logout", "").cookie(&cookie).header("Sec-Fetch-Site", "same-origin");

    // Every sync begins an hour late, until the tracer lets go.
    let mut tracer = Command::new(strace)
        .args(["-f", "-qq", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=3600000000"])
        .args(["-p", &gateway.id().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace can be started");
    let mut opened = 1;
    eventually("the disk hangs", || {
        let answer = open();
        opened += usize::from(answer.status == 201);
        answer.status == 503
    });

    let refused = open().expect(503);
    assert_eq!((refused.json()["error"].as_str(), refused.header("retry-after")), (Some("not_written"), Some("5")));
    let refused = log_out().header("Accept", "application/json").send().expect(503);
    assert_eq!(refused.header("set-cookie"), None, "who is not logged out keeps the cookie");
    assert_eq!(visit(&gateway.client(), &cookie), 200, "known sessions go on");
    gateway.says("the disk has not answered for 1s; logins and logouts are refused until it does");
    let ready = || gateway.telemetry().get("/readyz").send();
    assert!(ready().expect(503).text().contains("[\"state\"]"));
    let metrics = gateway.telemetry().get("/metrics").send().expect(200).text();
    assert!(metrics.contains("\nportcullis_state_writable 0\n"));
    assert!(!metrics.contains("\nportcullis_state_timeouts_total 0\n"));

    let _ = Command::new("kill").args(["-INT", &tracer.id().to_string()]).status();
    tracer.wait().expect("it ends");
    eventually("logins are possible again", || {
        let answer = open();
        opened += usize::from(answer.status == 201);
        answer.status == 201
    });
    gateway.says("the disk answers again");
    ready().expect(200);
    let count = || {
        let listed = admin.get("/api/v1/sessions").send().expect(200).json();
        listed["sessions"].as_array().map(Vec::len)
    };
    assert_eq!(count(), Some(opened), "what was refused was not opened");
    log_out().send().expect(303);
    let mut gateway = gateway;
    gateway.kill();
    gateway.start_again();
    let listed = gateway.admin().get("/api/v1/sessions").send().expect(200).json();
    assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(opened - 1), "nor is it on disk");
}

/// The disk has it before anybody hears of it: in the order of system calls.
#[test]
fn a_sync_comes_before_the_first_byte_of_the_answer() {
    let Some(strace) = program::found("strace") else { return };
    let (upstream, state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).start_process();
    let file = state.0.path().join("calls");
    let calls = "trace=fdatasync,fsync,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg";
    let mut tracer = Command::new(strace)
        .args(["-f", "-qq", "-s", "64", "-e", calls, "-p", &gateway.id().to_string(), "-o"])
        .arg(&file)
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace can be started");
    // It says so when it has attached to every thread, unless it is told to be quite quiet; what it writes tells too.
    let admin = gateway.admin();
    eventually("the tracer sees what happens", || {
        admin.get("/api/v1/routes").send();
        fs::read_to_string(&file).is_ok_and(|text| text.contains("GET /api/v1/routes"))
    });

    let created = admin.post("/api/v1/sessions", "").json(&json!({ "subject": "alice" })).send().expect(201).json();
    let key = created["key"].as_str().expect("a key");
    admin.request("DELETE", &format!("/api/v1/sessions/{key}")).send().expect(200);
    eventually("the tracer has seen it all", || {
        fs::read_to_string(&file).is_ok_and(|text| text.matches("HTTP/1.1 20").count() >= 3)
    });
    let _ = Command::new("kill").args(["-INT", &tracer.id().to_string()]).status();
    tracer.wait().expect("it ends");

    let text = fs::read_to_string(&file).expect("what it saw");
    let lines: Vec<&str> = text.lines().collect();
    for request in ["POST /api/v1/sessions", "DELETE /api/v1/sessions/"] {
        let asked = lines.iter().position(|line| line.contains(request)).expect("the request was read");
        let answered = lines[asked..].iter().position(|line| line.contains("HTTP/1.1 20")).expect("an answer");
        let is_sync = |line: &&str| line.contains("sync") && line.ends_with("= 0") && !line.contains("unfinished");
        assert!(lines[asked..asked + answered].iter().any(is_sync), "no sync before the answer to {request}:\n{text}");
    }
}
