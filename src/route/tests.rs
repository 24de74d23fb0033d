//! The route table against its rules, and against a matcher that tries every route in turn.

use std::sync::Arc;

use http::Method;
use proptest::prelude::*;

use super::{path::Segment, siblings::Variant, *};
use crate::policy::{AccessRule, IdentityValue, Requirement, Requirements};

/// A route to upstream 0 that asks nothing.
pub(super) fn route(index: usize, name: &str, hosts: &[&str], paths: &[&str], methods: &[Method]) -> Route {
    let access = Access::Public { pass_authorization: false };
    Route {
        index,
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        paths: paths.iter().map(|path| path.parse().unwrap()).collect(),
        methods: (!methods.is_empty()).then(|| methods.into()),
        ..Route::new(name, access, Target::Upstream(Destination::One(0)))
    }
}

pub(super) fn requiring(route: Route, all: &[Requirement]) -> Route {
    let rule = AccessRule {
        session: true,
        require: Requirements { all: all.into(), ..Requirements::default() },
        ..AccessRule::default()
    };
    Route { access: Access::Authenticated(rule), ..route }
}

pub(super) fn admin(route: Route) -> Route {
    requiring(route, &[Requirement::Role("admin".into())])
}

fn table(routes: Vec<Route>) -> RouteTable {
    quirky(routes, Quirks::default())
}

pub(super) fn quirky(routes: Vec<Route>, quirks: Quirks) -> RouteTable {
    RouteTable::build(routes.into_iter().map(Arc::new).collect(), &hosts(), |_| quirks).unwrap()
}

fn hosts() -> Vec<Host> {
    ["a.example", "b.example"].iter().map(|host| host.parse().unwrap()).collect()
}

/// Name of the route with its parameters, or the miss.
fn found(table: &RouteTable, method: &str, url: &str) -> String {
    let (host, path) = url.split_at(url.find('/').unwrap());
    let path = match CanonicalPath::parse(path, table.tolerated()) {
        Ok(path) => path,
        Err(error) => return error.label().into(),
    };
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    match table.find(&host.parse().unwrap(), &path, &method) {
        Ok(found) => {
            let params: Vec<String> = found.params.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!("{}{}", found.route.name, params.concat())
        }
        Err(Miss::BadPath(error)) => error.label().into(),
        Err(Miss::MethodNotAllowed { allow }) => format!("405 {}", allow.to_str().unwrap()),
        Err(Miss::NoRoute) => "404".into(),
        Err(Miss::UnknownHost) => "421".into(),
    }
}

#[test]
fn the_most_specific_path_wins_segment_by_segment() {
    let table = table(vec![
        route(0, "root", &[], &["/"], &[]),
        route(1, "rest", &[], &["/{*rest}"], &[]),
        route(2, "users", &[], &["/users/{*rest}"], &[]),
        route(3, "user", &[], &["/users/{id}"], &[]),
        route(4, "me", &[], &["/users/me"], &[]),
        route(5, "deep", &[], &["/{a}/b/d"], &[]),
        route(6, "literal", &[], &["/a/b/c"], &[]),
        route(7, "slash", &[], &["/docs/"], &[]),
    ]);
    for (url, expect) in [
        ("a.example/", "root"),
        ("a.example/x", "rest rest=x"),
        ("a.example/x/y", "rest rest=x/y"),
        ("a.example/users", "users rest="),
        ("a.example/users/", "users rest="),
        ("a.example/users/7", "user id=7"),
        ("a.example/users/7/", "users rest=7/"),
        ("a.example/users/me", "me"),
        ("a.example/users/%6de", "me"),
        ("a.example/a/b/c", "literal"),
        ("a.example/a/b/d", "deep a=a"),
        ("a.example/a/b/e", "rest rest=a/b/e"),
        ("a.example/docs/", "slash"),
        ("a.example/docs", "rest rest=docs"),
        ("a.example/users/a%20b", "user id=a b"),
        ("a.example/users/%2541", "user id=%41"),
        ("c.example/", "421"),
    ] {
        assert_eq!(found(&table, "GET", url), expect, "{url}");
    }
}

#[test]
fn no_spelling_of_a_literal_evades_its_route() {
    let table = table(vec![
        route(0, "me", &[], &["/@me!/{*rest}"], &[]),
        route(1, "green", &[], &["/grün"], &[]),
        route(2, "rest", &[], &["/{*rest}"], &[]),
    ]);
    for (url, expect) in [
        ("a.example/@me!/x", "me rest=x"),
        ("a.example/%40me%21/x", "me rest=x"),
        ("a.example/%40%6De!/x", "me rest=x"),
        ("a.example/gr%c3%bcn", "green"),
        ("a.example/@ME!/x", "rest rest=@ME!/x"),
    ] {
        assert_eq!(found(&table, "GET", url), expect, "{url}");
    }
}

#[test]
fn the_rest_covers_nothing_too() {
    let table = table(vec![route(0, "admin", &[], &["/admin/{*rest}"], &[])]);

    assert_eq!(found(&table, "GET", "a.example/admin"), "admin rest=");
    assert_eq!(found(&table, "GET", "a.example/admin/"), "admin rest=");
    assert_eq!(found(&table, "GET", "a.example/admin/x"), "admin rest=x");
    assert_eq!(found(&table, "GET", "a.example/administrator"), "404");
}

#[test]
fn the_host_decides_before_the_path() {
    let table = table(vec![
        route(0, "any", &[], &["/deep/path", "/only/here"], &[]),
        route(1, "own", &["a.example"], &["/deep/{*rest}"], &[]),
        route(2, "new", &["new.example"], &["/"], &[]),
    ]);
    for (url, expect) in [
        ("a.example/deep/path", "own rest=path"),
        ("b.example/deep/path", "any"),
        ("a.example/only/here", "any"),
        ("new.example/", "new"),
        ("new.example/only/here", "any"),
        ("unknown.example/only/here", "421"),
    ] {
        assert_eq!(found(&table, "GET", url), expect, "{url}");
    }
}

#[test]
fn the_path_decides_before_the_method() {
    let table = table(vec![
        route(0, "read", &[], &["/x/{id}"], &[Method::GET]),
        route(1, "write", &[], &["/x/{id}"], &[Method::POST, Method::DELETE]),
        route(2, "rest", &[], &["/{*rest}"], &[]),
        route(3, "mixed", &[], &["/y"], &[]),
        route(4, "post", &[], &["/y"], &[Method::POST]),
        route(5, "head", &[], &["/z"], &[Method::HEAD]),
        route(6, "get", &[], &["/z"], &[Method::GET]),
    ]);
    for (method, url, expect) in [
        ("GET", "a.example/x/1", "read id=1"),
        ("HEAD", "a.example/x/1", "read id=1"),
        ("DELETE", "a.example/x/1", "write id=1"),
        ("PUT", "a.example/x/1", "405 GET, HEAD, POST, DELETE"),
        ("OPTIONS", "a.example/x/1", "405 GET, HEAD, POST, DELETE"),
        ("PUT", "a.example/x/1/2", "rest rest=x/1/2"),
        ("PROPFIND", "a.example/w", "rest rest=w"),
        ("POST", "a.example/y", "post"),
        ("PUT", "a.example/y", "mixed"),
        ("HEAD", "a.example/z", "head"),
    ] {
        assert_eq!(found(&table, method, url), expect, "{method} {url}");
    }
}

#[test]
fn trace_track_and_connect_are_never_served() {
    let table = table(vec![
        route(0, "rest", &[], &["/{*rest}"], &[]),
        route(1, "get", &["b.example"], &["/x"], &[Method::GET]),
    ]);
    for method in ["TRACE", "TRACK", "CONNECT", "trace", "Connect"] {
        assert!(found(&table, method, "a.example/").starts_with("405 GET, HEAD, POST"), "{method}");
        assert_eq!(found(&table, method, "b.example/x"), "405 GET, HEAD", "{method}");
    }
    let star = CanonicalPath::of(&"*".parse().unwrap(), Quirks::default()).unwrap();
    assert!(matches!(table.find(&hosts()[0], &star, &Method::OPTIONS), Err(Miss::NoRoute)));
    assert!(matches!(table.find(&hosts()[0], &star, &Method::CONNECT), Err(Miss::MethodNotAllowed { .. })));
}

#[test]
fn our_own_endpoints_are_on_every_host_and_livez_everywhere() {
    let own = |index, name: &str, path: &str, which| Route {
        target: Target::Own(which),
        ..route(index, name, &[], &[path], &[Method::GET])
    };
    let table = table(vec![
        own(0, "livez", "/_auth/livez", Own::Livez),
        own(1, "login", "/_auth/login", Own::Login),
        route(2, "app", &["a.example"], &["/{*rest}"], &[]),
    ]);
    for (method, url, expect) in [
        ("GET", "a.example/_auth/login", "login"),
        ("GET", "b.example/_auth/login", "login"),
        ("GET", "a.example/_auth/livez", "livez"),
        ("GET", "unknown.example/_auth/livez", "livez"),
        ("POST", "unknown.example/_auth/livez", "421"),
        ("TRACE", "unknown.example/_auth/livez", "421"),
        ("GET", "unknown.example/_auth/login", "421"),
        ("GET", "a.example/_auth/other", "app rest=_auth/other"),
    ] {
        assert_eq!(found(&table, method, url), expect, "{method} {url}");
    }
}

#[test]
fn a_tie_names_both_routes_and_the_pattern() {
    let conflicts = |routes: Vec<Route>| {
        let built = RouteTable::build(routes.into_iter().map(Arc::new).collect(), &hosts(), |_| Quirks::default());
        built.err().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>()
    };

    let tied = conflicts(vec![
        route(0, "one", &["a.example", "b.example"], &["/x/{id}", "/y"], &[Method::GET, Method::PUT]),
        route(1, "two", &["a.example"], &["/x/{name}"], &[Method::GET]),
        route(2, "three", &[], &["/z"], &[]),
        route(3, "four", &[], &["/%7a"], &[]),
    ]);
    assert_eq!(tied.len(), 2);
    assert!(tied[0].starts_with("routes `one` and `two` both match `/x/{name}` on a.example; "), "{}", tied[0]);
    assert!(tied[1].starts_with("routes `three` and `four` both match `/z`; "), "{}", tied[1]);

    assert!(
        conflicts(vec![
            route(0, "one", &["a.example"], &["/x", "/x"], &[]),
            route(1, "two", &["b.example"], &["/x"], &[]),
            route(2, "three", &[], &["/x"], &[Method::GET]),
            route(3, "four", &[], &["/x"], &[Method::POST]),
            route(4, "five", &[], &["/x"], &[]),
        ])
        .is_empty()
    );
}

#[test]
fn a_path_must_be_the_same_route_in_every_reading() {
    let none = Quirks::default();
    let routes = || {
        vec![
            admin(route(0, "admin", &[], &["/admin/{*rest}"], &[])),
            requiring(
                route(1, "own", &[], &["/users/{id}"], &[]),
                &[Requirement::PathEquals { parameter: "id".into(), value: IdentityValue::Subject }],
            ),
            route(2, "rest", &[], &["/{*rest}"], &[]),
        ]
    };
    for (quirks, url, expect) in [
        (Quirks { case_insensitive: true, ..none }, "a.example/Admin/x", "ambiguous_path"),
        (Quirks { case_insensitive: true, ..none }, "a.example/admin/X", "admin rest=X"),
        (Quirks { case_insensitive: true, ..none }, "a.example/Other", "rest rest=Other"),
        (Quirks { case_insensitive: true, ..none }, "a.example/u%C5%BFers/7", "ambiguous_path"),
        (Quirks { case_insensitive: true, ..none }, "a.example/users/bob", "own id=bob"),
        (Quirks { case_insensitive: true, ..none }, "a.example/users/Bob", "ambiguous_path"),
        (Quirks { semicolon: true, ..none }, "a.example/admin;x", "ambiguous_path"),
        (Quirks { semicolon: true, ..none }, "a.example/admin%3Bx", "ambiguous_path"),
        (Quirks { semicolon: true, ..none }, "a.example/admin/a;x", "admin rest=a;x"),
        (Quirks { semicolon: true, ..none }, "a.example/users/bob;x", "ambiguous_path"),
        (Quirks { semicolon: true, ..none }, "a.example/x/..;/admin", "ambiguous_path"),
        (Quirks { encoded_slash: true, ..none }, "a.example/admin%2fx", "ambiguous_path"),
        (Quirks { encoded_slash: true, ..none }, "a.example/x/..%2Fadmin", "ambiguous_path"),
        (Quirks { encoded_slash: true, ..none }, "a.example/files/a%2fb", "rest rest=files/a/b"),
        (Quirks { encoded_slash: true, ..none }, "a.example/a;b", "semicolon"),
        (Quirks { double_slash: true, ..none }, "a.example//admin/x", "ambiguous_path"),
        (Quirks { double_slash: true, ..none }, "a.example/admin//x", "admin rest=/x"),
        (Quirks { suffix: true, ..none }, "a.example/admin.json", "ambiguous_path"),
        (Quirks { suffix: true, ..none }, "a.example/other.json", "rest rest=other.json"),
        (Quirks { trailing_slash: true, ..none }, "a.example/users/bob/", "ambiguous_path"),
        (Quirks { trailing_slash: true, ..none }, "a.example/admin/", "admin rest="),
        (none, "a.example/admin;x", "semicolon"),
        (none, "a.example/Admin/x", "rest rest=Admin/x"),
    ] {
        assert_eq!(found(&quirky(routes(), quirks), "GET", url), expect, "{url} {quirks:?}");
    }
}

#[test]
fn what_a_reading_reveals_must_be_routed_itself() {
    let slash = Quirks { encoded_slash: true, ..Quirks::default() };
    let routes = || vec![route(0, "file", &[], &["/files/{name}"], &[]), route(1, "docs", &[], &["/docs/"], &[])];

    assert_eq!(found(&quirky(routes(), slash), "GET", "a.example/files/a%2Fb"), "ambiguous_path");
    assert_eq!(found(&quirky(routes(), slash), "GET", "a.example/files/a"), "file name=a");
}

#[test]
fn a_backend_blind_to_the_last_slash_takes_both_spellings_for_one_route() {
    let trailing = Quirks { trailing_slash: true, ..Quirks::default() };
    let table = quirky(
        vec![
            route(0, "docs", &[], &["/docs/"], &[]),
            route(1, "report", &[], &["/report"], &[]),
            route(2, "one", &[], &["/both"], &[]),
            route(3, "other", &[], &["/both/"], &[]),
            route(4, "rest", &[], &["/{*rest}"], &[]),
        ],
        trailing,
    );
    for (url, expect) in [
        ("a.example/docs/", "docs"),
        ("a.example/docs", "ambiguous_path"),
        ("a.example/report", "report"),
        ("a.example/report/", "ambiguous_path"),
        ("a.example/both", "ambiguous_path"),
        ("a.example/both/", "ambiguous_path"),
        ("a.example/x/", "rest rest=x/"),
        ("a.example/", "rest rest="),
    ] {
        assert_eq!(found(&table, "GET", url), expect, "{url}");
    }
}

#[test]
fn a_quirk_counts_only_for_the_upstream_that_declares_it() {
    let routes = vec![
        Route { target: Target::Upstream(Destination::One(1)), ..route(0, "tomcat", &[], &["/java/{*rest}"], &[]) },
        route(1, "plain", &[], &["/{*rest}"], &[]),
    ];
    let quirks = |route: &Route| Quirks {
        semicolon: matches!(route.target, Target::Upstream(Destination::One(1))),
        ..Quirks::default()
    };
    let table = RouteTable::build(routes.into_iter().map(Arc::new).collect(), &hosts(), quirks).unwrap();

    assert_eq!(found(&table, "GET", "a.example/java/a;b"), "tomcat rest=a;b");
    assert_eq!(found(&table, "GET", "a.example/other/a;b"), "semicolon");
    assert_eq!(found(&table, "GET", "a.example/java/a%2fb"), "encoded_slash");
}

#[test]
fn the_host_field_of_a_known_host_is_read_without_parsing() {
    let table = table(Vec::new());
    for (text, expect) in [
        ("a.example", Some("a.example")),
        ("a.example:8443", Some("a.example:8443")),
        ("A.example", None),
        ("c.example", None),
        ("a.example:", None),
        ("a.example:0", None),
        ("a.example:+1", None),
        ("a.example:65536", None),
    ] {
        assert_eq!(table.authority(text.as_bytes()).map(|a| a.to_string()).as_deref(), expect, "{text}");
        if let Some(known) = table.authority(text.as_bytes()) {
            assert_eq!(Ok(known), text.parse(), "{text}");
        }
    }
}

#[test]
fn check_warns_of_siblings_that_land_on_a_laxer_route() {
    let routes = || {
        vec![
            admin(route(0, "admin", &[], &["/admin/{*rest}"], &[])),
            admin(route(1, "report", &[], &["/report"], &[Method::GET])),
            requiring(route(2, "report-any", &[], &["/report"], &[]), &[]),
            requiring(route(3, "app", &[], &["/{*rest}"], &[]), &[]),
            Route {
                target: Target::Upstream(Destination::One(1)),
                ..route(4, "static", &["b.example"], &["/{*rest}"], &[])
            },
        ]
    };
    let kinds = |quirks| {
        let warnings = quirky(routes(), quirks).sibling_warnings();
        warnings.into_iter().map(|w| (w.stricter.to_string(), w.laxer.to_string(), w.variant)).collect::<Vec<_>>()
    };
    let row = |strict: &str, lax: &str, variant| (strict.to_owned(), lax.to_owned(), variant);

    assert_eq!(
        kinds(Quirks::default()),
        [
            row("admin", "app", Variant::Case),
            row("admin", "app", Variant::Suffix),
            row("report", "app", Variant::Case),
            row("report", "app", Variant::TrailingSlash),
            row("report", "app", Variant::Suffix),
            row("report", "report-any", Variant::Method),
        ]
    );
    let all = Quirks { case_insensitive: true, suffix: true, trailing_slash: true, ..Quirks::default() };
    assert_eq!(kinds(all), [row("report", "report-any", Variant::Method)]);
}

#[test]
fn check_warns_of_a_route_hidden_by_a_laxer_one_that_names_the_host() {
    let table = table(vec![
        admin(route(0, "admin", &[], &["/admin/{*rest}"], &[])),
        route(1, "site", &["a.example"], &["/{*rest}"], &[]),
    ]);

    let shown: Vec<String> = table.sibling_warnings().iter().map(ToString::to_string).collect();

    assert!(
        shown.iter().any(|w| w.contains("`GET a.example/admin/sample`") && w.contains("laxer route `site`")),
        "{shown:?}"
    );
}

// The table against the plainest matcher that can be written.

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "A", "@x"]).prop_map(str::to_owned)
}

fn pattern() -> impl Strategy<Value = String> {
    let segment = prop_oneof![3 => word(), 2 => Just("{}".to_owned())];
    (prop::collection::vec(segment, 0..4), prop::sample::select(vec!["", "/", "/{*rest}"])).prop_map(
        |(segments, end)| {
            let mut text = String::new();
            for (i, segment) in segments.iter().enumerate() {
                text.push('/');
                text.push_str(&segment.replace("{}", &format!("{{p{i}}}")));
            }
            text.push_str(end);
            if text.is_empty() { "/".into() } else { text }
        },
    )
}

fn request_path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![8 => word(), 1 => Just("%40x".to_owned()), 1 => Just("zz".to_owned())];
    (prop::collection::vec(segment, 0..5), any::<bool>()).prop_map(|(segments, slash)| {
        let text: String = segments.iter().map(|s| format!("/{s}")).collect();
        if slash || text.is_empty() { text + "/" } else { text }
    })
}

fn methods() -> impl Strategy<Value = Vec<Method>> {
    prop::sample::subsequence(vec![Method::GET, Method::POST, Method::HEAD], 0..3)
}

/// The parameters, if the pattern matches, and how specific each segment is.
fn naive(pattern: &PathPattern, path: &str) -> Option<(Vec<u8>, Vec<String>)> {
    let mut segments = path.split('/').skip(1);
    let (mut ranks, mut params) = (Vec::new(), Vec::new());
    for step in pattern.segments() {
        match step {
            Segment::Literal(text) => {
                (decode(segments.next()?) == **text).then_some(())?;
                ranks.push(3);
            }
            Segment::Parameter(_) => {
                params.push(decode(segments.next().filter(|s| !s.is_empty())?).into_owned());
                ranks.push(2);
            }
            Segment::Rest(_) => {
                params.push(segments.map(|s| decode(s).into_owned()).collect::<Vec<_>>().join("/"));
                ranks.push(1);
                return Some((ranks, params));
            }
        }
    }
    // A pattern that ends with the path is more specific than one whose rest is empty.
    ranks.push(2);
    segments.next().is_none().then_some((ranks, params))
}

proptest! {
    #[test]
    fn find_agrees_with_a_naive_matcher(
        given in prop::collection::vec((pattern(), methods(), any::<bool>()), 1..10),
        path in request_path(),
        method in prop::sample::select(vec![Method::GET, Method::HEAD, Method::POST, Method::PUT]),
    ) {
        let mut routes: Vec<Arc<Route>> = Vec::new();
        for (i, (pattern, methods, named)) in given.iter().enumerate() {
            let named: &[&str] = if *named { &["a.example"] } else { &[] };
            routes.push(Arc::new(route(i, &i.to_string(), named, &[pattern], methods)));
            // Ties are an error of configuration: leave out whatever makes one.
            if RouteTable::build(routes.clone(), &hosts(), |_| Quirks::default()).is_err() {
                routes.pop();
            }
        }
        let table = RouteTable::build(routes.clone(), &hosts(), |_| Quirks::default()).unwrap();
        let path = CanonicalPath::parse(&path, Quirks::default()).unwrap();

        let matching = |named: bool| routes.iter()
            .filter(|r| r.hosts.is_empty() != named)
            .filter_map(|r| naive(&r.paths[0], path.as_str()).map(|(ranks, params)| (ranks, params, r)))
            .collect::<Vec<_>>();
        let mut candidates = matching(true);
        if candidates.is_empty() {
            candidates = matching(false);
        }
        let best = candidates.iter().map(|(ranks, ..)| ranks.clone()).max();
        candidates.retain(|(ranks, ..)| Some(ranks) == best.as_ref());
        let serves = |r: &Route| match &r.methods {
            None => 1,
            Some(m) if m.contains(&method) => 3,
            Some(m) if method == Method::HEAD && m.contains(&Method::GET) => 2,
            Some(_) => 0,
        };
        let expect = candidates.iter().filter(|(_, _, r)| serves(r) > 0).max_by_key(|(_, _, r)| serves(r));

        let host: Host = "a.example".parse().unwrap();
        match table.find(&host, &path, &method) {
            Ok(found) => {
                let (_, params, route) = expect.expect("the naive matcher finds one too");
                prop_assert_eq!(&route.name, &found.route.name);
                prop_assert_eq!(params, &found.params.iter().map(|(_, v)| v.into_owned()).collect::<Vec<_>>());
            }
            Err(Miss::MethodNotAllowed { .. }) => prop_assert!(expect.is_none() && !candidates.is_empty()),
            Err(Miss::NoRoute) => prop_assert!(candidates.is_empty()),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_path_and_its_canonical_form_take_the_same_route(
        segments in prop::collection::vec("(%61|a|%62|b|%40x|@x|%7e|~|c){1,2}", 1..4)
    ) {
        let table = table(vec![
            route(0, "0", &[], &["/a/{*rest}"], &[]),
            route(1, "1", &[], &["/a/b/{x}"], &[]),
            route(2, "2", &[], &["/{x}/@x"], &[]),
            route(3, "3", &[], &["/{*rest}"], &[]),
        ]);
        let raw: String = segments.iter().map(|s| format!("/{s}")).collect();
        let canonical = CanonicalPath::parse(&raw, Quirks::default()).unwrap();

        prop_assert_eq!(
            found(&table, "GET", &format!("a.example{raw}")),
            found(&table, "GET", &format!("a.example{canonical}"))
        );
    }
}
