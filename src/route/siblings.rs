//! Where a near spelling of a stricter route lands on a laxer one (R9), for `portcullis check`.
//!
//! In: a route table. Out: warnings. Each asks the table itself, so what a declared quirk already refuses gives none.
//! Only routes to the same upstream are compared: another backend does not serve the stricter route's resource.

use std::{collections::BTreeSet, fmt, sync::Arc};

use http::Method;

use super::{
    Found, Route, RouteTable, Target,
    path::{CanonicalPath, PathPattern, Segment, encode_segment},
};
use crate::host::Host;

/// A request that looks like one for `stricter` but is judged by `laxer`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SiblingWarning {
    /// The route that asks more.
    pub stricter: Arc<str>,
    /// The route that asks less and gets the request.
    pub laxer: Arc<str>,
    /// How the request differs from one that `stricter` would get.
    pub variant: Variant,
    /// An example, such as `POST a.example/ADMIN/sample`.
    pub example: String,
}

/// How a request differs from another.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Variant {
    /// Letters in another case.
    Case,
    /// A method that the stricter route does not name, on a laxer route that names none.
    Method,
    /// Not at all: the laxer route names the host, the stricter one does not.
    Shadowed,
    /// An extension after the last literal segment.
    Suffix,
    /// A slash more or less at the end.
    TrailingSlash,
}

impl RouteTable {
    /// Every pair of routes with its variants, once each, in a stable order.
    pub fn sibling_warnings(&self) -> Vec<SiblingWarning> {
        let mut hosts: Vec<&Host> = self.known_hosts().collect();
        hosts.sort_unstable();
        let mut seen = BTreeSet::new();
        let mut warnings = Vec::new();
        for stricter in self.routes().iter().filter(|route| matches!(route.target, Target::Upstream(_))) {
            let named = |host: &&&Host| stricter.hosts.is_empty() || stricter.hosts.contains(host);
            for host in hosts.iter().filter(named) {
                for (variant, method, path) in stricter.paths.iter().flat_map(|p| variants(stricter, p)) {
                    let Some(laxer) = self.laxer_sibling(stricter, host, &method, &path, variant) else {
                        continue;
                    };
                    if seen.insert((Arc::clone(&stricter.name), Arc::clone(&laxer.name), variant)) {
                        warnings.push(SiblingWarning {
                            stricter: Arc::clone(&stricter.name),
                            laxer: Arc::clone(&laxer.name),
                            variant,
                            example: format!("{method} {host}{path}"),
                        });
                    }
                }
            }
        }
        warnings
    }

    fn laxer_sibling(
        &self,
        stricter: &Route,
        host: &Host,
        method: &Method,
        path: &str,
        variant: Variant,
    ) -> Option<&Arc<Route>> {
        let path = CanonicalPath::parse(path, self.tolerated()).ok()?;
        let laxer = match self.find(host, &path, method) {
            // The borrow of the path ends here; the route's is the table's.
            Ok(Found { route, .. }) => route.index,
            Err(_) => return None,
        };
        let laxer = self.routes().iter().find(|route| route.index == laxer)?;
        let same_upstream = match (&stricter.target, &laxer.target) {
            (Target::Upstream(one), Target::Upstream(other)) => one == other,
            (Target::Upstream(_) | Target::Own(_) | Target::Redirect { .. } | Target::Respond { .. }, _) => false,
        };
        let surprising = variant != Variant::Method || laxer.methods.is_none();
        (same_upstream && surprising && laxer.access.is_laxer_than(&stricter.access)).then_some(laxer)
    }
}

impl fmt::Display for SiblingWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stricter, laxer, variant, example } = self;
        let advice = match variant {
            Variant::Case => "if the upstream ignores case, declare path_quirks = [\"case_insensitive\"]",
            Variant::Method => "name the laxer route's methods, or let the stricter one name none",
            Variant::Shadowed => "routes that name the host come first; name it in the stricter route too",
            Variant::Suffix => "if the upstream ignores extensions, declare path_quirks = [\"suffix\"]",
            Variant::TrailingSlash => "if the upstream ignores it, declare path_quirks = [\"trailing_slash\"]",
        };
        let what = match variant {
            Variant::Case => "in another case",
            Variant::Method => "with another method",
            Variant::Shadowed => "on a host that another route names",
            Variant::Suffix => "with an extension",
            Variant::TrailingSlash => "with a slash more or less at the end",
        };
        write!(f, "route `{stricter}` {what} (`{example}`) is judged by the laxer route `{laxer}`; {advice}")
    }
}

/// Requests near to those of one pattern.
fn variants(route: &Route, pattern: &PathPattern) -> Vec<(Variant, Method, String)> {
    let own = route.methods.as_ref().and_then(|methods| methods.first().cloned()).unwrap_or(Method::GET);
    let base = example(pattern, str::to_owned);
    let mut all = vec![(Variant::Shadowed, own.clone(), base.clone())];
    for cased in [example(pattern, str::to_uppercase), example(pattern, str::to_lowercase)] {
        if cased != base {
            all.push((Variant::Case, own.clone(), cased));
        }
    }
    let toggled = base.strip_suffix('/').map_or_else(|| format!("{base}/"), str::to_owned);
    if !toggled.is_empty() {
        all.push((Variant::TrailingSlash, own.clone(), toggled));
    }
    if let Some(suffixed) = suffixed(pattern) {
        all.push((Variant::Suffix, own, suffixed));
    }
    let names = |method: &Method| {
        route
            .methods
            .as_ref()
            .is_none_or(|own| own.contains(method) || (*method == Method::HEAD && own.contains(&Method::GET)))
    };
    for method in [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        if !names(&method) {
            all.push((Variant::Method, method, base.clone()));
        }
    }
    all
}

/// A path that the pattern matches, with its literals changed.
fn example(pattern: &PathPattern, change: impl Fn(&str) -> String) -> String {
    let mut path = String::new();
    for segment in pattern.segments() {
        path.push('/');
        match segment {
            Segment::Literal(text) => path.push_str(&encode_segment(&change(text))),
            Segment::Parameter(_) | Segment::Rest(_) => path.push_str("sample"),
        }
    }
    path
}

/// The path up to the pattern's last literal, with an extension; `None` unless the pattern could end there.
fn suffixed(pattern: &PathPattern) -> Option<String> {
    let path = example(pattern, str::to_owned);
    match pattern.segments() {
        [.., Segment::Literal(last)] if !last.is_empty() => Some(format!("{path}.json")),
        [.., Segment::Literal(last), Segment::Rest(_)] if !last.is_empty() => {
            path.rsplit_once('/').map(|(before, _)| format!("{before}.json"))
        }
        _ => None,
    }
}
