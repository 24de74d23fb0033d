//! Who may read answers across origins (R32; WHATWG Fetch, "CORS protocol").
//!
//! A route with `cors` lets the gateway answer preflights itself and set the fields on every answer, refusals
//! included, so that a page learns of a 401 instead of a network error. Without `cors` nothing here is called.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
    request::Parts,
};

use crate::policy::Cors;

/// The method that a preflight asks about; `None` for any other request.
pub fn preflight_method(head: &Parts) -> Option<Method> {
    if head.method != Method::OPTIONS || !head.headers.contains_key(ORIGIN) {
        return None;
    }
    Method::from_bytes(head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

/// The answer to a preflight: 204, with what the origin may do if it may do anything. [`add_fields`] completes it, as
/// any answer.
pub fn preflight(cors: &Cors, head: &Parts) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if may_read(cors, head.headers.get(ORIGIN)) {
        let headers = response.headers_mut();
        insert_text(headers, ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods);
        insert_text(headers, ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age.as_secs()));
    }
    response
}

/// Removes what an upstream says of CORS, where the route has a rule of its own.
pub fn strip_fields(headers: &mut HeaderMap) {
    for name in [
        ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_MAX_AGE,
    ] {
        headers.remove(name);
    }
}

/// Tells the browser whether the page that asked may read this answer; for every answer of a route with a rule.
pub fn add_fields(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    if !cors.any_origin {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    if !may_read(cors, origin) {
        return;
    }
    match origin {
        Some(origin) if !cors.any_origin => {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            if cors.credentials {
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
        _ => {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
    }
    insert_text(headers, ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers);
}

/// Origins are compared byte for byte, as browsers send them (RFC 6454 section 6.2).
fn may_read(cors: &Cors, origin: Option<&HeaderValue>) -> bool {
    let listed = |origin: &HeaderValue| cors.origins.iter().any(|o| o.as_bytes() == origin.as_bytes());
    cors.any_origin || origin.is_some_and(listed)
}

fn insert_text(headers: &mut HeaderMap, name: http::HeaderName, text: &str) {
    if let (false, Ok(value)) = (text.is_empty(), HeaderValue::from_str(text)) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cors() -> Cors {
        Cors {
            origins: Box::new(["https://spa.example.com".into()]),
            any_origin: false,
            allow_headers: "authorization".into(),
            expose_headers: "etag".into(),
            allow_methods: "GET, POST".into(),
            credentials: true,
            max_age: Duration::from_secs(600),
        }
    }

    fn head(origin: &str) -> Parts {
        let request = http::Request::builder().method("OPTIONS").uri("/").header(ORIGIN, origin);
        request.header(ACCESS_CONTROL_REQUEST_METHOD, "POST").body(()).unwrap().into_parts().0
    }

    fn answered(origin: &'static str) -> HeaderMap {
        let mut answer = preflight(&cors(), &head(origin));
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        add_fields(&cors(), Some(&HeaderValue::from_static(origin)), answer.headers_mut());
        answer.into_parts().0.headers
    }

    #[test]
    fn a_listed_origin_is_permitted_and_another_is_not() {
        let listed = answered("https://spa.example.com");
        let other = answered("https://evil.example.com");

        assert_eq!(listed[ACCESS_CONTROL_ALLOW_ORIGIN], "https://spa.example.com");
        assert_eq!(listed[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(listed[ACCESS_CONTROL_ALLOW_METHODS], "GET, POST");
        assert_eq!(other.keys().collect::<Vec<_>>(), [VARY]);
    }

    #[test]
    fn what_the_upstream_said_of_cors_is_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));

        strip_fields(&mut headers);
        add_fields(&cors(), Some(&HeaderValue::from_static("https://evil.example.com")), &mut headers);

        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert_eq!(headers[VARY], "origin");
    }

    #[test]
    fn only_options_with_origin_and_method_is_a_preflight() {
        assert_eq!(preflight_method(&head("https://a.example")), Some(Method::POST));
        let mut plain = head("https://a.example");
        plain.headers.remove(ACCESS_CONTROL_REQUEST_METHOD);
        assert_eq!(preflight_method(&plain), None);
    }
}
