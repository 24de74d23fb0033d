//! Trailers of requests and answers: fields that come when everything is decided already (RFC 9110 section 6.5).
//!
//! In: a trailer section. Out: the same without what must not come late. Invariants: nothing that a client sends there
//! is read as ours by a backend that merges trailers into headers (R12); nothing there frames, routes, authenticates or
//! changes how a message is kept.

use http::{HeaderMap, HeaderName};

use super::{Settings, names};

/// Removes from a request's trailers what must not go upstream; for where the route lets trailers pass at all (R18).
///
/// It holds what it needs of `settings`: a body outlasts the generation that began it.
pub fn filter(settings: &Settings) -> impl Fn(&mut HeaderMap) + 'static {
    let extra = settings.extra.iter().map(|(name, _)| name);
    let fields = settings.fields.iter().map(|(name, _)| name);
    let managed: Box<[HeaderName]> = extra.chain(fields).chain(&settings.removed).cloned().collect();
    move |trailers| keep(trailers, |name| names::may_come_late(name) && !names::is_among(name, &managed))
}

/// Removes from an answer's trailers what must not come late.
pub fn rewrite_answer(trailers: &mut HeaderMap) {
    keep(trailers, names::may_come_late);
}

fn keep(trailers: &mut HeaderMap, passes: impl Fn(&HeaderName) -> bool) {
    let unfit: Vec<HeaderName> = trailers.keys().filter(|name| !passes(name)).cloned().collect();
    for name in unfit {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::{headers::tests::settings, policy::ClaimPath};

    fn left(names: &[&'static str], change: impl Fn(&mut HeaderMap)) -> Vec<String> {
        let fields = names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
        let mut trailers: HeaderMap = fields.collect();
        change(&mut trailers);
        let mut left: Vec<String> = trailers.keys().map(HeaderName::to_string).collect();
        left.sort();
        left
    }

    #[test]
    fn trailers_frame_route_and_authenticate_nothing() {
        for name in [
            "set-cookie",
            "content-length",
            "content-type",
            "transfer-encoding",
            "cache-control",
            "clear-site-data",
            "connection",
            "host",
            "if-match",
            "location",
            "service-worker-allowed",
            "strict-transport-security",
            "te",
            "trailer",
            "www-authenticate",
            "x-request-id",
        ] {
            assert_eq!(left(&[name, "grpc-status", "x-sum"], rewrite_answer), ["grpc-status", "x-sum"], "{name}");
            let filter = filter(&settings());
            assert_eq!(left(&[name, "grpc-status", "x-sum"], filter), ["grpc-status", "x-sum"], "{name}");
        }
    }

    #[test]
    fn no_trailer_of_a_client_is_read_as_ours() {
        let mut settings = settings();
        settings.extra = Box::new([("x-department".parse().unwrap(), ClaimPath::dotted("department"))]);
        settings.removed = Box::new([HeaderName::from_static("x-api-key")]);
        settings.keep_odd_names = true;
        for name in [
            "x-user-id",
            "x_user_id",
            "x-forwarded-for",
            "authorization",
            "cookie",
            "dpop",
            "x-department",
            "x-api-key",
            "x.department",
            "remote-user",
        ] {
            assert_eq!(left(&[name, "x-sum"], filter(&settings)), ["x-sum"], "{name}");
        }
    }
}
