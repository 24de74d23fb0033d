//! A real ACME authority: Pebble, with a DNS server that leads every name to this machine.

use std::{net::SocketAddr, process::Command, sync::Arc};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Client, Connection, Gateway, Pki, Upstream,
    gateway::Running,
    program::{Program, found, free_address},
};

/// It looks for proofs on two ports of 127.0.0.1, where a gateway is to listen. Dropping it ends it.
pub(crate) struct Pebble {
    /// Where a gateway is looked for with `tls-alpn-01`.
    pub(crate) tls: SocketAddr,
    /// Where a gateway is looked for with `http-01`.
    pub(crate) http: SocketAddr,
    directory: SocketAddr,
    management: SocketAddr,
    dns_management: SocketAddr,
    folder: TempDir,
    pki: Pki,
    /// Behind its gateways.
    upstream: Upstream,
    settings: Value,
    environment: Vec<(&'static str, &'static str)>,
    programs: Vec<Program>,
}

impl Pebble {
    /// One that is not started yet; `None`: it is not installed.
    pub(crate) fn prepare() -> Option<Self> {
        found("pebble")?;
        found("pebble-challtestsrv")?;
        Some(Self {
            tls: free_address(),
            http: free_address(),
            directory: free_address(),
            management: free_address(),
            dns_management: free_address(),
            folder: tempfile::tempdir().expect("a directory can be made"),
            pki: Pki::new(),
            upstream: Upstream::start(),
            settings: json!({}),
            // It would refuse one nonce in twenty.
            environment: vec![("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_AUTHZREUSE", "0"), ("PEBBLE_WFE_NONCEREJECT", "0")],
            programs: Vec::new(),
        })
    }

    /// One at work; `None`: it is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::prepare().map(Self::run)
    }

    /// With this member of its configuration.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.settings[name] = value;
        self
    }

    /// With this in its environment.
    pub(crate) fn environment(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Starts it.
    pub(crate) fn run(mut self) -> Self {
        let folder = self.folder.path();
        let dns = free_address();
        let mut command = Command::new(found("pebble-challtestsrv").expect("it is installed"));
        command.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        command.args(["-dns01", &dns.to_string(), "-management", &self.dns_management.to_string()]);
        let names = Program::start(command.stderr(std::process::Stdio::null()), self.dns_management);

        let files = self.pki.issue(folder, &["localhost"]);
        let mut settings = json!({
            "listenAddress": self.directory.to_string(),
            "managementListenAddress": self.management.to_string(),
            "certificate": files.cert,
            "privateKey": files.key,
            "httpPort": self.http.port(),
            "tlsPort": self.tls.port(),
            "certificateValidityPeriod": 90 * 86_400,
        });
        for (name, value) in self.settings.as_object().expect("an object") {
            settings[name] = value.clone();
        }
        let config = folder.join("pebble.json");
        std::fs::write(&config, json!({ "pebble": settings }).to_string()).expect("a file can be written");
        let mut command = Command::new("sh");
        // What it says tells how many accounts and orders it has.
        command.args(["-c", "exec \"$0\" -config \"$1\" -dnsserver \"$2\" >\"$3\" 2>&1"]);
        command.arg(found("pebble").expect("it is installed")).arg(&config).arg(dns.to_string());
        command.arg(folder.join("log")).envs(self.environment.iter().copied());
        let authority = Program::start(&mut command, self.directory);
        self.programs = vec![authority, names];
        self
    }

    /// Lines of `[tls.acme]`, its own `ca` among them.
    pub(crate) fn lines(&self, more: &str) -> String {
        let ca = self.folder.path().join("ca.pem");
        std::fs::write(&ca, self.pki.authority_pem()).expect("a file can be written");
        format!("[tls.acme]\ndirectory = {:?}\nterms_agreed = true\nca = {ca:?}\n{more}", self.url())
    }

    /// A gateway where it looks for proofs, with these lines of `[tls.acme]`, and a route that is open to all.
    pub(crate) fn gateway(&self, more: &str) -> Gateway {
        Gateway::new()
            .tls(&self.lines(more))
            .server(&format!("listen = [\"https://{}\"]", self.tls))
            .server(&format!("redirect_http = \"{}\"", self.http))
            .server("state_dir = \"state\"")
            .admin()
            .route("/{*rest}", &self.upstream)
            .auth(&["none"])
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}/dir", self.directory.port())
    }

    /// A client that trusts it and asks for this host of the gateway.
    pub(crate) fn client(&self, host: &str) -> Client {
        Client::tls(self.tls, host, self.roots())
    }

    /// Every name leads here from now on.
    pub(crate) fn lead_to(&self, address: &str) {
        Client::plain(self.dns_management)
            .post("/set-default-ipv4", json!({ "ip": address }).to_string())
            .send()
            .expect(200);
    }

    /// How often it has said this.
    pub(crate) fn said(&self, text: &str) -> usize {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default().matches(text).count()
    }

    /// How many accounts were made.
    pub(crate) fn accounts(&self) -> usize {
        self.said("accounts in memory")
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let client = Client::tls(self.management, "localhost", self.pki.roots());
        let pem = client.get("/roots/0").send().expect(200).body;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).expect("a certificate")).expect("an authority");
        Arc::new(roots)
    }
}

/// The leaf that this client is served with.
pub(crate) fn served(client: &Client) -> Vec<u8> {
    leaf(&client.connect())
}

/// The leaf of the other side.
pub(crate) fn leaf(connection: &Connection) -> Vec<u8> {
    let certificates = connection.tls().expect("TLS").peer_certificates().expect("a certificate");
    certificates.first().expect("a leaf").to_vec()
}

/// Waits until so many orders have ended like this.
#[track_caller]
pub(crate) fn orders(gateway: &Running, result: &str, count: u32) {
    super::eventually(&format!("{count} orders end as {result}"), || {
        gateway.metric("portcullis_acme_orders_total", &[("result", result)]) >= f64::from(count)
    });
}
