//! Hosts and authorities: one parser for `Host`, `:authority`, SNI, configuration and origins (R10).

use std::{borrow::Borrow, fmt, net::IpAddr, str::FromStr, sync::Arc};

/// A host name or address in canonical form: lower-case, no trailing dot, IPv6 in brackets.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Host(Arc<str>);

/// A host and, where one was written, a port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Authority {
    /// The host in canonical form.
    pub host: Host,
    /// The port as written, 1 to 65535.
    pub port: Option<u16>,
}

/// Why a text is no authority.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HostError {
    /// Nothing there.
    Empty,
    /// Neither a name (labels of letters, digits, `-`, `_`), an IPv4 nor a bracketed IPv6 address.
    NotAHost,
    /// Not a decimal number from 1 to 65535.
    BadPort,
}

impl Host {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is an address. TLS clients name none of these (RFC 6066 section 3).
    pub fn is_address(&self) -> bool {
        self.0.starts_with('[') || self.0.parse::<IpAddr>().is_ok()
    }

    /// Whether it names this machine: `localhost`, `*.localhost`, 127.0.0.0/8 or `[::1]`.
    pub fn is_loopback(&self) -> bool {
        let bare = self.0.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.ends_with(".localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// Tables of hosts can be asked with the text: `Eq` and `Hash` of a host are those of its text.
impl Borrow<str> for Host {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let ip: std::net::Ipv6Addr = inner.parse().map_err(|_| HostError::NotAHost)?;
            return Ok(Self(format!("[{ip}]").into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let label_fits = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label_fits) {
            return Err(HostError::NotAHost);
        }
        // A last label of digits only is an IPv4 address or nothing (WHATWG URL, "ends in a number"): `127.1`,
        // `0x7f.1` and the like would otherwise be read differently by whoever comes after us.
        let last = name.rsplit('.').next().unwrap_or_default();
        let numeric = last.bytes().all(|b| b.is_ascii_digit())
            || last
                .strip_prefix("0x")
                .or_else(|| last.strip_prefix("0X"))
                .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if numeric && name.parse::<std::net::Ipv4Addr>().is_err() {
            return Err(HostError::NotAHost);
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Authority {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = port.map(|digits| {
            let plain = !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|port| plain && *port != 0).ok_or(HostError::BadPort)
        });
        Ok(Self { host: host.parse()?, port: port.transpose()? })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => write!(f, "{}", self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_one_form() {
        for (given, expect) in [
            ("Example.COM", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com..", None),
            ("", None),
            ("a b", None),
            ("a,b", None),
            ("user@host", None),
            ("127.0.0.1", Some("127.0.0.1")),
            ("127.1", None),
            ("0x7f.0.0.0x1", None),
            ("[::1]", Some("[::1]")),
            ("[0:0:0:0:0:0:0:1]", Some("[::1]")),
            ("[fe80::1%25eth0]", None),
            ("::1", None),
            ("-a.example", None),
        ] {
            assert_eq!(given.parse::<Host>().ok().as_ref().map(Host::as_str), expect, "{given:?}");
        }
    }

    #[test]
    fn ports_are_plain_decimal() {
        for (given, expect) in [
            ("a:443", Some(Some(443))),
            ("a", Some(None)),
            ("a:", None),
            ("a:0", None),
            ("a:+443", None),
            ("a:65536", None),
            ("a:000443", None),
            ("[::1]:8443", Some(Some(8443))),
            ("[::1]", Some(None)),
        ] {
            assert_eq!(given.parse::<Authority>().ok().map(|a| a.port), expect, "{given:?}");
        }
    }
}
