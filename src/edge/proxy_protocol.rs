//! The PROXY protocol, versions 1 and 2: what a load balancer in front says of a connection before its first byte
//! (R15).
//!
//! In: the first bytes of a connection whose peer must send such a header. Out: who connects, and to which port, or
//! that the header says nothing of it (health checks, unknown and unix clients); not a byte behind the header is taken.
//! Bad, endless and other beginnings are errors: the connection ends unheard. TLVs are passed over. Source:
//! haproxy.org, "The PROXY protocol", 2020/03/05.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::{io::AsyncReadExt, net::TcpStream};

/// What a header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Header {
    /// Who connects, and to what.
    Client {
        /// The client.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
    /// Nothing: the peer speaks for itself, or does not know.
    Nothing,
}

/// Why a header is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bad;

/// Reads one header, and nothing behind it.
///
/// # Errors
/// Those of the system; `InvalidData` where there is no header.
pub(super) async fn read(socket: &mut TcpStream) -> io::Result<Header> {
    let invalid = |Bad| io::Error::from(io::ErrorKind::InvalidData);
    let mut buffer = Vec::with_capacity(LONGEST_V1);
    take(socket, &mut buffer, SIGNATURE.len()).await?;
    loop {
        match parse(&buffer).map_err(invalid)? {
            Step::Done(header) => return Ok(header),
            Step::Exactly(count) => take(socket, &mut buffer, count).await?,
            Step::Line => {
                // How long a line is shows only at its end: looked for before anything is taken.
                let mut ahead = [0; LONGEST_V1];
                let room = LONGEST_V1.saturating_sub(buffer.len());
                let seen = socket.peek(ahead.get_mut(..room).unwrap_or_default()).await?;
                let line = ahead.get(..seen).unwrap_or_default();
                let count = line.iter().position(|byte| *byte == b'\n').map_or(seen, |end| end + 1);
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                take(socket, &mut buffer, count).await?;
            }
        }
    }
}

async fn take(socket: &mut TcpStream, buffer: &mut Vec<u8>, count: usize) -> io::Result<()> {
    let begin = buffer.len();
    buffer.resize(begin + count, 0);
    socket.read_exact(buffer.get_mut(begin..).unwrap_or_default()).await.map(drop)
}

/// What comes of the bytes that are there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// The header is complete, and ends with them.
    Done(Header),
    /// So many more are needed.
    Exactly(usize),
    /// The rest of a line is needed.
    Line,
}

/// Parses the beginning of a header, of 12 bytes or more, none of them behind its end.
///
/// # Errors
/// [`Bad`], as soon as it cannot become one.
pub fn parse(bytes: &[u8]) -> Result<Step, Bad> {
    if bytes.starts_with(&SIGNATURE) {
        return parse_v2(bytes);
    }
    if !bytes.starts_with(b"PROXY ") {
        return Err(Bad);
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if end + 1 == bytes.len() && end < LONGEST_V1 => {
            let line = bytes.strip_suffix(b"\r\n").and_then(|line| line.strip_prefix(b"PROXY ")).ok_or(Bad)?;
            parse_v1(std::str::from_utf8(line).map_err(|_| Bad)?).map(Step::Done)
        }
        None if bytes.len() < LONGEST_V1 => Ok(Step::Line),
        Some(_) | None => Err(Bad),
    }
}

fn parse_v1(line: &str) -> Result<Header, Bad> {
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Header::Nothing);
    }
    let mut words = line.split(' ');
    let mut next = || words.next().ok_or(Bad);
    let family = next()?;
    let mut address = || {
        let word = next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Bad),
            "TCP6" => word.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| Bad),
            _ => Err(Bad),
        }
    };
    let (source, destination) = (address()?, address()?);
    let (source_port, destination_port) = (port(next()?)?, port(next()?)?);
    if words.next().is_some() {
        return Err(Bad);
    }
    Ok(client(source, source_port, destination, destination_port))
}

/// Decimal, without a sign or leading zeros.
fn port(word: &str) -> Result<u16, Bad> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if plain { word.parse().map_err(|_| Bad) } else { Err(Bad) }
}

fn parse_v2(bytes: &[u8]) -> Result<Step, Bad> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Step::Exactly(FIXED - bytes.len()));
    };
    let [.., version_and_command, family_and_transport, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_V2 || rest.len() > length {
        return Err(Bad);
    }
    let local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Bad),
    };
    // Judged before more is waited for.
    let needed = match family_and_transport {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        // A reserved family, or datagrams: nothing that comes over TCP.
        _ => return Err(Bad),
    };
    if length < needed && !local {
        return Err(Bad);
    }
    if rest.len() < length {
        return Ok(Step::Exactly(length - rest.len()));
    }
    if local {
        return Ok(Step::Done(Header::Nothing));
    }
    let header = match (family_and_transport, rest) {
        (0x11, [a, b, c, d, e, f, g, h, i, j, k, l, ..]) => client(
            Ipv4Addr::new(*a, *b, *c, *d).into(),
            u16::from_be_bytes([*i, *j]),
            Ipv4Addr::new(*e, *f, *g, *h).into(),
            u16::from_be_bytes([*k, *l]),
        ),
        (0x21, _) => {
            let (source, rest) = rest.split_first_chunk::<16>().ok_or(Bad)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(Bad)?;
            let ([i, j, k, l], _) = rest.split_first_chunk::<4>().ok_or(Bad)?;
            client(
                Ipv6Addr::from(*source).into(),
                u16::from_be_bytes([*i, *j]),
                Ipv6Addr::from(*destination).into(),
                u16::from_be_bytes([*k, *l]),
            )
        }
        _ => Header::Nothing,
    };
    Ok(Step::Done(header))
}

/// An IPv4 client on an IPv6 socket is an IPv4 client.
fn client(source: IpAddr, source_port: u16, destination: IpAddr, destination_port: u16) -> Header {
    Header::Client {
        source: SocketAddr::new(source.to_canonical(), source_port),
        destination: SocketAddr::new(destination.to_canonical(), destination_port),
    }
}

/// How version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// With version and command, family and transport, and length.
const FIXED: usize = 16;
/// The longest line of version 1, its end included (section 2.1).
const LONGEST_V1: usize = 107;
/// Addresses and TLVs of version 2: those of known load balancers, client certificates' names included, take a quarter.
const LONGEST_V2: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, family], &length, body].concat()
    }

    fn told(source: &str, destination: &str) -> Result<Step, Bad> {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Ok(Step::Done(Header::Client { source, destination }))
    }

    const NOTHING: Result<Step, Bad> = Ok(Step::Done(Header::Nothing));

    #[test]
    fn a_line_of_version_1_tells_of_the_client() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n", told("192.0.2.7:56324", "198.51.100.1:443")),
            ("PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n", told("[2001:db8::7]:1", "[2001:db8::1]:65535")),
            ("PROXY TCP6 ::ffff:192.0.2.7 ::1 0 443\r\n", told("192.0.2.7:0", "[::1]:443")),
            ("PROXY UNKNOWN\r\n", NOTHING),
            ("PROXY UNKNOWN ffff:f...f:ffff what ever\r\n", NOTHING),
            ("PROXY TCP4 192.0.2.7", Ok(Step::Line)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r", Ok(Step::Line)),
        ] {
            assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn a_line_with_a_single_fault_is_refused() {
        for line in [
            "proxy TCP4 192.0.2.7 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 056324 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +5632 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.07 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.7 2001:db8::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 56324 443\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 56324 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\nGET",
            "GET / HTTP/1.1\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Bad), "{line:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(LONGEST_V1));
        assert_eq!(parse(endless.as_bytes()), Err(Bad));
    }

    #[test]
    fn a_header_of_version_2_tells_of_the_client_and_tlvs_are_passed_over() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
        let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &Ipv6Addr::UNSPECIFIED.octets(), &[0, 1, 0, 2]].concat();
        let with_tlv = [&v4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        for (bytes, expected) in [
            (v2(0x21, 0x11, &v4), told("192.0.2.7:56324", "198.51.100.1:443")),
            (v2(0x21, 0x11, &with_tlv), told("192.0.2.7:56324", "198.51.100.1:443")),
            (v2(0x21, 0x21, &v6), told("[::1]:1", "[::]:2")),
            (v2(0x21, 0x31, &[0; 216]), NOTHING),
            (v2(0x21, 0x00, &[]), NOTHING),
            (v2(0x20, 0x00, &[]), NOTHING),
            (v2(0x20, 0x11, &v4), NOTHING),
            (SIGNATURE.to_vec(), Ok(Step::Exactly(4))),
            (v2(0x21, 0x11, &v4)[..20].to_vec(), Ok(Step::Exactly(8))),
        ] {
            assert_eq!(parse(&bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_header_of_version_2_with_a_single_fault_is_refused() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
        let longest = [&v4[..], &vec![0; LONGEST_V2 - 12]].concat();
        assert!(parse(&v2(0x21, 0x11, &longest)).is_ok());
        for bytes in [
            v2(0x11, 0x11, &v4),
            v2(0x22, 0x11, &v4),
            v2(0x21, 0x12, &v4),
            v2(0x21, 0x41, &v4),
            v2(0x21, 0x01, &v4),
            v2(0x21, 0x11, &v4[..11]),
            v2(0x21, 0x21, &v4),
            v2(0x21, 0x31, &v4),
            v2(0x21, 0x11, &[&longest[..], b"x"].concat()),
            [v2(0x21, 0x11, &v4), b"GET".to_vec()].concat(),
            [&SIGNATURE[..11], b"\r!\x11\0\x0c"].concat(),
        ] {
            assert_eq!(parse(&bytes), Err(Bad), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_bounded_and_what_is_asked_for_leads_on(
            head in prop_oneof![Just(SIGNATURE.to_vec()), Just(b"PROXY TCP4 1".to_vec()), Just(b"PROXY UNKNOWN".to_vec())],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [head, rest].concat();
            match parse(&bytes) {
                Ok(Step::Exactly(count)) => prop_assert!(count > 0 && bytes.len() + count <= FIXED + LONGEST_V2),
                Ok(Step::Line) => prop_assert!(bytes.len() < LONGEST_V1),
                Ok(Step::Done(_)) | Err(Bad) => {}
            }
        }

        #[test]
        fn what_is_told_is_read_in_both_versions(
            source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(), ports in any::<[u16; 2]>(),
        ) {
            let [a, b] = [source, destination].map(Ipv4Addr::from);
            let line = format!("PROXY TCP4 {a} {b} {} {}\r\n", ports[0], ports[1]);
            let body = [&source[..], &destination, &ports[0].to_be_bytes(), &ports[1].to_be_bytes()].concat();
            let expected = Ok(Step::Done(client(a.into(), ports[0], b.into(), ports[1])));
            prop_assert_eq!(parse(line.as_bytes()), expected);
            prop_assert_eq!(parse(&v2(0x21, 0x11, &body)), expected);
        }
    }
}
