//! HTTP/1 framing as it is on the wire: where each message begins and ends, and whether its head may be believed (R18).
//!
//! In: bytes in the order they came, cut anywhere. Out: how many of them may go on to hyper, or why none may.
//! What hyper would repair (bare LF, two lengths, a length beside a coding, blanks on chunk lines, fragments) is a
//! violation here, and what passes here hyper reads the same way. Pure: no IO, no clock.
//! RFC 9112 sections 2.2, 3, 5, 6 and 7; RFC 9110 section 5.

use http::Uri;

use crate::{
    inbound::Malformed,
    swar::{self, HIGHS, ONES, WORD},
};

/// Bounds of a request head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadBounds {
    /// Bytes, the empty line included.
    pub(crate) bytes: usize,
    /// Fields; also of trailers.
    pub(crate) fields: usize,
}

/// Follows the messages of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Framing {
    bounds: HeadBounds,
    state: State,
    heads: u64,
    upgrade: bool,
}

/// What may be done with the bytes that were shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// The first so many (at least one) may go on; they lie within one message.
    Pass(usize),
    /// A head without its end: show the same bytes again with more behind them.
    More,
    /// The head at the front must not be believed, and nothing after it.
    BadHead(Malformed),
    /// The body breaks here.
    BadBody(Malformed),
}

#[derive(Clone, Debug)]
enum State {
    Head(HeadScan),
    Length(u64),
    Chunked(Chunks),
    Broken(Step),
}

impl Framing {
    /// Before the first byte of a connection.
    pub(crate) fn new(bounds: HeadBounds) -> Self {
        Self { bounds, state: State::Head(HeadScan::default()), heads: 0, upgrade: false }
    }

    /// Looks at `bytes`, which are not empty and follow what was passed so far.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Step {
        let scan = match &mut self.state {
            State::Head(scan) => scan,
            State::Length(_) | State::Chunked(_) => return self.pass_body(0, bytes),
            State::Broken(step) => return *step,
        };
        match scan.advance(bytes, self.bounds) {
            Ok(None) => Step::More,
            Ok(Some(head)) => {
                self.heads += 1;
                self.upgrade = head.upgrade;
                self.state = match head.body {
                    BodyKind::None => State::Head(HeadScan::default()),
                    BodyKind::Length(length) => State::Length(length),
                    BodyKind::Chunked => State::Chunked(Chunks::new()),
                };
                self.pass_body(head.length, bytes)
            }
            Err(reason) => {
                self.state = State::Broken(Step::BadHead(reason));
                Step::BadHead(reason)
            }
        }
    }

    /// How many heads were passed.
    pub(crate) const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the last head asked to leave HTTP, so that what follows its message may be something else.
    pub(crate) const fn asks_upgrade(&self) -> bool {
        self.upgrade
    }

    /// Whether the next byte belongs to a body.
    pub(crate) const fn in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(_))
    }

    /// Whether a violation ended it: nothing passes any more.
    pub(crate) const fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken(_))
    }

    /// Passes `done` bytes and what of the body follows them.
    fn pass_body(&mut self, done: usize, bytes: &[u8]) -> Step {
        let rest = bytes.get(done..).unwrap_or_default();
        let taken = match &mut self.state {
            State::Head(_) | State::Broken(_) => 0,
            State::Length(left) => {
                let taken = usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                *left -= taken as u64;
                if *left == 0 {
                    self.state = State::Head(HeadScan::default());
                }
                taken
            }
            State::Chunked(chunks) => match chunks.advance(rest, self.bounds) {
                ChunkStep::Taken(taken) => taken,
                ChunkStep::End(taken) => {
                    self.state = State::Head(HeadScan::default());
                    taken
                }
                ChunkStep::Bad(taken, reason) => {
                    self.state = State::Broken(Step::BadBody(reason));
                    if done + taken == 0 {
                        return Step::BadBody(reason);
                    }
                    taken
                }
            },
        };
        Step::Pass(done + taken)
    }
}

/// A head whose end was seen and that is sound.
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    body: BodyKind,
    upgrade: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum BodyKind {
    None,
    Length(u64),
    Chunked,
}

/// A head line by line. It keeps its place, so that a head that comes in pieces is looked at once.
#[derive(Clone, Debug, Default)]
struct HeadScan {
    /// Where the current line begins.
    line: usize,
    /// Up to where no line end was found. `line <= searched`.
    searched: usize,
    fields: usize,
    blank: bool,
    started: bool,
    http_10: bool,
    upgrade: bool,
    length: Option<u64>,
    chunked: bool,
}

impl HeadScan {
    fn advance(&mut self, bytes: &[u8], bounds: HeadBounds) -> Result<Option<Head>, Malformed> {
        loop {
            let found = bytes.get(self.searched..).and_then(find_control).map(|found| self.searched + found);
            let full = found.unwrap_or(bytes.len()) >= bounds.bytes;
            let (false, Some(at)) = (full, found) else {
                self.searched = bytes.len();
                return if full { Err(Malformed::HeadTooLarge) } else { Ok(None) };
            };
            let end = match (bytes.get(at), bytes.get(at + 1)) {
                (Some(b'\t'), _) => {
                    self.searched = at + 1;
                    continue;
                }
                (Some(b'\r'), _) if at + 1 >= bounds.bytes => return Err(Malformed::HeadTooLarge),
                (Some(b'\r'), Some(b'\n')) => at + 2,
                (Some(b'\r'), None) => {
                    self.searched = at;
                    return Ok(None);
                }
                (Some(b'\r' | b'\n'), _) => return Err(Malformed::BareLineEnd),
                (_, _) if !self.started => return Err(Malformed::RequestLine),
                (_, _) => {
                    let in_value = bytes.get(self.line..at).is_some_and(|line| line.contains(&b':'));
                    return Err(if in_value { Malformed::HeaderValue } else { Malformed::HeaderName });
                }
            };
            let line = bytes.get(self.line..at).unwrap_or_default();
            self.line = end;
            self.searched = end;
            if line.is_empty() {
                if self.started {
                    return self.finish(end).map(Some);
                }
                // One empty line before a request is forgiven (RFC 9112 section 2.2).
                if std::mem::replace(&mut self.blank, true) {
                    return Err(Malformed::RequestLine);
                }
            } else if self.started {
                self.fields += 1;
                if self.fields > bounds.fields {
                    return Err(Malformed::TooManyHeaders);
                }
                self.field(line)?;
            } else {
                self.started = true;
                self.http_10 = request_line(line, &mut self.upgrade)?;
            }
        }
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let (name, rest) = line.split_at(swar::position(line, b':').unwrap_or(0));
        // Without a branch for each byte: names are short, and all but sound.
        let sound = name.iter().fold(!name.is_empty(), |sound, byte| sound & is_tchar(*byte));
        let (true, Some((_, value))) = (sound, rest.split_first()) else {
            let folded = matches!(line.first(), Some(b' ' | b'\t'));
            return Err(if folded { Malformed::ObsFold } else { Malformed::HeaderName });
        };
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade |= !self.http_10,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = decimal(value.trim_ascii()).ok_or(Malformed::ContentLength)?;
                if self.length.replace(length).is_some() {
                    return Err(Malformed::ContentLength);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let plain = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
                if self.http_10 || !plain || std::mem::replace(&mut self.chunked, true) {
                    return Err(Malformed::TransferCoding);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&self, length: usize) -> Result<Head, Malformed> {
        let body = match (self.length, self.chunked) {
            (Some(_), true) => return Err(Malformed::LengthWithCoding),
            (None, true) => BodyKind::Chunked,
            (Some(0) | None, false) => BodyKind::None,
            (Some(length), false) => BodyKind::Length(length),
        };
        Ok(Head { length, body, upgrade: self.upgrade })
    }
}

/// `METHOD SP target SP HTTP/1.x`; `true` for HTTP/1.0.
fn request_line(line: &[u8], upgrade: &mut bool) -> Result<bool, Malformed> {
    let method_length = line.iter().position(|byte| !is_tchar(*byte)).unwrap_or(line.len());
    let (method, rest) = line.split_at(method_length);
    let rest = rest.strip_prefix(b" ").filter(|_| !method.is_empty()).ok_or(Malformed::RequestLine)?;
    let (target, http_10) = if let Some(target) = rest.strip_suffix(b" HTTP/1.1") {
        (target, false)
    } else if let Some(target) = rest.strip_suffix(b" HTTP/1.0") {
        (target, true)
    } else {
        return Err(Malformed::RequestLine);
    };
    // hyper prepares to leave HTTP for CONNECT as it does for `Upgrade`.
    *upgrade = method == b"CONNECT";
    if target.len() > TARGET_MAX {
        return Err(Malformed::HeadTooLarge);
    }
    let served = match target.first() {
        Some(b'/') => is_origin_form(target),
        Some(b'*') => target == b"*" && method == b"OPTIONS",
        _ => is_absolute_form(target),
    };
    if served { Ok(http_10) } else { Err(Malformed::RequestLine) }
}

/// Whether every byte may stand in a path or query as `http::Uri` reads them. No fragment; UTF-8 where not ASCII.
fn is_origin_form(target: &[u8]) -> bool {
    let all = target.iter().fold(0, |all, byte| all | TARGET[usize::from(*byte)]);
    all & NOWHERE == 0
        && (all & (ONLY_IN_PATH | ONLY_IN_QUERY) == 0 || is_split_well(target))
        && (all & HIGH == 0 || std::str::from_utf8(target).is_ok())
}

/// Whether the few bytes that may stand in only one of path and query stand there.
fn is_split_well(target: &[u8]) -> bool {
    let path_length = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(path_length);
    let has = |part: &[u8], class: u8| part.iter().any(|byte| TARGET[usize::from(*byte)] & class != 0);
    !has(path, ONLY_IN_QUERY) && !has(query, ONLY_IN_PATH)
}

/// `http://authority…` or `https://authority…`, without user information and fragment. Rare, hence parsed in full.
fn is_absolute_form(target: &[u8]) -> bool {
    let starts = |prefix: &[u8]| target.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    let after_scheme = match (starts(b"http://"), starts(b"https://")) {
        (true, _) => 7,
        (_, true) => 8,
        (false, false) => return false,
    };
    let rest = target.get(after_scheme..).unwrap_or_default();
    let authority_length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_length);
    let host_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(byte);
    let path_fits = match path.first() {
        None => true,
        Some(b'?') => is_origin_form(&[b"/", path].concat()),
        Some(_) => is_origin_form(path),
    };
    !authority.is_empty() && authority.iter().all(host_byte) && path_fits && Uri::try_from(target).is_ok()
}

/// Chunked coding (RFC 9112 section 7.1), byte by byte but for the data itself.
#[derive(Clone, Debug)]
struct Chunks {
    at: ChunkAt,
    /// Bytes of data left in this chunk.
    left: u64,
    digits: u8,
    extension_bytes: usize,
    trailer_bytes: usize,
    trailers: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ChunkAt {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

enum ChunkStep {
    Taken(usize),
    End(usize),
    Bad(usize, Malformed),
}

impl Chunks {
    const fn new() -> Self {
        Self { at: ChunkAt::Size, left: 0, digits: 0, extension_bytes: 0, trailer_bytes: 0, trailers: 0 }
    }

    fn advance(&mut self, bytes: &[u8], bounds: HeadBounds) -> ChunkStep {
        let mut taken = 0;
        while let Some(byte) = bytes.get(taken) {
            if self.at == ChunkAt::Data {
                let rest = bytes.len() - taken;
                let data = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
                self.left -= data as u64;
                taken += data;
                if self.left == 0 {
                    self.at = ChunkAt::DataCr;
                }
                continue;
            }
            match self.next(*byte, bounds) {
                Ok(Some(next)) => self.at = next,
                Ok(None) => return ChunkStep::End(taken + 1),
                Err(reason) => return ChunkStep::Bad(taken, reason),
            }
            taken += 1;
        }
        ChunkStep::Taken(taken)
    }

    /// Where one byte leads; `None` at the end of the body.
    fn next(&mut self, byte: u8, bounds: HeadBounds) -> Result<Option<ChunkAt>, Malformed> {
        let next = match (self.at, byte) {
            (ChunkAt::Size, _) if byte.is_ascii_hexdigit() && self.digits < CHUNK_DIGITS_MAX => {
                self.digits += 1;
                self.left = (self.left << 4) | u64::from(hex_value(byte));
                ChunkAt::Size
            }
            (ChunkAt::Size, b'\r') if self.digits > 0 => ChunkAt::SizeLf,
            (ChunkAt::Size, b';') if self.digits > 0 => ChunkAt::Extension,
            (ChunkAt::Extension, b'\r') => ChunkAt::SizeLf,
            (ChunkAt::Extension, 0x21..=0x7e) if self.extension_bytes < EXTENSION_BYTES_MAX => {
                self.extension_bytes += 1;
                ChunkAt::Extension
            }
            (ChunkAt::SizeLf, b'\n') => {
                self.digits = 0;
                if self.left == 0 { ChunkAt::TrailerStart } else { ChunkAt::Data }
            }
            (ChunkAt::DataCr, b'\r') => ChunkAt::DataLf,
            (ChunkAt::DataLf, b'\n') => ChunkAt::Size,
            (ChunkAt::TrailerStart, b'\r') => ChunkAt::EndLf,
            (ChunkAt::EndLf, b'\n') => return Ok(None),
            (ChunkAt::TrailerStart, b' ' | b'\t') => return Err(Malformed::ObsFold),
            (ChunkAt::TrailerStart, _) if is_tchar(byte) => {
                self.trailers += 1;
                if self.trailers > bounds.fields {
                    return Err(Malformed::TooManyHeaders);
                }
                ChunkAt::TrailerName
            }
            (ChunkAt::TrailerName, _) if is_tchar(byte) => ChunkAt::TrailerName,
            (ChunkAt::TrailerName, b':') => ChunkAt::TrailerValue,
            (ChunkAt::TrailerStart | ChunkAt::TrailerName, b'\n') => return Err(Malformed::BareLineEnd),
            (ChunkAt::TrailerStart | ChunkAt::TrailerName, _) => return Err(Malformed::HeaderName),
            (ChunkAt::TrailerValue, b'\r') => ChunkAt::TrailerLf,
            (ChunkAt::TrailerValue, b'\t' | 0x20..=0x7e | 0x80..) => ChunkAt::TrailerValue,
            (ChunkAt::TrailerValue, b'\n') => return Err(Malformed::BareLineEnd),
            (ChunkAt::TrailerValue, _) => return Err(Malformed::HeaderValue),
            (ChunkAt::TrailerLf, b'\n') => ChunkAt::TrailerStart,
            (ChunkAt::TrailerLf | ChunkAt::EndLf, _) => return Err(Malformed::BareLineEnd),
            (
                ChunkAt::Size
                | ChunkAt::Extension
                | ChunkAt::SizeLf
                | ChunkAt::Data
                | ChunkAt::DataCr
                | ChunkAt::DataLf,
                _,
            ) => return Err(Malformed::Chunk),
        };
        if matches!(next, ChunkAt::TrailerName | ChunkAt::TrailerValue | ChunkAt::TrailerLf) {
            self.trailer_bytes += 1;
            if self.trailer_bytes > bounds.bytes.min(TRAILER_BYTES_MAX) {
                return Err(Malformed::HeadTooLarge);
            }
        }
        Ok(Some(next))
    }
}

/// Where the first control byte or DEL stands: a line end, a tab, or what must not be there.
fn find_control(bytes: &[u8]) -> Option<usize> {
    // Most lines end within these; a token or a cookie does not.
    let near = bytes.get(..NEAR).unwrap_or(bytes);
    let found = find_control_by_words(near);
    if found.is_some() || near.len() == bytes.len() {
        return found;
    }
    let rest = bytes.get(NEAR..).unwrap_or_default();
    // The compiler makes a few wide instructions of each block.
    let (blocks, _) = rest.as_chunks::<BLOCK>();
    let is_clean =
        |block: &[u8; BLOCK]| block.iter().fold(0, |any, byte| any | u8::from(*byte < 0x20 || *byte == 0x7f)) == 0;
    let clean = blocks.iter().take_while(|block| is_clean(block)).count() * BLOCK;
    find_control_by_words(rest.get(clean..).unwrap_or_default()).map(|found| NEAR + clean + found)
}

fn find_control_by_words(bytes: &[u8]) -> Option<usize> {
    let (words, tail) = bytes.as_chunks::<WORD>();
    for (index, word) in words.iter().enumerate() {
        let found = controls(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(index * WORD + swar::first(found));
        }
    }
    let in_tail = tail.iter().position(|byte| *byte < 0x20 || *byte == 0x7f)?;
    Some(words.len() * WORD + in_tail)
}

/// What is looked at word by word.
const NEAR: usize = 48;
/// What is looked at in one go behind that.
const BLOCK: usize = 32;

/// Every byte that is below 0x20 or 0x7f. No sum leaves its byte, so all eight are exact.
const fn controls(word: u64) -> u64 {
    let low = word & (ONES * 0x7f);
    ((low + ONES) | !(low + ONES * 0x60)) & !word & HIGHS
}

/// Digits only, at most 19 of them, below what hyper keeps for its own ends.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        byte.is_ascii_digit().then(|| value.checked_mul(10)?.checked_add(u64::from(byte - b'0')))?
    })
}

const fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

const fn is_tchar(byte: u8) -> bool {
    TCHAR[byte as usize]
}

/// What hyper takes as a request target.
const TARGET_MAX: usize = 65_534;
/// 60 bits: no chunk is longer, and the size never overflows.
const CHUNK_DIGITS_MAX: u8 = 15;
/// Of one body; hyper's own bound is 16 KiB.
const EXTENSION_BYTES_MAX: usize = 4096;
/// hyper's bound is 16 KiB, line ends included.
const TRAILER_BYTES_MAX: usize = 12 * 1024;

const NOWHERE: u8 = 1;
const ONLY_IN_PATH: u8 = 2;
const ONLY_IN_QUERY: u8 = 4;
const HIGH: u8 = 8;

/// RFC 9110 section 5.6.2.
const TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(
            byte as u8,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+'
                | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        byte += 1;
    }
    table
};

/// What `http::Uri` does not take everywhere in a path and query; `#` nowhere.
const TARGET: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            0..=b' ' | b'#' | b'<' | b'>' | 0x7f => NOWHERE,
            b'"' => ONLY_IN_PATH,
            b'`' => ONLY_IN_QUERY,
            0x80.. => HIGH,
            _ => 0,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: HeadBounds = HeadBounds { bytes: 1024, fields: 8 };

    /// Everything that passes, and how it ends, when `pieces` arrive one after the other.
    fn run(pieces: &[&[u8]]) -> (Vec<u8>, u64, Option<Step>) {
        let mut framing = Framing::new(BOUNDS);
        let (mut passed, mut pending) = (Vec::new(), Vec::new());
        for piece in pieces {
            pending.extend_from_slice(piece);
            while !pending.is_empty() {
                match framing.feed(&pending) {
                    Step::Pass(count) => passed.extend(pending.drain(..count)),
                    Step::More => break,
                    bad @ (Step::BadHead(_) | Step::BadBody(_)) => return (passed, framing.heads(), Some(bad)),
                }
            }
        }
        (passed, framing.heads(), None)
    }

    fn head_verdict(head: &str) -> Option<Malformed> {
        match run(&[head.as_bytes()]).2 {
            Some(Step::BadHead(reason)) => Some(reason),
            Some(Step::BadBody(_) | Step::Pass(_) | Step::More) | None => None,
        }
    }

    #[test]
    fn request_lines_are_exact() {
        for (line, served) in [
            ("GET / HTTP/1.1", true),
            ("GET / HTTP/1.0", true),
            ("GET /a?b=c|d{} HTTP/1.1", true),
            ("GET /{a}|\"^\\ HTTP/1.1", true),
            ("GET /\u{e4} HTTP/1.1", true),
            ("OPTIONS * HTTP/1.1", true),
            ("GET http://a.example/x HTTP/1.1", true),
            ("GET HTTPS://a.example:8443?x HTTP/1.1", true),
            ("CONNECT /x HTTP/1.1", true),
            ("GET * HTTP/1.1", false),
            ("OPTIONS ** HTTP/1.1", false),
            ("CONNECT a.example:443 HTTP/1.1", false),
            ("GET a.example HTTP/1.1", false),
            ("GET http://user@a.example/ HTTP/1.1", false),
            ("GET http:///x HTTP/1.1", false),
            ("GET ftp://a.example/ HTTP/1.1", false),
            ("GET http://a.example/#x HTTP/1.1", false),
            ("GET /?`> HTTP/1.1", false),
            ("GET /?` HTTP/1.1", true),
            ("GET /` HTTP/1.1", false),
            ("GET /?\" HTTP/1.1", false),
            ("GET /#x HTTP/1.1", false),
            ("GET /?a#x HTTP/1.1", false),
            ("GET /<x> HTTP/1.1", false),
            ("GET  / HTTP/1.1", false),
            ("GET /  HTTP/1.1", false),
            ("GET /\tHTTP/1.1", false),
            (" GET / HTTP/1.1", false),
            ("GET / HTTP/1.2", false),
            ("GET / HTTP/2.0", false),
            ("GET / http/1.1", false),
            ("GET /", false),
            ("GET", false),
            ("G(T / HTTP/1.1", false),
            ("GET /\u{7f} HTTP/1.1", false),
        ] {
            let expect = (!served).then_some(Malformed::RequestLine);
            assert_eq!(head_verdict(&format!("{line}\r\nHost: a\r\n\r\n")), expect, "{line:?}");
        }
    }

    #[test]
    fn fields_are_refused_rather_than_repaired() {
        use Malformed::*;
        for (fields, expect) in [
            ("", None),
            ("A: b\r\n", None),
            ("A:b\r\nB:\r\nC: \u{e4}\t!\r\n", None),
            ("Content-Length: 0\r\n", None),
            ("content-length:\t12 \r\n", None),
            ("Transfer-Encoding: Chunked\r\n", None),
            ("A: b\n", Some(BareLineEnd)),
            ("A: b\rc\r\n", Some(BareLineEnd)),
            ("A\r: b\r\n", Some(BareLineEnd)),
            ("A: b\r\r\n", Some(BareLineEnd)),
            ("A : b\r\n", Some(HeaderName)),
            ("A b: c\r\n", Some(HeaderName)),
            (": b\r\n", Some(HeaderName)),
            ("A\r\n", Some(HeaderName)),
            ("A\u{e4}: b\r\n", Some(HeaderName)),
            ("A(: b\r\n", Some(HeaderName)),
            ("A: b\r\n c\r\n", Some(ObsFold)),
            ("A: b\r\n\tc: d\r\n", Some(ObsFold)),
            ("A: b\0c\r\n", Some(HeaderValue)),
            ("A: b\u{7f}\r\n", Some(HeaderValue)),
            ("A: \u{1}\r\n", Some(HeaderValue)),
            ("Content-Length: 3\r\nContent-Length: 3\r\n", Some(ContentLength)),
            ("Content-Length: 3\r\nContent-Length: 03\r\n", Some(ContentLength)),
            ("Content-Length: 3, 3\r\n", Some(ContentLength)),
            ("Content-Length: +3\r\n", Some(ContentLength)),
            ("Content-Length: -3\r\n", Some(ContentLength)),
            ("Content-Length: 0x3\r\n", Some(ContentLength)),
            ("Content-Length:\r\n", Some(ContentLength)),
            ("Content-Length: 99999999999999999999\r\n", Some(ContentLength)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Some(LengthWithCoding)),
            ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Some(LengthWithCoding)),
            ("Transfer-Encoding: gzip, chunked\r\n", Some(TransferCoding)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Some(TransferCoding)),
            ("Transfer-Encoding: identity\r\n", Some(TransferCoding)),
            ("Transfer-Encoding: xchunked\r\n", Some(TransferCoding)),
            ("Transfer-Encoding:\r\n", Some(TransferCoding)),
            ("Transfer-Encoding: \u{b}chunked\r\n", Some(HeaderValue)),
            ("A\0: b\r\n", Some(HeaderName)),
            ("A: \u{7f}bcdefghi\r\n", Some(HeaderValue)),
            ("A: 0123456789\t0123456789\t\u{e4}0123456789\r\n", None),
            ("A: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\n", None),
            ("A: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\n", Some(TooManyHeaders)),
        ] {
            assert_eq!(head_verdict(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), expect, "{fields:?}");
        }
    }

    #[test]
    fn a_coding_is_refused_in_http_1_0() {
        let head = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";

        assert_eq!(head_verdict(head), Some(Malformed::TransferCoding));
        assert_eq!(head_verdict(&head.replace("1.0", "1.1")), None);
    }

    #[test]
    fn a_head_may_be_as_large_as_the_bound_and_no_larger() {
        let head = |length: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(length - 23));

        assert_eq!(head_verdict(&head(1024)), None);
        assert_eq!(head_verdict(&head(1025)), Some(Malformed::HeadTooLarge));
        assert_eq!(head_verdict(&"x".repeat(1024)), Some(Malformed::HeadTooLarge));
    }

    #[test]
    fn one_empty_line_before_a_request_is_forgiven() {
        assert_eq!(head_verdict("\r\nGET / HTTP/1.1\r\n\r\n"), None);
        assert_eq!(head_verdict("\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Some(Malformed::RequestLine));
        assert_eq!(head_verdict("\nGET / HTTP/1.1\r\n\r\n"), Some(Malformed::BareLineEnd));
    }

    #[test]
    fn chunk_lines_are_strict() {
        use Malformed::*;
        for (body, expect) in [
            ("0\r\n\r\n", None),
            ("3\r\nabc\r\n0\r\n\r\n", None),
            ("00A\r\n0123456789\r\n000\r\n\r\n", None),
            ("3;a=b;c=\"d\"\r\nabc\r\n0\r\n\r\n", None),
            ("3\r\nabc\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", None),
            ("3 \r\nabc\r\n0\r\n\r\n", Some(Chunk)),
            (" 3\r\nabc\r\n0\r\n\r\n", Some(Chunk)),
            ("3 ;a\r\nabc\r\n0\r\n\r\n", Some(Chunk)),
            ("3; a\r\nabc\r\n0\r\n\r\n", Some(Chunk)),
            ("3\nabc\r\n0\r\n\r\n", Some(Chunk)),
            ("3;a\nabc\r\n0\r\n\r\n", Some(Chunk)),
            ("3\rabc\r\n0\r\n\r\n", Some(Chunk)),
            ("3\r\nabcd\r\n0\r\n\r\n", Some(Chunk)),
            ("3\r\nabc\n0\r\n\r\n", Some(Chunk)),
            ("\r\n", Some(Chunk)),
            ("0x3\r\nabc\r\n", Some(Chunk)),
            ("+3\r\nabc\r\n", Some(Chunk)),
            ("-1\r\n", Some(Chunk)),
            ("1000000000000000\r\n", Some(Chunk)),
            ("0\r\n\n", Some(BareLineEnd)),
            ("0\r\nX\r\n\r\n", Some(HeaderName)),
            ("0\r\nX : y\r\n\r\n", Some(HeaderName)),
            ("0\r\nX: y\r\n z\r\n\r\n", Some(ObsFold)),
            ("0\r\nX: \0\r\n\r\n", Some(HeaderValue)),
            ("0\r\nX: y\n\r\n", Some(BareLineEnd)),
            ("0\r\nX: y\rz\r\n\r\n", Some(BareLineEnd)),
        ] {
            let message = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            let (passed, heads, end) = run(&[message.as_bytes()]);
            assert_eq!(end, expect.map(Step::BadBody), "{body:?}");
            assert_eq!(heads, 1, "{body:?}");
            assert_eq!(passed.len() == message.len(), expect.is_none(), "{body:?}");
        }
    }

    #[test]
    fn trailers_are_bounded() {
        let body = |count: usize| "X: y\r\n".repeat(count);
        let message = |count| {
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n", body(count)).into_bytes()
        };

        assert_eq!(run(&[&message(8)]).2, None);
        assert_eq!(run(&[&message(9)]).2, Some(Step::BadBody(Malformed::TooManyHeaders)));
    }

    #[test]
    fn a_body_never_hides_a_head_and_the_next_message_begins_behind_it() {
        let stream = "POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\nGET /x HTTP/9.9\r\n\r\n\0\
                      POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\n\n\n\r\n0\r\n\r\n\
                      GET / HTTP/1.1\r\n\r\n";

        assert_eq!(run(&[stream.as_bytes()]), (stream.as_bytes().to_vec(), 3, None));
    }

    #[test]
    fn a_step_never_reaches_into_the_next_message() {
        let one = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let two = [one.as_slice(), one].concat();

        assert_eq!(Framing::new(BOUNDS).feed(&two), Step::Pass(one.len()));
    }

    const STREAMS: &[&str] = &[
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: v\r\n\r\n\
         GET /b HTTP/1.1\r\nHost: a\r\n\r\n\r\nPOST /c HTTP/1.0\r\nContent-Length: 4\r\n\r\nabcd",
        "GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3 \r\nabc\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nA: b\r\n c\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
    ];

    proptest! {
        #[test]
        fn any_cut_of_the_bytes_reads_the_same(
            which in 0..STREAMS.len(), cuts in prop::collection::vec(0usize..200, 0..12),
        ) {
            let stream = STREAMS[which].as_bytes();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut % stream.len()).chain([0, stream.len()]).collect();
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();

            prop_assert_eq!(run(&pieces), run(&[stream]));
        }

        #[test]
        fn byte_by_byte_reads_the_same_as_at_once(
            stream in prop::collection::vec(prop::sample::select(b"GET / HTP1.\r\n:a0\0 \t".to_vec()), 1..80),
        ) {
            let pieces: Vec<&[u8]> = stream.chunks(1).collect();

            prop_assert_eq!(run(&pieces), run(&[&stream]));
        }

        #[test]
        fn controls_are_found_where_they_are(bytes in prop::collection::vec(
            prop_oneof![8 => any::<u8>(), 8 => 0x20u8..0x7f, 1 => Just(0x7f), 1 => Just(0xff)], 0..40,
        )) {
            let expect = bytes.iter().position(|byte| *byte < 0x20 || *byte == 0x7f);
            prop_assert_eq!(find_control(&bytes), expect);
        }

        #[test]
        fn what_passes_as_a_target_is_a_uri(target in "/[!-~]{0,20}") {
            let head = format!("GET {target} HTTP/1.1\r\n\r\n");
            if head_verdict(&head).is_none() {
                let uri = Uri::try_from(target.as_str()).unwrap();
                prop_assert_eq!(uri.path_and_query().unwrap().as_str(), target.as_str());
            }
        }
    }
}
