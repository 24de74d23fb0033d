//! The path patterns of one host as a tree of segments: O(path length), whatever the number of routes.
//!
//! In: patterns with their routes at build time, a canonical path at request time. Out: the most specific pattern
//! that matches (literal before `{id}` before `{*rest}`, segment by segment), as a [`Terminal`] with the routes that
//! share it. Invariant: in a tree that does not fold case, one terminal's routes never tie on a method.

use std::{collections::HashMap, ops::Range, sync::Arc};

use ahash::RandomState;
use http::{HeaderValue, Method};
use smallvec::SmallVec;

use super::{
    Route,
    path::{PathPattern, Quirks, Segment, decode},
};
use crate::swar::{self, WORD};

/// Where in a path the parameters lie, in the order of the pattern. Four fit without allocation.
pub(super) type Ranges = SmallVec<[Range<u16>; 4]>;

/// A place in the tree: what may follow the segments so far.
#[derive(Debug, Default)]
pub(super) struct Node {
    literals: Vec<Literal>,
    /// Where in `literals` each text stands; filled only where looking through them would take longer.
    index: HashMap<Box<[u8]>, usize, RandomState>,
    parameter: Option<Box<Self>>,
    /// Patterns that end here.
    exact: Option<Box<Terminal>>,
    /// Patterns that go on with `{*rest}`; an empty rest is one too (R9).
    rest: Option<Box<Terminal>>,
}

/// A text that may follow, and what may follow that.
#[derive(Debug)]
struct Literal {
    /// How the text begins: tells nearly all texts apart in one comparison.
    beginning: u64,
    text: Box<str>,
    node: Node,
}

/// What a search does not see. A tree that is searched without case must have been filled without it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Blind {
    /// Upper and lower case.
    pub(super) case: bool,
    /// Whether a pattern ends with a slash.
    pub(super) slash: bool,
}

/// What a search found.
#[derive(Debug)]
pub(super) struct Match<'t> {
    pub(super) terminal: Option<&'t Terminal>,
    /// Another terminal, as good: the pattern with the slash where there is one without.
    pub(super) rival: Option<&'t Terminal>,
    pub(super) ranges: Ranges,
}

/// The end of a pattern: the routes that share it, told apart by method.
#[derive(Debug)]
pub(super) struct Terminal {
    entries: Vec<Entry>,
    /// The value of `Allow` where none of them serves the method.
    pub(super) allow: HeaderValue,
}

/// One route at the end of one of its patterns.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) route: Arc<Route>,
    /// Of the route's upstream.
    pub(super) quirks: Quirks,
    /// Names of the parameters, in the order of [`Ranges`].
    pub(super) names: Box<[Box<str>]>,
    /// Those of them that the route's rules look at.
    pub(super) rule_names: Box<[Box<str>]>,
}

/// Which route of a terminal serves a method.
#[derive(Debug)]
pub(super) enum Pick<'t> {
    None,
    One(&'t Entry),
    /// Several as good as each other; only where folding case made two patterns one.
    Several,
}

impl Node {
    /// Adds a route under one of its patterns; `fold` reads the pattern's literals without case.
    ///
    /// # Errors
    /// A route that is already there and ties with this one; the tree is then unchanged. A folding tree never fails:
    /// ties come out of [`Terminal::pick`].
    pub(super) fn insert(&mut self, pattern: &PathPattern, entry: Entry, fold: bool) -> Result<(), Arc<Route>> {
        let mut node = self;
        for segment in pattern.segments() {
            match segment {
                Segment::Literal(text) => {
                    let text = if fold { folded(text).into() } else { text.clone() };
                    node = node.child_mut(text);
                }
                Segment::Parameter(_) => node = node.parameter.get_or_insert_default(),
                Segment::Rest(_) => return Terminal::add(&mut node.rest, entry, fold),
            }
        }
        Terminal::add(&mut node.exact, entry, fold)
    }

    fn child_mut(&mut self, text: Box<str>) -> &mut Self {
        let at = self.literals.iter().position(|known| known.text == text).unwrap_or_else(|| {
            self.literals.push(Literal { beginning: beginning(text.as_bytes()), text, node: Self::default() });
            if self.literals.len() > FEW {
                self.index =
                    self.literals.iter().enumerate().map(|(at, known)| (known.text.as_bytes().into(), at)).collect();
            }
            self.literals.len() - 1
        });
        // The position was found or made just now.
        &mut self.literals[at].node
    }

    fn child(&self, text: &str) -> Option<&Self> {
        self.child_beginning(text.as_bytes(), beginning(text.as_bytes()))
    }

    #[inline]
    fn child_beginning(&self, text: &[u8], beginning: u64) -> Option<&Self> {
        if self.literals.len() <= FEW {
            let is_it = |known: &&Literal| {
                known.beginning == beginning
                    && known.text.len() == text.len()
                    && (text.len() <= WORD || *known.text.as_bytes() == *text)
            };
            return self.literals.iter().find(is_it).map(|known| &known.node);
        }
        self.literals.get(*self.index.get(text)?).map(|known| &known.node)
    }

    /// The child for a segment of a path, as it stands there.
    fn child_of(&self, segment: &[u8], read: &SegmentRead, blind: Blind) -> Option<&Self> {
        if !read.encoded && !blind.case {
            return self.child_beginning(segment, read.beginning);
        }
        let text = decode(std::str::from_utf8(segment).ok()?);
        if blind.case { self.child(&folded(&text)) } else { self.child(&text) }
    }

    /// The most specific pattern that matches, and where its parameters lie. `path` begins with `/`.
    pub(super) fn find(&self, path: &str, blind: Blind) -> Option<Match<'_>> {
        let mut found = Match { terminal: None, rival: None, ranges: Ranges::new() };
        self.descend(path, 0, blind, &mut found).then_some(found)
    }

    /// `at` is the slash before the next segment, or the end of the path. Each level is one segment of some pattern,
    /// so the depth is bounded by the longest pattern, not by the path; where there is nothing to come back to it goes
    /// on without one. What lies in `found.ranges` after a failure is the caller's to take back.
    fn descend<'t>(&'t self, path: &str, at: usize, blind: Blind, found: &mut Match<'t>) -> bool {
        let (mut node, mut at) = (self, at);
        loop {
            if at >= path.len() {
                let with_slash = blind.slash.then(|| node.child("")?.exact.as_deref()).flatten();
                if let Some(terminal) = node.exact.as_deref().or(with_slash) {
                    found.terminal = Some(terminal);
                    found.rival = with_slash;
                    return true;
                }
                return node.take_rest(path.len(), path.len(), found);
            }
            let start = at + 1;
            let read = SegmentRead::of(path.as_bytes(), start);
            let end = start + read.length;
            let literal = if node.literals.is_empty() {
                None
            } else {
                node.child_of(path.as_bytes().get(start..end).unwrap_or_default(), &read, blind)
            };
            let parameter = node.parameter.as_deref().filter(|_| end > start);
            match (literal, parameter) {
                (None, None) => return node.take_rest(start, path.len(), found),
                (Some(child), None) if node.rest.is_none() => node = child,
                (None, Some(child)) if node.rest.is_none() => {
                    found.ranges.push(range(start, end));
                    node = child;
                }
                (literal, parameter) => {
                    let depth = found.ranges.len();
                    if literal.is_some_and(|child| child.descend(path, end, blind, found)) {
                        return true;
                    }
                    found.ranges.truncate(depth);
                    if let Some(child) = parameter {
                        found.ranges.push(range(start, end));
                        if child.descend(path, end, blind, found) {
                            return true;
                        }
                        found.ranges.truncate(depth);
                    }
                    return node.take_rest(start, path.len(), found);
                }
            }
            at = end;
        }
    }

    fn take_rest<'t>(&'t self, start: usize, end: usize, found: &mut Match<'t>) -> bool {
        if self.rest.is_some() {
            found.ranges.push(range(start, end));
            found.terminal = self.rest.as_deref();
        }
        self.rest.is_some()
    }
}

/// A segment of a path, looked at eight bytes at a time.
struct SegmentRead {
    length: usize,
    /// Whether a `%` is in it.
    encoded: bool,
    /// As [`beginning`] has it.
    beginning: u64,
}

impl SegmentRead {
    /// The one that begins at `start`.
    #[inline]
    fn of(path: &[u8], start: usize) -> Self {
        let mut rest = path.get(start..).unwrap_or_default();
        let (mut read, mut ends) = Self::of_word(path, rest);
        while !ends {
            rest = rest.get(WORD..).unwrap_or_default();
            let (more, at_last) = Self::of_word(path, rest);
            read.length += more.length;
            read.encoded |= more.encoded;
            ends = at_last;
        }
        read
    }

    /// What its next eight bytes are, and whether it ends within them; `rest` ends where the path does.
    #[inline]
    fn of_word(path: &[u8], rest: &[u8]) -> (Self, bool) {
        // The end of the path is as good as a slash.
        let word =
            rest.first_chunk().map_or_else(|| swar::last(path, rest.len(), b'/'), |word| u64::from_le_bytes(*word));
        let slash = swar::equal(word, b'/');
        // All bytes below the first mark; without one, all.
        let own = ((slash & slash.wrapping_neg()) >> 7).wrapping_sub(1);
        // What is marked wrongly stands above what is marked rightly, so "any" is exact.
        let encoded = swar::equal(word, b'%') & own != 0;
        (Self { length: swar::first(slash), encoded, beginning: word & own }, slash != 0)
    }
}

/// The first eight bytes as a number, zeros where there are fewer.
fn beginning(text: &[u8]) -> u64 {
    text.first_chunk::<WORD>().map_or_else(|| swar::last(text, text.len(), 0), |word| u64::from_le_bytes(*word))
}

impl Terminal {
    fn add(slot: &mut Option<Box<Self>>, entry: Entry, fold: bool) -> Result<(), Arc<Route>> {
        let terminal =
            slot.get_or_insert_with(|| Box::new(Self { entries: Vec::new(), allow: HeaderValue::from_static("") }));
        if !fold {
            for other in &terminal.entries {
                if Arc::ptr_eq(&other.route, &entry.route) {
                    // `/a/{x}` and `/a/{y}` of one route: the first names the parameter.
                    return Ok(());
                }
                if tie(&other.route, &entry.route) {
                    return Err(Arc::clone(&other.route));
                }
            }
        }
        terminal.entries.push(entry);
        terminal.allow = allow(&terminal.entries);
        Ok(())
    }

    /// The route for a method: one that names it, else, for HEAD, one that names GET, else one that names none.
    pub(super) fn pick(&self, method: &Method) -> Pick<'_> {
        if let [only] = &*self.entries {
            return if rank(&only.route, method) == 0 { Pick::None } else { Pick::One(only) };
        }
        let mut best = Pick::None;
        let mut best_rank = 0;
        for entry in &self.entries {
            let rank = rank(&entry.route, method);
            if rank == 0 || rank < best_rank {
                continue;
            }
            best = match best {
                Pick::One(other) if rank == best_rank && !Arc::ptr_eq(&other.route, &entry.route) => Pick::Several,
                Pick::Several if rank == best_rank => Pick::Several,
                Pick::None | Pick::One(_) | Pick::Several => Pick::One(entry),
            };
            best_rank = rank;
        }
        best
    }
}

/// How well a route serves a method; 0: not at all.
fn rank(route: &Route, method: &Method) -> u8 {
    match &route.methods {
        None => 1,
        Some(methods) if methods.contains(method) => 3,
        Some(methods) if *method == Method::HEAD && methods.contains(&Method::GET) => 2,
        Some(_) => 0,
    }
}

/// Whether some method would be served by both, equally well.
fn tie(one: &Route, other: &Route) -> bool {
    match (&one.methods, &other.methods) {
        (None, None) => true,
        (Some(one), Some(other)) => one.iter().any(|method| other.contains(method)),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn allow(entries: &[Entry]) -> HeaderValue {
    let mut methods: Vec<&str> = Vec::new();
    for entry in entries {
        let Some(own) = &entry.route.methods else {
            return super::ALLOW_ALL;
        };
        for method in &**own {
            let head = (*method == Method::GET).then_some("HEAD");
            for name in [Some(method.as_str()), head].into_iter().flatten() {
                if !methods.contains(&name) {
                    methods.push(name);
                }
            }
        }
    }
    HeaderValue::from_str(&methods.join(", ")).unwrap_or(super::ALLOW_ALL)
}

/// Case removed the way a backend might do it: upper case first, so that `ſ` and `K` meet `s` and `k`.
pub(super) fn folded(text: &str) -> String {
    text.to_uppercase().to_lowercase()
}

/// A request target has at most 65,534 bytes (`http::Uri`).
fn range(start: usize, end: usize) -> Range<u16> {
    let short = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
    short(start)..short(end)
}

/// As many literals are compared one by one.
pub(super) const FEW: usize = 8;
