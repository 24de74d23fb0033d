//! The proofs of real client libraries: npm `dpop`, and `oauth4webapi`, which reads our challenges and nonces by
//! itself.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::support::{Gateway, Issuer, Upstream, program::found};

/// In the first minute after the start, when a nonce is asked for, and with nonces required.
#[test]
fn client_libraries_prove_what_they_hold() {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/npm/node_modules");
    let (Some(node), Some(_)) = (found("node"), found(&packages.join("oauth4webapi").to_string_lossy())) else {
        return;
    };
    for (rule, algorithm) in [("optional", "ES256"), ("required", "Ed25519"), ("required", "RS256")] {
        let (upstream, issuer) = (Upstream::start(), Issuer::es256());
        let gateway = Gateway::with(&format!("[dpop]\nnonce = {rule:?}")).host("localhost").issuer(&issuer);
        let gateway = gateway.on_system_time().route("/{*rest}", &upstream).key("proof = \"dpop\"").start();
        let authority = gateway.folder().join("authority.pem");
        fs::write(&authority, gateway.pki().authority_pem()).unwrap();
        // Beside the packages, where node looks for them.
        let script = packages.with_file_name(format!("client-{algorithm}.mjs"));
        fs::write(&script, include_str!("client.mjs")).unwrap();
        let url = format!("https://localhost:{}/orders?page=2", gateway.addresses().gateway[0].port());

        let lines = run(&node, &script, &authority, &[&url, algorithm], |jkt| {
            let mut claims = Issuer::claims("alice", &[], gateway.now());
            claims["cnf"] = json!({ "jkt": jkt });
            issuer.sign(&claims)
        });

        let good = |library: &str| lines.iter().filter(|line| line.starts_with(&format!("{library} 200"))).count();
        assert_eq!((good("oauth4webapi"), good("dpop")), (3, 1), "{rule} {algorithm}: {lines:?}");
        assert!(lines.iter().any(|line| line == "asked for a nonce 1"), "{rule} {algorithm}: {lines:?}");
        assert_eq!(upstream.request_count(), 4, "{lines:?}");
        assert_eq!(upstream.next_request().header("x-user-id"), Some("alice"));
        let _ = fs::remove_file(script);
    }
}

/// Runs the script; answers each thumbprint that it prints with a token. What else it prints.
fn run(node: &Path, script: &Path, ca: &Path, arguments: &[&str], token: impl Fn(&str) -> String) -> Vec<String> {
    let mut child = Command::new(node)
        .arg(script)
        .args(arguments)
        .env("NODE_EXTRA_CA_CERTS", ca)
        .env("NODE_OPTIONS", "--dns-result-order=ipv4first")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs");
    let mut input = child.stdin.take().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains(' ') {
            said.push(line);
        } else {
            writeln!(input, "{}", token(&line)).unwrap();
        }
    }
    assert!(child.wait().unwrap().success(), "{said:?}");
    said
}
