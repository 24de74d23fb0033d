//! What a document's `security` is in a route's terms: `auth`, `optional`, `require`.
//!
//! In: alternatives of schemes with scopes. Out: a [`Rule`] that nobody meets who does not meet the document's.
//! An alternative is one way to authenticate, a client certificate besides, and scopes; all alternatives together are
//! `all` and one `any` where that says the same, and otherwise something stricter, which is noted. A scheme that
//! nothing here can check drops its alternative; if none is left, nothing is said.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Alternative, Document, DocumentError, Value, text};

/// Every security scheme of a document, as an entry of `auth` or why it is none.
pub(super) struct Schemes(BTreeMap<String, Scheme>);

struct Scheme {
    auth: Result<String, String>,
    /// Whether its scopes are OAuth scopes; else they are roles (OpenAPI 3.1).
    has_scopes: bool,
}

/// Who may call an operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Rule {
    /// Anybody, explicitly.
    Public,
    /// Whoever authenticates in one of these ways and meets the requirements.
    Known {
        auth: Vec<String>,
        optional: bool,
        all: Vec<String>,
        any: Vec<String>,
        /// Where it is stricter than the document.
        notes: Vec<String>,
    },
    /// It cannot be said, for these reasons.
    Unsaid(Vec<String>),
}

/// Requirements of which all hold.
type Atoms = BTreeSet<String>;

impl Schemes {
    /// `chosen` says for some names what their callers authenticate with.
    pub(super) fn of(document: &Document, chosen: &BTreeMap<String, String>) -> Result<Self, DocumentError> {
        let schemes = document.security_schemes()?;
        let read = schemes.into_iter().map(|(name, scheme)| {
            let kind = text(scheme, "type").unwrap_or_default();
            let has_scopes = matches!(kind.as_str(), "oauth2" | "openIdConnect");
            let auth = chosen.get(name).cloned().map_or_else(|| auth_of(&kind, scheme), Ok);
            (name.to_owned(), Scheme { auth, has_scopes })
        });
        Ok(Self(read.collect()))
    }

    /// The rule of an operation.
    pub(super) fn rule(&self, security: Option<&[Alternative]>) -> Rule {
        let Some(alternatives) = security else {
            return Rule::Unsaid(vec!["the document says nothing of security here, neither `security: []`".into()]);
        };
        let optional = alternatives.iter().any(Alternative::is_empty);
        let mut notes = Vec::new();
        // Each way to authenticate, with the sets of requirements of which one must hold.
        let mut ways: BTreeMap<String, Vec<Atoms>> = BTreeMap::new();
        for alternative in alternatives.iter().filter(|alternative| !alternative.is_empty()) {
            match self.way(alternative) {
                Ok((auth, atoms)) => ways.entry(auth).or_default().push(atoms),
                Err(why) => notes.push(why),
            }
        }
        if ways.is_empty() {
            return match (notes.is_empty(), optional || alternatives.is_empty()) {
                (true, true) => Rule::Public,
                (false, _) | (true, false) => Rule::Unsaid(notes),
            };
        }
        if optional {
            // Whoever shows nothing may call it: so may everybody who is known.
            return Rule::Known { auth: ways.into_keys().collect(), optional, all: vec![], any: vec![], notes };
        }
        let (mut all, mut any, mut is_stricter) = (Atoms::new(), Vec::<Atoms>::new(), ways.len() > 1);
        let formulas: Vec<(Atoms, Atoms, bool)> = ways.values().map(|sets| formula(sets)).collect();
        if formulas.iter().all(|formula| Some(formula) == formulas.first()) {
            is_stricter = false;
        }
        for (own_all, own_any, stricter) in formulas {
            is_stricter |= stricter;
            all.extend(own_all);
            if !own_any.is_empty() && !any.contains(&own_any) {
                any.push(own_any);
            }
        }
        let any = match any.as_slice() {
            [] => Atoms::new(),
            [one] => one.clone(),
            several => {
                is_stricter = true;
                all.extend(several.iter().flatten().cloned());
                Atoms::new()
            }
        };
        if is_stricter {
            notes.push("all of the requirements together: the document asks some callers for less".into());
        }
        let (all, any) = (all.into_iter().collect(), any.into_iter().collect());
        Rule::Known { auth: ways.into_keys().collect(), optional, all, any, notes }
    }

    /// One way to authenticate with what must hold besides, or why there is none.
    fn way(&self, alternative: &Alternative) -> Result<(String, Atoms), String> {
        let mut atoms = Atoms::new();
        let mut ways = BTreeSet::new();
        for (name, scopes) in alternative {
            let Some(scheme) = self.0.get(name) else {
                return Err(format!("{name:?} is no scheme of the document"));
            };
            let auth = scheme.auth.as_ref().map_err(|why| format!("{name:?}: {why}"))?;
            ways.insert(auth.clone());
            let kind = if scheme.has_scopes { "scope" } else { "role" };
            for scope in scopes {
                if !is_plain(scope) {
                    return Err(format!("{name:?}: a scope that cannot be written"));
                }
                atoms.insert(format!("{kind}:{scope}"));
            }
        }
        let is_certificate = |auth: &String| auth == "mtls" || auth.starts_with("mtls:");
        if ways.len() > 1 {
            // A certificate may be asked for beside something else; nothing else can be.
            let certificates: Vec<String> = ways.iter().filter(|auth| is_certificate(auth)).cloned().collect();
            ways.retain(|auth| !is_certificate(auth));
            atoms.extend(certificates);
        }
        let mut ways = ways.into_iter();
        match (ways.next(), ways.next()) {
            (Some(way), None) => Ok((way, atoms)),
            (_, _) => {
                let names: Vec<&str> = alternative.keys().map(String::as_str).collect();
                Err(format!("{} at once: one credential is checked, and a certificate", names.join(" and ")))
            }
        }
    }
}

/// `all` and one `any` that hold only where one of the sets holds in whole, and whether they ask for more than that.
fn formula(sets: &[Atoms]) -> (Atoms, Atoms, bool) {
    let common = sets.iter().skip(1).fold(sets.first().cloned().unwrap_or_default(), |common, set| &common & set);
    let rests: Vec<Atoms> = sets.iter().map(|set| set - &common).collect();
    if rests.iter().any(BTreeSet::is_empty) {
        return (common, Atoms::new(), false);
    }
    if rests.iter().all(|rest| rest.len() == 1) {
        return (common, rests.into_iter().flatten().collect(), false);
    }
    (sets.iter().flatten().cloned().collect(), Atoms::new(), true)
}

fn is_plain(scope: &str) -> bool {
    !scope.is_empty() && !scope.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// The entry of `auth` that checks a scheme.
fn auth_of(kind: &str, scheme: &BTreeMap<String, Value>) -> Result<String, String> {
    let of = |key: &str| text(scheme, key).unwrap_or_default().to_ascii_lowercase();
    match (kind, of("scheme").as_str(), of("in").as_str()) {
        ("http", "bearer", _) | ("oauth2" | "openIdConnect", _, _) => Ok("jwt".into()),
        ("http", "basic", _) => Err("passwords in every request are not checked here".into()),
        ("http", other, _) => Err(format!("the HTTP scheme {other:?} is not checked here")),
        ("apiKey", _, "header") => Ok("api_key".into()),
        ("apiKey", _, "cookie") => Ok("session".into()),
        ("apiKey", _, place) => Err(format!("keys in {place:?} are not looked at: they end up in logs")),
        ("mutualTLS", _, _) => Ok("mtls".into()),
        (other, _, _) => Err(format!("the type {other:?} is not known")),
    }
}
