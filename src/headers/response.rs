//! The upstream's answer, made fit for the client (R16).
//!
//! In: its headers and what the request was. Out: the same without hop-by-hop fields, without power over our cookies
//! and login pages, and never to be shown by a shared cache to somebody else. All else stays, `Server` too.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, CONNECTION, UPGRADE},
};

use super::{Settings, cookie, edit, hop, prefix::Mend};
use crate::route::Route;

/// What the answer is an answer to.
#[derive(Debug)]
pub struct Context<'a> {
    /// The route that was permitted.
    pub route: &'a Route,
    /// Whether the request had an identity.
    pub authenticated: bool,
    /// `login.prefix`: the part of the URL space that is ours.
    pub own_prefix: &'a str,
    /// Whether this is the 101 of a permitted WebSocket whose accept value was found right (R17).
    pub websocket_accepted: bool,
    /// How it is led back, where the upstream was asked for another path than we were.
    pub mend: Option<Mend<'a>>,
}

/// Rewrites the headers of an upstream's answer in place.
pub fn rewrite(headers: &mut HeaderMap, context: &Context<'_>, settings: &Settings) {
    if let Some(edits) = &context.route.response_headers {
        // What the upstream lists in `Connection` goes before ours comes.
        hop::strip_response(headers);
        edit::apply(edits, headers);
    }
    let survey = Survey::of(headers);
    if survey.hop {
        hop::strip_response(headers);
    }
    if survey.set_cookie {
        cookie::drop_set_cookies(headers, &settings.own_cookies);
    }
    if let Some(mend) = &context.mend {
        mend.apply(headers);
    }
    if survey.clear_site_data {
        limit_clear_site_data(headers);
    }
    if survey.service_worker {
        limit_service_worker(headers, context.own_prefix);
    }
    if context.authenticated && !context.route.cache_public {
        if survey.cdn {
            for name in [CDN_CACHE_CONTROL, CLOUDFLARE_CDN_CACHE_CONTROL, SURROGATE_CONTROL] {
                headers.remove(name);
            }
        }
        keep_private(headers, survey.cache_control);
    }
    if context.websocket_accepted {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// What one look at all names has found: most answers hold nothing that concerns us.
#[derive(Clone, Copy, Debug, Default)]
struct Survey {
    hop: bool,
    set_cookie: bool,
    clear_site_data: bool,
    service_worker: bool,
    /// Fields that caches obey before `Cache-Control` (RFC 9213).
    cdn: bool,
    cache_control: bool,
}

impl Survey {
    fn of(headers: &HeaderMap) -> Self {
        let mut survey = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection"
                | "keep-alive"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "proxy-connection"
                | "te"
                | "transfer-encoding"
                | "upgrade" => survey.hop = true,
                "set-cookie" => survey.set_cookie = true,
                "clear-site-data" => survey.clear_site_data = true,
                "service-worker-allowed" => survey.service_worker = true,
                "cache-control" => survey.cache_control = true,
                "cdn-cache-control" | "cloudflare-cdn-cache-control" | "surrogate-control" => survey.cdn = true,
                _ => {}
            }
        }
        survey
    }
}

/// `"cookies"` would end our sessions too, and `"*"` means it.
fn limit_clear_site_data(headers: &mut HeaderMap) {
    let mut kept: Vec<String> = Vec::new();
    for value in headers.get_all(CLEAR_SITE_DATA) {
        for token in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            match token {
                b"\"*\"" => kept.extend(["\"cache\"".into(), "\"storage\"".into()]),
                b"\"cache\""
                | b"\"clientHints\""
                | b"\"executionContexts\""
                | b"\"prefetchCache\""
                | b"\"prerenderCache\""
                | b"\"storage\"" => {
                    kept.push(String::from_utf8_lossy(token).into_owned());
                }
                // "cookies", and what nobody knows yet.
                _ => {}
            }
        }
    }
    kept.dedup();
    match HeaderValue::try_from(kept.join(", ")) {
        Ok(value) if !value.is_empty() => drop(headers.insert(CLEAR_SITE_DATA, value)),
        Ok(_) | Err(_) => drop(headers.remove(CLEAR_SITE_DATA)),
    }
}

/// A scope may not reach over our prefix, nor into it. Only plain paths are judged; everything else is dropped.
fn limit_service_worker(headers: &mut HeaderMap, own_prefix: &str) {
    let mut values = headers.get_all(SERVICE_WORKER_ALLOWED).iter();
    let Some(first) = values.next() else {
        return;
    };
    let is_harmless = |scope: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_');
        scope.starts_with('/')
            && !scope.contains("//")
            && scope.bytes().all(plain)
            && !own_prefix.starts_with(scope)
            && !scope.starts_with(own_prefix)
    };
    if values.next().is_some() || !first.to_str().is_ok_and(is_harmless) {
        headers.remove(SERVICE_WORKER_ALLOWED);
    }
}

/// No shared cache may keep an answer that was made for one caller (RFC 9111 sections 3.5 and 5.2.2).
/// `said`: there was a `Cache-Control`.
fn keep_private(headers: &mut HeaderMap, said: bool) {
    if !said || !headers.contains_key(CACHE_CONTROL) {
        headers.append(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        return;
    }
    let directives = || {
        let values = headers.get_all(CACHE_CONTROL).iter();
        values.flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii)
    };
    let name = |directive: &[u8]| directive.split(|b| *b == b'=').next().unwrap_or_default().to_ascii_lowercase();
    // `private="x-field"` protects one field only.
    let is_private = |d: &[u8]| d.eq_ignore_ascii_case(b"private") || name(d) == b"no-store";
    let is_shared = |d: &[u8]| matches!(&*name(d), b"public" | b"s-maxage");
    if directives().any(is_private) && !directives().any(is_shared) {
        return;
    }
    let mut kept: Vec<&[u8]> = directives().filter(|d| !d.is_empty() && !is_shared(d)).collect();
    if !kept.iter().any(|d| is_private(d)) {
        kept.insert(0, b"private");
    }
    let value = HeaderValue::try_from(kept.join(&b", "[..]));
    headers.insert(CACHE_CONTROL, value.unwrap_or(HeaderValue::from_static("private, no-cache")));
}

const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
const CLOUDFLARE_CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cloudflare-cdn-cache-control");
const SERVICE_WORKER_ALLOWED: HeaderName = HeaderName::from_static("service-worker-allowed");
const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tests::{public_route, settings};

    fn answer(lines: &[(&'static str, &str)], change: impl FnOnce(&mut Context<'_>)) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let route = public_route();
        let mut context =
            Context { route: &route, authenticated: true, own_prefix: "/_auth", websocket_accepted: false, mend: None };
        change(&mut context);
        rewrite(&mut headers, &context, &settings());
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn an_authenticated_answer_stays_out_of_shared_caches() {
        for (given, expect) in [
            (&[][..], "private, no-cache"),
            (&["public, max-age=60"], "private, max-age=60"),
            (&["PUBLIC"], "private"),
            (&["max-age=60"], "private, max-age=60"),
            (&["s-maxage=60, max-age=5"], "private, max-age=5"),
            (&["max-age=60", "public"], "private, max-age=60"),
            (&["private, max-age=5"], "private, max-age=5"),
            (&["no-store"], "no-store"),
            (&["no-store, public"], "no-store"),
            (&["private=\"x-field\""], "private, private=\"x-field\""),
        ] {
            let lines: Vec<_> = given.iter().map(|value| ("cache-control", *value)).collect();
            assert_eq!(answer(&lines, |_| ()), [format!("cache-control: {expect}")], "{given:?}");
        }
        let cdn =
            [("cache-control", "private"), ("cdn-cache-control", "max-age=9"), ("surrogate-control", "max-age=9")];
        assert_eq!(answer(&cdn, |_| ()), ["cache-control: private"]);
        assert_eq!(answer(&[("cache-control", "public")], |c| c.authenticated = false), ["cache-control: public"]);
        assert!(answer(&[], |c| c.authenticated = false).is_empty());

        let shared = Route { cache_public: true, ..public_route() };
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
        let context = Context {
            route: &shared,
            authenticated: true,
            own_prefix: "/_auth",
            websocket_accepted: false,
            mend: None,
        };
        rewrite(&mut headers, &context, &settings());
        assert_eq!(headers[CACHE_CONTROL], "public");
    }

    #[test]
    fn an_upstream_has_no_power_over_our_cookies() {
        for (given, expect) in [
            ("set-cookie: __Host-portcullis=evil; Path=/; Secure", ""),
            ("set-cookie: a=1", "set-cookie: a=1"),
            ("clear-site-data: \"cookies\"", ""),
            ("clear-site-data: \"cache\", \"cookies\", \"storage\"", "clear-site-data: \"cache\", \"storage\""),
            ("clear-site-data: \"*\"", "clear-site-data: \"cache\", \"storage\""),
            ("clear-site-data: \"cache\"", "clear-site-data: \"cache\""),
            ("clear-site-data: \"Cookies\"", ""),
        ] {
            let (name, value) = given.split_once(": ").unwrap();
            let shown = answer(&[(name, value)], |c| c.authenticated = false).concat();
            assert_eq!(shown, expect, "{given}");
        }
    }

    #[test]
    fn a_service_worker_is_not_widened_over_our_prefix() {
        for (scope, passes) in [
            ("/app/", true),
            ("/_authors/", false),
            ("/", false),
            ("/_", false),
            ("/_auth", false),
            ("/_auth/x/", false),
            ("/app/../", false),
            ("/%5fauth", false),
            ("app/", false),
            ("https://a.example/", false),
            ("/\\", false),
            ("//a.example/app", false),
        ] {
            let shown = answer(&[("service-worker-allowed", scope)], |c| c.authenticated = false);
            assert_eq!(!shown.is_empty(), passes, "{scope}");
        }
    }

    #[test]
    fn the_server_is_named_and_an_accepted_websocket_says_so() {
        let shown = answer(&[("server", "apache"), ("connection", "close"), ("upgrade", "h2c")], |c| {
            c.authenticated = false;
        });
        assert_eq!(shown, ["server: apache"]);

        let mut accepted = answer(&[("upgrade", "websocket"), ("connection", "upgrade")], |c| {
            c.authenticated = false;
            c.websocket_accepted = true;
        });
        accepted.sort();
        assert_eq!(accepted, ["connection: Upgrade", "upgrade: websocket"]);
    }
}
