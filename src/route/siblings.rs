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
    /// Another path, which one of the two routes rewrites to what the other's upstream gets.
    Rewritten,
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
        let detours = self.routes().iter().filter_map(|stricter| self.detour(stricter, &hosts));
        warnings.extend(detours);
        warnings
    }

    /// A request that a laxer route turns into one that only the stricter route's callers should have made.
    fn detour(&self, stricter: &Route, hosts: &[&Host]) -> Option<SiblingWarning> {
        let named =
            |route: &Route| hosts.iter().copied().find(|host| route.hosts.is_empty() || route.hosts.contains(host));
        let method = stricter.methods.as_ref().and_then(|methods| methods.first().cloned()).unwrap_or(Method::GET);
        for pattern in &stricter.paths {
            let own = self.sent(named(stricter)?, &method, &example(pattern, str::to_owned));
            let Some((_, guarded)) = own.filter(|(route, _)| route.index == stricter.index) else { continue };
            let others = self.routes().iter().filter(|laxer| {
                (laxer.rewrite.is_some() || stricter.rewrite.is_some())
                    && same_upstream(stricter, laxer)
                    && laxer.access.is_laxer_than(&stricter.access)
            });
            for laxer in others {
                let Some(host) = named(laxer) else { continue };
                let sources = laxer.paths.iter().filter_map(|pattern| match laxer.rewrite.as_deref() {
                    None => Some(guarded.clone()),
                    Some(rewrite) => rewrite.source_of(&guarded, pattern),
                });
                let reaches = |source: &String| {
                    self.sent(host, &method, source)
                        .is_some_and(|(route, path)| route.index == laxer.index && path == guarded)
                };
                if let Some(source) = sources.into_iter().find(reaches) {
                    return Some(SiblingWarning {
                        stricter: Arc::clone(&stricter.name),
                        laxer: Arc::clone(&laxer.name),
                        variant: Variant::Rewritten,
                        example: format!("{method} {host}{source}"),
                    });
                }
            }
        }
        None
    }

    /// The route of a request, and the path that its upstream gets.
    fn sent(&self, host: &Host, method: &Method, path: &str) -> Option<(&Arc<Route>, String)> {
        let path = CanonicalPath::parse(path, self.tolerated()).ok()?;
        let found = self.find(host, &path, method).ok()?;
        let index = found.route.index;
        let rewritten = found.rewritten(&path).ok()?;
        let sent = rewritten.as_ref().unwrap_or(&path).as_str().to_owned();
        Some((self.routes().iter().find(|route| route.index == index)?, sent))
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
        let surprising = variant != Variant::Method || laxer.methods.is_none();
        (same_upstream(stricter, laxer) && surprising && laxer.access.is_laxer_than(&stricter.access)).then_some(laxer)
    }
}

impl fmt::Display for SiblingWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stricter, laxer, variant, example } = self;
        let advice = match variant {
            Variant::Case => "if the upstream ignores case, declare path_quirks = [\"case_insensitive\"]",
            Variant::Method => "name the laxer route's methods, or let the stricter one name none",
            Variant::Rewritten => "let the laxer route ask for as much, or leave what is guarded out of its paths",
            Variant::Shadowed => "routes that name the host come first; name it in the stricter route too",
            Variant::Suffix => "if the upstream ignores extensions, declare path_quirks = [\"suffix\"]",
            Variant::TrailingSlash => "if the upstream ignores it, declare path_quirks = [\"trailing_slash\"]",
        };
        let what = match variant {
            Variant::Case => "in another case",
            Variant::Method => "with another method",
            Variant::Rewritten => "by another path that is rewritten",
            Variant::Shadowed => "on a host that another route names",
            Variant::Suffix => "with an extension",
            Variant::TrailingSlash => "with a slash more or less at the end",
        };
        write!(f, "route `{stricter}` {what} (`{example}`) is judged by the laxer route `{laxer}`; {advice}")
    }
}

fn same_upstream(one: &Route, other: &Route) -> bool {
    match (&one.target, &other.target) {
        (Target::Upstream(one), Target::Upstream(other)) => one.meets(other),
        (Target::Upstream(_) | Target::Own(_) | Target::Redirect(_) | Target::Respond { .. }, _) => false,
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
