//! Which address of a name is tried first (RFC 6724 section 6, as far as it can be told without asking for more).
//!
//! In: addresses. Out: the same, the best first: what there is a way to (rule 1), of the scope (2) and the label (5) of
//! our own address on that way, of the higher precedence (6); what is equal stays in its order (10).

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

/// Sorts them; asks the system for the way to each, which sends nothing.
pub(super) fn sort(addresses: &mut [IpAddr]) {
    addresses.sort_by_cached_key(|address| rank(*address, source(*address)));
}

/// Less is better.
fn rank(address: IpAddr, source: Option<IpAddr>) -> (bool, bool, bool, u8) {
    let as_v6 = mapped(address);
    let (precedence, label) = policy(as_v6);
    let fits = |alike: &dyn Fn(Ipv6Addr) -> bool| source.map(mapped).is_some_and(alike);
    (
        source.is_none(),
        !fits(&|source| scope(source) == scope(as_v6)),
        !fits(&|source| policy(source).1 == label),
        u8::MAX - precedence,
    )
}

/// The address of ours that a connection to this one would come from; `None` if there is no way to it.
fn source(address: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(address, ANY_PORT)).ok()?;
    socket.local_addr().ok().map(|own| own.ip())
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Precedence and label (RFC 6724 section 2.1).
fn policy(address: Ipv6Addr) -> (u8, u8) {
    let segments = address.segments();
    match (address.to_ipv4_mapped(), segments) {
        (Some(_), _) => (35, 4),
        (None, _) if address.is_loopback() => (50, 0),
        (None, [0x2002, ..]) => (30, 2),
        (None, [0x2001, 0, ..]) => (5, 5),
        (None, [0xfc00..=0xfdff, ..]) => (3, 13),
        (None, [0x3ffe, ..]) => (1, 12),
        (None, [0xfec0..=0xfeff, ..]) => (1, 11),
        (None, [0, 0, 0, 0, 0, 0, ..]) => (1, 3),
        (None, _) => (40, 1),
    }
}

#[derive(Eq, PartialEq)]
enum Scope {
    Link,
    Site,
    Global,
}

/// RFC 6724 sections 3.1 and 3.2; nobody connects to a multicast address.
fn scope(address: Ipv6Addr) -> Scope {
    match (address.to_ipv4_mapped(), address.segments()) {
        (Some(v4), _) if v4.is_loopback() || v4.is_link_local() => Scope::Link,
        (Some(_), _) => Scope::Global,
        (None, [0xfe80..=0xfebf, ..]) => Scope::Link,
        (None, _) if address.is_loopback() => Scope::Link,
        (None, [0xfec0..=0xfeff, ..]) => Scope::Site,
        (None, _) => Scope::Global,
    }
}

/// No datagram is ever sent to it.
const ANY_PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 6724 section 10.2 that ask for the rules that are here.
    #[test]
    fn addresses_are_ordered_as_the_standard_says() {
        for (better, from, worse, other) in [
            ("2001:db8:1::1", Some("2001:db8:1::2"), "198.51.100.121", Some("169.254.13.78")),
            ("198.51.100.121", Some("198.51.100.117"), "2001:db8:1::1", Some("fe80::1")),
            ("2001:db8:1::1", Some("2001:db8:1::2"), "10.1.2.3", Some("10.1.2.4")),
            ("2001:db8:1::1", Some("2001:db8:1::2"), "2002:c633:6401::1", Some("2002:c633:6401::2")),
            ("10.1.2.3", Some("10.1.2.4"), "fd00::1", Some("2001:db8:1::2")),
            ("fd00::1", Some("fd00::2"), "10.1.2.3", Some("169.254.1.1")),
            ("10.1.2.3", Some("10.1.2.4"), "2001:db8:1::1", None),
            ("::1", Some("::1"), "127.0.0.1", Some("127.0.0.1")),
        ] {
            let rank = |address: &str, from: Option<&str>| {
                rank(address.parse().unwrap(), from.map(|from| from.parse().unwrap()))
            };
            assert!(rank(better, from) < rank(worse, other), "{better} before {worse}");
        }
    }

    #[test]
    fn what_there_is_a_way_to_comes_first_and_equals_stay_in_order() {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let mut addresses = list(&["127.0.0.2", "127.0.0.1", "127.0.0.3"]);
        sort(&mut addresses);
        assert_eq!(addresses, list(&["127.0.0.2", "127.0.0.1", "127.0.0.3"]));
    }
}
