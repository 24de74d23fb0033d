//! `redirect` with parameters: a whole host may move, and nobody chooses where it leads but the configuration.

use crate::support::{Gateway, Upstream, gateway::Running};

fn redirecting(to: &str) -> Running {
    let upstream = Upstream::start();
    let gateway = Gateway::new().route("/only/{*rest}", &upstream).auth(&["none"]).table(&format!(
        "[[route]]\nname = \"moved\"\nmatch = {{ path = \"/{{*rest}}\" }}\nauth = [\"none\"]\nredirect = {to}\n"
    ));
    gateway.start()
}

#[test]
fn a_whole_host_moves_with_path_and_query() {
    let gateway = redirecting("{ to = \"https://new.example/{*rest}\", status = 308, keep_query = true }");
    for (path, expect) in [
        ("/", "https://new.example/"),
        ("/a/b?x=1&y=/z", "https://new.example/a/b?x=1&y=/z"),
        ("/a%20b%3F", "https://new.example/a%20b%3F"),
        ("/?", "https://new.example/?"),
        ("/@evil.example/", "https://new.example/@evil.example/"),
    ] {
        let answer = gateway.client().get(path).send().expect(308);
        assert_eq!(answer.header("location"), Some(expect), "{path}");
    }
}

#[test]
fn a_redirect_on_the_own_host_leads_to_no_other() {
    let gateway = redirecting("{ to = \"/{*rest}\", status = 302 }");
    for path in ["//evil.example", "/%2Fevil.example", "/\\evil.example", "/%5Cevil.example", "/..//evil.example"] {
        assert_eq!(gateway.client().get(path).send().status, 400, "{path}");
    }
    let answer = gateway.client().get("/evil.example/?next=//evil").send().expect(302);
    assert_eq!(answer.header("location"), Some("/evil.example/"));
}

#[test]
fn a_query_is_kept_only_where_that_is_said() {
    for (to, expect) in [
        ("\"https://new.example/x\"", "https://new.example/x"),
        ("{ to = \"https://new.example/x\", keep_query = true }", "https://new.example/x?a=%0D%0Ab"),
        ("{ to = \"https://new.example/x?fixed\" }", "https://new.example/x?fixed"),
    ] {
        let answer = redirecting(to).client().get("/old?a=%0D%0Ab").send().expect(302);
        assert_eq!(answer.header("location"), Some(expect), "{to}");
    }
}
