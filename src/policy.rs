//! What a route asks of its callers, as data. `config` makes these, `authz` alone evaluates them.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::{host::Host, identity::Factor};

/// How one gets through a route.
#[derive(Clone, Debug)]
pub enum Access {
    /// `auth = ["none"]`: nobody is asked; no credential is looked at.
    Public {
        /// `pass_authorization`: whether a client's `Authorization` goes upstream (R14).
        pass_authorization: bool,
    },
    /// A credential is asked for.
    Authenticated(AccessRule),
}

impl Access {
    /// The path parameters that rules look at (R6).
    pub fn path_parameters(&self) -> impl Iterator<Item = &str> {
        let rules = match self {
            Self::Public { .. } => None,
            Self::Authenticated(rule) => Some(&rule.require),
        };
        let all = rules.into_iter().flat_map(|rules| rules.any.iter().chain(&rules.all).chain(&rules.none));
        all.filter_map(|requirement| match requirement {
            Requirement::PathEquals { parameter, .. } => Some(&**parameter),
            Requirement::Claim { .. }
            | Requirement::Email(_)
            | Requirement::Group(_)
            | Requirement::Ip(_)
            | Requirement::Mtls { .. }
            | Requirement::Role(_)
            | Requirement::Scope(_)
            | Requirement::User(_) => None,
        })
    }

    /// Whether somebody may pass here who may not pass there. Which credentials count is not compared.
    pub fn is_laxer_than(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Public { .. }) => false,
            (Self::Public { .. }, Self::Authenticated(_)) => true,
            (Self::Authenticated(this), Self::Authenticated(other)) => {
                (this.optional && !other.optional)
                    || this.proof.is_laxer_than(other.proof)
                    || this.require.is_laxer_than(&other.require)
            }
        }
    }
}

/// Which credentials count and what their holder must be. By default none counts.
#[derive(Clone, Debug, Default)]
pub struct AccessRule {
    /// `session`: whether a session cookie counts.
    pub session: bool,
    /// `api_key`: the header beside `Authorization: Bearer` in which API keys come; `None`: none counts.
    pub api_key: Option<HeaderName>,
    /// `jwt` or `jwt:<name>`: the issuers whose bearer tokens count, by their index in the snapshot; empty: none.
    pub issuers: Box<[usize]>,
    /// `mtls` or `mtls:<name>`: the authorities whose client certificates count, by their index in the snapshot; empty:
    /// none.
    pub mtls: Box<[usize]>,
    /// The authorities that `require` names: a certificate that comes must be good under one of them.
    pub certificates: Box<[usize]>,
    /// `proof`: what tokens must be bound to, to count here.
    pub proof: ProofRule,
    /// `optional`: a request without any credential passes without identity (R4).
    pub optional: bool,
    /// What must hold of the caller.
    pub require: Requirements,
    /// `forward_credential`: a verified `Authorization` goes upstream (R14).
    pub forward_credential: bool,
    /// `touch`: whether a request counts as activity of its session (R26).
    pub touch: bool,
}

/// `proof`: what a token must be bound to (RFC 7800), so that whoever steals it cannot use it. Whatever it is bound to
/// is checked in any case; this says that a token which is not does not count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ProofRule {
    /// Nothing is asked: bearer tokens count, too.
    #[default]
    None,
    /// To a key or to a certificate.
    Any,
    /// To a key, which each request proves to hold by DPoP (RFC 9449).
    Dpop,
    /// To the certificate of the TLS connection (RFC 8705).
    Mtls,
}

impl ProofRule {
    /// Whether tokens that are bound to a key, and come with DPoP, are what is asked for.
    pub const fn asks_for_dpop(self) -> bool {
        match self {
            Self::Any | Self::Dpop => true,
            Self::None | Self::Mtls => false,
        }
    }

    /// Whether what is asked for may be a certificate, so that clients must be able to show theirs.
    pub const fn takes_certificates(self) -> bool {
        match self {
            Self::Any | Self::Mtls => true,
            Self::None | Self::Dpop => false,
        }
    }

    /// Whether tokens may come by `Authorization: Bearer`.
    pub const fn takes_bearer(self) -> bool {
        match self {
            Self::None | Self::Any | Self::Mtls => true,
            Self::Dpop => false,
        }
    }

    /// Whether some token meets this one and not the other.
    pub fn is_laxer_than(self, other: Self) -> bool {
        match (self, other) {
            (_, Self::None) => false,
            (this, Self::Any) => this == Self::None,
            (this, other @ (Self::Dpop | Self::Mtls)) => this != other,
        }
    }
}

/// Every part that is present must hold.
#[derive(Clone, Debug, Default)]
pub struct Requirements {
    /// At least one holds; empty asks nothing.
    pub any: Box<[Requirement]>,
    /// All hold.
    pub all: Box<[Requirement]>,
    /// None holds.
    pub none: Box<[Requirement]>,
    /// `auth_time` is known and at most this long ago (R6).
    pub max_auth_age: Option<Duration>,
    /// The login took at least as many factors.
    pub factor: Factor,
}

impl Requirements {
    /// Whether nothing is asked beyond a valid credential.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.all.is_empty() && self.none.is_empty() && !self.asks_for_login()
    }

    /// Whether how or when somebody logged in is asked, which another login can mend.
    pub fn asks_for_login(&self) -> bool {
        self.max_auth_age.is_some() || self.factor > Factor::One
    }

    /// Whether these do not imply the others, as far as their texts tell.
    pub fn is_laxer_than(&self, other: &Self) -> bool {
        let implied_any = other.any.is_empty()
            || (!self.any.is_empty() && self.any.iter().all(|rule| other.any.contains(rule)))
            || self.all.iter().any(|rule| other.any.contains(rule));
        let implied_all = other.all.iter().all(|rule| self.all.contains(rule) || *self.any == [rule.clone()]);
        let implied_none = other.none.iter().all(|rule| self.none.contains(rule));
        let implied_age = other.max_auth_age.is_none_or(|most| self.max_auth_age.is_some_and(|age| age <= most));
        !(implied_any && implied_all && implied_none && implied_age && self.factor >= other.factor)
    }
}

/// One condition, as written in `require`. For an anonymous caller every one of them is false (R4).
#[derive(Clone, Debug, PartialEq)]
pub enum Requirement {
    /// `claim:a.b=value`: the claim at this path is exactly this string; an array or a number never is (R6).
    Claim {
        /// Where in the claims (R25).
        path: ClaimPath,
        /// The exact text.
        equals: Box<str>,
    },
    /// `email:alice@example.com`; only a verified email counts.
    Email(Box<str>),
    /// `group:ops`.
    Group(Box<str>),
    /// `ip:10.0.0.0/8`: the client's address lies in the network.
    Ip(IpNet),
    /// `mtls` or `mtls:<name>`: the connection has a valid client certificate, whoever it is of.
    Mtls {
        /// The authority's name; `None`: the only one.
        ca: Option<Box<str>>,
    },
    /// `path:id == sub` (or `name`, `email`, `claim:…`): the segment, decoded once, equals the value (R6).
    PathEquals {
        /// Name of the path parameter.
        parameter: Box<str>,
        /// What it is compared with.
        value: IdentityValue,
    },
    /// `role:admin`.
    Role(Box<str>),
    /// `scope:orders.read`.
    Scope(Box<str>),
    /// `user:alice`: the subject.
    User(Box<str>),
}

/// A single-valued property of an identity.
#[derive(Clone, Debug, PartialEq)]
pub enum IdentityValue {
    /// A claim that is a string.
    Claim(ClaimPath),
    /// The verified email.
    Email,
    /// The display name.
    Name,
    /// The subject.
    Subject,
}

/// Exact steps into nested claims (R25).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClaimPath(Arc<[Box<str>]>);

impl ClaimPath {
    /// `realm_access.roles`: a string cut at its dots.
    pub fn dotted(path: &str) -> Self {
        Self(path.split('.').map(Into::into).collect())
    }

    /// `["https://example.com/roles"]`: steps as they are.
    pub fn steps(steps: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        Self(steps.into_iter().map(Into::into).collect())
    }

    /// The steps, outermost first.
    pub fn as_steps(&self) -> &[Box<str>] {
        &self.0
    }

    /// Puts a value at this path; what stands in its way is replaced.
    pub fn set(&self, claims: &mut serde_json::Map<String, serde_json::Value>, value: serde_json::Value) {
        let Some((last, steps)) = self.0.split_last() else { return };
        let mut inner = claims;
        for step in steps {
            let next = inner.entry(step.to_string()).or_insert_with(|| serde_json::Value::Object(Default::default()));
            if !next.is_object() {
                *next = serde_json::Value::Object(Default::default());
            }
            let serde_json::Value::Object(next) = next else { return };
            inner = next;
        }
        inner.insert(last.to_string(), value);
    }

    /// The value at this path, if every step is there.
    pub fn find<'a>(&self, claims: &'a serde_json::Map<String, serde_json::Value>) -> Option<&'a serde_json::Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(&**first)?, |value, step| value.as_object()?.get(&**step))
    }
}

/// Whose requests with ambient credentials count (R31).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Csrf {
    /// Same origin; neither `Sec-Fetch-Site` nor `Origin`: refused.
    #[default]
    SameOrigin,
    /// Same origin or one of these origins, `scheme://host[:port]`.
    Origins(Box<[Box<str>]>),
    /// As `SameOrigin`, but a request with neither header passes.
    AllowNoOrigin,
    /// Not checked.
    Off,
    /// As `SameOrigin`, for every method but navigations that only read.
    Strict,
}

/// What a route changes of the headers of its requests, or of the answers to them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeaderEdits {
    /// Names with the one value that each then has.
    pub set: Box<[(HeaderName, HeaderValue)]>,
    /// Every name that does not pass as it came: those that are set, and those that are removed.
    pub replaced: Box<[HeaderName]>,
}

/// Who may read answers across origins; preflights are answered by the gateway (R32).
#[derive(Clone, Debug, PartialEq)]
pub struct Cors {
    /// Exact origins; empty with `any_origin`.
    pub origins: Box<[Box<str>]>,
    /// `origins = ["*"]`; never with credentials.
    pub any_origin: bool,
    /// `Access-Control-Allow-Headers`, joined; empty: none beyond the safelisted.
    pub allow_headers: Box<str>,
    /// `Access-Control-Expose-Headers`, joined; empty: none.
    pub expose_headers: Box<str>,
    /// `Access-Control-Allow-Methods`, joined.
    pub allow_methods: Box<str>,
    /// `Access-Control-Allow-Credentials`.
    pub credentials: bool,
    /// `Access-Control-Max-Age`.
    pub max_age: Duration,
}

/// `[maintenance]`: hosts that serve nobody for a while, but for some.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Maintenance {
    /// Which hosts; `None`: all.
    pub hosts: Option<Box<[Host]>>,
    /// Addresses that are served all the same.
    pub except: Box<[IpNet]>,
    /// When to come again.
    pub retry_after: Duration,
}

impl Maintenance {
    /// Whether this client is not served on this host now.
    pub fn closes(&self, host: &Host, client: IpAddr) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.contains(host))
            && !self.except.iter().any(|network| network.contains(&client))
    }
}

/// What one source of identities may say of its subjects (R5).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Grants {
    /// Whatever it says.
    #[default]
    All,
    /// Only these; the rest is dropped and counted.
    Only {
        /// Roles that may pass.
        roles: Box<[Box<str>]>,
        /// Groups that may pass.
        groups: Box<[Box<str>]>,
        /// Scopes that may pass; `None`: all of an issuer's, which are its own business, and none of an API key's.
        scopes: Option<Box<[Box<str>]>>,
    },
}

impl Grants {
    /// Drops what this source may not grant; returns how many values went.
    pub fn filter<T: AsRef<str>>(&self, roles: &mut Vec<T>, groups: &mut Vec<T>) -> usize {
        let Self::Only { roles: allowed_roles, groups: allowed_groups, scopes: _ } = self else {
            return 0;
        };
        keep_only(roles, allowed_roles) + keep_only(groups, allowed_groups)
    }

    /// Drops scopes that this issuer may not grant; returns how many went.
    pub fn filter_scopes(&self, scopes: &mut Vec<impl AsRef<str>>) -> usize {
        match self {
            Self::All | Self::Only { scopes: None, .. } => 0,
            Self::Only { scopes: Some(allowed), .. } => keep_only(scopes, allowed),
        }
    }

    /// Drops scopes that this source may not give an API key; returns how many went.
    pub fn filter_key_scopes(&self, scopes: &mut Vec<String>) -> usize {
        match self {
            Self::All => 0,
            Self::Only { scopes: allowed, .. } => keep_only(scopes, allowed.as_deref().unwrap_or_default()),
        }
    }
}

fn keep_only(values: &mut Vec<impl AsRef<str>>, allowed: &[Box<str>]) -> usize {
    let before = values.len();
    values.retain(|value| allowed.iter().any(|allowed| **allowed == *value.as_ref()));
    before - values.len()
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim { path, equals } => write!(f, "claim:{path}={equals}"),
            Self::Email(email) => write!(f, "email:{email}"),
            Self::Group(group) => write!(f, "group:{group}"),
            Self::Ip(network) => write!(f, "ip:{network}"),
            Self::Mtls { ca: None } => f.write_str("mtls"),
            Self::Mtls { ca: Some(ca) } => write!(f, "mtls:{ca}"),
            Self::PathEquals { parameter, value } => write!(f, "path:{parameter} == {value}"),
            Self::Role(role) => write!(f, "role:{role}"),
            Self::Scope(scope) => write!(f, "scope:{scope}"),
            Self::User(user) => write!(f, "user:{user}"),
        }
    }
}

impl fmt::Display for IdentityValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(path) => write!(f, "claim:{path}"),
            Self::Email => f.write_str("email"),
            Self::Name => f.write_str("name"),
            Self::Subject => f.write_str("sub"),
        }
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> Requirement {
        Requirement::Role(name.into())
    }

    fn all<const N: usize>(rules: [Requirement; N]) -> Requirements {
        Requirements { all: Box::new(rules), ..Requirements::default() }
    }

    fn any<const N: usize>(rules: [Requirement; N]) -> Requirements {
        Requirements { any: Box::new(rules), ..Requirements::default() }
    }

    #[test]
    fn rules_are_laxer_where_they_do_not_imply_the_others() {
        let aged = |hours: u64| Requirements { max_auth_age: Some(Duration::from_secs(hours * 3600)), ..all([]) };
        let two = Requirements { factor: Factor::Two, ..all([]) };
        let (a, b) = (role("a"), role("b"));
        for (name, this, other, laxer) in [
            ("nothing, something", all([]), all([a.clone()]), true),
            ("something, nothing", all([a.clone()]), all([]), false),
            ("same", all([a.clone()]), all([a.clone()]), false),
            ("more", all([a.clone(), b.clone()]), all([a.clone()]), false),
            ("other", all([b.clone()]), all([a.clone()]), true),
            ("one, one of two", any([a.clone()]), any([a.clone(), b.clone()]), false),
            ("one of two, one", any([a.clone(), b.clone()]), any([a.clone()]), true),
            ("all, one of two", all([a.clone()]), any([a.clone(), b.clone()]), false),
            ("only one of any, all", any([a.clone()]), all([a.clone()]), false),
            ("one of two, all", any([a.clone(), b]), all([a]), true),
            ("younger, older", aged(1), aged(2), false),
            ("older, younger", aged(2), aged(1), true),
            ("one factor, two", all([]), two.clone(), true),
            ("two factors, one", two, all([]), false),
        ] {
            assert_eq!(this.is_laxer_than(&other), laxer, "{name}");
        }
    }

    #[test]
    fn public_is_laxer_than_optional_and_optional_than_required() {
        let rule = |optional| Access::Authenticated(AccessRule { session: true, optional, ..AccessRule::default() });
        let public = Access::Public { pass_authorization: false };

        assert!(public.is_laxer_than(&rule(true)) && rule(true).is_laxer_than(&rule(false)));
        assert!(!rule(false).is_laxer_than(&rule(true)) && !rule(true).is_laxer_than(&public));
        assert!(!public.is_laxer_than(&public) && !rule(false).is_laxer_than(&rule(false)));
    }
}
