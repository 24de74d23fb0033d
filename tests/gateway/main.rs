//! All tests that start a gateway: ONE binary, so that it is linked once. How to write one:
//!
//! ```ignore
//! #[test]
//! fn client_sent_x_user_header_never_reaches_upstream() {
//!     let upstream = Upstream::start();
//!     let issuer = Issuer::es256();
//!     let gateway = Gateway::new().issuer(&issuer).route("/{*rest}", &upstream).start();
//!     let token = issuer.sign(&Issuer::claims("alice", &["user"], gateway.now()));
//!
//!     let answer = gateway.client().get("/x").bearer(&token).header("X-User-Id", "root").send();
//!
//!     answer.expect(200);
//!     assert_eq!(upstream.next_request().header("x-user-id"), Some("alice"));
//! }
//! ```
//! Where it belongs: `path/` has a file for each stage of a request's way (accept, tls, http, route, authenticate,
//! authorize, headers, upstream, refusal); `attacks/` one for each threat in the table of `src/lib.rs`; `rfc/` one for
//! each section of a standard; `login`, `logout`, `admin`, `metrics`, `reload`, `shutdown` stand beside them, as does
//! `regression`, one dated test for each bug that escaped. Each `mod` line below says what belongs there.
//!
//! The name is the rule in plain words; one rule a test; arrange, act and assert apart; for each refusal a twin that
//! passes. The only fakes are the clock and the made-up people: sockets, TLS, files and the gateway are real. Tests
//! share nothing, use free ports, and wait for events instead of sleeping. A test that needs more than 30 lines needs a
//! word in `support`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must fail")]
#![allow(dead_code, unused_imports, reason = "the harness offers words before a test needs them")]

/// The harness; nothing in it tests anything but itself.
mod support;

/// Does the harness itself tell the truth? Whoever changes `support` runs these first.
mod harness;

/// Who is calling: default deny, which credential counts, sources, bearer tokens.
mod authenticate;

/// Tokens that are bound to a key, and the proofs that go with them (RFC 9449).
mod possession;

/// What real backends believe of paths and headers is what the gateway decided.
mod backends;

/// "Stay signed in on this device": sessions that live for weeks.
mod remember;

/// Keys that an issuer publishes: fetched, refreshed, rotated, and what a hostile issuer can do.
mod keys;

/// What goes upstream and what comes back: identity, credentials, forwarding, answers.
mod headers;

/// Routes of an OpenAPI document: never laxer than it.
mod openapi;

/// What a route changes on the way: paths, headers, redirects.
mod edits;

/// HTTP/1.1 and HTTP/2 on both sides, in every combination.
mod protocols;

/// gRPC with a real client and server: all kinds of call, and refusals in its own words.
mod grpc;

/// Hosts that serve nobody for a while.
mod maintenance;

/// Which route and method.
mod route;

/// Somebody wants in, or wants us down: framing, floods, slowness.
mod attacks;

/// Which resource a request is for: paths, hosts, methods.
mod path;

/// Which server of an upstream takes a request, and how it is reached.
mod upstreams;

/// The real program, its signals and its exit code.
mod process;

/// Sockets that a service manager opens, and what it is told.
mod activation;

/// A new process takes over from a running one.
mod upgrade;

/// The README's units for systemd and its container file.
mod packaging;

/// What the RFCs of HTTP, TLS and WebSocket ask of a gateway.
mod rfc;

/// The seeds of the fuzz targets, replayed.
mod seeds;

/// Logging in: the page, its form, JSON for programs, where it leads to, and the throttle.
mod login;

/// How our pages look and what they say.
mod look;

/// Error pages of the operator's own.
mod pages;

/// Second factors: enrolment, codes, recovery codes, and who cannot get around them.
mod second_factor;

/// Proving anew who one is: fresher logins and second factors (RFC 9470).
mod step_up;

/// Forms that came after their session had run out.
mod kept_forms;

/// Logging out.
mod logout;

/// Where somebody is signed in: the page, the JSON and the command, and what ends sessions there.
mod sessions;

/// The session and its cookie (R26).
mod session;

/// What is under way ends with the session or token that it was permitted by (R28).
mod cut;
/// What survives a restart or a crash (R27).
mod durable;

/// Redirects, cross-site requests, CORS and our own pages, as browsers see them (R30 to R33).
mod browsers;

/// The commands, from the real binary: exit codes and texts.
mod cli;

/// The shipped set-up: generated secrets, and that what it prints works (R35).
mod demo;

/// A flood of logins: what memory it takes. What others feel of it is measured by `benches/flood`.
mod flood;

/// Routes that only report yet whom they would refuse.
mod report_only;

/// How many requests are let through, and whose.
mod rate_limits;

/// The users file as `portcullis users` changes it.
mod users;

/// Settings from the environment (R38).
mod environment;

/// Certificates that are ordered from an authority (RFC 8555).
mod acme;
/// The admin API (R36).
mod admin;

/// Commands that use it.
mod admin_client;

/// API keys.
mod api_keys;
/// Opaque tokens, of which their issuer says what they are (RFC 7662).
mod introspection;
/// API keys that are made while the gateway runs.
mod made_keys;
/// Client certificates.
mod mtls;
/// A new configuration for a running gateway (R37).
mod reload;

/// Tokens of our own: for a session, a password, an API key; refreshed and revoked.
mod tokens;

/// Tokens and subjects that were revoked before their time (R28).
mod revocation;

/// Access log, metrics, probes, and the headers that help operators.
mod metrics;

/// The audit log: who did what, from where, and why not.
mod audit;

/// Secrets in no log, metric or error text (R34).
mod secrets;

/// A real Chromium, where there is one.
mod browser;

/// The page of one's sessions in it, with scripts and without.
mod browser_sessions;

/// What upstreams are told of a caller under our signature (R22).
mod assertion;
/// What it shows when something is not right, with scripts and without.
mod browser_refusals;
