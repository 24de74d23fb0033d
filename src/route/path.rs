//! The one canonical path (R7), and path patterns (R9).
//!
//! In: the request target as it came. Out: [`CanonicalPath`], which is what is matched **and** forwarded, or a
//! [`PathError`] (400). Canonical means RFC 3986 section 6.2.2: hexadecimal digits in upper case, encoded unreserved
//! characters decoded, bytes that no URI may hold encoded; whatever two readers could take for different paths is
//! refused. A path that is canonical already, as nearly all are, costs one pass and a reference count.
//! Invariants: canonicalising twice changes nothing; literals are compared decoded, so no spelling evades a pattern.

use std::{borrow::Cow, fmt, str::FromStr};

use bytes::Bytes;
use http::{Uri, uri::PathAndQuery};
use percent_encoding::percent_decode_str;

use crate::swar::{self, HIGHS, ONES, WORD};

/// A path that every reader reads alike, with the untouched query behind it.
#[derive(Clone, Debug)]
pub struct CanonicalPath {
    target: PathAndQuery,
    /// What R7 refuses and only a quirk of the upstream lets pass: `semicolon`, `encoded_slash`, `double_slash`.
    odd: Quirks,
}

/// Why a path has no canonical form, or none that all its readers share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PathError {
    /// The readings that the upstream's quirks allow lead to different routes or parameters (R8).
    Ambiguous,
    /// `\` or `%5c`.
    Backslash,
    /// A blank or another byte that no request target holds.
    BadByte,
    /// `%` without two hexadecimal digits.
    BadPercent,
    /// A control byte, raw or encoded; `%00` among them.
    ControlByte,
    /// A `.` or `..` segment, raw or encoded, with or without an encoded `;` behind it.
    DotSegment,
    /// `%25` before what would be refused once decoded again: `%252f`, `%255c`, `%252e`, `%2500`.
    DoubleEncoded,
    /// `//`.
    DoubleSlash,
    /// `%2f`.
    EncodedSlash,
    /// `#`.
    Fragment,
    /// Does not begin with `/`.
    NotAbsolute,
    /// Not UTF-8 once decoded.
    NotUtf8,
    /// `;`.
    Semicolon,
    /// More than 65,534 bytes.
    TooLong,
}

/// `/users/{id}/{*rest}`, parsed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PathPattern {
    segments: Box<[Segment]>,
}

/// One step of a pattern; the variants are ordered from the most to the least specific.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Segment {
    /// Text, decoded. Empty only as the last segment: the pattern ends with `/`.
    Literal(Box<str>),
    /// `{name}`: one segment that is not empty.
    Parameter(Box<str>),
    /// `{*name}`, last only: whatever follows, nothing included.
    Rest(Box<str>),
}

/// What is wrong with a pattern; `Display` says how to mend it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PatternError(String);

/// How a backend reads paths differently from us (R8), as declared on the upstream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Quirks {
    /// `case_insensitive`: `/Admin` is `/admin`.
    pub case_insensitive: bool,
    /// `semicolon`: `/admin;x` is `/admin`.
    pub semicolon: bool,
    /// `encoded_slash`: `%2f` is `/`.
    pub encoded_slash: bool,
    /// `double_slash`: `//` is `/`.
    pub double_slash: bool,
    /// `trailing_slash`: `/admin/` is `/admin`.
    pub trailing_slash: bool,
    /// `suffix`: `/admin.json` is `/admin`.
    pub suffix: bool,
}

impl CanonicalPath {
    /// The canonical path of a request target. `tolerated` holds the quirks of all upstreams: what one of them
    /// declares passes here, and `RouteTable::find` refuses it where the route's own upstream does not declare it.
    ///
    /// `*` and the authority form have no path; they become `*`, which no route matches.
    ///
    /// # Errors
    /// [`PathError`], to be answered with 400. A fragment cannot be seen here: `http::Uri` has cut it off.
    pub fn of(uri: &Uri, tolerated: Quirks) -> Result<Self, PathError> {
        let Some(target) = uri.path_and_query().filter(|target| target.as_str() != "*") else {
            return Ok(Self { target: PathAndQuery::from_static("*"), odd: Quirks::default() });
        };
        if target.as_str() == "/" {
            // HTTP/2's `:path` of a mere fragment is empty inside and only shown as `/`.
            return Ok(Self { target: PathAndQuery::from_static("/"), odd: Quirks::default() });
        }
        // `http://host?x` has no path at all; it must not go upstream as `?x`.
        let is_written = target.as_str().starts_with('/');
        let path = target.path().as_bytes();
        if is_written && is_canonical(path) {
            return Ok(Self { target: target.clone(), odd: Quirks::default() });
        }
        let (canonical, odd) = canonicalise(path, tolerated)?;
        if is_written && canonical == path {
            return Ok(Self { target: target.clone(), odd });
        }
        let mut text = canonical;
        if let Some(query) = target.query() {
            text.push(b'?');
            text.extend_from_slice(query.as_bytes());
        }
        let target = PathAndQuery::from_maybe_shared(Bytes::from(text)).map_err(|_| PathError::TooLong)?;
        Ok(Self { target, odd })
    }

    /// The canonical path of a text, `path` or `path?query`, as people write it in configuration and commands.
    ///
    /// # Errors
    /// As [`Self::of`], and [`PathError::Fragment`].
    pub fn parse(text: &str, tolerated: Quirks) -> Result<Self, PathError> {
        if text.contains('#') {
            return Err(PathError::Fragment);
        }
        if !text.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        if text.len() > LONGEST {
            return Err(PathError::TooLong);
        }
        let path = text.split('?').next().unwrap_or(text);
        let (canonical, _) = canonicalise(path.as_bytes(), tolerated)?;
        // What the http crate would refuse in a path is encoded first; in a query nothing is touched.
        let text = [canonical.as_slice(), text.as_bytes().get(path.len()..).unwrap_or_default()].concat();
        let target = PathAndQuery::from_maybe_shared(Bytes::from(text)).map_err(|_| PathError::BadByte)?;
        Self::of(&Uri::from(target), tolerated)
    }

    /// Another path with the same query, for an upstream with these quirks.
    ///
    /// # Errors
    /// [`PathError`] unless it is canonical as it stands. [`PathError::DoubleSlash`] at the beginning whatever the
    /// quirks: many take what follows for a host.
    pub(super) fn with_path(&self, path: &str, quirks: Quirks) -> Result<Self, PathError> {
        if path.starts_with("//") {
            return Err(PathError::DoubleSlash);
        }
        let (canonical, odd) = canonicalise(path.as_bytes(), quirks)?;
        let mut text = canonical;
        if let Some(query) = self.query() {
            text.push(b'?');
            text.extend_from_slice(query.as_bytes());
        }
        let target = PathAndQuery::from_maybe_shared(Bytes::from(text)).map_err(|_| PathError::TooLong)?;
        Ok(Self { target, odd })
    }

    /// The path: begins with `/`, except for the `*` of `OPTIONS *`.
    pub fn as_str(&self) -> &str {
        self.target.path()
    }

    /// The query as the client sent it, without the question mark.
    pub fn query(&self) -> Option<&str> {
        self.target.query()
    }

    /// Path and query as they go upstream; cloning is a reference count.
    pub const fn target(&self) -> &PathAndQuery {
        &self.target
    }

    /// The first thing in this path that R7 refuses and `quirks` do not allow; `None` for nearly every path.
    pub fn undeclared(&self, quirks: Quirks) -> Option<PathError> {
        first_undeclared(self.odd, quirks)
    }
}

/// Two paths are the same whatever their queries.
impl PartialEq for CanonicalPath {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for CanonicalPath {}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PathError {
    /// The word for logs and metrics: snake case, a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous_path",
            Self::Backslash => "backslash",
            Self::BadByte => "bad_byte",
            Self::BadPercent => "bad_percent",
            Self::ControlByte => "control_byte",
            Self::DotSegment => "dot_segment",
            Self::DoubleEncoded => "double_encoded",
            Self::DoubleSlash => "double_slash",
            Self::EncodedSlash => "encoded_slash",
            Self::Fragment => "fragment",
            Self::NotAbsolute => "not_absolute",
            Self::NotUtf8 => "not_utf8",
            Self::Semicolon => "semicolon",
            Self::TooLong => "path_too_long",
        }
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ambiguous => "the upstream's path_quirks allow readings that lead to different routes",
            Self::Backslash => "holds a backslash",
            Self::BadByte => "holds a byte that no request target may hold",
            Self::BadPercent => "holds a % without two hexadecimal digits behind it",
            Self::ControlByte => "holds a control byte",
            Self::DotSegment => "holds a . or .. segment",
            Self::DoubleEncoded => "holds an encoded percent sign before something that is refused",
            Self::DoubleSlash => "holds //; an upstream that means it declares path_quirks = [\"double_slash\"]",
            Self::EncodedSlash => "holds %2f; an upstream that means it declares path_quirks = [\"encoded_slash\"]",
            Self::Fragment => "holds a #",
            Self::NotAbsolute => "does not begin with /",
            Self::NotUtf8 => "is not UTF-8 once decoded",
            Self::Semicolon => "holds a semicolon; an upstream that means it declares path_quirks = [\"semicolon\"]",
            Self::TooLong => "is too long",
        })
    }
}

impl Quirks {
    /// What either declares.
    pub const fn union(self, other: Self) -> Self {
        Self {
            case_insensitive: self.case_insensitive | other.case_insensitive,
            semicolon: self.semicolon | other.semicolon,
            encoded_slash: self.encoded_slash | other.encoded_slash,
            double_slash: self.double_slash | other.double_slash,
            trailing_slash: self.trailing_slash | other.trailing_slash,
            suffix: self.suffix | other.suffix,
        }
    }

    /// Whether none is declared.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl PathPattern {
    /// Of segments that parsed before.
    pub(super) fn from_segments(segments: impl Iterator<Item = Segment>) -> Self {
        Self { segments: segments.collect() }
    }

    /// Its segments, first to last; never empty.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The names of its parameters, first to last, `{*rest}` included.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Parameter(name) | Segment::Rest(name) => Some(&**name),
        })
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let refuse = |why: &str| Err(PatternError(format!("`{text}` {why}")));
        let Some(body) = text.strip_prefix('/') else {
            return refuse("does not begin with `/`; write the whole path, such as `/users/{id}`");
        };
        if text.len() > LONGEST {
            return refuse("is too long");
        }
        let mut segments: Vec<Segment> = Vec::new();
        let mut rest = Some(body);
        while let Some(remaining) = rest {
            let (text, after) = match remaining.split_once('/') {
                Some((text, after)) => (text, Some(after)),
                None => (remaining, None),
            };
            let segment = match segment(text) {
                Ok(segment) => segment,
                Err(why) => return refuse(&why),
            };
            if after.is_some() && matches!(segment, Segment::Rest(_)) {
                return refuse("has something behind `{*…}`, which matches all the rest; let it be the last segment");
            }
            if after.is_some() && matches!(&segment, Segment::Literal(text) if text.is_empty()) {
                return refuse("holds `//`, which no request path does; write one slash");
            }
            if let Segment::Parameter(name) | Segment::Rest(name) = &segment
                && segments.iter().any(|s| matches!(s, Segment::Parameter(n) | Segment::Rest(n) if n == name))
            {
                return refuse(&format!("names `{name}` twice; give each parameter a name of its own"));
            }
            segments.push(segment);
            rest = after;
        }
        Ok(Self { segments: segments.into() })
    }
}

/// The canonical spelling.
impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &*self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{}", encode_segment(text))?,
                Segment::Parameter(name) => write!(f, "/{{{name}}}")?,
                Segment::Rest(name) => write!(f, "/{{*{name}}}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PatternError {}

/// A piece of a canonical path, decoded once (R6). Canonical paths are UTF-8 once decoded.
pub(crate) fn decode(piece: &str) -> Cow<'_, str> {
    if !piece.as_bytes().contains(&b'%') {
        return Cow::Borrowed(piece);
    }
    percent_decode_str(piece).decode_utf8_lossy()
}

/// A decoded text as one segment of a canonical path.
pub(crate) fn encode_segment(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    for &byte in text.as_bytes() {
        match class(byte) {
            Class::Plain => out.push(byte),
            Class::Backslash
            | Class::Bad
            | Class::Delimiter
            | Class::Encode
            | Class::Percent
            | Class::Semicolon
            | Class::Slash => push_encoded(&mut out, byte),
        }
    }
    String::from_utf8(out).unwrap_or_default()
}

fn segment(text: &str) -> Result<Segment, String> {
    let name_fits = |name: &str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    if let Some(inner) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        let (name, is_rest) = inner.strip_prefix('*').map_or((inner, false), |name| (name, true));
        if !name_fits(name) {
            return Err(format!(
                "has the parameter name `{name}`; names are letters, digits and `_`, as in `{{id}}` or `{{*rest}}`"
            ));
        }
        return Ok(if is_rest { Segment::Rest(name.into()) } else { Segment::Parameter(name.into()) });
    }
    if text.contains(['{', '}']) {
        return Err(format!("mixes text and parameter in `{text}`; a parameter is a whole segment, as in `/{{id}}/`"));
    }
    if text.contains('*') {
        return Err(format!("holds `{text}`; for whatever follows write `{{*rest}}`, for one segment `{{id}}`"));
    }
    if let Some(name) = text.strip_prefix(':') {
        return Err(format!("holds `{text}`; for a parameter write `{{{name}}}`, for the text itself `%3A{name}`"));
    }
    if text.contains('?') {
        return Err("holds a query; routes match the path alone".into());
    }
    if text.contains('#') {
        return Err("holds a fragment, which never reaches a server".into());
    }
    let (canonical, _) = canonicalise(format!("/{text}").as_bytes(), Quirks::default())
        .map_err(|why| format!("matches no request path: it {why}"))?;
    let canonical = String::from_utf8(canonical).unwrap_or_default();
    Ok(Segment::Literal(decode(canonical.get(1..).unwrap_or_default()).into()))
}

/// Whether the path is canonical without any quirk: the common case, one pass, no writes.
fn is_canonical(path: &[u8]) -> bool {
    let Some((b'/', rest)) = path.split_first() else {
        return false;
    };
    if is_plain(rest) {
        return true;
    }
    let mut length = 0usize;
    let mut only_dots = true;
    for &byte in rest {
        match class(byte) {
            Class::Plain => {
                length += 1;
                only_dots &= byte == b'.';
            }
            Class::Slash => {
                if length == 0 || (only_dots && length <= 2) {
                    return false;
                }
                length = 0;
                only_dots = true;
            }
            Class::Backslash | Class::Bad | Class::Delimiter | Class::Encode | Class::Percent | Class::Semicolon => {
                return false;
            }
        }
    }
    length == 0 || length > 2 || !only_dots
}

/// Whether a path, its first slash apart, holds nothing but letters, digits, `-`, `_`, `.` and slashes, and no slash
/// and no dot right behind a slash: nearly all paths.
fn is_plain(rest: &[u8]) -> bool {
    // The byte before the next word, where its mark goes that says whether that is a slash.
    let (mut before, mut odd) = (0x80, 0);
    let mut look = |word: u64| {
        let letters = swar::within(word | (ONES * 0x20), b'a', b'z');
        let others = swar::within(word, b'-', b'9') | swar::within(word, b'_', b'_');
        let slashes = swar::within(word, b'/', b'/');
        let after_slash = (slashes << 8) | before;
        // Marks are only right where no byte is above 0x7f; one that is makes the path odd.
        odd |= word | !(letters | others) | (swar::within(word, b'.', b'/') & after_slash);
        before = slashes >> 56;
    };
    let (words, tail) = rest.as_chunks::<WORD>();
    words.iter().for_each(|word| look(u64::from_le_bytes(*word)));
    look(swar::last(rest, tail.len(), b'a'));
    odd & HIGHS == 0
}

/// The canonical bytes of a path, and what of it only quirks allow.
fn canonicalise(raw: &[u8], tolerated: Quirks) -> Result<(Vec<u8>, Quirks), PathError> {
    if raw.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let mut odd = Quirks::default();
    let mut not_ascii = false;
    let mut out = Vec::with_capacity(raw.len() + 16);
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        match class(byte) {
            Class::Plain | Class::Slash => out.push(byte),
            Class::Backslash => return Err(PathError::Backslash),
            Class::Bad if byte.is_ascii_control() => return Err(PathError::ControlByte),
            Class::Bad => return Err(PathError::BadByte),
            Class::Delimiter if byte == b'#' => return Err(PathError::Fragment),
            Class::Delimiter => return Err(PathError::BadByte),
            Class::Encode => {
                not_ascii |= !byte.is_ascii();
                push_encoded(&mut out, byte);
            }
            Class::Semicolon => {
                odd.semicolon = true;
                out.push(byte);
            }
            Class::Percent => {
                let pair = (bytes.next().and_then(hex_value), bytes.next().and_then(hex_value));
                let (Some(high), Some(low)) = pair else {
                    return Err(PathError::BadPercent);
                };
                match high << 4 | low {
                    b'\\' => return Err(PathError::Backslash),
                    decoded if decoded.is_ascii_control() => return Err(PathError::ControlByte),
                    decoded if is_unreserved(decoded) => out.push(decoded),
                    decoded => {
                        odd.encoded_slash |= decoded == b'/';
                        not_ascii |= !decoded.is_ascii();
                        push_encoded(&mut out, decoded);
                    }
                }
            }
        }
    }
    if not_ascii && std::str::from_utf8(&out).is_ok_and(|text| percent_decode_str(text).decode_utf8().is_err()) {
        return Err(PathError::NotUtf8);
    }
    if is_double_encoded(&out) {
        return Err(PathError::DoubleEncoded);
    }
    let segments = || out.split(|b| *b == b'/').skip(1);
    if segments().any(|segment| is_dot_segment(before_encoded_semicolon(segment))) {
        return Err(PathError::DotSegment);
    }
    odd.double_slash = out.windows(2).any(|pair| pair == b"//");
    match first_undeclared(odd, tolerated) {
        Some(error) => Err(error),
        None => Ok((out, odd)),
    }
}

pub(crate) fn is_dot_segment(segment: &[u8]) -> bool {
    matches!(segment, b"." | b"..")
}

/// `..%3Bx` is `..` to whoever decodes before cutting parameters off.
fn before_encoded_semicolon(segment: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(segment, b"%3B").unwrap_or(segment.len());
    segment.get(..end).unwrap_or(segment)
}

fn first_undeclared(odd: Quirks, declared: Quirks) -> Option<PathError> {
    if odd.semicolon && !declared.semicolon {
        return Some(PathError::Semicolon);
    }
    if odd.encoded_slash && !declared.encoded_slash {
        return Some(PathError::EncodedSlash);
    }
    (odd.double_slash && !declared.double_slash).then_some(PathError::DoubleSlash)
}

/// Whether a second decoding would yield a separator, a dot or a control byte, however often `%25` is piled up.
fn is_double_encoded(canonical: &[u8]) -> bool {
    canonical.windows(3).enumerate().filter(|(_, text)| text == b"%25").any(|(at, _)| {
        let mut rest = canonical.get(at + 3..).unwrap_or_default();
        while let Some(deeper) = rest.strip_prefix(b"25") {
            rest = deeper;
        }
        let pair = (rest.first().copied().and_then(hex_value), rest.get(1).copied().and_then(hex_value));
        let (Some(high), Some(low)) = pair else {
            return false;
        };
        let decoded = high << 4 | low;
        matches!(decoded, b'/' | b'\\' | b'.') || decoded.is_ascii_control()
    })
}

fn push_encoded(out: &mut Vec<u8>, byte: u8) {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'A' + value - 10 };
    out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
}

const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What a raw byte is to a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Class {
    /// Never in a request target.
    Bad,
    /// `\`, which some take for a slash.
    Backslash,
    /// `?` or `#`: the path is over.
    Delimiter,
    /// Must be encoded to be in a URI at all: `"<>[]^`{|}` and everything beyond ASCII.
    Encode,
    /// Begins an encoded byte.
    Percent,
    /// A `pchar` (RFC 3986 section 3.3) but `;`.
    Plain,
    /// Begins a parameter to some (RFC 2396 section 3.3).
    Semicolon,
    /// Separates segments.
    Slash,
}

const fn class(byte: u8) -> Class {
    CLASSES[byte as usize]
}

const CLASSES: [Class; 256] = {
    let mut table = [Class::Bad; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let value = byte as u8;
        table[byte] = match value {
            b'/' => Class::Slash,
            b';' => Class::Semicolon,
            b'%' => Class::Percent,
            b'\\' => Class::Backslash,
            b'?' | b'#' => Class::Delimiter,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => Class::Plain,
            _ if is_unreserved(value) => Class::Plain,
            0..=0x20 | 0x7f => Class::Bad,
            _ => Class::Encode,
        };
        byte += 1;
    }
    table
};

/// The http crate counts in 16 bits.
const LONGEST: usize = 65_534;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Result<String, PathError> {
        CanonicalPath::parse(text, Quirks::default()).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn what_only_looks_like_a_path_becomes_one() {
        for text in ["/", "#", "#/admin"] {
            let uri = Uri::from(PathAndQuery::try_from(text).unwrap());
            let path = CanonicalPath::of(&uri, Quirks::default()).unwrap();

            assert_eq!(Uri::from(path.target().clone()).to_string(), "/", "{text}");
        }
    }

    #[test]
    fn a_path_has_one_canonical_form() {
        for (given, expect) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/", "/a/"),
            ("/%61dmin", "/admin"),
            ("/%41", "/A"),
            ("/a%c3%a4", "/a%C3%A4"),
            ("/aä", "/a%C3%A4"),
            ("/a%20b", "/a%20b"),
            ("/a%7eb", "/a~b"),
            ("/a{b}|^`\"<>[c]", "/a%7Bb%7D%7C%5E%60%22%3C%3E%5Bc%5D"),
            ("/a%3bb", "/a%3Bb"),
            ("/a!$&'()*+,=:@b", "/a!$&'()*+,=:@b"),
            ("/%2541", "/%2541"),
            ("/100%25", "/100%25"),
            ("/a%2520b", "/a%2520b"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/a..b/..c/d.", "/a..b/..c/d."),
        ] {
            assert_eq!(canonical(given).as_deref(), Ok(expect), "{given:?}");
        }
    }

    #[test]
    fn what_readers_could_differ_on_is_refused() {
        use PathError as E;
        for (given, expect) in [
            ("", E::NotAbsolute),
            ("a", E::NotAbsolute),
            ("*", E::NotAbsolute),
            ("/..", E::DotSegment),
            ("/a/../b", E::DotSegment),
            ("/a/./b", E::DotSegment),
            ("/a/.", E::DotSegment),
            ("/%2e%2e/b", E::DotSegment),
            ("/.%2E/b", E::DotSegment),
            ("//a", E::DoubleSlash),
            ("/a//", E::DoubleSlash),
            ("/a\\b", E::Backslash),
            ("/a%5cb", E::Backslash),
            ("/a;b", E::Semicolon),
            ("/a/..;/b", E::Semicolon),
            ("/a%2fb", E::EncodedSlash),
            ("/a%2Fb", E::EncodedSlash),
            ("/a%00", E::ControlByte),
            ("/a%0d%0ab", E::ControlByte),
            ("/a%7f", E::ControlByte),
            ("/a\tb", E::ControlByte),
            ("/a b", E::BadByte),
            ("/a%252fb", E::DoubleEncoded),
            ("/a%252Fb", E::DoubleEncoded),
            ("/a%255cb", E::DoubleEncoded),
            ("/a%2500", E::DoubleEncoded),
            ("/%252e%252e/b", E::DoubleEncoded),
            ("/a%25252fb", E::DoubleEncoded),
            ("/a%25%32%66b", E::DoubleEncoded),
            ("/a%", E::BadPercent),
            ("/a%4", E::BadPercent),
            ("/a%zz", E::BadPercent),
            ("/a%u002f", E::BadPercent),
            ("/a%ff", E::NotUtf8),
            ("/a%c0%af", E::NotUtf8),
            ("/a%ed%a0%80", E::NotUtf8),
            ("/a#b", E::Fragment),
        ] {
            assert_eq!(canonical(given), Err(expect), "{given:?}");
        }
    }

    #[test]
    fn the_query_is_untouched_and_a_canonical_target_is_not_copied() {
        let uri: Uri = "/a/b?x=%2e%2e//;\\".parse().unwrap();
        let path = CanonicalPath::of(&uri, Quirks::default()).unwrap();

        assert_eq!((path.as_str(), path.query()), ("/a/b", Some("x=%2e%2e//;\\")));
        assert_eq!(path.target().as_str().as_ptr(), uri.path_and_query().unwrap().as_str().as_ptr());

        let changed = CanonicalPath::of(&"/%61?x=%2e".parse().unwrap(), Quirks::default()).unwrap();
        assert_eq!(changed.target().as_str(), "/a?x=%2e");
        let bare = CanonicalPath::of(&"http://a.example?x".parse().unwrap(), Quirks::default()).unwrap();
        assert_eq!(bare.target().as_str(), "/?x");
        let raw = CanonicalPath::parse("/ä?ö", Quirks::default()).unwrap();
        assert_eq!(raw.target().as_str(), "/%C3%A4?ö");
    }

    #[test]
    fn targets_without_a_path_match_nothing() {
        for target in ["*", "a.example:443"] {
            let path = CanonicalPath::of(&target.parse().unwrap(), Quirks::default()).unwrap();
            assert_eq!(path.as_str(), "*");
        }
    }

    #[test]
    fn tolerated_oddities_pass_and_are_remembered() {
        for (given, quirks, error) in [
            ("/a;b", Quirks { semicolon: true, ..Quirks::default() }, PathError::Semicolon),
            ("/a%2fb", Quirks { encoded_slash: true, ..Quirks::default() }, PathError::EncodedSlash),
            ("/a//b", Quirks { double_slash: true, ..Quirks::default() }, PathError::DoubleSlash),
        ] {
            let path = CanonicalPath::parse(given, quirks).unwrap();
            assert_eq!(path.undeclared(quirks), None, "{given}");
            assert_eq!(path.undeclared(Quirks::default()), Some(error), "{given}");
        }
    }

    #[test]
    fn patterns_are_read_and_print_in_canonical_spelling() {
        for (given, expect) in [
            ("/", "/"),
            ("/users/{id}", "/users/{id}"),
            ("/users/{id}/{*rest}", "/users/{id}/{*rest}"),
            ("/{*all}", "/{*all}"),
            ("/a/", "/a/"),
            ("/ä b", ""),
            ("/%61%20b", "/a%20b"),
            ("/grün", "/gr%C3%BCn"),
            ("/@me/x.json", "/@me/x.json"),
            ("/%3Aid", "/:id"),
        ] {
            let shown = given.parse::<PathPattern>().map(|p| p.to_string()).unwrap_or_default();
            assert_eq!(shown, expect, "{given:?}");
        }
    }

    #[test]
    fn a_bad_pattern_is_told_how_to_mend() {
        for (given, hint) in [
            ("", "does not begin with `/`"),
            ("users", "does not begin with `/`"),
            ("/a//b", "write one slash"),
            ("/a/{*rest}/b", "let it be the last segment"),
            ("/a/*", "write `{*rest}`"),
            ("/users/:id", "write `{id}`"),
            ("/{id}.json", "a parameter is a whole segment"),
            ("/{}", "names are letters"),
            ("/{1a}", "names are letters"),
            ("/{a}/{a}", "twice"),
            ("/a?b", "path alone"),
            ("/a#b", "fragment"),
            ("/../b", ". or .. segment"),
            ("/a;b", "semicolon"),
            ("/a%2fb", "%2f"),
            ("/%zz", "two hexadecimal digits"),
        ] {
            let error = given.parse::<PathPattern>().expect_err(given).to_string();
            assert!(error.contains(hint), "{given:?}: {error}");
        }
    }

    /// Pieces that matter, so that random paths are not all refused or all harmless.
    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z0-9._~-]{1,4}",
            "[!$&'()*+,=:@\\[\\]{}|^\"]",
            prop::sample::select(vec![
                "/", "//", ".", "..", "%2e", "%2F", "%5c", ";", "%3b", "%25", "%2525", "25", "2f", "%00", "%c3%a4",
                "ä", "%ff", "%41", "%7E", "\\", "%", "%20", "5c", "2E",
            ])
            .prop_map(str::to_owned),
        ]
    }

    fn raw_path() -> impl Strategy<Value = String> {
        prop::collection::vec(piece(), 0..8).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    fn all_quirks() -> Quirks {
        Quirks { semicolon: true, encoded_slash: true, double_slash: true, ..Quirks::default() }
    }

    /// RFC 3986 section 5.2.4, to the letter.
    fn strict_reader(path: &str) -> String {
        let mut input = path.to_owned();
        let mut output = String::new();
        while !input.is_empty() {
            if let Some(rest) = input.strip_prefix("/./") {
                input = format!("/{rest}");
            } else if input == "/." {
                input = "/".into();
            } else if let Some(rest) = input.strip_prefix("/../") {
                input = format!("/{rest}");
                output.truncate(output.rfind('/').unwrap_or(0));
            } else if input == "/.." {
                input = "/".into();
                output.truncate(output.rfind('/').unwrap_or(0));
            } else {
                let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
                output.push_str(&input[..end]);
                input.drain(..end);
            }
        }
        output
    }

    /// A backend that decodes first, takes `\` for `/`, drops parameters, merges slashes and resolves dots.
    fn lax_reader(path: &str) -> Vec<String> {
        let without_parameters: Vec<&str> = path.split('/').map(|s| s.split(';').next().unwrap_or(s)).collect();
        let decoded = percent_decode_str(&without_parameters.join("/")).decode_utf8_lossy().replace('\\', "/");
        let decoded = decoded.split('\0').next().unwrap_or_default().to_owned();
        let mut segments: Vec<String> = Vec::new();
        for segment in decoded.split('/').filter(|s| !s.is_empty() && *s != ".") {
            if segment == ".." {
                segments.pop();
            } else {
                segments.push(segment.to_owned());
            }
        }
        segments
    }

    proptest! {
        #[test]
        fn canonicalising_twice_changes_nothing(raw in raw_path()) {
            for quirks in [Quirks::default(), all_quirks()] {
                if let Ok(once) = CanonicalPath::parse(&raw, quirks) {
                    let twice = CanonicalPath::parse(once.as_str(), quirks);
                    prop_assert_eq!(Ok(once.as_str()), twice.as_ref().map(CanonicalPath::as_str).map_err(|e| *e));
                }
            }
        }

        #[test]
        fn the_short_way_and_the_long_way_agree(raw in raw_path()) {
            if is_canonical(raw.as_bytes()) {
                let (canonical, odd) = canonicalise(raw.as_bytes(), Quirks::default()).unwrap();
                prop_assert_eq!((canonical, odd), (raw.into_bytes(), Quirks::default()));
            }
        }

        #[test]
        fn accepted_paths_are_unchanged_by_strict_and_lax_readers(raw in raw_path()) {
            if let Ok(path) = CanonicalPath::parse(&raw, Quirks::default()) {
                let text = path.as_str();
                prop_assert_eq!(strict_reader(text), text);
                let ours: Vec<String> =
                    text.split('/').filter(|s| !s.is_empty()).map(|s| decode(s).into_owned()).collect();
                prop_assert_eq!(lax_reader(text), ours);
                prop_assert!(text.parse::<PathAndQuery>().is_ok_and(|target| target.path() == text));
                // Even one who decodes twice sees the same separators and no dots.
                let once = decode(text).into_owned();
                let twice = decode(&once).into_owned();
                prop_assert_eq!(twice.matches(['/', '\\', '\0']).count(), text.matches('/').count());
                prop_assert!(!twice.split('/').any(|s| is_dot_segment(s.as_bytes())), "{}", twice);
            }
        }

        #[test]
        fn patterns_print_as_they_are_read(segments in prop::collection::vec("[a-zA-Z0-9äß!@ .-]{1,5}", 1..4)) {
            let text: String = segments.iter().map(|s| format!("/{}", encode_segment(s))).collect();
            if let Ok(pattern) = text.parse::<PathPattern>() {
                prop_assert_eq!(pattern.to_string().parse::<PathPattern>(), Ok(pattern));
            }
        }
    }
}
