//! The Autobahn test suite's cases (RFC 6455, RFC 7692) get the same verdicts through the gateway as without it: a
//! tunnel carries bytes, and neither mends nor breaks what they say.
//!
//! The suite itself wants Python 2; `kosoku` drives its case files natively, `websockets` is the server. Both come from
//! PyPI by `tests/run`. They speak plain HTTP/1.1 to a loopback listener: TLS ends before a tunnel begins. For HTTP/2
//! there are two gateways, the one of which is the other's server.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, process::Command};

use crate::support::{
    Gateway,
    program::{Program, found, free_address},
};

/// Of each case what it says of the exchange, of its end, and which close code came.
type Verdicts = BTreeMap<String, String>;

fn python(script: &str, libraries: &PathBuf) -> Command {
    let mut command = Command::new("python3");
    command.arg(format!("{}/tests/gateway/rfc/autobahn/{script}", env!("CARGO_MANIFEST_DIR")));
    command.env("PYTHONPATH", libraries);
    command
}

fn verdicts(libraries: &PathBuf, server: SocketAddr) -> Verdicts {
    let ask = || python("client.py", libraries).arg(server.to_string()).output().expect("the client can be started");
    // It is native code; one that crashes has no verdict, whoever it asked.
    let output = (0..3).map(|_| ask()).find(|output| output.status.code().is_some()).expect("a client that ends");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Whether an echo comes before the close behind it is a matter of timing; either is a pass.
    let said = |said: &str| said.replace("NON-STRICT", "OK");
    text.lines().filter_map(|line| line.split_once(" | ")).map(|(case, text)| (case.into(), said(text))).collect()
}

#[test]
fn autobahn_gets_the_same_verdicts_through_the_gateway_as_without_it() {
    let Some(libraries) = found(&format!("{}/target/autobahn/kosoku", env!("CARGO_MANIFEST_DIR"))) else { return };
    let libraries = libraries.parent().expect("a folder").to_owned();
    let address = free_address();
    let _server = Program::start(python("server.py", &libraries).arg(address.port().to_string()), address);
    let gateway = Gateway::new()
        .host("127.0.0.1")
        .server("listen = [\"http://127.0.0.1:0\"]")
        .route_to("path = \"/\"", &format!("servers = [\"http://{address}\"]"))
        .auth(&["none"])
        .key("upgrade = [\"websocket\"]")
        .start();

    let direct = verdicts(&libraries, address);

    same_verdicts(&direct, &verdicts(&libraries, gateway.addresses().gateway[0]));

    // RFC 8441: the first gateway's server is asked over HTTP/2, and is the second gateway.
    let second = Gateway::new()
        .route_to("path = \"/\"", &format!("servers = [\"http://{address}\"]"))
        .auth(&["none"])
        .key("upgrade = [\"websocket\"]")
        .start();
    let servers = format!("servers = [\"https://{}\"]\nhost = \"app.test\"", second.addresses().gateway[0]);
    let first = Gateway::new()
        .host("127.0.0.1")
        .server("listen = [\"http://127.0.0.1:0\"]")
        .file("second.pem", &second.pki().authority_pem())
        .route_to("path = \"/\"", &format!("{servers}\ntls = {{ ca = \"second.pem\", server_name = \"app.test\" }}"))
        .auth(&["none"])
        .key("upgrade = [\"websocket\"]")
        .start();

    same_verdicts(&direct, &verdicts(&libraries, first.addresses().gateway[0]));

    let server = format!("https://{}", second.addresses().gateway[0]);
    let shared = first.metric("portcullis_upstream_reused_total", &[("upstream", "u0"), ("server", &server)]);
    assert!(shared > 250.0, "streams share connections: {shared}");
}

fn same_verdicts(direct: &Verdicts, through: &Verdicts) {
    let differ: Vec<String> = direct
        .iter()
        .filter(|(case, said)| through.get(*case) != Some(said))
        .map(|(case, said)| format!("{case:10} without: {said:40} through: {:?}", through.get(case)))
        .collect();
    assert!(differ.is_empty(), "{} of {} differ\n{}", differ.len(), direct.len(), differ.join("\n"));
    assert_eq!(direct.len(), through.len());
    assert!(direct.len() > 280, "{} cases", direct.len());
    let good = direct.values().filter(|said| said.starts_with("OK")).count();
    assert!(good * 100 >= direct.len() * 97, "{good} of {} cases are passed by the server itself", direct.len());
}
