//! What a route's `strip_prefix` takes from the path and gives back to the answer.
//!
//! In: the prefix, and what trusted proxies have said of theirs (`X-Forwarded-Prefix`). Out: that header for the
//! upstream, and an answer whose `Location`, `Content-Location`, `Refresh` and cookie paths lead back through the
//! gateway. A body is never changed: links in pages are the upstream's, which is told its prefix. Invariants: only
//! paths on the client's own host are touched, and they then lie under the prefix, dots resolved first as browsers do;
//! a path that lies there already was written by an upstream that knows its prefix, and stays; our own cookies are
//! never looked at, they are not there yet. Source: RFC 3986 section 5.2, RFC 6265bis section 5.6.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_LOCATION, LOCATION, REFRESH, SET_COOKIE},
};

use super::{ForwardedFamily, Lines, Settings};
use crate::{
    client::ClientView,
    host::Authority,
    route::{
        Route,
        path::CanonicalPath,
        rewrite::{PathRewrite, Prefix},
    },
};

/// How the answer to one request is led back.
#[derive(Debug)]
pub struct Mend<'a> {
    prefix: &'a Prefix,
    /// What lay before it, for trusted proxies.
    before: Option<String>,
    own: &'a Authority,
    /// What the client asked for: without a path of its own, a cookie would reach beyond the prefix.
    asked: &'a CanonicalPath,
    /// What the upstream was asked for.
    sent: &'a CanonicalPath,
}

/// Adds `X-Forwarded-Prefix`: what trusted proxies took from the path, and what the route did.
pub(super) fn put(lines: &mut Lines, headers: &HeaderMap, route: &Route, view: &ClientView, settings: &Settings) {
    let before = told(headers, view, settings);
    let own = stripped(route).map(Prefix::as_str);
    if before.is_some() || own.is_some() {
        lines.put_with(&X_FORWARDED_PREFIX, |line| {
            line.extend_from_slice(before.unwrap_or_default().as_bytes());
            line.extend_from_slice(own.unwrap_or_default().as_bytes());
        });
    }
}

impl<'a> Mend<'a> {
    /// `None` for nearly all routes: nothing was taken from the path.
    pub fn of(
        route: &'a Route,
        headers: &HeaderMap,
        view: &'a ClientView,
        asked: &'a CanonicalPath,
        sent: &'a CanonicalPath,
        settings: &Settings,
    ) -> Option<Self> {
        let prefix = stripped(route)?;
        let before = told(headers, view, settings);
        let before = before.map(|before| before + prefix.as_str());
        Some(Self { prefix, before, own: &view.authority, asked, sent })
    }

    /// Changes an upstream's answer.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for name in [LOCATION, CONTENT_LOCATION] {
            self.change(headers, &name, |text| self.reference(text));
        }
        self.change(headers, &REFRESH, |text| self.refresh(text));
        self.change(headers, &SET_COOKIE, |text| self.cookie(text));
    }

    /// Changes each value of a name that is plain text.
    fn change(&self, headers: &mut HeaderMap, name: &HeaderName, change: impl Fn(&str) -> Option<String>) {
        let http::header::Entry::Occupied(mut entry) = headers.entry(name) else {
            return;
        };
        for value in entry.iter_mut() {
            let changed = std::str::from_utf8(value.as_bytes()).ok().and_then(&change);
            if let Some(changed) = changed.and_then(|text| HeaderValue::try_from(text).ok()) {
                *value = changed;
            }
        }
    }

    /// A URI reference as it leads back; `None`: it stays as it is.
    fn reference(&self, text: &str) -> Option<String> {
        // Browsers leave tabs out, and read what is left.
        let text = &*text.replace('\t', "");
        let end = text.find(['?', '#']).unwrap_or(text.len());
        let (place, behind) = text.split_at(end);
        let (before, path) = split_origin(place);
        match before {
            Some(before) if !self.is_own(before) => None,
            Some(before) => Some(format!("{before}{}{behind}", self.path(path)?)),
            // A query or a fragment of the same page.
            None if path.is_empty() => None,
            None => Some(format!("{}{behind}", self.path(path)?)),
        }
    }

    /// `5; url=/next`.
    fn refresh(&self, text: &str) -> Option<String> {
        let at = text.find([';', ','])? + 1;
        let (delay, rest) = text.split_at(at);
        let assignment = rest.trim_start();
        let (word, value) = assignment.split_at_checked(3)?;
        if !word.eq_ignore_ascii_case("url") {
            return None;
        }
        let value = value.trim_start().strip_prefix('=')?.trim();
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''));
        let bare = match quote {
            Some(quote) => value.get(1..)?.split(quote).next()?,
            None => value,
        };
        Some(format!("{delay} url={}", self.reference(bare)?))
    }

    /// A cookie of the upstream's with its `Path` under the prefix.
    fn cookie(&self, text: &str) -> Option<String> {
        let mut parts = text.split(';');
        let pair = parts.next()?;
        // A browser takes this one for the path `/` only.
        let is_host_only =
            pair.trim_start().get(..HOST_PREFIX.len()).is_some_and(|name| name.eq_ignore_ascii_case(HOST_PREFIX));
        if is_host_only {
            return None;
        }
        let mut mended = pair.to_owned();
        let (mut has_path, mut changed) = (false, false);
        for part in parts {
            mended.push(';');
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim();
            let path = Some(value).filter(|path| name.trim().eq_ignore_ascii_case("path") && path.starts_with('/'));
            has_path |= path.is_some();
            match path.and_then(|path| self.path(path)) {
                Some(path) => {
                    changed = true;
                    // A cookie for `/` was for all of what the upstream has.
                    let path = if value == "/" { self.prefix.as_str() } else { &path };
                    mended.push_str(" Path=");
                    mended.push_str(path);
                }
                None => mended.push_str(part),
            }
        }
        // Without a path it belongs to the folder that was asked for, which for `/users` itself is the whole host.
        if !has_path && self.asked.as_str().rfind('/').is_none_or(|at| at < self.prefix.as_str().len()) {
            mended.push_str("; Path=");
            mended.push_str(self.prefix.as_str());
            changed = true;
        }
        changed.then_some(mended)
    }

    /// A path of the upstream's as clients know it; `None`: it is one already.
    fn path(&self, path: &str) -> Option<String> {
        let resolved = resolve(path, self.sent.as_str());
        let is_known =
            |prefix: &str| resolved.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if path.starts_with('/') && (is_known(self.prefix.as_str()) || self.before.as_deref().is_some_and(is_known)) {
            return None;
        }
        Some(format!("{}{resolved}", self.prefix.as_str()))
    }

    /// Whether `https://host:port` or `//host:port` is where the client is.
    fn is_own(&self, origin: &str) -> bool {
        let (scheme, authority) = origin.split_once("//").unwrap_or(("", origin));
        let default = match scheme.to_ascii_lowercase().as_str() {
            "https:" => Some(443),
            "http:" => Some(80),
            _ => None,
        };
        authority.parse::<Authority>().is_ok_and(|Authority { host, port }| {
            host == self.own.host && (port == self.own.port || self.own.port.is_none() && port == default)
        })
    }
}

fn stripped(route: &Route) -> Option<&Prefix> {
    match route.rewrite.as_deref()? {
        PathRewrite::Strip(prefix) => Some(prefix),
        PathRewrite::Replace(_) => None,
    }
}

/// What trusted proxies say that they took from the path, the outermost first. One that is no path, and none is
/// believed.
fn told(headers: &HeaderMap, view: &ClientView, settings: &Settings) -> Option<String> {
    if !view.through_trusted_proxy || settings.family != ForwardedFamily::XForwarded {
        return None;
    }
    let mut joined = String::new();
    for value in headers.get_all(X_FORWARDED_PREFIX) {
        for piece in value.to_str().ok()?.split(',').map(str::trim) {
            let piece = piece.strip_suffix('/').unwrap_or(piece);
            if !piece.is_empty() {
                joined.push_str(piece.parse::<Prefix>().ok()?.as_str());
            }
        }
    }
    (!joined.is_empty() && joined.len() <= LONGEST_TOLD).then_some(joined)
}

/// `https://host` or `//host`, if there is one, and the path behind it. A scheme without `//` is another kind of place,
/// and no path of it is ours.
fn split_origin(place: &str) -> (Option<&str>, &str) {
    let scheme_end = place.find(':').filter(|at| !place.get(..*at).unwrap_or_default().contains('/'));
    let authority = match scheme_end {
        None if place.starts_with("//") => 2,
        None => return (None, place),
        Some(at) if place.get(at + 1..).is_some_and(|rest| rest.starts_with("//")) => at + 3,
        Some(_) => return (Some(place), ""),
    };
    let rest = place.get(authority..).unwrap_or_default();
    let end = authority + rest.find(['/', '\\']).unwrap_or(rest.len());
    (place.get(..end), place.get(end..).unwrap_or_default())
}

/// An absolute path without dot segments, as a browser that was sent to `reference` from `base` would see it.
fn resolve(reference: &str, base: &str) -> String {
    // Browsers take `\` for `/`.
    let reference = reference.replace('\\', "/");
    let folder = base.rfind('/').and_then(|at| base.get(..=at)).unwrap_or("/");
    let whole = match reference.as_str() {
        "" => "/".to_owned(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => format!("{folder}{relative}"),
    };
    let segments: Vec<&str> = whole.split('/').skip(1).collect();
    let mut kept: Vec<&str> = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let is_last = at + 1 == segments.len();
        match dots(segment) {
            0 => kept.push(segment),
            dots => {
                if dots == 2 {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
        }
    }
    format!("/{}", kept.join("/"))
}

/// How many dots a segment is, if it is nothing else: 1, 2, or 0 for all others. Browsers read `%2e` as a dot.
fn dots(segment: &str) -> usize {
    match segment.to_ascii_lowercase().replace("%2e", ".").as_str() {
        "." => 1,
        ".." => 2,
        _ => 0,
    }
}

const HOST_PREFIX: &str = "__Host-";
/// More than this no proxy has reason to say.
const LONGEST_TOLD: usize = 1024;
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        client::Scheme,
        headers::tests::{public_route, settings},
        route::path::Quirks,
    };

    fn route(prefix: &str) -> Route {
        Route { rewrite: Some(Box::new(PathRewrite::Strip(prefix.parse().unwrap()))), ..public_route() }
    }

    fn view(trusted: bool) -> ClientView {
        ClientView {
            address: [192, 0, 2, 1].into(),
            scheme: Scheme::Https,
            authority: "app.example".parse().unwrap(),
            through_trusted_proxy: trusted,
            chain: None,
        }
    }

    fn path(text: &str) -> CanonicalPath {
        CanonicalPath::parse(text, Quirks::default()).unwrap()
    }

    /// What becomes of a field where `/users/a/b` was asked for, and `/a/b` of the upstream.
    fn mended(name: HeaderName, value: &str) -> String {
        from("/users/a/b", name, value)
    }

    fn from(asked: &str, name: HeaderName, value: &str) -> String {
        let (route, view) = (route("/users"), view(false));
        let asked = path(asked);
        let sent = path(asked.as_str().strip_prefix("/users").filter(|rest| !rest.is_empty()).unwrap_or("/"));
        let mut headers = HeaderMap::new();
        headers.insert(&name, value.parse().unwrap());
        let none = HeaderMap::new();
        Mend::of(&route, &none, &view, &asked, &sent, &settings()).unwrap().apply(&mut headers);
        headers[&name].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_location_on_the_own_host_leads_back_under_the_prefix() {
        for (given, expect) in [
            ("/", "/users/"),
            ("/x", "/users/x"),
            ("/x?next=/y#z", "/users/x?next=/y#z"),
            ("/usersx", "/users/usersx"),
            ("https://app.example/x", "https://app.example/users/x"),
            ("http://app.example/x", "http://app.example/users/x"),
            ("https://app.example:443/x", "https://app.example:443/users/x"),
            ("https://APP.example", "https://APP.example/users/"),
            ("https://app.example?q", "https://app.example/users/?q"),
            ("//app.example/x", "//app.example/users/x"),
            ("c", "/users/a/c"),
            ("../c", "/users/c"),
            ("../../../c", "/users/c"),
            ("./", "/users/a/"),
            ("..", "/users/"),
        ] {
            assert_eq!(mended(LOCATION, given), expect, "{given}");
            assert_eq!(mended(CONTENT_LOCATION, given), expect, "{given}");
        }
        assert_eq!(from("/users", LOCATION, "x"), "/users/x");
    }

    #[test]
    fn a_location_elsewhere_or_under_the_prefix_stays() {
        for given in [
            "/users",
            "/users/",
            "/users/x?y",
            "https://app.example/users/x",
            "https://evil.example/x",
            "https://app.example.evil/x",
            "https://app.example@evil.example/x",
            "https://app.example:8443/x",
            "http://app.example:443/x",
            "//evil.example/x",
            "/\t/evil.example",
            "mailto:root@app.example",
            "javascript:/x",
            "?page=2",
            "#end",
            "",
        ] {
            assert_eq!(mended(LOCATION, given), given);
        }
    }

    #[test]
    fn a_location_cannot_climb_out_of_the_prefix() {
        for (given, expect) in [
            ("/../admin", "/users/admin"),
            ("/users/../admin", "/users/admin"),
            ("/%2e%2E/admin", "/users/admin"),
            ("/.%2e/admin", "/users/admin"),
            ("/users/%2e%2e/admin", "/users/admin"),
            ("../../admin", "/users/admin"),
            ("/\\evil.example", "/users//evil.example"),
            ("\\\\evil.example", "/users//evil.example"),
            ("/..\\admin", "/users/admin"),
            ("/..//evil.example", "/users//evil.example"),
            ("https://app.example/..//evil", "https://app.example/users//evil"),
            ("https://app.example\\..\\x", "https://app.example/users/x"),
            ("/.\t./admin", "/users/admin"),
        ] {
            assert_eq!(mended(LOCATION, given), expect, "{given}");
        }
    }

    #[test]
    fn a_refresh_leads_back_too() {
        for (given, expect) in [
            ("5", "5"),
            ("0; url=/x", "0; url=/users/x"),
            ("0;URL='/x'", "0; url=/users/x"),
            ("3, url = \"c\"", "3, url=/users/a/c"),
            ("0; url=https://evil.example/", "0; url=https://evil.example/"),
            ("0; ü=/x", "0; ü=/x"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(REFRESH, HeaderValue::from_bytes(given.as_bytes()).unwrap());
            let (route, view, asked, sent) = (route("/users"), view(false), path("/users/a/b"), path("/a/b"));
            let none = HeaderMap::new();
            Mend::of(&route, &none, &view, &asked, &sent, &settings()).unwrap().apply(&mut headers);
            assert_eq!(headers[REFRESH].as_bytes(), expect.as_bytes());
        }
    }

    #[test]
    fn a_cookie_of_the_upstream_is_kept_under_the_prefix() {
        for (given, expect) in [
            ("a=1; Path=/", "a=1; Path=/users"),
            ("a=1; path = /x; HttpOnly", "a=1; Path=/users/x; HttpOnly"),
            ("a=1;Path=/x;Path=/y", "a=1; Path=/users/x; Path=/users/y"),
            ("a=1; Path=/users/x", "a=1; Path=/users/x"),
            ("a=1; Path=/users", "a=1; Path=/users"),
            ("a=1; Path=/../admin", "a=1; Path=/users/admin"),
            ("a=1; Path=x", "a=1; Path=x"),
            ("a=Path=/; Secure", "a=Path=/; Secure"),
            ("__Host-a=1; Path=/; Secure", "__Host-a=1; Path=/; Secure"),
            ("__host-a=1; Path=/; Secure", "__host-a=1; Path=/; Secure"),
            ("__Secure-a=1; Path=/; Secure", "__Secure-a=1; Path=/users; Secure"),
        ] {
            assert_eq!(mended(SET_COOKIE, given), expect, "{given}");
        }
        assert_eq!(from("/users", SET_COOKIE, "a=1"), "a=1; Path=/users");
        assert_eq!(from("/users/", SET_COOKIE, "a=1"), "a=1");
    }

    #[test]
    fn a_prefix_counts_from_a_trusted_proxy_only_and_goes_before_ours() {
        let plain = public_route();
        for (trusted, values, with_ours, without) in [
            (false, &["/outer"][..], Some("/users"), None),
            (true, &["/outer"], Some("/outer/users"), Some("/outer")),
            (true, &["/outer/"], Some("/outer/users"), Some("/outer")),
            (true, &["/a, /b", "/c"], Some("/a/b/c/users"), Some("/a/b/c")),
            (true, &["/"], Some("/users"), None),
            (true, &["/outer/../x"], Some("/users"), None),
            (true, &["//evil.example"], Some("/users"), None),
            (true, &["/a", "javascript:x"], Some("/users"), None),
            (true, &[], Some("/users"), None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(X_FORWARDED_PREFIX, value.parse().unwrap());
            }
            for (route, expect) in [(&route("/users"), with_ours), (&plain, without)] {
                let mut lines = Lines::new();
                put(&mut lines, &headers, route, &view(trusted), &settings());
                let sent = lines.to_map();
                let sent = sent.get(X_FORWARDED_PREFIX).map(|value| value.to_str().unwrap());
                assert_eq!(sent, expect, "{values:?}");
            }
        }
        let forwarded = Settings { family: ForwardedFamily::Forwarded, ..settings() };
        let mut headers = HeaderMap::new();
        headers.insert(X_FORWARDED_PREFIX, "/outer".parse().unwrap());
        assert_eq!(told(&headers, &view(true), &forwarded), None);
    }

    #[test]
    fn an_upstream_that_knows_the_whole_prefix_is_believed() {
        let (route, view, asked, sent) = (route("/users"), view(true), path("/users/a"), path("/a"));
        let mut told = HeaderMap::new();
        told.insert(X_FORWARDED_PREFIX, "/outer".parse().unwrap());
        let mend = Mend::of(&route, &told, &view, &asked, &sent, &settings()).unwrap();

        assert_eq!(mend.reference("/outer/users/x"), None);
        assert_eq!(mend.reference("/outer/x").as_deref(), Some("/users/outer/x"));
    }

    proptest! {
        /// Whatever an upstream says, what is led back lies under the prefix.
        #[test]
        fn what_is_mended_lies_under_the_prefix(text in r"[/\\.%2eE;?#a:x@\t]{0,24}") {
            let (route, view, asked, sent) = (route("/users"), view(false), path("/users/a/b"), path("/a/b"));
            let none = HeaderMap::new();
            let mend = Mend::of(&route, &none, &view, &asked, &sent, &settings()).unwrap();
            if let Some(mended) = mend.reference(&text) {
                let path = mended.split(['?', '#']).next().unwrap();
                prop_assert!(path.starts_with("/users/"), "{text} -> {mended}");
                prop_assert!(!path.split('/').any(|segment| dots(segment) > 0), "{text} -> {mended}");
                prop_assert!(!path.contains('\\'), "{text} -> {mended}");
            }
        }

        /// To strip what was mended is to have what the upstream said.
        #[test]
        fn what_was_stripped_comes_back(text in "(/[a-z0-9]{1,4}){0,3}/?", query in "(\\?[a-z=/]{0,5})?") {
            let text = if text.is_empty() { "/" } else { &text };
            prop_assume!(!text.starts_with("/users"));
            let mended = mended(LOCATION, &format!("{text}{query}"));
            let stripped = mended.strip_prefix("/users").unwrap();
            prop_assert_eq!(stripped, format!("{text}{query}"));
        }
    }
}
