//! The README, word for word: its commands make an authority, a certificate and a list, and curl gets through with
//! them.

use std::{fs, process::Command};

use super::*;
use crate::support::program::found;

/// The shell commands under a heading of the README.
fn commands() -> Vec<String> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let section = readme.split("### Client certificates").nth(1).and_then(|rest| rest.split("\n### ").next());
    let blocks = section.expect("the section").split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().expect("an end").to_owned()).collect()
}

#[track_caller]
fn run(folder: &std::path::Path, commands: &str) {
    let done = Command::new("bash").args(["-euc", commands]).current_dir(folder).output().expect("bash runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn the_commands_of_the_manual_make_certificates_that_work() {
    if found("openssl").is_none() || found("curl").is_none() {
        return;
    }
    let commands = commands();
    let [make, revoke] = &commands[..] else { panic!("two blocks of commands: {commands:?}") };
    let upstream = Upstream::start();
    let gateway = Gateway::new().on_system_time().server("watch = true").admin();
    let folder = gateway.write("here", "").parent().expect("a folder").to_owned();
    run(&folder, make);
    let gateway = gateway
        .table("[[mtls.ca]]\nname = \"devices\"\nfile = \"devices-ca.pem\"\nsubject = \"dns\"\nroles = [\"device\"]\n")
        .route("/telemetry", &upstream)
        .auth(&["mtls"])
        .key("csrf = \"allow_no_origin\"")
        .start();
    fs::write(folder.join("server-ca.pem"), gateway.pki().authority_pem()).unwrap();
    let address = gateway.addresses().gateway[0];
    let curl = |arguments: &[&str]| {
        let done = Command::new("curl")
            .current_dir(&folder)
            .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", "server-ca.pem"])
            .args(["--resolve", &format!("app.test:{}:127.0.0.1", address.port())])
            .args(arguments)
            .arg(format!("https://app.test:{}/telemetry", address.port()))
            .output()
            .expect("curl runs");
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
    };
    let shown = ["--cert", "robot-7.pem", "--key", "robot-7.key"];

    assert_eq!(curl(&[]), "401");
    assert_eq!(curl(&shown), "200");
    let seen = upstream.next_request();
    assert_eq!((seen.header("x-user-id"), seen.header("x-user-roles")), (Some("robot-7.example.com"), Some("device")));
    assert_eq!(curl(&[&shown[..], &["--tls-max", "1.2", "--http1.1"]].concat()), "200");
    assert_eq!(curl(&[&shown[..], &["--http2", "-d", "x"]].concat()), "200");

    run(&folder, revoke);
    gateway.edit("subject = \"dns\"", "subject = \"dns\"\ncrl = \"devices.crl\"");
    gateway.reload().expect(200);

    assert_eq!(curl(&shown), "401");
}
