//! Values written as one text or number: durations, sizes, networks, addresses, hosts, header names, choices. Each
//! says what it expects and, where a mistake is common, how to mend it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, uri::PathAndQuery};
use ipnet::IpNet;

use super::{
    decode::{Decode, Text, Unreadable},
    report::{Findings, did_you_mean},
    tree::{Node, Value},
};
use crate::{
    accounts,
    admin::Scope,
    api_key::{KeyId, PREFIX},
    authn::{dpop::NonceRule, introspection::ClientAuth, keys::Algorithm},
    client::Scheme,
    clock::Timestamp,
    fetch,
    headers::{ClientCertificates, ForwardedFamily, Profile},
    host::{Authority, Host, HostError},
    listener::{Listener, Which},
    page,
    policy::{ClaimPath, ProofRule},
    route::{path::PathPattern, rewrite},
    session::{Bind, SameSite, SessionKey},
    telemetry::{LogFormat, QueryLog},
    upstream::{Balance, HostPolicy, Sticky},
};

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number<const MIN: u64, const MAX: u64>(pub(super) u64);

/// A number of bytes from `MIN` to `MAX`: `"4KiB"`, or a plain number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size<const MIN: u64, const MAX: u64>(pub(super) u64);

/// Bytes a second: `"1KiB/s"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate(pub(super) u64);

/// `"100/1m"`: so many requests in so much time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct RequestRate {
    pub(super) requests: u32,
    pub(super) per: Duration,
}

/// A duration above zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Positive(pub(super) Duration);

/// `"auto"` or a number of threads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Workers {
    Auto,
    Number(u16),
}

/// A text that is not empty.
#[derive(Clone, Debug)]
pub(super) struct NonEmpty(pub(super) String);

/// What names a thing of the configuration in logs, metrics and other keys: `[A-Za-z0-9._-]`, at most 64.
#[derive(Clone, Debug)]
pub(super) struct Name(pub(super) String);

/// A path in the file system, relative to the file that names it.
#[derive(Clone, Debug)]
pub(super) struct FilePath(pub(super) PathBuf);

/// `off`, or a value of `Strict-Transport-Security`.
#[derive(Clone, Debug)]
pub(super) enum Hsts {
    Off,
    Value(HeaderValue),
}

/// An entry of `trusted_proxies`.
#[derive(Clone, Debug)]
pub(super) enum TrustedProxy {
    Network(IpNet),
    UnixPeers,
}

/// An entry of `resolvers`.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameServer(pub(super) SocketAddr);

/// Where a log goes, not yet resolved against a folder.
#[derive(Clone, Debug)]
pub(super) enum Sink {
    File(PathBuf),
    Off,
    Stderr,
    Stdout,
}

/// A filter of diagnostics that `tracing` understands.
#[derive(Clone, Debug)]
pub(super) struct LogLevel(pub(super) String);

/// A name for a certificate; IPv6 addresses may lack their brackets.
#[derive(Clone, Debug)]
pub(super) struct CertificateName(pub(super) Host);

/// A name for a cookie (RFC 6265 section 4.1.1).
#[derive(Clone, Debug)]
pub(super) struct CookieName(pub(super) String);

/// A colour of our pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Color(pub(super) page::Color);

/// `login.language`.
#[derive(Clone, Debug)]
pub(super) struct LanguageTag(pub(super) String);

/// `login.prefix`.
#[derive(Clone, Debug)]
pub(super) struct Prefix(pub(super) String);

/// What servers are asked when they are checked: a path, perhaps with a query.
#[derive(Clone, Debug)]
pub(super) struct CheckPath(pub(super) PathAndQuery);

/// An entry of an upstream's `servers`; the path is not yet resolved.
#[derive(Clone, Debug)]
pub(super) enum ServerUrl {
    Echo,
    H2c(Authority),
    Http(Authority),
    Https(Authority),
    Unix(PathBuf),
    UnixH2c(PathBuf),
}

/// A pattern of paths and its text.
#[derive(Clone, Debug)]
pub(super) struct RoutePath {
    pub(super) text: String,
    pub(super) pattern: PathPattern,
}

/// An entry of `auth`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum AuthName {
    ApiKey,
    Jwt(Option<String>),
    Mtls(Option<String>),
    None,
    Session,
}

/// `id` of an API key.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApiKeyId(pub(super) KeyId);

/// 64 hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sha256(pub(super) [u8; 32]);

/// A moment in UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(pub(super) Timestamp);

/// `scheme://host[:port]`, in canonical form.
#[derive(Clone, Debug)]
pub(super) struct Origin(pub(super) String);

/// An entry of `cors.origins`.
#[derive(Clone, Debug)]
pub(super) enum CorsOrigin {
    Any,
    One(String),
}

/// An absolute URL or an absolute path, where `{…}` in the path stands for parameters.
#[derive(Clone, Debug)]
pub(super) struct Location {
    /// All of it; with parameters, what stands before the path.
    pub(super) text: HeaderValue,
    /// The path with parameters.
    pub(super) template: Option<rewrite::Template>,
}

/// `strip_prefix`.
#[derive(Clone, Debug)]
pub(super) struct PathPrefix(pub(super) rewrite::Prefix);

/// `rewrite`.
#[derive(Clone, Debug)]
pub(super) struct PathTemplate(pub(super) rewrite::Template);

/// A path into claims: `"a.b"`, or `["exact", "steps"]`.
#[derive(Clone, Debug)]
pub(super) struct Claim(pub(super) ClaimPath);

/// A hash of a password, whose kind is judged with all users.
#[derive(Clone, Debug)]
pub(super) struct PasswordHash(pub(super) String);

/// `"METHOD https://host/path"`.
#[derive(Clone, Debug)]
pub(super) struct RequestLine {
    pub(super) method: Method,
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    pub(super) uri: Uri,
}

/// A claim's value, or a whole table of claims.
#[derive(Clone, Debug)]
pub(super) struct Json(pub(super) serde_json::Value);

/// Implements [`Text`] for an enum whose variants are words.
macro_rules! choices {
    ($type:ty { $($word:literal => $value:expr,)* }) => {
        impl $crate::config::decode::Text for $type {
            fn expected() -> String {
                $crate::config::report::one_of([$($word),*])
            }

            fn parse(text: &str) -> Result<Self, $crate::config::decode::Unreadable> {
                match text {
                    $($word => Ok($value),)*
                    other => Err(match $crate::config::report::did_you_mean(other, [$($word),*]) {
                        Some(meant) => $crate::config::decode::Unreadable::because(format!("did you mean `{meant}`?")),
                        None => $crate::config::decode::Unreadable::default(),
                    }),
                }
            }
        }
    };
}
pub(super) use choices;

choices!(Algorithm {
    "ES256" => Self::ES256,
    "ES384" => Self::ES384,
    "ES512" => Self::ES512,
    "EdDSA" => Self::EdDSA,
    "HS256" => Self::HS256,
    "HS384" => Self::HS384,
    "HS512" => Self::HS512,
    "PS256" => Self::PS256,
    "PS384" => Self::PS384,
    "PS512" => Self::PS512,
    "RS256" => Self::RS256,
    "RS384" => Self::RS384,
    "RS512" => Self::RS512,
});
choices!(Balance { "least_requests" => Self::LeastRequests, "round_robin" => Self::RoundRobin, });
choices!(Bind { "none" => Self::None, "mtls" => Self::Mtls, });
choices!(ClientCertificates { "none" => Self::None, "own" => Self::Own, "chain" => Self::Chain, });
choices!(ForwardedFamily { "x-forwarded" => Self::XForwarded, "forwarded" => Self::Forwarded, });
choices!(LogFormat { "json" => Self::Json, "text" => Self::Text, });
choices!(NonceRule { "off" => Self::Off, "optional" => Self::Optional, "required" => Self::Required, });
choices!(Profile {
    "x-user" => Self::XUser,
    "x-forwarded-user" => Self::XForwardedUser,
    "x-auth-request" => Self::XAuthRequest,
    "remote-user" => Self::RemoteUser,
});
choices!(ProofRule { "none" => Self::None, "any" => Self::Any, "dpop" => Self::Dpop, "mtls" => Self::Mtls, });
choices!(QueryLog { "omit" => Self::Omit, "names" => Self::Names, "keep" => Self::Keep, });
choices!(ClientAuth { "basic" => Self::Basic, "post" => Self::Post, });
choices!(SameSite { "lax" => Self::Lax, "strict" => Self::Strict, "none" => Self::None, });
choices!(Sticky { "session" => Self::Session, "subject" => Self::Subject, });
choices!(Scope {
    "keys.create" => Self::KeysCreate,
    "keys.read" => Self::KeysRead,
    "keys.revoke" => Self::KeysRevoke,
    "sessions.create" => Self::SessionsCreate,
    "sessions.read" => Self::SessionsRead,
    "sessions.revoke" => Self::SessionsRevoke,
    "revocations" => Self::Revocations,
    "routes" => Self::Routes,
    "explain" => Self::Explain,
    "reload" => Self::Reload,
    "all" => Self::All,
});

impl<const MIN: u64, const MAX: u64> Decode for Number<MIN, MAX> {
    fn expected() -> String {
        if MIN == MAX { MIN.to_string() } else { format!("a whole number from {MIN} to {MAX}") }
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        let number = match &node.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Environment(text) => text.replace('_', "").parse().ok(),
            Value::Array(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Float(_)
            | Value::String(_)
            | Value::Table(_) => None,
        };
        let in_bounds = number.filter(|number| (MIN..=MAX).contains(number)).map(Self);
        if in_bounds.is_none() {
            let problem = findings.problem(&node.place, node.describe(), Self::expected());
            if matches!(&node.value, Value::String(text) if text.parse::<u64>().is_ok()) {
                problem.help("numbers are written without quotes");
            }
        }
        in_bounds
    }
}

impl<const MIN: u64, const MAX: u64> Decode for Size<MIN, MAX> {
    fn expected() -> String {
        if MAX == u64::MAX {
            return String::from("a size such as \"4KiB\" or \"1MiB\"");
        }
        format!("a size such as \"4KiB\" or \"1MiB\", from {MIN} to {MAX} bytes")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        let size = match &node.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Environment(text) | Value::String(text) => bytes(text),
            Value::Array(_) | Value::Boolean(_) | Value::Datetime(_) | Value::Float(_) | Value::Table(_) => None,
        };
        let in_bounds = size.filter(|size| (MIN..=MAX).contains(size)).map(Self);
        if in_bounds.is_none() {
            let problem = findings.problem(&node.place, node.describe(), Self::expected());
            if size.is_none() {
                problem.help(UNITS);
            }
        }
        in_bounds
    }
}

impl Text for Rate {
    fn expected() -> String {
        String::from("a rate such as \"1KiB/s\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let size = text.strip_suffix("/s").ok_or_else(|| Unreadable::because("a rate ends in `/s`"))?;
        bytes(size.trim_end()).map(Self).ok_or_else(|| Unreadable::because(UNITS))
    }
}

impl Text for RequestRate {
    fn expected() -> String {
        String::from("a rate of requests such as \"100/1m\" or \"20/s\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let (requests, per) =
            text.split_once('/').ok_or_else(|| Unreadable::because("requests, `/`, and in what time"))?;
        let requests = requests.trim().replace('_', "");
        let requests = requests.parse().ok().filter(|requests| *requests > 0 && requests <= &MOST_REQUESTS);
        let requests = requests.ok_or_else(|| Unreadable::because(format!("from 1 to {MOST_REQUESTS} requests")))?;
        let per = per.trim();
        let one = if per.starts_with(|first: char| first.is_ascii_alphabetic()) { "1" } else { "" };
        let Positive(per) = <Positive as Text>::parse(&format!("{one}{per}"))?;
        if !(SHORTEST_WINDOW..=LONGEST_WINDOW).contains(&per) {
            return Err(Unreadable::because("a time from one second to 31 days"));
        }
        Ok(Self { requests, per })
    }
}

impl Text for Duration {
    fn expected() -> String {
        String::from("a duration such as \"30s\", \"15m\" or \"1h 30m\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text != "0" {
            return Err(Unreadable::because(format!("with its unit: \"{text}s\"")));
        }
        let duration = humantime::parse_duration(text).map_err(|error| Unreadable::because(error.to_string()))?;
        // Above it, adding to an instant could overflow.
        if duration > LONGEST_DURATION {
            return Err(Unreadable::because("at most ten years"));
        }
        Ok(duration)
    }
}

impl Text for Positive {
    fn expected() -> String {
        String::from("a duration above zero such as \"30s\", \"15m\" or \"1h 30m\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let duration = <Duration as Text>::parse(text)?;
        if duration.is_zero() { Err(Unreadable::default()) } else { Ok(Self(duration)) }
    }
}

impl Decode for Workers {
    fn expected() -> String {
        String::from("\"auto\" (one per core) or a whole number from 1 to 1024")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if node.text() == Some("auto") {
            return Some(Self::Auto);
        }
        let number = match &node.value {
            Value::Integer(number) => u16::try_from(*number).ok(),
            Value::Environment(text) => text.parse().ok(),
            Value::Array(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Float(_)
            | Value::String(_)
            | Value::Table(_) => None,
        };
        let in_bounds = number.filter(|number| (1..=1024).contains(number)).map(Self::Number);
        if in_bounds.is_none() {
            findings.problem(&node.place, node.describe(), Self::expected());
        }
        in_bounds
    }
}

impl Text for String {
    fn expected() -> String {
        Self::from("a string")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        Ok(text.to_owned())
    }
}

impl Text for NonEmpty {
    fn expected() -> String {
        String::from("a string that is not empty")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if text.trim().is_empty() {
            return Err(Unreadable::default());
        }
        if text.trim() != text {
            return Err(Unreadable::because("without blanks at its ends"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Text for Name {
    fn expected() -> String {
        String::from("a name of 1 to 64 letters, digits, `.`, `_` or `-`")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let good = (1..=64).contains(&text.len()) && text.bytes().all(fits);
        if good { Ok(Self(text.to_owned())) } else { Err(Unreadable::default()) }
    }
}

impl Text for FilePath {
    fn expected() -> String {
        String::from("a path")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if text.is_empty() || text.contains('\0') { Err(Unreadable::default()) } else { Ok(Self(text.into())) }
    }
}

impl Text for SocketAddr {
    fn expected() -> String {
        String::from("an address and port such as \"127.0.0.1:8080\" or \"[::]:443\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        text.parse().map_err(|_| match text.split_once(':') {
            Some(("localhost", port)) => Unreadable::because(format!("write \"127.0.0.1:{port}\"")),
            Some(("" | "*", port)) => {
                Unreadable::because(format!("write \"[::]:{port}\" or \"0.0.0.0:{port}\" for every address"))
            }
            Some(_) | None => Unreadable::default(),
        })
    }
}

impl Text for Listener {
    fn expected() -> String {
        String::from(
            "\"https://ADDRESS:PORT\", \"http://ADDRESS:PORT\", \"unix:/PATH\" (with \",mode=0660\" if need be) or \
             \"fd:NAME\" (with \",plain\" for no TLS)",
        )
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if let Some(rest) = text.strip_prefix("https://") {
            return <SocketAddr as Text>::parse(rest.trim_end_matches('/')).map(Self::Https);
        }
        if let Some(rest) = text.strip_prefix("http://") {
            return <SocketAddr as Text>::parse(rest.trim_end_matches('/')).map(Self::Http);
        }
        if let Some(rest) = text.strip_prefix("unix:") {
            let (path, mode) = match rest.split_once(",mode=") {
                Some((path, mode)) => (path, u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777)),
                None => (rest, Some(0o660)),
            };
            let mode = mode.ok_or_else(|| Unreadable::because("a mode is octal, such as `,mode=0660`"))?;
            return Ok(Self::Unix { path: socket_path(path)?, mode });
        }
        if let Some(rest) = text.strip_prefix("fd:") {
            let (which, encrypted) = match rest.split_once(',') {
                None => (rest, true),
                Some((which, "plain")) => (which, false),
                Some(_) => return Err(Unreadable::because("after the comma only `plain` may stand")),
            };
            return Ok(Self::Inherited { which: inherited(which)?, encrypted });
        }
        Err(match <SocketAddr as Text>::parse(text) {
            Ok(_) => Unreadable::because(format!("with its scheme: \"https://{text}\"")),
            Err(_) => Unreadable::default(),
        })
    }
}

/// A number, or a name as sd_listen_fds(3) has them.
fn inherited(which: &str) -> Result<Which, Unreadable> {
    if which.bytes().all(|byte| byte.is_ascii_digit()) && !which.is_empty() {
        let number = which.parse().ok().filter(|number| *number >= 3);
        return number.map(Which::Number).ok_or_else(|| Unreadable::because("the first descriptor is `fd:3`"));
    }
    let fits = (1..=255).contains(&which.len()) && which.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    if !fits {
        return Err(Unreadable::because("a name has 1 to 255 printable characters and no colon"));
    }
    Ok(Which::Name(which.into()))
}

impl Text for Hsts {
    fn expected() -> String {
        String::from("\"off\" or a value such as \"max-age=31536000; includeSubDomains\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let mut directives = text.split(';').map(|directive| directive.trim().to_ascii_lowercase());
        let has_age = directives.any(|directive| {
            directive
                .strip_prefix("max-age=")
                .is_some_and(|age| !age.is_empty() && age.bytes().all(|b| b.is_ascii_digit()))
        });
        match HeaderValue::from_str(text) {
            Ok(value) if has_age => Ok(Self::Value(value)),
            Ok(_) | Err(_) => Err(Unreadable::because("`max-age=SECONDS` is required (RFC 6797 section 6.1.1)")),
        }
    }
}

impl Text for IpNet {
    fn expected() -> String {
        String::from("a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", or one address")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let network: Self = text.parse().map_err(|_| Unreadable::default())?;
        if network != network.trunc() {
            // 10.0.0.1/8 may mean one host or the whole network: in a list of those who are trusted, that matters.
            return Err(Unreadable::because(format!("did you mean {} or {}?", network.trunc(), network.addr())));
        }
        Ok(network)
    }
}

impl Text for IpAddr {
    fn expected() -> String {
        String::from("an IP address")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        text.parse().map_err(|_| Unreadable::default())
    }
}

impl Text for TrustedProxy {
    fn expected() -> String {
        format!("{}, or \"unix\" for the peers of unix sockets", <IpNet as Text>::expected())
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if text == "unix" { Ok(Self::UnixPeers) } else { <IpNet as Text>::parse(text).map(Self::Network) }
    }
}

impl Text for NameServer {
    fn expected() -> String {
        String::from("an address, with a port if it is not 53, such as \"10.0.0.53\" or \"[fd00::53]:5353\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let bare = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        let address = text.parse::<SocketAddr>().ok().or_else(|| bare().ok());
        // Nobody listens there.
        let possible = address.filter(|address| address.port() != 0 && !address.ip().is_unspecified());
        possible.map(Self).ok_or_else(Unreadable::default)
    }
}

impl Text for Sink {
    fn expected() -> String {
        String::from("\"stdout\", \"stderr\", \"off\" or the path of a file")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        match text {
            "off" => Ok(Self::Off),
            "stderr" => Ok(Self::Stderr),
            "stdout" => Ok(Self::Stdout),
            path if path.contains('/') => Ok(Self::File(path.into())),
            // A misspelt word must not become a file of that name.
            other => Err(Unreadable::because(match did_you_mean(other, ["off", "stderr", "stdout"]) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("a file is written with a slash: \"./{other}\""),
            })),
        }
    }
}

impl Text for LogLevel {
    fn expected() -> String {
        String::from("a level such as \"info\", or a filter such as \"info,portcullis::login=debug\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        match text.parse::<tracing_subscriber::filter::Targets>() {
            Ok(_) if !text.is_empty() => Ok(Self(text.to_owned())),
            Ok(_) => Err(Unreadable::default()),
            Err(error) => Err(Unreadable::because(error.to_string())),
        }
    }
}

impl Text for Host {
    fn expected() -> String {
        String::from("a host name or address without scheme and port")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        text.parse().map_err(|error: HostError| {
            let inner = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
            match inner.parse::<Authority>() {
                Ok(authority) => Unreadable::because(format!("did you mean {:?}?", authority.host.as_str())),
                Err(_) if text.starts_with("*.") => {
                    Unreadable::because("each host is written out; there are no wildcards")
                }
                Err(_) if text.parse::<std::net::Ipv6Addr>().is_ok() => {
                    Unreadable::because(format!("an IPv6 address stands in brackets: \"[{text}]\""))
                }
                Err(_) => Unreadable::because(explain(error)),
            }
        })
    }
}

impl Text for CertificateName {
    fn expected() -> String {
        String::from("a host name or IP address")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let bracketed = text.parse::<std::net::Ipv6Addr>().ok().map(|address| format!("[{address}]"));
        bracketed.as_deref().unwrap_or(text).parse().map(Self).map_err(|_| Unreadable::default())
    }
}

impl Text for CookieName {
    fn expected() -> String {
        String::from("a cookie name, best one that begins with `__Host-`")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let good = (1..=64).contains(&text.len()) && text.bytes().all(fits);
        if good { Ok(Self(text.to_owned())) } else { Err(Unreadable::default()) }
    }
}

impl Text for Color {
    fn expected() -> String {
        String::from("a colour such as \"#1f5fbf\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        page::Color::parse(text).map(Self).ok_or_else(Unreadable::default)
    }
}

impl Text for LanguageTag {
    fn expected() -> String {
        String::from("a language tag such as \"en\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        Ok(Self(text.to_owned()))
    }
}

impl Text for Prefix {
    fn expected() -> String {
        String::from("a path such as \"/_auth\": letters, digits, `-` and `_` after each `/`")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let segment = |segment: &str| {
            !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let good = text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment));
        if good { Ok(Self(text.to_owned())) } else { Err(Unreadable::default()) }
    }
}

impl Text for CheckPath {
    fn expected() -> String {
        String::from("a path such as \"/healthz\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let path = text.parse::<PathAndQuery>().ok().filter(|path| path.as_str() == text && text.starts_with('/'));
        path.map(Self).ok_or_else(Unreadable::default)
    }
}

impl Text for ServerUrl {
    fn expected() -> String {
        String::from(
            "\"http://HOST:PORT\", \"https://HOST:PORT\", \"h2c://HOST:PORT\", \"unix:/PATH\", \"unix+h2c:/PATH\" or \"echo:\"",
        )
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if text == "echo:" {
            return Ok(Self::Echo);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(Self::Unix);
        }
        if let Some(path) = text.strip_prefix("unix+h2c:") {
            return socket_path(path).map(Self::UnixH2c);
        }
        let authority = |rest: &str| {
            if rest.contains('@') {
                return Err(Unreadable::secret("a server's URL carries no user and password"));
            }
            let bare = rest.strip_suffix('/').unwrap_or(rest);
            if bare.contains(['/', '?', '#']) {
                return Err(Unreadable::because("without a path: requests keep their own"));
            }
            bare.parse::<Authority>().map_err(|error| Unreadable::because(explain(error)))
        };
        match text.split_once("://") {
            Some(("h2c", rest)) => authority(rest).map(Self::H2c),
            Some(("http", rest)) => authority(rest).map(Self::Http),
            Some(("https", rest)) => authority(rest).map(Self::Https),
            Some(_) => Err(Unreadable { help: None, secret: text.contains('@') }),
            None => match text.parse::<Authority>() {
                Ok(_) => Err(Unreadable::because(format!("with its scheme: \"http://{text}\""))),
                Err(_) => Err(Unreadable::default()),
            },
        }
    }
}

impl Text for fetch::Url {
    fn expected() -> String {
        String::from("an https URL, such as \"https://id.example.com/keys\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        // User information may be a password.
        let secret = text.split(['/', '?', '#']).nth(2).is_some_and(|authority| authority.contains('@'));
        text.parse().map_err(|error: fetch::UrlError| Unreadable { help: Some(error.to_string()), secret })
    }
}

/// The way to other people's servers.
#[derive(Clone, Debug)]
pub(super) enum OutboundProxy {
    /// `HTTPS_PROXY` and `NO_PROXY`.
    Environment,
    /// This one.
    Through(fetch::Proxy),
}

impl Text for OutboundProxy {
    fn expected() -> String {
        String::from("\"http://host:port\", or \"environment\" for HTTPS_PROXY and NO_PROXY")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if text == "environment" {
            return Ok(Self::Environment);
        }
        text.parse().map(Self::Through).map_err(|_| Unreadable { help: None, secret: text.contains('@') })
    }
}

impl Text for HostPolicy {
    fn expected() -> String {
        String::from("\"keep\" (what the client asked for), \"upstream\" (the server's own) or a host name")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        match text {
            "keep" => Ok(Self::Keep),
            "upstream" => Ok(Self::Upstream),
            name => <Host as Text>::parse(name).map(Self::Name),
        }
    }
}

impl Text for RoutePath {
    fn expected() -> String {
        String::from("a path such as \"/users/{id}\" or \"/app/{*rest}\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        match text.parse::<PathPattern>() {
            Ok(pattern) => Ok(Self { text: text.to_owned(), pattern }),
            Err(error) => Err(Unreadable::because(error.to_string())),
        }
    }
}

impl RoutePath {
    /// Whether `{name}` is one of its parameters; `{*name}` spans segments and cannot be compared.
    pub(super) fn has_parameter(&self, name: &str) -> bool {
        let parameter = |segment: &str| segment.strip_prefix('{')?.strip_suffix('}').map(str::to_owned);
        self.text.split('/').any(|segment| parameter(segment).is_some_and(|found| found == name))
    }
}

impl Text for AuthName {
    fn expected() -> String {
        String::from("`session`, `jwt`, `jwt:<issuer>`, `api_key`, `mtls`, `mtls:<ca>` or `none`")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        match text.split_once(':') {
            None if text == "api_key" => Ok(Self::ApiKey),
            None if text == "jwt" => Ok(Self::Jwt(None)),
            None if text == "mtls" => Ok(Self::Mtls(None)),
            None if text == "none" => Ok(Self::None),
            None if text == "session" => Ok(Self::Session),
            Some(("jwt", name)) if !name.is_empty() => Ok(Self::Jwt(Some(name.to_owned()))),
            Some(("mtls", name)) if !name.is_empty() => Ok(Self::Mtls(Some(name.to_owned()))),
            None | Some(_) => Err(match did_you_mean(text, ["api_key", "jwt", "mtls", "none", "session"]) {
                Some(meant) => Unreadable::because(format!("did you mean `{meant}`?")),
                None => Unreadable::default(),
            }),
        }
    }
}

impl Text for ApiKeyId {
    fn expected() -> String {
        String::from("the id that `portcullis keys make` prints: 16 of a-z and 2-7")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if text.starts_with(PREFIX) {
            return Err(Unreadable::because("the key itself belongs to its owner alone; make another one"));
        }
        KeyId::parse(text).map(Self).ok_or_else(Unreadable::default)
    }
}

impl Text for Sha256 {
    fn expected() -> String {
        String::from("a SHA-256: 64 hexadecimal digits")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        // Names of sessions are written in the same form.
        SessionKey::parse(text).map(|sha256| Self(*sha256.bytes())).ok_or_else(Unreadable::default)
    }
}

impl Text for Moment {
    fn expected() -> String {
        String::from("a time in UTC such as \"2030-12-31T00:00:00Z\" or \"2030-12-31\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let is_day = text.len() == DAY_LENGTH;
        let full = if is_day { format!("{text}T00:00:00Z") } else { text.to_owned() };
        let moment = humantime::parse_rfc3339(&full).map_err(|_| Unreadable::default())?;
        let since_epoch = moment.duration_since(std::time::UNIX_EPOCH).map_err(|_| Unreadable::default())?;
        Ok(Self(Timestamp::default().plus(since_epoch)))
    }
}

impl Text for Method {
    fn expected() -> String {
        String::from("a method such as \"GET\" or \"POST\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if matches!(text, "CONNECT" | "TRACE" | "TRACK") {
            return Err(Unreadable::because("the gateway answers CONNECT, TRACE and TRACK with 405 (R11)"));
        }
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            return Err(Unreadable::because(format!("methods are case-sensitive: \"{}\"", text.to_ascii_uppercase())));
        }
        Self::from_bytes(text.as_bytes()).map_err(|_| Unreadable::default())
    }
}

impl Text for HeaderName {
    fn expected() -> String {
        String::from("a header name of letters, digits and `-`")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        match Self::from_bytes(text.as_bytes()) {
            Ok(name) if plain => Ok(name),
            Ok(_) | Err(_) => Err(Unreadable::default()),
        }
    }
}

impl Text for HeaderValue {
    fn expected() -> String {
        String::from("a header value")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        Self::from_str(text).map_err(|_| Unreadable::default())
    }
}

impl Decode for StatusCode {
    fn expected() -> String {
        String::from("a status from 200 to 599")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        let number = Number::<200, 599>::decode(node, findings)?;
        u16::try_from(number.0).ok().and_then(|status| Self::from_u16(status).ok())
    }
}

impl Text for Origin {
    fn expected() -> String {
        String::from("an origin such as \"https://app.example.com\" (no path)")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let (scheme, rest) = text.split_once("://").ok_or_else(Unreadable::default)?;
        let default_port = match scheme {
            "https" => Scheme::Https.default_port(),
            "http" => Scheme::Http.default_port(),
            _ => return Err(Unreadable::default()),
        };
        if let Some(bare) = rest.strip_suffix('/') {
            return Err(Unreadable::because(format!("without the slash: \"{scheme}://{bare}\"")));
        }
        let authority: Authority = rest.parse().map_err(|error| Unreadable::because(explain(error)))?;
        // Browsers leave out the scheme's own port (RFC 6454 section 6.2).
        Ok(Self(match authority.port {
            Some(port) if port != default_port => format!("{scheme}://{}:{port}", authority.host),
            Some(_) | None => format!("{scheme}://{}", authority.host),
        }))
    }
}

impl Text for CorsOrigin {
    fn expected() -> String {
        format!("{}, or \"*\"", <Origin as Text>::expected())
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if text == "*" { Ok(Self::Any) } else { Origin::parse(text).map(|origin| Self::One(origin.0)) }
    }
}

impl Text for PathPrefix {
    fn expected() -> String {
        String::from("the beginning of a path, such as \"/users\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        text.parse().map(Self).map_err(Unreadable::because)
    }
}

impl Text for PathTemplate {
    fn expected() -> String {
        String::from("a path such as \"/v2/{id}\" or \"/v2/{*rest}\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        text.parse().map(Self).map_err(Unreadable::because)
    }
}

impl Text for Location {
    fn expected() -> String {
        String::from("a URL \"https://HOST/PATH\" or a path that begins with one `/`")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if text.contains('{') {
            // Never in the host: whoever chooses the path would choose where it leads.
            let path =
                text.split_once("://").map_or(Some(0), |(scheme, rest)| Some(scheme.len() + 3 + rest.find('/')?));
            let (origin, path) = text.split_at(path.unwrap_or(text.len()));
            let text = match origin {
                "" => HeaderValue::from_static(""),
                origin if origin.contains(['{', '}']) => {
                    return Err(Unreadable::because("parameters stand in the path only"));
                }
                origin => Self::parse(origin)?.text,
            };
            let template = path.parse().map_err(Unreadable::because)?;
            return Ok(Self { text, template: Some(template) });
        }
        let local = text.starts_with('/') && !text.starts_with("//") && !text.contains('\\');
        let visible = text.bytes().all(|b| (0x21..0x7f).contains(&b));
        let absolute = (text.starts_with("https://") || text.starts_with("http://"))
            && text.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        match HeaderValue::from_str(text) {
            Ok(text) if visible && (local || absolute) => Ok(Self { text, template: None }),
            Ok(_) | Err(_) => Err(Unreadable::default()),
        }
    }
}

impl Decode for Claim {
    fn expected() -> String {
        String::from("a claim: \"name\", \"nested.name\" or exact steps as an array of strings")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if let Value::Array(_) = &node.value {
            let steps = Vec::<NonEmpty>::decode(node, findings)?;
            if !steps.is_empty() {
                return Some(Self(ClaimPath::steps(steps.into_iter().map(|step| step.0))));
            }
        } else if let Some(path) = node.text().and_then(dotted) {
            return Some(Self(path));
        }
        let problem = findings.problem(&node.place, node.describe(), Self::expected());
        if node.text().is_some_and(|text| text.contains("://")) {
            problem
                .help("a name with dots or colons of its own is written as an array: [\"https://example.com/roles\"]");
        }
        None
    }
}

/// A string cut at its dots; `None` for empty steps, and for names that are URLs and would be cut in their middle.
pub(super) fn dotted(text: &str) -> Option<ClaimPath> {
    let good = !text.contains("://") && text.split('.').all(|step| !step.is_empty() && step.trim() == step);
    good.then(|| ClaimPath::dotted(text))
}

impl Text for PasswordHash {
    fn expected() -> String {
        String::from("a hash: argon2id ($argon2id$v=19$…) or bcrypt ($2b$…)")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        if accounts::looks_like_a_hash(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Unreadable::secret(
            "`portcullis hash-password` makes one; neither crypt(3) nor passwords in the clear are read",
        ))
    }
}

impl Text for RequestLine {
    fn expected() -> String {
        String::from("a method and a URL: \"GET https://host/path\"")
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let (method, url) = text.split_once(' ').ok_or_else(Unreadable::default)?;
        // Any method: that TRACE is refused is a fine thing to test.
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| Unreadable::default())?;
        let uri: Uri = url.parse().map_err(|_| Unreadable::default())?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(_) | None => return Err(Unreadable::because("an absolute URL: https://host/path")),
        };
        let authority = uri.authority().and_then(|authority| authority.as_str().parse().ok());
        let authority = authority.ok_or_else(|| Unreadable::because("the URL needs a real host"))?;
        Ok(Self { method, scheme, authority, uri })
    }
}

impl Decode for Json {
    fn expected() -> String {
        String::from("a string, number, boolean, array or table")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        let value = match &node.value {
            Value::Array(elements) => {
                let items: Option<Vec<_>> =
                    elements.iter().map(|item| Self::decode(item, findings).map(|item| item.0)).collect();
                serde_json::Value::Array(items?)
            }
            Value::Boolean(value) => (*value).into(),
            Value::Environment(text) | Value::String(text) | Value::Datetime(text) => text.as_str().into(),
            Value::Float(number) => (*number).into(),
            Value::Integer(number) => match i64::try_from(*number) {
                Ok(number) => number.into(),
                Err(_) => {
                    findings.problem(&node.place, node.describe(), Self::expected());
                    return None;
                }
            },
            Value::Table(entries) => {
                let mut members = serde_json::Map::new();
                for entry in entries {
                    members.insert(entry.key.clone(), Self::decode(&entry.node, findings)?.0);
                }
                serde_json::Value::Object(members)
            }
        };
        Some(Self(value))
    }
}

/// A size: digits and a unit.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.replace('_', "").parse().ok()?;
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Of a day without a time, which means its beginning.
const DAY_LENGTH: usize = "2030-12-31".len();
/// Above it a limit limits nothing.
const MOST_REQUESTS: u32 = 10_000_000;
/// Time is told in milliseconds, and clients are told in seconds.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
const LONGEST_WINDOW: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// A path for a unix socket; the kernel takes 107 bytes (unix(7)).
fn socket_path(text: &str) -> Result<PathBuf, Unreadable> {
    match text.strip_prefix("//").map_or(text, |rest| rest) {
        path if path.is_empty() || path.contains(['\0', ',']) => Err(Unreadable::default()),
        path if path.len() > 107 => Err(Unreadable::because("a socket's path has at most 107 bytes")),
        path => Ok(path.into()),
    }
}

fn explain(error: HostError) -> &'static str {
    match error {
        HostError::BadPort => "a port is a decimal number from 1 to 65535",
        HostError::Empty => "the host is missing",
        HostError::NotAHost => "a host is a name, an IPv4 address or an IPv6 address in brackets",
    }
}

const LONGEST_DURATION: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
const UNITS: &str = "units are B, KiB, MiB, GiB (and kB, MB, GB for powers of ten)";

#[cfg(test)]
mod tests {
    use super::*;

    fn reads<T: Text>(text: &str) -> Option<T> {
        T::parse(text).ok()
    }

    #[test]
    fn sizes_have_units_or_are_bytes() {
        for (text, expect) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("1_000B", Some(1000)),
            ("4KiB", Some(4096)),
            ("4 KiB", Some(4096)),
            ("1kB", Some(1000)),
            ("1GiB", Some(1 << 30)),
            ("1K", None),
            ("KiB", None),
            ("-1", None),
            ("1.5MiB", None),
            ("99999999999999GiB", None),
        ] {
            assert_eq!(bytes(text), expect, "{text:?}");
        }
    }

    #[test]
    fn durations_are_bounded_and_need_a_unit() {
        assert_eq!(reads::<Duration>("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(reads::<Duration>("0s"), Some(Duration::ZERO));
        assert!(reads::<Positive>("0s").is_none());
        for text in ["", "30", "1000years", "-1s", "soon"] {
            assert!(reads::<Duration>(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn listeners_say_their_scheme() {
        let unix = |path: &str, mode| Some(Listener::Unix { path: path.into(), mode });
        assert_eq!(reads::<Listener>("unix:/run/p.sock"), unix("/run/p.sock", 0o660));
        assert_eq!(reads::<Listener>("unix:///run/p.sock,mode=0600"), unix("/run/p.sock", 0o600));
        let inherited = |which, encrypted| Some(Listener::Inherited { which, encrypted });
        assert_eq!(reads::<Listener>("fd:3"), inherited(Which::Number(3), true));
        assert_eq!(reads::<Listener>("fd:web,plain"), inherited(Which::Name("web".into()), false));
        assert!(matches!(reads::<Listener>("https://[::]:443"), Some(Listener::Https(_))));
        assert!(matches!(reads::<Listener>("http://127.0.0.1:0/"), Some(Listener::Http(_))));
        let long = format!("unix:/{}", "x".repeat(107));
        for text in [
            "",
            "fd:",
            "fd:2",
            "fd:a:b",
            "fd:web,tls",
            "127.0.0.1:80",
            "https://localhost:443",
            "unix:",
            "unix:/p,mode=1777",
            &long,
        ] {
            assert!(reads::<Listener>(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn origins_are_read_in_the_form_that_browsers_send() {
        for (text, expect) in [
            ("https://A.example", Some("https://a.example")),
            ("https://a.example:443", Some("https://a.example")),
            ("http://a.example:443", Some("http://a.example:443")),
            ("https://[::1]:8443", Some("https://[::1]:8443")),
            ("https://a.example/", None),
            ("https://a.example/path", None),
            ("https://user@a.example", None),
            ("a.example", None),
            ("null", None),
            ("ws://a.example", None),
        ] {
            assert_eq!(reads::<Origin>(text).map(|origin| origin.0).as_deref(), expect, "{text:?}");
        }
    }

    #[test]
    fn redirects_lead_to_a_local_path_or_a_full_url() {
        for text in ["/", "/app/?a=b", "https://a.example/x", "http://a.example"] {
            assert!(reads::<Location>(text).is_some(), "{text:?}");
        }
        for text in ["", "app", "//evil.example", "/\\evil.example", "javascript:x", "https://", "/a b", "/a\r\nb"] {
            assert!(reads::<Location>(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_rate_of_requests_says_how_many_and_in_what_time() {
        let rate = |requests, seconds| Some(RequestRate { requests, per: Duration::from_secs(seconds) });
        for (text, expect) in [
            ("20/1s", rate(20, 1)),
            ("20/s", rate(20, 1)),
            ("1_000 / 1h", rate(1000, 3600)),
            ("5/15m", rate(5, 900)),
            ("1/31d", rate(1, 31 * 86_400)),
            ("0/1s", None),
            ("-1/1s", None),
            ("20", None),
            ("20/", None),
            ("20/0s", None),
            ("20/10ms", None),
            ("20/32d", None),
            ("20000000/1s", None),
            ("20/1s/2", None),
        ] {
            assert_eq!(reads::<RequestRate>(text), expect, "{text:?}");
        }
    }

    #[test]
    fn networks_say_exactly_what_they_mean() {
        assert_eq!(reads::<IpNet>("10.0.0.1").map(|net| net.to_string()).as_deref(), Some("10.0.0.1/32"));
        assert_eq!(reads::<IpNet>("2001:db8::/32").map(|net| net.to_string()).as_deref(), Some("2001:db8::/32"));
        for text in ["", "10.0.0.1/8", "10.0.0.0/33", "localhost"] {
            assert!(reads::<IpNet>(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_parameter_that_spans_segments_cannot_be_compared() {
        let path = reads::<RoutePath>("/users/{id}/{*rest}").expect("a path");
        assert!(path.has_parameter("id"));
        assert!(!path.has_parameter("rest"));
        assert!(!path.has_parameter("users"));
    }
}
