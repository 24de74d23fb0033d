//! R38: variables override scalars of the file, and never who gets in where.

use std::time::Duration;

use crate::support::{Gateway, Upstream};

const PASSWORD: &str = "correct horse battery staple";

/// R38.
#[test]
fn a_variable_overrides_a_scalar_of_the_file() {
    let upstream = Upstream::start();
    let gateway = Gateway::with("[session]\nidle_timeout = \"30m\"")
        .user("alice", PASSWORD, &[])
        .route("/{*rest}", &upstream)
        .environment("PORTCULLIS__SESSION__IDLE_TIMEOUT", "5m")
        .start();
    let alice = gateway.log_in("alice");
    gateway.advance(Duration::from_secs(299));
    alice.get("/x").send().expect(200);

    gateway.advance(Duration::from_secs(301));

    alice.get("/x").send().expect(401);
}

/// R38.
#[test]
fn a_variable_that_says_who_gets_in_is_refused() {
    for name in [
        "PORTCULLIS__ROUTE_DEFAULTS__AUTH",
        "PORTCULLIS__ROUTE__0__AUTH",
        "PORTCULLIS__ROUTE__0__REQUIRE",
        "PORTCULLIS__LOGIN__PROVIDER__0__GRANTS",
        "PORTCULLIS__ADMIN__TOKEN__0__GRANTS",
        "PORTCULLIS__JWT__ISSUER__0__ISSUER",
        "PORTCULLIS__NOTHING__OF__THE__KIND",
        "PORTCULLIS__SESSION__COLOUR",
    ] {
        let upstream = Upstream::start();
        let gateway = Gateway::new().user("alice", PASSWORD, &[]).route("/{*rest}", &upstream);

        let report = gateway.environment(name, "none").try_start().err().unwrap_or_else(|| panic!("{name} is taken"));

        assert!(report.contains(name), "{name}: {report}");
    }
}

/// R38, R34: what is wrong is said with the variable's name.
#[test]
fn a_bad_value_is_reported_with_its_variable() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().user("alice", PASSWORD, &[]).route("/{*rest}", &upstream);

    let report = gateway.environment("PORTCULLIS__SERVER__DRAIN_TIMEOUT", "soon").try_start().err().expect("refused");

    assert!(report.contains("PORTCULLIS__SERVER__DRAIN_TIMEOUT") && report.contains("soon"), "{report}");
}
