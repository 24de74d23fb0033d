//! Which host a request is for (R10; RFC 9112 section 3.2, RFC 9113 section 8.3.1).
//!
//! In: a request head. Out: the one authority that `Host`, `:authority` and an absolute target agree on, in canonical
//! form, or an [`AuthorityError`] (400). Whether the host is known is the route table's to say (421). A known host in
//! its usual spelling costs two table look-ups and no allocation.

use http::{Uri, Version, header::HOST, request::Parts};

use super::RouteTable;
use crate::{
    host::{Authority, HostError},
    inbound::{Doubled, only},
};

/// Why a request is for no single host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuthorityError {
    /// No `Host` (HTTP/1), or neither `Host` nor `:authority` (HTTP/2).
    Absent,
    /// `Host` and the target name different hosts or ports.
    Disagree,
    /// Not a host and port.
    NotAHost(HostError),
    /// More than one `Host`.
    Several,
    /// `user@host`.
    UserInfo,
}

/// The authority that a request is for. The port is as written.
///
/// # Errors
/// [`AuthorityError`]; HTTP/1 requests need exactly one `Host`, whatever the target says.
pub fn request_authority(head: &Parts, table: &RouteTable) -> Result<Authority, AuthorityError> {
    let field = only(&head.headers, &HOST).map_err(|Doubled| AuthorityError::Several)?;
    let named = field.map(|field| read(field.as_bytes(), table)).transpose()?;
    let target = match head.uri.authority() {
        None => None,
        Some(authority) if authority.as_str().contains('@') => return Err(AuthorityError::UserInfo),
        Some(authority) => Some(read(authority.as_str().as_bytes(), table)?),
    };
    match (named, target) {
        (Some(named), None) => Ok(named),
        (Some(named), Some(target)) if agree(&named, &target, &head.uri) => Ok(named),
        (Some(_), Some(_)) => Err(AuthorityError::Disagree),
        (None, Some(target)) if head.version >= Version::HTTP_2 => Ok(target),
        (None, Some(_) | None) => Err(AuthorityError::Absent),
    }
}

impl AuthorityError {
    /// The word for logs and metrics: snake case, a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Absent => "host_absent",
            Self::Disagree => "hosts_disagree",
            Self::NotAHost(_) => "not_a_host",
            Self::Several => "several_hosts",
            Self::UserInfo => "userinfo",
        }
    }
}

fn read(text: &[u8], table: &RouteTable) -> Result<Authority, AuthorityError> {
    if let Some(known) = table.authority(text) {
        return Ok(known);
    }
    let text = std::str::from_utf8(text).map_err(|_| AuthorityError::NotAHost(HostError::NotAHost))?;
    text.parse().map_err(AuthorityError::NotAHost)
}

/// The same host and port; the scheme's own port may be written or not.
fn agree(one: &Authority, other: &Authority, uri: &Uri) -> bool {
    let default = match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        Some(_) | None => None,
    };
    one.host == other.host && one.port.or(default) == other.port.or(default)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn authority(version: Version, target: &str, hosts: &[&str]) -> Result<String, AuthorityError> {
        let table = RouteTable::build(Vec::new(), &["a.example".parse().unwrap()], |_| Default::default()).unwrap();
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        request_authority(&head, &table).map(|authority| authority.to_string())
    }

    #[test]
    fn exactly_one_host_and_all_agree() {
        use AuthorityError as E;
        let one = Version::HTTP_11;
        let two = Version::HTTP_2;
        for (version, target, hosts, expect) in [
            (one, "/", &["a.example"][..], Ok("a.example")),
            (one, "/", &["A.Example."], Ok("a.example")),
            (one, "/", &["a.example:8443"], Ok("a.example:8443")),
            (one, "/", &["b.example:1"], Ok("b.example:1")),
            (one, "/", &[], Err(E::Absent)),
            (one, "http://a.example/", &[], Err(E::Absent)),
            (one, "/", &["a.example", "a.example"], Err(E::Several)),
            (one, "/", &["a.example, b.example"], Err(E::NotAHost(HostError::NotAHost))),
            (one, "/", &["a.example:"], Err(E::NotAHost(HostError::BadPort))),
            (one, "/", &["a.example:0"], Err(E::NotAHost(HostError::BadPort))),
            (one, "/", &["a.example:+1"], Err(E::NotAHost(HostError::BadPort))),
            (one, "/", &[""], Err(E::NotAHost(HostError::Empty))),
            (one, "/", &["user@a.example"], Err(E::NotAHost(HostError::NotAHost))),
            (one, "http://a.example/", &["a.example"], Ok("a.example")),
            (one, "http://a.example:80/", &["a.example"], Ok("a.example")),
            (one, "https://a.example/", &["a.example:443"], Ok("a.example:443")),
            (one, "http://a.example/", &["b.example"], Err(E::Disagree)),
            (one, "http://a.example:81/", &["a.example"], Err(E::Disagree)),
            (one, "http://u@a.example/", &["a.example"], Err(E::UserInfo)),
            (two, "https://a.example/", &[], Ok("a.example")),
            (two, "https://a.example/", &["a.example"], Ok("a.example")),
            (two, "https://a.example/", &["b.example"], Err(E::Disagree)),
            (two, "/", &["a.example"], Ok("a.example")),
            (two, "/", &[], Err(E::Absent)),
        ] {
            let found = authority(version, target, hosts);
            assert_eq!(found.as_deref().map_err(|e| *e), expect, "{version:?} {target} {hosts:?}");
        }
    }
}
