//! gRPC through the gateway, with Google's own client and server: all four kinds of call, TLS in front, and h2c or TLS
//! behind. What the gateway refuses, it refuses in the words of gRPC (R30).

use std::{fs, path::PathBuf, process::Command};

use serde_json::{Value, json};

use crate::support::{
    Gateway, Issuer, Pki,
    program::{Program, found, free_address},
};

/// The library, and the Python that runs it.
fn installed() -> Option<PathBuf> {
    found("python3")?;
    found(&format!("{}/target/grpc/grpc", env!("CARGO_MANIFEST_DIR")))?.parent().map(PathBuf::from)
}

fn script(library: &PathBuf, name: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(format!("{}/tests/gateway/grpc/{name}", env!("CARGO_MANIFEST_DIR"))).env("PYTHONPATH", library);
    command
}

/// What the client says of each of its calls, with the server that `upstream` says.
fn calls(upstream: &str, gateway: Gateway, library: &PathBuf) -> Vec<(String, Value)> {
    let issuer = Issuer::es256();
    let gone = free_address();
    let gateway = gateway
        .issuer(&issuer)
        .route_to("path = \"/test.Kinds/{*rest}\"", upstream)
        .route_to("path = \"/test.Kinds/Sleep\"", &format!("{upstream}\nresponse_timeout = \"1s\""))
        .route_to("path = \"/forbidden/{*rest}\"", upstream)
        .require("role:admin")
        .route_to("path = \"/gone/{*rest}\"", &format!("servers = [\"h2c://{gone}\"]"))
        .start();
    let token = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));
    let authority = gateway.folder().join("authority.pem");
    fs::write(&authority, gateway.pki().authority_pem()).expect("a file");
    let address = gateway.addresses().gateway[0].to_string();

    let output = script(library, "client.py").args([&address, "app.test"]).arg(&authority).arg(token).output();
    let output = output.expect("the client runs");

    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.map(|line| (line["call"].as_str().expect("a name").to_owned(), line["result"].clone())).collect()
}

#[track_caller]
fn expect_all_kinds(said: &[(String, Value)]) {
    let of = |name: &str| &said.iter().find(|(call, _)| call == name).unwrap_or_else(|| panic!("no {name}")).1;
    assert_eq!(*of("unary"), json!({ "answer": "HELLO", "trailers": { "x-sum": "5", "x-caller": "alice" } }));
    assert_eq!(*of("large"), json!(1_000_000));
    assert_eq!(*of("failing"), json!({ "status": "FAILED_PRECONDITION", "details": "as asked" }));
    assert_eq!(*of("download"), json!(["0", "1", "2", "3", "4"]));
    assert_eq!(*of("upload"), json!("2000000"));
    assert_eq!(*of("chat"), json!(["you said one", "you said two", "you said three"]));
    for (name, status) in [
        ("nobody", "UNAUTHENTICATED"),
        ("forbidden", "PERMISSION_DENIED"),
        ("gone", "UNAVAILABLE"),
        ("slow", "UNAVAILABLE"),
        ("deadline", "DEADLINE_EXCEEDED"),
    ] {
        assert_eq!(of(name)["status"], status, "{name}: {}", of(name));
    }
}

#[test]
fn all_kinds_of_grpc_calls_pass_to_a_server_without_tls() {
    let Some(library) = installed() else { return };
    let address = free_address();
    let _server = Program::start(script(&library, "server.py").arg(address.to_string()), address);

    let said = calls(&format!("servers = [\"h2c://{address}\"]"), Gateway::new(), &library);

    expect_all_kinds(&said);
}

#[test]
fn all_kinds_of_grpc_calls_pass_to_a_server_with_tls_that_we_believe_and_none_to_another() {
    let Some(library) = installed() else { return };
    let (address, pki, folder) = (free_address(), Pki::new(), tempfile::tempdir().expect("a folder"));
    let files = pki.issue(folder.path(), &["backend.internal"]);
    // Such a server speaks HTTP/2 with whoever offers `h2` in the handshake, and with nobody else.
    let server = &mut script(&library, "server.py");
    let _server = Program::start(server.arg(address.to_string()).args([&files.key, &files.cert]), address);
    let tls = "tls = { ca = \"ca.pem\", server_name = \"backend.internal\" }";
    let upstream = format!("servers = [\"https://{address}\"]\n{tls}");

    let believed = calls(&upstream, Gateway::new().file("ca.pem", &pki.authority_pem()), &library);
    let strange = calls(&upstream, Gateway::new().file("ca.pem", &Pki::new().authority_pem()), &library);

    expect_all_kinds(&believed);
    for kind in ["unary", "download", "upload", "chat"] {
        let (_, result) = strange.iter().find(|(call, _)| call == kind).expect("a call of this kind");
        assert_eq!(result["status"], "UNAVAILABLE", "{kind}: {result}");
    }
}
