//! Commands that talk to a running gateway: how they find its admin API, and what they say when they cannot.

use serde_json::json;

use crate::support::{Gateway, Shell, Upstream, gateway::Running};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A gateway with `[admin]` on this listener, where alice has two sessions.
fn gateway(listen: &str, upstream: &Upstream) -> Running {
    let admin = format!(
        "[admin]\nlisten = {listen:?}\n[[admin.token]]\nname = \"ops\"\nenv = \"OPS\"\n\
         allow = [\"all\"]\nrealm = \"staff\"\ngrants = \"all\"\n"
    );
    Gateway::new().table(&admin).environment("OPS", TOKEN).route("/app/{*rest}", upstream).auth(&["session"]).start()
}

fn shell() -> Shell {
    Shell::empty().environment("PORTCULLIS_ADMIN_TOKEN", TOKEN)
}

#[test]
fn the_admin_api_is_found_by_its_address() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().admin().route("/app/{*rest}", &upstream).start();
    let alice = gateway.open_session(&json!({ "subject": "alice", "roles": [] }));
    let bob = gateway.open_session(&json!({ "subject": "bob", "roles": [] }));
    let url = format!("http://{}", gateway.addresses().admin.expect("it listens"));
    let file = gateway.folder().join("admin.token");
    let file = file.to_str().expect("a path");
    alice.get("/app/x").send().expect(200);

    let said = Shell::empty().run(&["revoke", "subject", "alice", "--admin", &url, "--token-file", file]).expect(0);

    assert!(said.out.starts_with("alice is logged out everywhere: 1 sessions ended"), "{}", said.out);
    assert!(said.out.contains("a restart: there is no server.state_dir"), "{}", said.out);
    alice.get("/app/x").send().expect(401);
    bob.get("/app/x").send().expect(200);
}

#[test]
fn the_admin_api_is_found_by_the_configuration() {
    let upstream = Upstream::start();
    let unix = gateway("unix:admin.sock,mode=0600", &upstream);
    let config = unix.folder().join("gateway.toml");
    let config = config.to_str().expect("a path");

    let said = shell().run(&["--config", config, "revoke", "subject", "alice"]).expect(0);
    assert!(said.out.contains("0 sessions ended"), "{}", said.out);

    // What else is in the file may be unreadable to whoever asks, or wrong.
    let text = std::fs::read_to_string(config).expect("gateway.toml");
    std::fs::write(config, text.replace("[server]", "[server]\nunknown = true")).expect("it can be written");
    shell().run(&["--config", config, "revoke", "subject", "alice"]).expect(0);
}

#[test]
fn the_admin_api_is_asked_over_tls_by_its_name_only() {
    let upstream = Upstream::start();
    let gateway = gateway("https://127.0.0.1:0", &upstream);
    let port = gateway.addresses().admin.expect("it listens").port();
    let roots = gateway.folder().join("ca.pem");
    std::fs::write(&roots, gateway.pki().authority_pem()).expect("it can be written");
    let roots = roots.to_str().expect("a path");
    let config = gateway.folder().join("gateway.toml");
    let text = std::fs::read_to_string(&config).expect("gateway.toml");
    let text = text.replace(
        "\nlisten = \"https://127.0.0.1:0\"\n[[admin",
        &format!("\nlisten = \"https://0.0.0.0:{port}\"\n[[admin"),
    );
    std::fs::write(&config, text).expect("it can be written");
    let config = config.to_str().expect("a path");
    let revoke = ["--config", config, "revoke", "subject", "alice"];

    let said = shell().run(&[&revoke[..], &["--ca", roots]].concat()).expect(0);
    assert!(said.out.contains("0 sessions ended"), "{}", said.out);

    let said = shell().run(&revoke).expect(1);
    assert!(said.err.contains("--ca names an authority"), "{}", said.err);
    let address = format!("https://127.0.0.1:{port}");
    let said = shell().run(&[&revoke[..], &["--ca", roots, "--admin", &address]].concat()).expect(1);
    assert!(said.err.contains("not valid for name"), "{}", said.err);
}

/// R34, R36.
#[test]
fn the_token_is_told_to_nobody_else() {
    let said = shell().run(&["revoke", "subject", "alice", "--admin", "http://gateway.example:9092"]).expect(1);
    assert!(said.err.contains("in the clear"), "{}", said.err);
    assert!(!said.err.contains(TOKEN));

    let said = Shell::empty().run(&["revoke", "subject", "alice", "--admin", "http://127.0.0.1:9"]).expect(1);
    assert!(said.err.contains("--token-file") && said.err.contains("PORTCULLIS_ADMIN_TOKEN"), "{}", said.err);
    let said = shell().run(&["revoke", "subject", "alice", "--token", TOKEN]).expect(2);
    assert!(said.err.contains("--token-file"), "no argument takes a token: {}", said.err);
}

#[test]
fn a_failure_says_what_the_gateway_said() {
    let upstream = Upstream::start();
    let gateway = gateway("http://127.0.0.1:0", &upstream);
    let url = format!("http://{}", gateway.addresses().admin.expect("it listens"));
    let revoke = ["revoke", "subject", "alice", "--admin", &url];

    let wrong = Shell::empty().environment("PORTCULLIS_ADMIN_TOKEN", "another-token-of-nobody");
    let said = wrong.run(&revoke).expect(1);
    assert!(said.err.contains("401 Unauthorized: this is no token of an [[admin.token]]"), "{}", said.err);
    assert!(!said.err.contains("another-token-of-nobody"));

    gateway.stop();
    let said = shell().run(&revoke).expect(1);
    assert!(said.err.contains(&format!("the admin API at {url} cannot be asked")), "{}", said.err);
    let said = Shell::with("version = 1\n").environment("PORTCULLIS_ADMIN_TOKEN", TOKEN).run(&revoke[..3]).expect(1);
    assert!(said.err.contains("gateway.toml has no [admin]; name the admin API with --admin URL"), "{}", said.err);
}
