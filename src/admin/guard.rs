//! Who may speak to the admin API at all (R36): a host that cannot be a rebound name, no browser, a known token.
//!
//! Cookies, client certificates and addresses count for nothing here: only a bearer token that was sent on purpose.

use std::net::IpAddr;

use aws_lc_rs::digest;
use http::{HeaderMap, header, request::Parts};

use super::{AdminToken, Context, Settings, problem::Problem};
use crate::host::{Authority, Host};
use crate::listener::Listener;

/// A page that lets its own name point to our address (DNS rebinding) sends that name as the host. Addresses and
/// names of this machine cannot be rebound; with `https://`, the gateway's own names count too. No browser can speak
/// to a unix socket, so any host will do there.
pub(super) fn check_host(context: &Context<'_>, head: &Parts) -> Result<(), Problem> {
    let mut sent = head.headers.get_all(header::HOST).into_iter();
    let host = match (head.uri.authority(), sent.next(), sent.next()) {
        (_, Some(_), Some(_)) | (None, None, None) => return Err(Problem::Malformed),
        (Some(target), None, _) => target.as_str().parse::<Authority>(),
        (target, Some(value), None) => {
            let text = value.to_str().map_err(|_| Problem::Malformed)?;
            if target.is_some_and(|target| !target.as_str().eq_ignore_ascii_case(text)) {
                return Err(Problem::Malformed);
            }
            text.parse::<Authority>()
        }
        (None, None, Some(_)) => return Err(Problem::Malformed),
    };
    let host = host.map_err(|_| Problem::Malformed)?.host;
    let answered = match &context.settings.listen {
        Listener::Http(_) | Listener::Inherited { encrypted: false, .. } => host.is_loopback(),
        Listener::Https(_) | Listener::Inherited { encrypted: true, .. } => {
            host.is_loopback() || is_address(&host) || context.hosts.contains(&host)
        }
        Listener::Unix { .. } => true,
    };
    if answered { Ok(()) } else { Err(Problem::WrongHost) }
}

/// Browsers tell where a request comes from. None has business here: there is no page of ours that calls this API.
pub(super) fn check_browser(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Err(Problem::CrossSite);
    }
    Ok(())
}

/// The token of the only `Authorization` header. All tokens are compared, each in constant time, whichever matches.
pub(super) fn authenticate<'a>(settings: &'a Settings, headers: &HeaderMap) -> Result<&'a AdminToken, Problem> {
    let mut sent = headers.get_all(header::AUTHORIZATION).into_iter();
    let (Some(value), None) = (sent.next(), sent.next()) else {
        return Err(Problem::NoToken);
    };
    let token = bearer(value.as_bytes()).ok_or(Problem::NoToken)?;
    let digest = digest::digest(&digest::SHA256, token);
    let matching = settings.tokens.iter().fold(None, |found, candidate| {
        let matches = candidate.digest.matches(digest.as_ref());
        if matches { Some(candidate) } else { found }
    });
    matching.ok_or(Problem::BadToken)
}

/// `Bearer` in any case, blanks, a token (RFC 6750 section 2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let token = rest.trim_ascii();
    let separated = rest.first() == Some(&b' ');
    let plain = !token.is_empty() && token.len() <= MAX_TOKEN && token.iter().all(u8::is_ascii_graphic);
    (scheme.eq_ignore_ascii_case(b"bearer") && separated && plain).then_some(token)
}

fn is_address(host: &Host) -> bool {
    host.as_str().trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// Bytes of a token that are worth hashing.
const MAX_TOKEN: usize = 1024;
