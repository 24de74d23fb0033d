//! What a backend reads differently is declared on its upstream, and a path must then mean the same in every reading
//! (R8). `/admin` is guarded, all else is public, both on the same backend.

use crate::support::{Gateway, Issuer, Upstream, gateway::Running};

fn guarded(upstream: &Upstream, quirk: &str) -> Running {
    let issuer = Issuer::hs256();
    let quirks = format!("path_quirks = [{quirk:?}]");
    Gateway::new()
        .issuer(&issuer)
        .route("/admin/{*rest}", upstream)
        .upstream_key(&quirks)
        .route("/{*rest}", upstream)
        .upstream_key(&quirks)
        .auth(&["none"])
        .start()
}

fn expect(quirk: &str, table: &[(&str, u16)]) {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream, quirk);
    let mut served = 0;
    for (target, status) in table {
        let answer = gateway.client().get(target).send();

        assert_eq!(answer.status, *status, "{target:?} with {quirk}");
        if *status == 200 {
            served += 1;
            assert_eq!(upstream.next_request().path, *target, "{quirk}");
        }
    }
    upstream.expect_only(served);
}

/// R8.
#[test]
fn a_backend_without_case_gets_no_other_case_of_a_guarded_path() {
    expect(
        "case_insensitive",
        &[("/Open/X", 200), ("/Admin/x", 400), ("/ADMIN", 400), ("/admin/X", 401), ("/%41dmin", 400), ("/admins", 200)],
    );
}

/// R8.
#[test]
fn a_backend_that_cuts_parameters_off_gets_none_on_a_guarded_path() {
    expect(
        "semicolon",
        &[
            ("/open;a=b/x", 200),
            ("/open%3Ba/x", 200),
            ("/admin;x/y", 400),
            ("/admin;/y", 400),
            ("/;x/admin", 400),
            ("/admin%3Bx/y", 400),
            ("/open/..;/admin", 400),
            ("/open/..;x/admin", 400),
            ("/open/.;/x", 400),
        ],
    );
}

/// R8.
#[test]
fn a_backend_that_decodes_slashes_gets_none_into_a_guarded_path() {
    expect(
        "encoded_slash",
        &[
            ("/open/a%2Fb", 200),
            ("/open%2Fa", 200),
            ("/%2Fadmin/x", 400),
            ("/admin%2Fx", 400),
            ("/open/..%2Fadmin", 400),
            ("/open%2F..%2Fadmin", 400),
            ("/open%2F%2e%2e%2Fadmin", 400),
            ("/open;x", 400),
        ],
    );
}

/// R8.
#[test]
fn a_backend_that_merges_slashes_gets_none_before_a_guarded_path() {
    expect(
        "double_slash",
        &[("/open//x", 200), ("//open", 200), ("//admin/x", 400), ("///admin", 400), ("/open/..//admin", 400)],
    );
}

/// R8.
#[test]
fn a_backend_that_ignores_suffixes_gets_none_on_a_guarded_path() {
    expect("suffix", &[("/open.json", 200), ("/admin.json", 400), ("/admin.x.y", 400), ("/admin.", 400)]);
}

/// R8. A quirk of one upstream is none of another.
#[test]
fn a_quirk_counts_only_where_it_was_declared() {
    let (odd, plain) = (Upstream::start(), Upstream::start());
    let gateway = Gateway::new()
        .route("/odd/{*rest}", &odd)
        .upstream_key("path_quirks = [\"semicolon\", \"encoded_slash\", \"double_slash\"]")
        .auth(&["none"])
        .route("/plain/{*rest}", &plain)
        .auth(&["none"])
        .start();
    for rest in ["a;b", "a%2Fb", "a//b"] {
        gateway.client().get(&format!("/odd/{rest}")).send().expect(200);
        gateway.client().get(&format!("/plain/{rest}")).send().expect(400);
    }
    odd.expect_only(3);
    plain.expect_only(0);
}
