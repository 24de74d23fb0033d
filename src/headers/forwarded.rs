//! Who the client is when proxies stand between, and what the upstream is told of it (R15; RFC 7239).
//!
//! In: the connection and the forwarding headers. Out: the one [`ClientView`]. Nobody is believed but the configured
//! peers, and of them only the configured family of headers: entries are read from the right for as long as the
//! machine that wrote them is trusted, and reading stops at the first that is no address. Upstream goes what was
//! believed, written afresh; `-Host` is never read.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::{ForwardedFamily, Lines, Settings, X_REQUEST_ID};
use crate::{
    client::{ClientView, Connection, PeerAddr, Scheme},
    host::Authority,
    id::RequestId,
};

/// The client as everything downstream sees it. `authority` is what the request is for, as written; a port that is
/// the scheme's own is dropped here.
///
/// Never fails: what cannot be read is not believed, and the view then shows the nearest machine that is known.
pub fn client_view(
    connection: &Connection,
    headers: &HeaderMap,
    authority: Authority,
    settings: &Settings,
) -> ClientView {
    let (peer, trusted) = peer(connection, settings);
    let own_scheme = if connection.tls.is_some() { Scheme::Https } else { Scheme::Http };
    let of = |address: Option<IpAddr>, scheme: Scheme, chain| {
        let port = authority.port.filter(|port| *port != scheme.default_port());
        ClientView {
            address: address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            scheme,
            authority: Authority { host: authority.host, port },
            through_trusted_proxy: trusted,
            chain,
        }
    };
    if !trusted {
        return of(peer, own_scheme, None);
    }
    let mut told = Told { hops: peer.into_iter().collect(), scheme: None };
    match settings.family {
        ForwardedFamily::Forwarded => told.read_forwarded(headers, settings),
        ForwardedFamily::XForwarded => told.read_x_forwarded(headers, settings),
    }
    of(told.hops.last().copied(), told.scheme.unwrap_or(own_scheme), told.chain())
}

/// The id that a believed peer gave this request (R34); `None` unless it gave exactly one that is fit for logs.
pub fn request_id(connection: &Connection, headers: &HeaderMap, settings: &Settings) -> Option<RequestId> {
    // Where nobody is believed nobody need be looked at.
    if settings.trusted_proxies.is_empty() && !settings.trust_unix_peers || !peer(connection, settings).1 {
        return None;
    }
    let mut values = headers.get_all(X_REQUEST_ID).iter();
    values.next().filter(|_| values.next().is_none()).and_then(RequestId::from_trusted)
}

/// Adds the `X-Forwarded-` headers and returns the `Host`, the authority in canonical form; nothing that came in under
/// such names is copied.
pub(super) fn put(lines: &mut Lines, view: &ClientView) -> HeaderValue {
    KNOWN.with_borrow_mut(|known| {
        let known = known.of(view);
        match &view.chain {
            None => lines.put_lines(&known.lines),
            Some(chain) => {
                lines.put(&X_FORWARDED_FOR, chain);
                lines.put_lines(known.lines.get(known.address_ends..).unwrap_or_default());
            }
        }
        known.host.clone()
    })
}

/// What the trusted proxies told of the client.
struct Told {
    /// From the peer to the client, believed all.
    hops: SmallVec<[IpAddr; 4]>,
    scheme: Option<Scheme>,
}

impl Told {
    /// Takes the next address to the left; whether what stands further left is believed too.
    fn believes(&mut self, address: Option<IpAddr>, settings: &Settings) -> bool {
        let Some(address) = address.filter(|_| self.hops.len() < MOST_HOPS) else {
            return false;
        };
        self.hops.push(address);
        is_trusted(address, settings)
    }

    fn read_x_forwarded(&mut self, headers: &HeaderMap, settings: &Settings) {
        let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let mut entries = lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
        while let Some(entry) = entries.next().map(str::trim) {
            if !entry.is_empty() && !self.believes(address(entry), settings) {
                break;
            }
        }
        // Several that differ say nothing: which of them speaks of the client, nobody knows.
        let mut schemes =
            headers.get_all(X_FORWARDED_PROTO).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
        let first = schemes.next().and_then(scheme);
        self.scheme = first.filter(|first| schemes.all(|other| scheme(other) == Some(*first)));
    }

    fn read_forwarded(&mut self, headers: &HeaderMap, settings: &Settings) {
        for line in headers.get_all(http::header::FORWARDED).iter().rev() {
            let Ok(mut line) = line.to_str() else {
                return;
            };
            loop {
                let (before, element) = split_last_element(line);
                if !element.trim().is_empty() {
                    let Some(element) = Element::read(element) else {
                        return;
                    };
                    // Whoever wrote this element is trusted: its scheme is what the machine named in it used.
                    self.scheme = element.proto;
                    if !self.believes(element.address, settings) {
                        return;
                    }
                }
                let Some(before) = before else { break };
                line = before;
            }
        }
    }

    /// What `X-Forwarded-For` says, client first, if it is more than one address.
    fn chain(&self) -> Option<HeaderValue> {
        if self.hops.len() < 2 {
            return None;
        }
        let hops: Vec<String> = self.hops.iter().rev().map(ToString::to_string).collect();
        HeaderValue::try_from(hops.join(", ")).ok()
    }
}

/// One element of `Forwarded` (RFC 7239 section 4).
#[derive(Debug, Default, Eq, PartialEq)]
struct Element {
    /// `None` for `unknown`, `_hidden` and nothing.
    address: Option<IpAddr>,
    proto: Option<Scheme>,
}

impl Element {
    /// `None` for what is no element: then nothing further left is believed.
    fn read(text: &str) -> Option<Self> {
        let mut element = Self::default();
        let mut seen: SmallVec<[&str; 4]> = SmallVec::new();
        for pair in text.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            let value = match value.strip_prefix('"') {
                Some(quoted) => quoted.strip_suffix('"')?,
                None => value,
            };
            // Escapes and inner quotes are legal in some values, but in none that a proxy has reason to send.
            if value.contains(['"', '\\']) || seen.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                return None;
            }
            seen.push(name);
            if name.eq_ignore_ascii_case("for") {
                element.address = address(value);
            } else if name.eq_ignore_ascii_case("proto") {
                element.proto = scheme(value.as_bytes());
            }
        }
        Some(element)
    }
}

/// The last element, and what stands before its comma. Read from the right, so that an open quote that a client sent
/// cannot swallow what a proxy has appended.
fn split_last_element(line: &str) -> (Option<&str>, &str) {
    let mut quoted = false;
    for (at, byte) in line.bytes().enumerate().rev() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => return (line.get(..at), line.get(at + 1..).unwrap_or_default()),
            _ => {}
        }
    }
    (None, line)
}

/// `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let bracketed = bare.and_then(|text| text.parse().ok()).map(IpAddr::V6);
    let address: IpAddr =
        text.parse().ok().or(bracketed).or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(address.to_canonical())
}

fn scheme(text: &[u8]) -> Option<Scheme> {
    let text = text.trim_ascii();
    if text.eq_ignore_ascii_case(b"https") {
        Some(Scheme::Https)
    } else {
        text.eq_ignore_ascii_case(b"http").then_some(Scheme::Http)
    }
}

/// The machine at the other end, and whether it is believed.
fn peer(connection: &Connection, settings: &Settings) -> (Option<IpAddr>, bool) {
    match connection.peer {
        PeerAddr::Ip(address) => {
            let address = address.ip().to_canonical();
            (Some(address), is_trusted(address, settings))
        }
        PeerAddr::Unix => (None, settings.trust_unix_peers),
    }
}

fn is_trusted(address: IpAddr, settings: &Settings) -> bool {
    settings.trusted_proxies.iter().any(|network| network.contains(&address))
}

/// The lines made last, so that the clients of a worker's connections are not spelled out on each request.
struct Known(Vec<Option<Spelled>>);

/// How one client is told of.
struct Spelled {
    address: IpAddr,
    scheme: Scheme,
    authority: Authority,
    /// The authority.
    host: HeaderValue,
    /// All four fields, that of the address first.
    lines: Vec<u8>,
    /// Where the field of the address ends.
    address_ends: usize,
}

impl Known {
    #[expect(clippy::indexing_slicing, reason = "a remainder is within")]
    fn of(&mut self, view: &ClientView) -> &Spelled {
        // With a chain the address is told there: one entry does for all clients behind the same proxies.
        let address = if view.chain.is_some() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { view.address };
        let slot = &mut self.0[place(address, &view.authority)];
        let fits = |known: &Spelled| {
            known.address == address && known.scheme == view.scheme && known.authority == view.authority
        };
        if !slot.as_ref().is_some_and(fits) {
            *slot = None;
        }
        slot.get_or_insert_with(|| Spelled::new(address, view))
    }
}

impl Spelled {
    #[cold]
    fn new(address: IpAddr, view: &ClientView) -> Self {
        // Addresses, ports and hosts are plain ASCII.
        let authority = view.authority.to_string();
        let mut lines = format!("{X_FORWARDED_FOR}: {address}\r\n").into_bytes();
        let address_ends = lines.len();
        let (scheme, port) = (view.scheme, view.port());
        let rest = format!(
            "{X_FORWARDED_PROTO}: {scheme}\r\n{X_FORWARDED_HOST}: {authority}\r\n{X_FORWARDED_PORT}: {port}\r\n"
        );
        lines.extend_from_slice(rest.as_bytes());
        Self {
            address,
            scheme,
            authority: view.authority.clone(),
            host: HeaderValue::try_from(authority).unwrap_or(HeaderValue::from_static("")),
            lines,
            address_ends,
        }
    }
}

/// Any mixture will do: whoever finds a place whose entries others push out pays for the spelling, no more.
fn place(address: IpAddr, authority: &Authority) -> usize {
    let address = match address {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.segments().map(u32::from);
            ((a ^ c ^ e ^ g) << 16) | (b ^ d ^ f ^ h)
        }
    };
    let host = authority.host.as_str();
    let host = host.len() ^ usize::from(authority.port.unwrap_or(0));
    ((address.wrapping_mul(0x9e37_79b1) >> 20) as usize ^ host) % PREPARED
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known((0..PREPARED).map(|_| None).collect()));
}

/// For each worker; a power of two.
const PREPARED: usize = 64;
/// Proxies between us and the client that are followed.
const MOST_HOPS: usize = 32;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        client::{Cutter, Tls},
        headers::tests::settings,
        hints::OfConnection,
    };

    fn connection(peer: &str, tls: bool) -> Connection {
        let peer = peer.parse().map_or(PeerAddr::Unix, |ip: IpAddr| PeerAddr::Ip(SocketAddr::new(ip, 5000)));
        let tls = tls.then_some(Tls { server_name: None, version: "1.3", asked: None, certificate: None });
        Connection {
            id: 1,
            peer,
            said_by: None,
            local_port: 443,
            tls,
            cutter: Cutter::default(),
            hints: OfConnection::default(),
        }
    }

    fn trusting(family: ForwardedFamily) -> Settings {
        let networks = ["10.0.0.0/8", "fd00::/8"].iter().map(|net| net.parse().unwrap()).collect();
        Settings { trusted_proxies: networks, family, ..settings() }
    }

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers
    }

    /// `address scheme`, and the chain where there is one.
    fn seen(peer: &str, lines: &[(&'static str, &str)], settings: &Settings) -> String {
        let view = client_view(&connection(peer, false), &map(lines), "a.example".parse().unwrap(), settings);
        let chain = view.chain.map(|chain| format!(" [{}]", chain.to_str().unwrap()));
        format!("{} {}{}", view.address, view.scheme, chain.unwrap_or_default())
    }

    #[test]
    fn the_client_is_the_right_most_untrusted_entry() {
        const FOR: &str = "x-forwarded-for";
        let settings = trusting(ForwardedFamily::XForwarded);
        for (peer, lines, expect) in [
            ("192.0.2.1", &[(FOR, "1.1.1.1")][..], "192.0.2.1 http"),
            ("10.0.0.1", &[], "10.0.0.1 http"),
            ("10.0.0.1", &[(FOR, "6.6.6.6, 192.0.2.7")], "192.0.2.7 http [192.0.2.7, 10.0.0.1]"),
            ("10.0.0.1", &[(FOR, "192.0.2.7, 10.0.0.2")], "192.0.2.7 http [192.0.2.7, 10.0.0.2, 10.0.0.1]"),
            ("10.0.0.1", &[(FOR, "10.0.0.3, 10.0.0.2")], "10.0.0.3 http [10.0.0.3, 10.0.0.2, 10.0.0.1]"),
            ("10.0.0.1", &[(FOR, "192.0.2.7"), (FOR, "10.0.0.2")], "192.0.2.7 http [192.0.2.7, 10.0.0.2, 10.0.0.1]"),
            ("10.0.0.1", &[(FOR, "192.0.2.7, unknown")], "10.0.0.1 http"),
            ("10.0.0.1", &[(FOR, "192.0.2.7, junk, 10.0.0.2")], "10.0.0.2 http [10.0.0.2, 10.0.0.1]"),
            ("10.0.0.1", &[(FOR, "192.0.2.7:4711")], "192.0.2.7 http [192.0.2.7, 10.0.0.1]"),
            ("10.0.0.1", &[(FOR, "2001:db8::1")], "2001:db8::1 http [2001:db8::1, 10.0.0.1]"),
            ("10.0.0.1", &[(FOR, "[2001:db8::1]")], "2001:db8::1 http [2001:db8::1, 10.0.0.1]"),
            ("10.0.0.1", &[(FOR, "[2001:DB8::1]:80")], "2001:db8::1 http [2001:db8::1, 10.0.0.1]"),
            ("10.0.0.1", &[(FOR, "::ffff:192.0.2.7")], "192.0.2.7 http [192.0.2.7, 10.0.0.1]"),
            ("10.0.0.1", &[(FOR, "fe80::1%eth0")], "10.0.0.1 http"),
            ("10.0.0.1", &[(FOR, " , 192.0.2.7 ,, ")], "192.0.2.7 http [192.0.2.7, 10.0.0.1]"),
            ("10.0.0.1", &[(FOR, "127.1")], "10.0.0.1 http"),
            ("::ffff:10.0.0.1", &[(FOR, "192.0.2.7")], "192.0.2.7 http [192.0.2.7, 10.0.0.1]"),
            ("10.0.0.1", &[("forwarded", "for=192.0.2.7;proto=https")], "10.0.0.1 http"),
            ("unix", &[(FOR, "192.0.2.7")], "127.0.0.1 http"),
        ] {
            assert_eq!(seen(peer, lines, &settings), expect, "{peer} {lines:?}");
        }
        let with_unix = Settings { trust_unix_peers: true, ..trusting(ForwardedFamily::XForwarded) };
        assert_eq!(seen("unix", &[(FOR, "192.0.2.7")], &with_unix), "192.0.2.7 http");
        assert_eq!(seen("unix", &[], &with_unix), "127.0.0.1 http");
    }

    #[test]
    fn the_scheme_is_believed_from_trusted_peers_and_only_if_it_is_one() {
        const PROTO: &str = "x-forwarded-proto";
        let settings = trusting(ForwardedFamily::XForwarded);
        for (peer, lines, expect) in [
            ("192.0.2.1", &[(PROTO, "https")][..], "192.0.2.1 http"),
            ("10.0.0.1", &[(PROTO, "https")], "10.0.0.1 https"),
            ("10.0.0.1", &[(PROTO, "HTTPS, https")], "10.0.0.1 https"),
            ("10.0.0.1", &[(PROTO, "https, http")], "10.0.0.1 http"),
            ("10.0.0.1", &[(PROTO, "https"), (PROTO, "http")], "10.0.0.1 http"),
            ("10.0.0.1", &[(PROTO, "wss")], "10.0.0.1 http"),
            ("10.0.0.1", &[("x-forwarded-ssl", "on")], "10.0.0.1 http"),
        ] {
            assert_eq!(seen(peer, lines, &settings), expect, "{peer} {lines:?}");
        }
        let view =
            client_view(&connection("10.0.0.1", true), &map(&[(PROTO, "http")]), "a".parse().unwrap(), &settings);
        assert_eq!(view.scheme, Scheme::Http);
    }

    #[test]
    fn the_other_family_is_read_by_its_own_rules() {
        let settings = trusting(ForwardedFamily::Forwarded);
        for (value, expect) in [
            ("for=192.0.2.7", "192.0.2.7 http [192.0.2.7, 10.0.0.1]"),
            ("For=192.0.2.7;Proto=https;by=10.0.0.1", "192.0.2.7 https [192.0.2.7, 10.0.0.1]"),
            ("for=\"[2001:db8::1]:4711\";host=\"a.example\"", "2001:db8::1 http [2001:db8::1, 10.0.0.1]"),
            ("for=6.6.6.6, for=192.0.2.7;proto=https", "192.0.2.7 https [192.0.2.7, 10.0.0.1]"),
            ("for=192.0.2.7;proto=https, for=10.0.0.2;proto=http", "192.0.2.7 https [192.0.2.7, 10.0.0.2, 10.0.0.1]"),
            ("for=\", for=192.0.2.7", "192.0.2.7 http [192.0.2.7, 10.0.0.1]"),
            ("for=\"6.6.6.6, for=10.0.0.2", "10.0.0.2 http [10.0.0.2, 10.0.0.1]"),
            ("for=unknown;proto=https", "10.0.0.1 https"),
            ("for=_hidden", "10.0.0.1 http"),
            ("for=192.0.2.7;for=6.6.6.6", "10.0.0.1 http"),
            ("for=\"192.0.2\\.7\"", "10.0.0.1 http"),
            ("nonsense", "10.0.0.1 http"),
            ("", "10.0.0.1 http"),
        ] {
            assert_eq!(seen("10.0.0.1", &[("forwarded", value)], &settings), expect, "{value}");
        }
        assert_eq!(seen("10.0.0.1", &[("x-forwarded-for", "192.0.2.7")], &settings), "10.0.0.1 http");
        assert_eq!(seen("192.0.2.1", &[("forwarded", "for=6.6.6.6")], &settings), "192.0.2.1 http");
    }

    #[test]
    fn the_authority_never_comes_from_a_forwarding_header() {
        let settings = trusting(ForwardedFamily::XForwarded);
        let lines = map(&[("x-forwarded-host", "evil.example"), ("x-forwarded-port", "1")]);
        for (authority, expect) in [("a.example", None), ("a.example:443", None), ("a.example:80", Some(80))] {
            let view = client_view(&connection("10.0.0.1", true), &lines, authority.parse().unwrap(), &settings);
            assert_eq!((view.authority.host.as_str(), view.authority.port), ("a.example", expect), "{authority}");
        }
    }

    #[test]
    fn a_request_id_is_taken_from_trusted_peers_and_only_if_it_is_one() {
        const ID: &str = "x-request-id";
        let settings = trusting(ForwardedFamily::XForwarded);
        for (peer, lines, expect) in [
            ("10.0.0.1", &[(ID, "4bf9-2f")][..], Some("4bf9-2f")),
            ("192.0.2.1", &[(ID, "4bf9-2f")], None),
            ("unix", &[(ID, "4bf9-2f")], None),
            ("10.0.0.1", &[(ID, "a"), (ID, "b")], None),
            ("10.0.0.1", &[(ID, "a b")], None),
            ("10.0.0.1", &[(ID, "")], None),
            ("10.0.0.1", &[], None),
        ] {
            let id = request_id(&connection(peer, true), &map(lines), &settings);
            assert_eq!(id.as_ref().map(RequestId::as_str), expect, "{peer} {lines:?}");
        }
    }

    #[test]
    fn what_was_believed_is_written_afresh() {
        let settings = trusting(ForwardedFamily::XForwarded);
        for (host, authority, expect_host, port) in [
            ("a.example", "a.example", "a.example", "443"),
            ("A.example:443", "a.example:443", "a.example", "443"),
            ("a.example:8443", "a.example:8443", "a.example:8443", "8443"),
        ] {
            for _ in 0..2 {
                let view =
                    client_view(&connection("192.0.2.1", true), &map(&[]), authority.parse().unwrap(), &settings);
                let mut lines = Lines::new();
                assert_eq!(put(&mut lines, &view), expect_host, "{host}");
                let headers = lines.to_map();
                for (name, value) in [
                    ("x-forwarded-host", expect_host),
                    ("x-forwarded-for", "192.0.2.1"),
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-port", port),
                ] {
                    assert_eq!(headers[name], value, "{host} {name}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_that_an_untrusted_peer_says_changes_the_view(value in "[ -~]{0,40}") {
            for family in [ForwardedFamily::Forwarded, ForwardedFamily::XForwarded] {
                let names = ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
                let lines: Vec<(&'static str, &str)> = names.map(|name| (name, &*value)).into();
                prop_assert_eq!(seen("192.0.2.1", &lines, &trusting(family)), "192.0.2.1 http");
            }
        }

        #[test]
        fn what_a_client_sends_never_hides_what_the_proxy_appends(value in "[ -~]{0,40}") {
            let forged = format!("{value},for=192.0.2.7");
            let seen_forwarded = seen("10.0.0.1", &[("forwarded", &forged)], &trusting(ForwardedFamily::Forwarded));
            prop_assert!(seen_forwarded.starts_with("192.0.2.7 "), "{}", seen_forwarded);
            let forged = format!("{value}, 192.0.2.7");
            let seen_x = seen("10.0.0.1", &[("x-forwarded-for", &forged)], &trusting(ForwardedFamily::XForwarded));
            prop_assert!(seen_x.starts_with("192.0.2.7 "), "{}", seen_x);
        }
    }
}
