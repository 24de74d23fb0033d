//! A new process follows a running one, and nobody notices: sockets, sessions, tickets, what is under way, and what
//! ends.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
};

use portcullis::{clock::Clock, factor::totp};
use rustls::HandshakeKind;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Client, Gateway, Person, Reply, Response, Shell, Upstream,
    client::Request,
    eventually,
    gateway::{SESSION_COOKIE, session_cookie},
    process::{Launch, Process},
    service::Manager,
    websocket::{echo, echoes, tunnel},
};

/// What ends, in either process, and what becomes of the other when one ends.
mod ends;
/// Under load.
mod load;
/// Who may follow, how many, and what happens when they fail.
mod strangers;

const PASSWORD: &str = "correct horse";
/// A drain in which connections may wait for a machine that is busy.
const LONG: &str = "180s";

/// A folder for nobody else, and a gateway that can be followed by a socket in it.
fn configured(upstream: &Upstream, drain: &str) -> (Gateway, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let gateway = Gateway::new()
        .admin()
        .user("alice", PASSWORD, &[])
        .user("bob", PASSWORD, &[])
        .server(&format!("drain_timeout = {drain:?}"))
        .server(&format!("upgrade_socket = {:?}", socket(folder.path())))
        .route("/{*rest}", upstream)
        .auth(&["session"])
        .key("upgrade = [\"websocket\"]");
    (gateway, folder)
}

/// One that runs, with or without a state directory. The folder has to live as long.
fn can_be_followed(upstream: &Upstream, durable: bool, drain: &str) -> (Process, TempDir) {
    let (gateway, folder) = configured(upstream, drain);
    let gateway = if durable { with_state(gateway, &folder) } else { gateway };
    (gateway.start_process(), folder)
}

fn with_state(gateway: Gateway, folder: &TempDir) -> Gateway {
    gateway.server(&format!("state_dir = {:?}", folder.path().join("state")))
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("upgrade.sock")
}

fn echoing() -> Upstream {
    let upstream = Upstream::start();
    upstream.respond(|seen| if seen.path == "/ws" { echo(seen) } else { Reply::ok(&seen.body) });
    upstream
}

fn login(client: &Client, name: &str, password: &str) -> Request {
    let asked = client.request("POST", "/_auth/login").header("Sec-Fetch-Site", "same-origin");
    asked.header("Accept", "application/json").json(&json!({ "username": name, "password": password }))
}

/// A client with the session of a new login.
fn log_in(client: &Client, name: &str) -> Client {
    client.always("Cookie", &session_cookie(&login(client, name, PASSWORD).send().expect(200)))
}

/// A client with a session that was opened for it: that takes no hash of a password, which a busy machine is slow to
/// make.
fn session(gateway: &Process, subject: &str) -> Client {
    session_by(&gateway.admin(), &gateway.client(), subject)
}

fn session_by(admin: &Client, client: &Client, subject: &str) -> Client {
    let answer = admin.post("/api/v1/sessions", "").json(&json!({ "subject": subject })).send().expect(201);
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    client.always("Cookie", &format!("{SESSION_COOKIE}={token}"))
}

/// What a program asks that wants to know whether it is signed in.
fn visit(client: &Client) -> Request {
    client.get("/x").header("Accept", "application/json")
}

fn logout(client: &Client) -> Request {
    client.post("/_auth/logout", "").header("Sec-Fetch-Site", "same-origin").header("Accept", "application/json")
}

/// A signal to a process.
fn signal(which: &str, process: u32) {
    assert!(Command::new("kill").args([which, &process.to_string()]).status().unwrap().success());
}

/// What a second process says that wants to follow and cannot.
fn refused_follower(gateway: &Process) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("--config")
        .arg(gateway.config())
        .args(["run", "--upgrade"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_under_way_goes_on_in_the_old_process() {
    let upstream = echoing();
    let (mut gateway, _folder) = can_be_followed(&upstream, false, "5s");
    let alice = session(&gateway, "alice");
    let mut tunnel = tunnel(&alice);
    let mut upload = alice.connect();
    let head = format!(
        "POST /up HTTP/1.1\r\nHost: app.test\r\nSec-Fetch-Site: same-origin\r\nCookie: {}\r\n\
         Content-Length: 10\r\n\r\nhello",
        alice.get("/").cookies()
    );
    upload.write(head.as_bytes()).unwrap();

    let old = gateway.upgrade();

    assert!(echoes(&mut tunnel), "the tunnel goes on");
    upload.write(b"world").unwrap();
    let answer = upload.read_response("POST").unwrap().expect(200);
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("helloworld", Some("close")));
    // What it carries are no frames, so it cannot be told why.
    tunnel.read_to_end();
    assert_eq!(old.wait(), Some(0));
}

#[test]
fn a_login_on_the_old_process_counts_in_the_new_one() {
    let upstream = echoing();
    let (mut gateway, _folder) = can_be_followed(&upstream, true, LONG);
    let client = gateway.client();
    let mut kept = client.connect();
    kept.send(&visit(&client)).expect(401);

    let _old = gateway.upgrade();
    let answer = kept.send(&login(&client, "alice", PASSWORD)).expect(200);

    visit(&client.always("Cookie", &session_cookie(&answer))).send().expect(200);
}

/// The new process reads the configuration anew (R29).
#[test]
fn a_user_who_is_gone_in_the_new_process_gets_no_session_on_the_old_one() {
    let upstream = echoing();
    let (mut gateway, _folder) = can_be_followed(&upstream, true, LONG);
    let client = gateway.client();
    let mut kept = [(); 2].map(|()| client.connect());
    kept.iter_mut().for_each(|kept| drop(kept.send(&visit(&client)).expect(401)));
    let text = fs::read_to_string(gateway.config()).unwrap();
    fs::write(gateway.config(), text.replace("\"alice\"", "\"somebody\"").replace("id-of-alice", "another")).unwrap();

    let _old = gateway.upgrade();
    let [alice, bob] = &mut kept;

    alice.send(&login(&client, "alice", PASSWORD)).expect(503);
    bob.send(&login(&client, "bob", PASSWORD)).expect(200);
}

/// Password in the one process, invitation in the next, the first code of the app in the third.
#[test]
fn a_login_goes_on_where_it_was() {
    let upstream = echoing();
    let (gateway, _folder) = configured(&upstream, "5s");
    let mut gateway = gateway.user("carol", PASSWORD, &[]).second_factor().start_process();
    let config = gateway.config();
    let invited = Shell::empty().run(&["--config", config.to_str().unwrap(), "users", "enrol", "carol"]).expect(0);
    let mut carol = Person::new(gateway.client());
    let page = carol.visit("/_auth/login").expect(200);
    let asked = carol.submit(&page, &[("username", "carol"), ("password", PASSWORD)]).expect(200);

    assert_eq!(gateway.upgrade().wait(), Some(0));
    gateway.says("the process before this one has left");
    let drawn = carol.submit(&asked, &[("code", invited.out.trim())]).expect(200);
    assert_eq!(gateway.upgrade().wait(), Some(0));
    let text = drawn.text();
    let key = text.split("<code dir=\"ltr\">").nth(1).and_then(|rest| rest.split("</code>").next()).expect("a key");
    let code = totp::code_of(key, Clock::system().now()).expect("a code");

    carol.submit(&drawn, &[("code", &code)]).expect(200);
    assert!(carol.cookie(SESSION_COOKIE).is_some());
}

/// Whoever refreshed in both would have two successors.
#[test]
fn a_refresh_token_is_for_the_new_process() {
    let upstream = echoing();
    let (gateway, _folder) = configured(&upstream, LONG);
    let clients = "[token]\nissuer = \"https://app.test\"\nclients = [{ id = \"phone\", grants = [\"password\"] }]\n";
    let mut gateway = gateway.table(clients).start_process();
    let client = gateway.client();
    let post = |path: &str, body: &Value| client.post(path, "").json(body);
    let by_password =
        json!({ "grant_type": "password", "client_id": "phone", "username": "alice", "password": PASSWORD });
    let mut kept = [(); 2].map(|()| client.connect());
    kept.iter_mut().for_each(|kept| drop(kept.send(&visit(&client)).expect(401)));
    let token = |answer: &Response| answer.json()["refresh_token"].as_str().expect("a refresh token").to_owned();
    let first = token(&post("/_auth/token", &by_password).send().expect(200));
    let refresh = |token: &str| post("/_auth/token/refresh", &json!({ "client_id": "phone", "refresh_token": token }));

    let _old = gateway.upgrade();
    let [one, other] = &mut kept;

    one.send(&refresh(&first)).expect(503);
    let second = token(&refresh(&first).send().expect(200));
    // One that the old process gives out is known in the new one.
    let given = token(&other.send(&post("/_auth/token", &by_password)).expect(200));
    refresh(&given).send().expect(200);
    refresh(&second).send().expect(200);
}

#[test]
fn tls_sessions_are_resumed_by_the_new_process() {
    let upstream = echoing();
    let (mut gateway, _folder) = can_be_followed(&upstream, false, "5s");
    let client = gateway.client();
    let client = client.speaking(client.tls_settings());
    let kind = |client: &Client| {
        let mut connection = client.connect();
        connection.send(&client.get("/x").header("Accept", "application/json"));
        connection.tls().and_then(|tls| tls.handshake_kind())
    };
    assert_eq!(kind(&client), Some(HandshakeKind::Full));
    assert_eq!(kind(&client), Some(HandshakeKind::Resumed));

    let _old = gateway.upgrade();

    assert_eq!(kind(&client), Some(HandshakeKind::Resumed));
}

#[test]
fn a_unix_socket_is_served_by_the_new_process_and_goes_with_it() {
    let upstream = echoing();
    let (gateway, folder) = configured(&upstream, "5s");
    let path = folder.path().join("edge.sock");
    let listen = format!("listen = [\"https://127.0.0.1:0\", \"unix:{},mode=0600\"]", path.display());
    let mut gateway = gateway.server(&listen).start_process();
    let status = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: app.test\r\nAccept: */*\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.lines().next().map(str::to_owned)
    };
    let before = status();

    assert_eq!(gateway.upgrade().wait(), Some(0));

    assert!(path.exists());
    assert_eq!((status(), before.is_some()), (before, true));
    gateway.terminate();
    gateway.wait();
    assert!(!path.exists());
}

#[test]
fn sigusr2_starts_a_process_that_follows_and_the_service_manager_hears_which() {
    let upstream = echoing();
    let (gateway, _folder) = configured(&upstream, "5s");
    let manager = Manager::new("upgrade");
    let gateway = gateway.launch(Launch { environment: manager.environment(), ..Launch::default() });
    let alice = session(&gateway, "alice");
    manager.hears("READY=1");

    signal("-USR2", gateway.id());

    let line: Value = serde_json::from_str(&gateway.says("another process has taken over")).unwrap();
    let process = u32::try_from(line["process"].as_u64().expect("its number")).unwrap();
    assert!(manager.hears("MAINPID=").starts_with(&format!("MAINPID={process}\nREADY=1")));
    gateway.says("the process before this one has left");
    manager.hears("WATCHDOG=1");
    visit(&alice).send().expect(200);
    signal("-TERM", process);
    manager.hears("STOPPING=1");
    eventually("it ends as well", || gateway.client().try_connect(&["http/1.1"]).is_err());
}
