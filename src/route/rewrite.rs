//! The path that an upstream gets in place of the one that was decided on: `strip_prefix` and `rewrite` of a route.
//!
//! In: the canonical path and what its pattern's parameters stand for. Out: another canonical path (R7), or a
//! [`PathError`] (400). What is decided, signed and logged is always what the client sent; this changes only what is
//! forwarded, and is applied before anybody is let through.
//! Invariants: values go over as they are encoded, segment by segment, so none can become a slash, a `?` or a `..`;
//! the result lies under the literals of its template; a backend with quirks (R8) reads in it no other values of the
//! parameters that a rule has looked at.

use std::{fmt, str::FromStr};

use super::{
    Found,
    path::{CanonicalPath, PathError, PathPattern, Quirks, Segment, decode},
    readings::readings,
    trie::folded,
};

/// What a route makes of a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathRewrite {
    /// `rewrite`: another path, with the parameters of the route's patterns.
    Replace(Template),
    /// `strip_prefix`: without its first segments.
    Strip(Prefix),
}

/// `/users`: literal segments that every pattern of the route begins with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Prefix {
    segments: Box<[Segment]>,
    /// In canonical spelling.
    text: Box<str>,
}

/// `/v2/{id}/{*rest}`: a path in which parameters stand for what they matched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template(PathPattern);

/// What a template asks of a pattern that does not have it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unsuited<'a> {
    /// No parameter of this name.
    Missing(&'a str),
    /// `{name}` is one segment here and all the rest there, or the other way round.
    OtherKind(&'a str),
}

impl PathRewrite {
    /// What the upstream gets for a path that was found.
    ///
    /// # Errors
    /// [`PathError`] where the result has no canonical form, begins with `//`, or could be read by the route's upstream
    /// as something else than was decided on.
    pub(super) fn apply(&self, found: &Found<'_, '_>, path: &CanonicalPath) -> Result<CanonicalPath, PathError> {
        let quirks = found.quirks();
        match self {
            Self::Strip(prefix) => path.with_path(prefix.stripped(path.as_str()), quirks),
            Self::Replace(template) => {
                let written = path.with_path(&template.fill(found, path.as_str()), quirks)?;
                if !quirks.is_empty() && !template.is_one_in_all_readings(&written, found) {
                    return Err(PathError::Ambiguous);
                }
                Ok(written)
            }
        }
    }
}

impl PathRewrite {
    /// A path that a pattern of the route matches and of which the upstream gets `wanted`, if there is one; for advice.
    pub(super) fn source_of(&self, wanted: &str, pattern: &PathPattern) -> Option<String> {
        match self {
            Self::Strip(prefix) => Some(format!("{}{wanted}", prefix.as_str())),
            Self::Replace(template) => {
                let values = template.values(wanted, Quirks::default())?;
                let value = |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
                let text = pattern.segments().iter().map(|segment| match segment {
                    Segment::Literal(text) => super::path::encode_segment(text),
                    Segment::Parameter(name) | Segment::Rest(name) => value(name).unwrap_or("sample").to_owned(),
                });
                Some(text.flat_map(|segment| ["/".to_owned(), segment]).collect())
            }
        }
    }
}

impl Prefix {
    /// In canonical spelling: begins with `/`, does not end with it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether every path of a pattern lies under it.
    pub fn covers(&self, pattern: &PathPattern) -> bool {
        pattern.segments().starts_with(&self.segments)
    }

    /// The path without its first segments, which are known to be these, in whatever spelling. Readings of the rest are
    /// those of the whole path without them: the prefix holds nothing that a quirk reads differently, or the whole path
    /// would have been refused.
    fn stripped<'p>(&self, path: &'p str) -> &'p str {
        let mut slashes = path.match_indices('/').map(|(at, _)| at);
        slashes.nth(self.segments.len()).and_then(|at| path.get(at..)).unwrap_or("/")
    }
}

impl Template {
    /// Its parameters, first to last.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.parameters()
    }

    /// The same where `{name}` as the last segment stands for the rest that `patterns` call so.
    pub fn for_patterns<'p>(self, mut patterns: impl Iterator<Item = &'p PathPattern>) -> Self {
        let Some((Segment::Parameter(name), before)) = self.0.segments().split_last() else {
            return self;
        };
        let is_rest = |segment: &Segment| matches!(segment, Segment::Rest(rest) if rest == name);
        if !patterns.all(|pattern| pattern.segments().iter().any(is_rest)) {
            return self;
        }
        let segments = before.iter().cloned().chain([Segment::Rest(name.clone())]);
        Self(PathPattern::from_segments(segments))
    }

    /// Whether a pattern has what it needs.
    ///
    /// # Errors
    /// [`Unsuited`]: the first parameter that it lacks.
    pub fn suits(&self, pattern: &PathPattern) -> Result<(), Unsuited<'_>> {
        for segment in self.0.segments() {
            let (name, is_rest) = match segment {
                Segment::Literal(_) => continue,
                Segment::Parameter(name) => (name, false),
                Segment::Rest(name) => (name, true),
            };
            let found = pattern.segments().iter().find_map(|segment| match segment {
                Segment::Parameter(other) if other == name => Some(false),
                Segment::Rest(other) if other == name => Some(true),
                Segment::Literal(_) | Segment::Parameter(_) | Segment::Rest(_) => None,
            });
            match found {
                None => return Err(Unsuited::Missing(name)),
                Some(rest) if rest != is_rest => return Err(Unsuited::OtherKind(name)),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The path with what its parameters stand for, as it is encoded.
    pub(crate) fn fill(&self, found: &Found<'_, '_>, path: &str) -> String {
        let mut out = String::with_capacity(path.len() + 32);
        for segment in self.0.segments() {
            match segment {
                Segment::Literal(text) => {
                    out.push('/');
                    out.push_str(&super::path::encode_segment(text));
                }
                Segment::Parameter(name) => {
                    out.push('/');
                    out.push_str(found.params.as_sent(name).unwrap_or_default());
                }
                Segment::Rest(name) => match found.params.as_sent(name).unwrap_or_default() {
                    "" if path.ends_with('/') => out.push('/'),
                    "" => {}
                    rest => {
                        out.push('/');
                        out.push_str(rest);
                    }
                },
            }
        }
        if out.is_empty() {
            out.push('/');
        }
        out
    }

    /// Whether a backend, in whatever way it reads the path, finds the same values where a rule has looked (R8).
    fn is_one_in_all_readings(&self, written: &CanonicalPath, found: &Found<'_, '_>) -> bool {
        let quirks = found.quirks();
        let Some(readings) = readings(written.as_str(), quirks) else {
            return false;
        };
        readings.iter().all(|reading| {
            self.values(reading, quirks).is_some_and(|values| {
                values.iter().filter(|(name, _)| found.is_looked_at(name)).all(|(name, value)| {
                    let read = decode(value);
                    let read = if quirks.case_insensitive { folded(&read) } else { read.into_owned() };
                    found.params.value(name).is_some_and(|decided| decided == read)
                })
            })
        })
    }

    /// What stands where its parameters are, if the path is one that it could have written.
    fn values<'p>(&self, path: &'p str, quirks: Quirks) -> Option<Vec<(&str, &'p str)>> {
        let mut rest = path;
        let mut values = Vec::new();
        for segment in self.0.segments() {
            if let Segment::Rest(name) = segment {
                values.push((&**name, rest.strip_prefix('/').unwrap_or(rest)));
                return Some(values);
            }
            let Some(behind) = rest.strip_prefix('/') else {
                // `/v2/` may be read as `/v2`.
                let is_end = rest.is_empty() && matches!(segment, Segment::Literal(text) if text.is_empty());
                return (is_end && quirks.trailing_slash).then_some(values);
            };
            let (text, after) = behind.split_at(behind.find('/').unwrap_or(behind.len()));
            match segment {
                Segment::Literal(literal) if is_literal(literal, &decode(text), quirks) => {}
                Segment::Literal(_) | Segment::Rest(_) => return None,
                Segment::Parameter(_) if text.is_empty() => return None,
                Segment::Parameter(name) => values.push((&**name, text)),
            }
            rest = after;
        }
        (rest.is_empty() || rest == "/").then_some(values)
    }
}

/// Whether a segment is the literal of a template, or what is left of it without its extension.
fn is_literal(literal: &str, read: &str, quirks: Quirks) -> bool {
    literal == read || (quirks.suffix && literal.strip_prefix(read).is_some_and(|extension| extension.starts_with('.')))
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pattern: PathPattern = text.parse().map_err(|error: super::path::PatternError| error.to_string())?;
        let segments: Box<[Segment]> = pattern.segments().into();
        if pattern.parameters().next().is_some() {
            return Err(format!("`{text}` holds a parameter; a prefix is the same on every request"));
        }
        if segments.iter().any(|segment| matches!(segment, Segment::Literal(text) if text.is_empty())) {
            return Err(format!("`{text}` ends with `/`; write `/users`, which covers `/users` and `/users/…`"));
        }
        Ok(Self { segments, text: pattern.to_string().into() })
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: super::path::PatternError| error.to_string())
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PathRewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replace(template) => write!(f, "rewrite = \"{template}\""),
            Self::Strip(prefix) => write!(f, "strip_prefix = \"{}\"", prefix.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        policy::{IdentityValue, Requirement},
        route::{
            RouteTable,
            siblings::Variant,
            tests::{admin, quirky, requiring, route},
        },
    };

    fn strip(prefix: &str) -> Option<Box<PathRewrite>> {
        Some(Box::new(PathRewrite::Strip(prefix.parse().unwrap())))
    }

    fn replace(template: &str, pattern: &str) -> Option<Box<PathRewrite>> {
        let pattern: PathPattern = pattern.parse().unwrap();
        let template = template.parse::<Template>().unwrap().for_patterns([&pattern].into_iter());
        template.suits(&pattern).unwrap();
        Some(Box::new(PathRewrite::Replace(template)))
    }

    fn table(pattern: &str, rewrite: Option<Box<PathRewrite>>, quirks: Quirks) -> RouteTable {
        quirky(vec![super::super::Route { rewrite, ..route(0, "r", &[], &[pattern], &[]) }], quirks)
    }

    /// What the upstream gets, or why nothing.
    fn sent(table: &RouteTable, path: &str) -> Result<String, PathError> {
        let path = CanonicalPath::parse(path, table.tolerated())?;
        let found = table.find(&"a.example".parse().unwrap(), &path, &http::Method::GET);
        let found = found.map_err(|miss| match miss {
            super::super::Miss::BadPath(error) => error,
            other => panic!("{other:?}"),
        })?;
        Ok(found.rewritten(&path)?.expect("a rewriting route").target().to_string())
    }

    #[test]
    fn a_prefix_is_stripped_at_the_borders_of_segments() {
        let table = table("/users/{*rest}", strip("/users"), Quirks::default());
        for (path, expect) in [
            ("/users", "/"),
            ("/users/", "/"),
            ("/users?a=/users", "/?a=/users"),
            ("/users/7", "/7"),
            ("/users/users/7/", "/users/7/"),
            ("/users/a%20b/%3Fx?q=%2F", "/a%20b/%3Fx?q=%2F"),
            ("/%75sers/7", "/7"),
            ("/users/%7Bid%7D", "/%7Bid%7D"),
        ] {
            assert_eq!(sent(&table, path).as_deref(), Ok(expect), "{path}");
        }
        for path in ["/users/..", "/users/%2e%2e/admin", "/users//x", "/users/%2Fx", "/users%2Fx", "/users/%252e%252e"]
        {
            assert!(sent(&table, path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_prefix_is_counted_in_segments_and_not_in_bytes() {
        let table = table("/us!ers/{*rest}", strip("/us!ers"), Quirks::default());

        assert_eq!(sent(&table, "/us%21ers/x").as_deref(), Ok("/x"));
    }

    #[test]
    fn what_is_stripped_never_begins_with_two_slashes() {
        let quirks = Quirks { double_slash: true, ..Quirks::default() };
        let table = table("/users/{*rest}", strip("/users"), quirks);

        assert_eq!(sent(&table, "/users//evil.example"), Err(PathError::DoubleSlash));
        assert_eq!(sent(&table, "/users/x//y").as_deref(), Ok("/x//y"));
    }

    #[test]
    fn a_rewritten_path_is_made_of_its_parameters() {
        for (pattern, template, path, expect) in [
            ("/api/{*rest}", "/v2/{*rest}", "/api/a/b?x", "/v2/a/b?x"),
            ("/api/{*rest}", "/v2/{rest}", "/api/a/b", "/v2/a/b"),
            ("/api/{*rest}", "/v2/{*rest}", "/api", "/v2"),
            ("/api/{*rest}", "/v2/{*rest}", "/api/", "/v2/"),
            ("/api/{*rest}", "/{*rest}", "/api", "/"),
            ("/{*rest}", "/app/{*rest}", "/", "/app/"),
            ("/u/{id}/posts/{post}", "/posts/{post}/of/{id}", "/u/7/posts/9", "/posts/9/of/7"),
            ("/u/{id}", "/v2/{id}", "/u/a%20%3F%23%25b", "/v2/a%20%3F%23%25b"),
            ("/u/{id}", "/v2/{id}", "/u/%7Bid%7D", "/v2/%7Bid%7D"),
            ("/old", "/new/place", "/old?q=1", "/new/place?q=1"),
        ] {
            let table = table(pattern, replace(template, pattern), Quirks::default());
            assert_eq!(sent(&table, path).as_deref(), Ok(expect), "{pattern} {template} {path}");
        }
    }

    #[test]
    fn a_template_asks_for_parameters_that_the_pattern_has() {
        let suits = |template: &str, pattern: &str| {
            let pattern: PathPattern = pattern.parse().unwrap();
            template.parse::<Template>().unwrap().for_patterns([&pattern].into_iter()).suits(&pattern).is_ok()
        };
        assert!(suits("/v2/{id}", "/u/{id}/x"));
        assert!(!suits("/v2/{id}", "/u/{name}"));
        assert!(!suits("/v2/{rest}/x", "/u/{*rest}"));
        assert!(!suits("/v2/{*id}", "/u/{id}"));
        for text in ["v2", "/v2?x", "/v2#x", "/../x", "//x", "/a{id}", "/{*rest}/x"] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
        for text in ["users", "/", "/users/", "/{id}", "/a//b", "/..", ""] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    /// What comes last in the new path is read differently from what stood in the middle of the old one.
    #[test]
    fn a_backend_with_quirks_reads_no_other_value_than_the_rule_did() {
        let rule = Requirement::PathEquals { parameter: "id".into(), value: IdentityValue::Subject };
        let pattern = "/u/{id}/info";
        let table = |rule: &[Requirement], quirks| {
            let route = requiring(route(0, "r", &[], &[pattern], &[]), rule);
            quirky(vec![super::super::Route { rewrite: replace("/v2/{id}", pattern), ..route }], quirks)
        };
        let suffix = Quirks { suffix: true, ..Quirks::default() };
        let looked_at = std::slice::from_ref(&rule);

        assert_eq!(sent(&table(looked_at, suffix), "/u/7.json/info"), Err(PathError::Ambiguous));
        assert_eq!(sent(&table(looked_at, suffix), "/u/7/info").as_deref(), Ok("/v2/7"));
        assert_eq!(sent(&table(looked_at, Quirks::default()), "/u/7.json/info").as_deref(), Ok("/v2/7.json"));
        assert_eq!(sent(&table(&[], suffix), "/u/7.json/info").as_deref(), Ok("/v2/7.json"));
        let slash = Quirks { encoded_slash: true, ..Quirks::default() };
        assert_eq!(sent(&table(&[], slash), "/u/a%2Fb/info"), Err(PathError::Ambiguous));
    }

    #[test]
    fn a_detour_to_what_a_stricter_route_guards_is_told() {
        let lax = |rewrite| super::super::Route { rewrite, ..route(1, "lax", &[], &["/app/{*rest}"], &[]) };
        let strict = || admin(route(0, "strict", &[], &["/admin/{*rest}"], &[]));
        let warnings = |lax| {
            let found = quirky(vec![strict(), lax], Quirks::default()).sibling_warnings();
            found.into_iter().filter(|warning| warning.variant == Variant::Rewritten).collect::<Vec<_>>()
        };

        let stripped = warnings(lax(strip("/app")));
        assert_eq!(stripped.len(), 1, "{stripped:?}");
        assert_eq!(stripped[0].example, "GET a.example/app/admin/sample");
        assert_eq!(warnings(lax(replace("/admin/x/{*rest}", "/app/{*rest}"))), []);
        assert_eq!(warnings(lax(replace("/admin/{*rest}", "/app/{*rest}"))).len(), 1);
        assert_eq!(warnings(lax(replace("/v2/{*rest}", "/app/{*rest}"))), []);
        assert_eq!(warnings(lax(None)), []);
        let hidden = super::super::Route { rewrite: strip("/admin"), ..strict() };
        let open = route(1, "lax", &[], &["/{*rest}"], &[]);
        let found = quirky(vec![hidden, open], Quirks::default()).sibling_warnings();
        assert!(found.iter().any(|warning| warning.variant == Variant::Rewritten), "{found:?}");
    }

    proptest! {
        /// Whatever a client sends, the upstream's path is canonical and lies under the literals of the template.
        #[test]
        fn the_path_of_an_upstream_never_leaves_its_place(
            path in "/api(/([a-z]|[.;]|%2[eEfF35]|%3[bB]|%5c|%00|%7B|\\{|[A-Z~:@]){0,6}){0,4}",
            query in "(\\?[a-z=%2F/?]{0,6})?",
            quirks in any::<[bool; 6]>(),
        ) {
            let [case_insensitive, semicolon, encoded_slash, double_slash, trailing_slash, suffix] = quirks;
            let quirks = Quirks { case_insensitive, semicolon, encoded_slash, double_slash, trailing_slash, suffix };
            for rewrite in [strip("/api"), replace("/v2/in/{*rest}", "/api/{*rest}")] {
                let stripped = matches!(rewrite.as_deref(), Some(PathRewrite::Strip(_)));
                let table = table("/api/{*rest}", rewrite, quirks);
                let Ok(sent) = sent(&table, &format!("{path}{query}")) else { continue };
                let (sent, behind) = sent.split_once('?').map_or((&*sent, None), |(path, query)| (path, Some(query)));
                prop_assert_eq!(behind, query.strip_prefix('?'));
                prop_assert!(sent.starts_with('/') && !sent.starts_with("//"));
                prop_assert!(stripped || sent == "/v2/in" || sent.starts_with("/v2/in/"), "{sent}");
                let again = CanonicalPath::parse(sent, quirks);
                prop_assert_eq!(again.as_ref().map(CanonicalPath::as_str), Ok(sent));
                let asked = CanonicalPath::parse(&path, quirks).unwrap();
                if stripped {
                    let back = format!("/api{sent}");
                    prop_assert!(asked.as_str() == back || sent == "/" && asked.as_str() == "/api");
                    // Whatever the backend reads is what was decided on, without the prefix.
                    let whole = readings(asked.as_str(), quirks).unwrap_or_default();
                    for reading in readings(sent, quirks).unwrap_or_default() {
                        let back = format!("/api{reading}");
                        prop_assert!(reading == "/" || whole.contains(&back), "{reading}");
                    }
                }
            }
        }
    }
}
