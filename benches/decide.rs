//! What a request costs between its head and its upstream, without a socket: decision, path, headers.
//!
//! The gateway is a real one, started from a configuration; its snapshot and stores are asked directly. A known token
//! is one that was verified before. `head` is what making the request's head costs, which is part of `headers`.
#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot set itself up has nothing to measure")]

#[path = "comparison/people.rs"]
#[expect(dead_code, reason = "the comparison needs more of it")]
mod people;

use std::sync::{Arc, LazyLock};

use divan::{Bencher, black_box};
use http::{Request, request::Parts};
use portcullis::{
    client::{Connection, Cutter, PeerAddr, Tls},
    clock::{Clock, Timestamp},
    config,
    decide::{Decision, Question, Verdict, decide},
    gateway::{self, Running},
    headers,
    hints::OfConnection,
    id::RequestId,
    identity::{Factor, Identity, IdentityParts, Via},
    route::path::CanonicalPath,
    state::Snapshot,
};

use crate::people::{AUDIENCE, Algorithm, Flaw, ISSUER, Keys, Person};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

const ROUTES: [&str; 3] = ["public", "session", "jwt"];

#[divan::bench(args = ROUTES, sample_size = 1000, sample_count = 200)]
fn decision(bencher: Bencher<'_, '_>, route: &str) {
    let (head, snapshot) = (world().head(route), world().gateway.live().snapshot());
    bencher.bench(|| world().decide(&snapshot, black_box(&head)));
}

#[divan::bench(args = ROUTES, sample_size = 1000, sample_count = 200)]
fn headers(bencher: Bencher<'_, '_>, route: &str) {
    let snapshot = world().gateway.live().snapshot();
    bencher
        .with_inputs(|| {
            let head = world().head(route);
            let Decision { findings, verdict: Verdict::Allow(permit) } = world().decide(&snapshot, &head) else {
                panic!("{route} is not allowed");
            };
            let (view, path) = (findings.view.expect("a client"), findings.path.expect("a path"));
            (head, permit, view, path, RequestId::generate())
        })
        .bench_values(|(head, permit, view, path, id)| {
            headers::rewrite(&head, permit, headers::Proofs::default(), &view, &path, &id, &snapshot.headers)
        });
}

#[divan::bench(args = ["/api/orders/4711?page=2", "/app/%7Ejos%C3%A9/files/report.pdf"], sample_size = 1000)]
fn path(bencher: Bencher<'_, '_>, target: &str) {
    let uri = target.parse().expect("a target");
    let tolerated = world().gateway.live().snapshot().routes.tolerated();
    bencher.bench(|| CanonicalPath::of(black_box(&uri), tolerated));
}

#[divan::bench(sample_size = 1000, sample_count = 200)]
fn request_id() -> RequestId {
    RequestId::generate()
}

struct World {
    gateway: Running,
    connection: Connection,
    now: Timestamp,
    session: String,
    token: String,
}

impl World {
    fn decide<'s>(&self, snapshot: &'s Snapshot, head: &Parts) -> Decision<'s> {
        let question = Question { head, connection: &self.connection, malformed: None, now: self.now, waited: false };
        decide(snapshot, &self.gateway.live().shared, question)
    }

    fn head(&self, route: &str) -> Parts {
        let request = Request::get(format!("/{route}/orders/4711?page=2"))
            .header("host", "bench.test")
            .header("user-agent", "bench/1.0")
            .header("accept", "application/json")
            .header("accept-encoding", "gzip, br")
            .header("accept-language", "en");
        let request = match route {
            "session" => request.header("cookie", format!("theme=dark; __Host-portcullis={}; lang=en", self.session)),
            "jwt" => request.header("authorization", format!("Bearer {}", self.token)),
            _ => request,
        };
        request.body(()).expect("a request").into_parts().0
    }
}

fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| build().expect("a gateway"));
    &WORLD
}

fn build() -> Result<World> {
    let keys = Keys::generate()?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("jwt.pem"), keys.public_pem(Algorithm::Es256))?;
    let routes: String = ROUTES
        .iter()
        .map(|name| {
            let auth = if *name == "public" { "none" } else { name };
            format!(
                "[[route]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}/orders/{{id}}\" }}\nauth = [\"{auth}\"]\n\
                 upstream = \"app\"\n"
            )
        })
        .collect();
    let text = format!(
        "version = 1\n[server]\nlisten = [\"http://127.0.0.1:0\"]\nhosts = [\"bench.test\"]\nworkers = 1\n\
         [log]\naccess = \"off\"\naudit = \"off\"\n[session]\nidle_timeout = \"30m\"\n[[jwt.issuer]]\nname = \"bench\"\n\
         issuer = \"{ISSUER}\"\njwks = {{ pem = \"jwt.pem\" }}\naudience = [\"{AUDIENCE}\"]\nalgorithms = [\"ES256\"]\n\
         grants = \"all\"\n[[admin.token]]\nname = \"bench\"\nfile = \"admin.token\"\nallow = [\"all\"]\n\
         grants = \"all\"\n[admin]\nlisten = \"http://127.0.0.1:0\"\n[upstream.app]\nservers = [\"echo:\"]\n{routes}"
    );
    std::fs::write(folder.path().join("admin.token"), people::opaque_token())?;
    let config = config::load_text("gateway.toml", &text, folder.path(), []).map_err(|report| report.to_string())?;
    let settings = config.snapshot.session.clone();
    let place = folder.path().to_owned();
    let again = Box::new(move || config::load_text("gateway.toml", &text, &place, []));
    let gateway = gateway::start(config, Clock::system(), again)?;
    let now = Clock::system().now();
    let person = Person::number(7);
    let identity = Identity::new(IdentityParts {
        realm: "bench".into(),
        subject: person.id,
        name: Some(person.name),
        email: Some(person.email),
        email_verified: true,
        roles: person.roles.map(str::to_owned).to_vec(),
        groups: Vec::new(),
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
        auth_time: None,
        factor: Factor::One,
        via: Via::Session,
    })
    .map_err(|error| format!("{error:?}"))?;
    let opened = ready(gateway.live().shared.sessions.open(Arc::new(identity), None, &settings, now));
    let (session, _) = opened.map_err(|error| format!("{error:?}"))?;
    Ok(World {
        gateway,
        connection: Connection {
            id: 1,
            said_by: None,
            peer: PeerAddr::Ip("192.0.2.1:5000".parse()?),
            local_port: 443,
            tls: Some(Tls { server_name: None, version: "1.3", asked: None, certificate: None }),
            cutter: Cutter::default(),
            hints: OfConnection::default(),
        },
        now,
        session: session.expose().to_owned(),
        token: keys.token(Algorithm::Es256, &Person::number(7), Flaw::None),
    })
}

/// What a change of a store in memory comes to: it is ready at once.
fn ready<T>(change: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(change).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => unreachable!("nothing is waited for without a disk"),
    }
}
