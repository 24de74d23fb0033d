//! Which host a request is for (R10; RFC 9112 section 3.2, RFC 9113 section 8.3.1).
//!
//! In: a request head. Out: the one authority that `Host`, `:authority` and an absolute target agree on, in canonical
//! form, or an [`AuthorityError`] (400). Whether the host is known is the route table's to say (421). A known host in
//! its usual spelling costs a comparison and no allocation.

use std::cell::RefCell;

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
    RECENT.with_borrow_mut(|recent| recent.read(text, table))
}

/// Authorities of known hosts by their spelling, read of late by this worker. What a spelling means depends on nothing
/// else, so an entry is never wrong; and its host is counted by this worker alone, while the table's is everybody's.
struct Recent([Option<(Box<[u8]>, Authority)>; RECENT_SPELLINGS]);

impl Recent {
    #[expect(clippy::indexing_slicing, reason = "a remainder is within")]
    fn read(&mut self, text: &[u8], table: &RouteTable) -> Result<Authority, AuthorityError> {
        let place = &mut self.0
            [text.iter().rev().take(2).fold(text.len(), |sum, byte| sum + usize::from(*byte)) % RECENT_SPELLINGS];
        if let Some((spelling, authority)) = place
            && **spelling == *text
        {
            return Ok(authority.clone());
        }
        let spelled = std::str::from_utf8(text).map_err(|_| AuthorityError::NotAHost(HostError::NotAHost))?;
        let Some(Authority { host, port }) = table.authority(text) else {
            return spelled.parse().map_err(AuthorityError::NotAHost);
        };
        let own = Authority { host: host.as_str().parse().map_err(AuthorityError::NotAHost)?, port };
        *place = Some((text.into(), own.clone()));
        Ok(own)
    }
}

thread_local! {
    static RECENT: RefCell<Recent> = const { RefCell::new(Recent([const { None }; RECENT_SPELLINGS])) };
}

/// For each worker; a power of two.
const RECENT_SPELLINGS: usize = 32;

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
    use crate::host::Host;

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
    fn hosts_are_counted_by_each_worker_for_itself() {
        let table = RouteTable::build(Vec::new(), &["a.example".parse().unwrap()], |_| Default::default()).unwrap();
        let read = |text: &str| read(text.as_bytes(), &table).unwrap().host;
        let place = |host: &Host| host.as_str().as_ptr().addr();
        let of_table = place(table.known_hosts().next().unwrap());

        let (here, again) = (read("a.example"), read("a.example"));
        let elsewhere = std::thread::scope(|scope| scope.spawn(|| place(&read("a.example"))).join().unwrap());

        assert_eq!(place(&here), place(&again), "one allocation for all of a worker's requests");
        assert_ne!(place(&here), of_table);
        assert_ne!(place(&here), elsewhere);
    }

    #[test]
    fn spellings_of_one_place_are_told_apart() {
        let table = RouteTable::build(Vec::new(), &["a.example".parse().unwrap()], |_| Default::default()).unwrap();
        for port in (1..=3 * RECENT_SPELLINGS).chain(1..=3) {
            let read = read(format!("a.example:{port}").as_bytes(), &table).unwrap();
            assert_eq!(read.to_string(), format!("a.example:{port}"));
        }
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
            // As it is read first, and as it is known then.
            for _ in 0..2 {
                let found = authority(version, target, hosts);
                assert_eq!(found.as_deref().map_err(|e| *e), expect, "{version:?} {target} {hosts:?}");
            }
        }
    }
}
