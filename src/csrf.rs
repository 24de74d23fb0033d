//! Whether a request that carries an ambient credential was meant by the person in front of the browser (R31).
//!
//! Pure. In: the route's setting, the head, the one [`ClientView`]. A cookie counts for requests that change
//! something or open a tunnel only when they come from our own pages: `Sec-Fetch-Site` decides where the browser
//! sends it (W3C Fetch Metadata), `Origin` where it does not (RFC 6454). Neither: refused, unless the route says
//! otherwise by name.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::ORIGIN, request::Parts};

use crate::{
    client::ClientView,
    inbound::{self, Doubled},
    policy::Csrf,
};

/// The request comes from elsewhere, or does not say where from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CrossSite;

/// Judges one request that carries an ambient credential. `tunnel`: it asks for a WebSocket.
///
/// # Errors
/// [`CrossSite`] when the credential must not count.
pub fn check(csrf: &Csrf, head: &Parts, tunnel: bool, view: &ClientView) -> Result<(), CrossSite> {
    let reads_only = is_safe(&head.method) && !tunnel;
    match csrf {
        Csrf::Off => Ok(()),
        Csrf::Strict if reads_only && is_navigation(&head.headers) => Ok(()),
        Csrf::Strict => same_origin(&head.headers, view, &[], false),
        Csrf::SameOrigin | Csrf::Origins(_) | Csrf::AllowNoOrigin if reads_only => Ok(()),
        Csrf::SameOrigin => same_origin(&head.headers, view, &[], false),
        Csrf::Origins(origins) => same_origin(&head.headers, view, origins, false),
        Csrf::AllowNoOrigin => same_origin(&head.headers, view, &[], true),
    }
}

/// Safe methods (RFC 9110 section 9.2.1).
pub fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn same_origin(
    headers: &HeaderMap,
    view: &ClientView,
    others: &[Box<str>],
    allow_silence: bool,
) -> Result<(), CrossSite> {
    let site = only(headers, &SEC_FETCH_SITE)?;
    let origin = only(headers, &ORIGIN)?;
    let listed = || origin.is_some_and(|origin| others.iter().any(|other| other.as_bytes() == origin.as_bytes()));
    let allowed = match site.map(HeaderValue::as_bytes) {
        Some(b"same-origin") => true,
        Some(b"none") => is_navigation(headers),
        Some(_) => listed(),
        None => match origin {
            Some(origin) => listed() || origin.to_str().is_ok_and(|origin| view.is_origin(origin)),
            None => allow_silence,
        },
    };
    if allowed { Ok(()) } else { Err(CrossSite) }
}

/// A field that may be there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, CrossSite> {
    inbound::only(headers, name).map_err(|Doubled| CrossSite)
}

fn is_navigation(headers: &HeaderMap) -> bool {
    headers.get(&SEC_FETCH_MODE).is_some_and(|mode| mode == "navigate")
}

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Scheme;

    fn view() -> ClientView {
        ClientView {
            address: "127.0.0.1".parse().unwrap(),
            scheme: Scheme::Https,
            authority: "app.example.com:8443".parse().unwrap(),
            through_trusted_proxy: false,
            chain: None,
        }
    }

    fn allowed(csrf: &Csrf, method: &str, tunnel: bool, fields: &[(&str, &str)]) -> bool {
        let mut builder = http::Request::builder().method(method).uri("/");
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        let head = builder.body(()).unwrap().into_parts().0;
        check(csrf, &head, tunnel, &view()).is_ok()
    }

    #[test]
    fn unsafe_methods_count_from_our_own_pages_only() {
        const OURS: &str = "https://app.example.com:8443";
        for (fields, expect) in [
            (&[("sec-fetch-site", "same-origin")][..], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", OURS)], false),
            (&[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")], true),
            (&[("sec-fetch-site", "none"), ("sec-fetch-mode", "cors")], false),
            (&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "SAME-ORIGIN")], false),
            (&[("origin", OURS)], true),
            (&[("origin", "https://app.example.com")], false),
            (&[("origin", "http://app.example.com:8443")], false),
            (&[("origin", "https://evil.example.com:8443")], false),
            (&[("origin", "https://app.example.com:8443.evil.example")], false),
            (&[("origin", "null")], false),
            (&[("origin", OURS), ("origin", OURS)], false),
            (&[], false),
        ] {
            assert_eq!(allowed(&Csrf::SameOrigin, "POST", false, fields), expect, "{fields:?}");
        }
    }

    #[test]
    fn reading_is_free_but_opening_a_tunnel_is_not() {
        let foreign = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];

        assert!(allowed(&Csrf::SameOrigin, "GET", false, &foreign));
        assert!(!allowed(&Csrf::SameOrigin, "GET", true, &foreign));
        assert!(allowed(&Csrf::SameOrigin, "GET", true, &[("sec-fetch-site", "same-origin")]));
    }

    #[test]
    fn routes_widen_and_narrow_by_name() {
        let partner = Csrf::Origins(Box::new(["https://partner.example".into()]));
        let from_partner = [("sec-fetch-site", "cross-site"), ("origin", "https://partner.example")];
        let foreign = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
        let navigation = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];

        assert!(allowed(&partner, "POST", false, &from_partner));
        assert!(!allowed(&partner, "POST", false, &foreign));
        assert!(!allowed(&Csrf::SameOrigin, "POST", false, &from_partner));
        assert!(allowed(&Csrf::AllowNoOrigin, "POST", false, &[]));
        assert!(!allowed(&Csrf::AllowNoOrigin, "POST", false, &foreign));
        assert!(allowed(&Csrf::Off, "POST", false, &foreign));
        assert!(!allowed(&Csrf::Strict, "GET", false, &foreign));
        assert!(allowed(&Csrf::Strict, "GET", false, &navigation));
        assert!(!allowed(&Csrf::Strict, "POST", false, &navigation));
        assert!(allowed(&Csrf::Strict, "GET", false, &[("sec-fetch-site", "same-origin")]));
    }
}
