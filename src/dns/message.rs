//! One question about one name and the answer to it, as bytes (RFC 1035 section 4, RFC 3596, RFC 6891).
//!
//! In: a name, what is asked for, a random id; then whatever came back. Out: the question's bytes; what the answer says.
//! Invariants: an answer that does not repeat id and question is none; a pointer leads backwards only, a name has 255
//! bytes at most; only records count that belong to the name or to what its aliases lead to. Whatever else is in a
//! message is skipped. Nothing here knows of sockets.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use smallvec::SmallVec;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// `A`.
    V4,
    /// `AAAA`.
    V6,
}

/// One question.
#[derive(Clone, Debug)]
pub struct Question {
    id: u16,
    name: Name,
    family: Family,
}

/// What an answer says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// These, each once, for so long; [`MAX_ADDRESSES`] at most.
    Addresses(Vec<IpAddr>, Duration),
    /// There are none, for so long if it says so: of the name, or of the kind that was asked for (RFC 2308).
    None(Option<Duration>),
    /// It was too long for a datagram.
    Truncated,
    /// The server does not understand the question; perhaps without EDNS (RFC 6891 section 7).
    NotUnderstood,
    /// The server cannot or will not tell.
    Failed,
}

/// Why a message says nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unfit {
    /// It answers another question, or is no answer: somebody else may have sent it.
    NotOurs,
    /// It is ours and broken.
    Malformed,
}

impl Question {
    /// `None` if `host` is no name of DNS: an empty label or one of more than 63 bytes, or more than 255 in all.
    pub fn new(host: &str, family: Family, id: u16) -> Option<Self> {
        let mut name = Name::new();
        for label in host.strip_suffix('.').unwrap_or(host).split('.') {
            let length = u8::try_from(label.len()).ok().filter(|length| (1..=MAX_LABEL).contains(length))?;
            name.push(length);
            name.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        name.push(0);
        (name.len() <= MAX_NAME).then_some(Self { id, name, family })
    }

    /// Asks a server that asks others, with EDNS for a longer answer or without.
    pub fn bytes(&self, edns: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.name.len() + 4 + OPT.len());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(RECURSION_DESIRED.to_be_bytes());
        for count in [1, 0, 0, u16::from(edns)] {
            bytes.extend(count.to_be_bytes());
        }
        bytes.extend(&self.name);
        bytes.extend(self.family.code().to_be_bytes());
        bytes.extend(INTERNET.to_be_bytes());
        if edns {
            bytes.extend(OPT);
        }
        bytes
    }

    /// What `message` says about it.
    ///
    /// # Errors
    /// [`Unfit`] if it says nothing.
    pub fn read(&self, message: &[u8]) -> Result<Reply, Unfit> {
        let mut reader = Reader { message, at: 0 };
        let (id, flags, questions, answers, authorities) = reader.header().ok_or(Unfit::NotOurs)?;
        if id != self.id || flags & RESPONSE == 0 || flags & OPCODE != 0 {
            return Err(Unfit::NotOurs);
        }
        let code = flags & RCODE;
        match questions {
            1 if reader.repeats(self) => {}
            // Who understands nothing may repeat nothing.
            0 if matches!(code, FORMAT_ERROR | NOT_IMPLEMENTED) => return Ok(Reply::NotUnderstood),
            _ => return Err(Unfit::NotOurs),
        }
        match code {
            NO_ERROR | NO_SUCH_NAME if flags & TRUNCATED != 0 => Ok(Reply::Truncated),
            NO_ERROR => self.read_answers(&mut reader, answers, authorities).ok_or(Unfit::Malformed),
            NO_SUCH_NAME => {
                let skipped = (0..answers).try_for_each(|_| reader.record().map(drop));
                let until = skipped.and_then(|()| reader.negative_until(authorities)).ok_or(Unfit::Malformed)?;
                Ok(Reply::None(until))
            }
            FORMAT_ERROR | NOT_IMPLEMENTED => Ok(Reply::NotUnderstood),
            _ => Ok(Reply::Failed),
        }
    }

    fn read_answers(&self, reader: &mut Reader<'_>, answers: u16, authorities: u16) -> Option<Reply> {
        let mut aliases: SmallVec<[(Name, Name, u32); 4]> = SmallVec::new();
        let mut found: Vec<(Name, IpAddr, u32)> = Vec::new();
        for _ in 0..answers {
            let record = reader.record()?;
            if record.class != INTERNET {
                continue;
            }
            if record.kind == CNAME && aliases.len() < MAX_ALIASES {
                let mut inside = Reader { message: reader.message, at: record.data_at };
                let target = inside.name()?;
                if inside.at != record.data_at + record.data.len() {
                    return None;
                }
                aliases.push((record.owner, target, record.ttl));
            } else if record.kind == self.family.code() && found.len() < MAX_ADDRESSES {
                found.push((record.owner, self.family.address(record.data)?, record.ttl));
            }
        }
        let (mut name, mut ttl) = (&self.name, u32::MAX);
        // Each alias is followed once: a circle ends.
        for _ in 0..aliases.len() {
            let Some((_, target, alias_ttl)) = aliases.iter().find(|(owner, _, _)| owner == name) else { break };
            (name, ttl) = (target, ttl.min(*alias_ttl));
        }
        let mut addresses = Vec::new();
        for (_, address, record_ttl) in found.iter().filter(|(owner, _, _)| owner == name) {
            ttl = ttl.min(*record_ttl);
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        if addresses.is_empty() {
            return reader.negative_until(authorities).map(Reply::None);
        }
        Some(Reply::Addresses(addresses, Duration::from_secs(ttl.into())))
    }
}

impl Family {
    const fn code(self) -> u16 {
        match self {
            Self::V4 => 1,
            Self::V6 => 28,
        }
    }

    fn address(self, data: &[u8]) -> Option<IpAddr> {
        match self {
            Self::V4 => <[u8; 4]>::try_from(data).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
            Self::V6 => <[u8; 16]>::try_from(data).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        }
    }
}

/// Labels with their lengths and the last, empty one; lower-cased.
type Name = SmallVec<[u8; 64]>;

struct Record<'a> {
    owner: Name,
    kind: u16,
    class: u16,
    /// Seconds.
    ttl: u32,
    data_at: usize,
    data: &'a [u8],
}

/// What is left of a message; `None` from each of its functions: it ends too early or cannot be.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.message.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// Id, flags, and how many questions, answers and authorities follow.
    fn header(&mut self) -> Option<(u16, u16, u16, u16, u16)> {
        let header = (self.u16()?, self.u16()?, self.u16()?, self.u16()?, self.u16()?);
        // Nothing of what is additional counts.
        self.u16()?;
        Some(header)
    }

    fn repeats(&mut self, question: &Question) -> bool {
        self.name().is_some_and(|name| name == question.name)
            && self.u16() == Some(question.family.code())
            && self.u16() == Some(INTERNET)
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let (owner, kind, class, ttl) = (self.name()?, self.u16()?, self.u16()?, self.u32()?);
        let length = self.u16()?.into();
        let (data_at, data) = (self.at, self.take(length)?);
        // RFC 2181 section 8: what has the highest bit set is zero.
        Some(Record { owner, kind, class, ttl: if ttl > MAX_TTL { 0 } else { ttl }, data_at, data })
    }

    /// For how long there is nothing: what the zone's `SOA` says, if it is there (RFC 2308 section 5).
    fn negative_until(&mut self, authorities: u16) -> Option<Option<Duration>> {
        let mut until = None;
        for _ in 0..authorities {
            let record = self.record()?;
            let minimum = record.data.last_chunk().map(|bytes| u32::from_be_bytes(*bytes));
            if let (SOA, INTERNET, Some(minimum)) = (record.kind, record.class, minimum) {
                until.get_or_insert_with(|| Duration::from_secs(record.ttl.min(minimum).into()));
            }
        }
        Some(until)
    }

    /// A name, whose end may stand elsewhere (RFC 1035 section 4.1.4). Afterwards we are behind it.
    fn name(&mut self) -> Option<Name> {
        let mut name = Name::new();
        let mut behind = None;
        let mut begin = self.at;
        loop {
            let length = *self.take(1)?.first()?;
            match length {
                0 => break,
                1..=MAX_LABEL => {
                    name.push(length);
                    name.extend(self.take(length.into())?.iter().map(u8::to_ascii_lowercase));
                }
                POINTER.. => {
                    let low = *self.take(1)?.first()?;
                    let target = usize::from(u16::from_be_bytes([length & !POINTER, low]));
                    behind.get_or_insert(self.at);
                    // Only ever further back: there is no circle.
                    if target >= begin {
                        return None;
                    }
                    (self.at, begin) = (target, target);
                }
                _ => return None,
            }
            if name.len() >= MAX_NAME {
                return None;
            }
        }
        name.push(0);
        self.at = behind.unwrap_or(self.at);
        Some(name)
    }
}

/// Addresses of one answer that count.
pub const MAX_ADDRESSES: usize = 64;

const HEADER: usize = 12;
const MAX_NAME: usize = 255;
const MAX_LABEL: u8 = 63;
/// Aliases of one answer that count.
const MAX_ALIASES: usize = 16;
const MAX_TTL: u32 = 0x7fff_ffff;
const POINTER: u8 = 0xc0;

const CNAME: u16 = 5;
const SOA: u16 = 6;
const INTERNET: u16 = 1;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RCODE: u16 = 0x000f;

const NO_ERROR: u16 = 0;
const FORMAT_ERROR: u16 = 1;
const NO_SUCH_NAME: u16 = 3;
const NOT_IMPLEMENTED: u16 = 4;

/// EDNS, version 0, for datagrams of 1232 bytes, which every path carries (RFC 6891 section 6.1.2, RFC 9715).
const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const ID: u16 = 0x1234;

    fn question(family: Family) -> Question {
        Question::new("App.Example", family, ID).unwrap()
    }

    /// An answer to a question that stands in `asked`: its records are appended by the caller, who says how many.
    pub(in crate::dns) fn answer(asked: &[u8], flags: u16, counts: [u16; 2]) -> Vec<u8> {
        let end = HEADER + asked[HEADER..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let mut message = asked[..end].to_vec();
        message[2..4].copy_from_slice(&(RESPONSE | flags).to_be_bytes());
        for (at, count) in [(4, 1), (6, counts[0]), (8, counts[1]), (10, 0)] {
            message[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        message
    }

    /// A record of the name at `owner`.
    pub(in crate::dns) fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap();
        [owner, &kind.to_be_bytes(), &INTERNET.to_be_bytes(), &ttl.to_be_bytes(), &length.to_be_bytes(), data].concat()
    }

    /// The question's name, from the answer's front.
    pub(in crate::dns) const ASKED: [u8; 2] = [POINTER, 12];

    fn read(flags: u16, answers: &[Vec<u8>], authorities: &[Vec<u8>]) -> Result<Reply, Unfit> {
        let question = question(Family::V4);
        let counts = [answers, authorities].map(|records| u16::try_from(records.len()).unwrap());
        let mut message = answer(&question.bytes(true), flags, counts);
        message.extend(answers.iter().chain(authorities).flatten());
        question.read(&message)
    }

    fn found(addresses: &[[u8; 4]], seconds: u64) -> Result<Reply, Unfit> {
        Ok(Reply::Addresses(addresses.iter().map(|&bytes| bytes.into()).collect(), Duration::from_secs(seconds)))
    }

    #[test]
    fn a_question_is_written_as_the_standard_says() {
        let plain = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03app\x07example\0\0\x1c\0\x01";
        assert_eq!(question(Family::V6).bytes(false), plain);
        let edns = question(Family::V6).bytes(true);
        assert_eq!((edns[11], &edns[plain.len()..]), (1, &OPT[..]));
        let long = "a".repeat(64);
        for impossible in ["", ".", "a..b", ".a", &long, &["abcdefg"; 32].join(".")] {
            assert!(Question::new(impossible, Family::V4, ID).is_none(), "{impossible}");
        }
        assert!(Question::new(&["abcdefg"; 31].join("."), Family::V4, ID).is_some());
    }

    #[test]
    fn the_shortest_ttl_of_what_was_used_counts() {
        let ten = |ttl, last| record(&ASKED, 1, ttl, &[10, 0, 0, last]);
        assert_eq!(read(0, &[ten(30, 1), ten(20, 2), ten(20, 2)], &[]), found(&[[10, 0, 0, 1], [10, 0, 0, 2]], 20));
        let alias = record(&ASKED, CNAME, 5, b"\x04real\xc0\x10");
        let real = |ttl| record(b"\x04REAL\x07Example\0", 1, ttl, &[10, 0, 0, 3]);
        assert_eq!(read(0, &[alias.clone(), real(60)], &[]), found(&[[10, 0, 0, 3]], 5));
        assert_eq!(read(0, &[real(4), alias], &[]), found(&[[10, 0, 0, 3]], 4), "in any order");
        assert_eq!(read(0, &[ten(0x8000_0000, 1)], &[]), found(&[[10, 0, 0, 1]], 0));
    }

    #[test]
    fn what_belongs_to_another_name_does_not_count() {
        let other = record(b"\x05other\0", 1, 60, &[10, 6, 6, 6]);
        assert_eq!(read(0, std::slice::from_ref(&other), &[]), Ok(Reply::None(None)));
        let ours = record(&ASKED, 1, 60, &[10, 0, 0, 1]);
        assert_eq!(read(0, &[other, ours.clone()], &[]), found(&[[10, 0, 0, 1]], 60));
        let circle = record(&ASKED, CNAME, 60, &ASKED);
        assert_eq!(read(0, &[circle.clone(), circle, ours], &[]), found(&[[10, 0, 0, 1]], 60));
    }

    #[test]
    fn an_answer_without_addresses_says_for_how_long() {
        let soa =
            |ttl, minimum: u32| record(&ASKED, SOA, ttl, &[&[0, 0][..], &[0; 16], &minimum.to_be_bytes()].concat());
        for flags in [NO_ERROR, NO_SUCH_NAME] {
            assert_eq!(read(flags, &[], &[soa(60, 5)]), Ok(Reply::None(Some(Duration::from_secs(5)))));
            assert_eq!(read(flags, &[], &[soa(4, 5)]), Ok(Reply::None(Some(Duration::from_secs(4)))));
            assert_eq!(read(flags, &[], &[]), Ok(Reply::None(None)));
        }
        // That an alias leads nowhere is said with the alias.
        let alias = record(&ASKED, CNAME, 5, b"\x04real\xc0\x10");
        assert_eq!(read(NO_SUCH_NAME, &[alias], &[soa(60, 9)]), Ok(Reply::None(Some(Duration::from_secs(9)))));
    }

    #[test]
    fn what_a_server_says_of_itself_is_told_apart() {
        for (flags, reply) in [
            (TRUNCATED, Reply::Truncated),
            (FORMAT_ERROR, Reply::NotUnderstood),
            (NOT_IMPLEMENTED, Reply::NotUnderstood),
            (2, Reply::Failed),
            (5, Reply::Failed),
        ] {
            assert_eq!(read(flags, &[], &[]), Ok(reply), "{flags}");
        }
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let question = question(Family::V4);
        let good = [answer(&question.bytes(true), 0, [1, 0]), record(&ASKED, 1, 60, &[10, 0, 0, 1])].concat();
        assert_eq!(question.read(&good), found(&[[10, 0, 0, 1]], 60));
        // The id, that it is an answer, the operation, the number of questions, the name, the kind, the class.
        for (at, bits) in [(0, 1), (1, 1), (2, 0x80), (2, 0x08), (5, 2), (5, 1), (13, 1), (26, 1), (28, 2)] {
            let mut other = good.clone();
            other[at] ^= bits;
            assert_eq!(question.read(&other), Err(Unfit::NotOurs), "{at}");
        }
    }

    #[test]
    fn a_broken_answer_is_none_wherever_it_breaks() {
        let question = question(Family::V4);
        let front = answer(&question.bytes(true), 0, [1, 0]);
        let good = record(&ASKED, 1, 60, &[10, 0, 0, 1]);
        for length in 0..good.len() {
            let message = [&front[..], &good[..length]].concat();
            assert_eq!(question.read(&message), Err(Unfit::Malformed), "{length}");
        }
        let at = u8::try_from(front.len()).unwrap();
        for (what, record) in [
            ("a pointer to itself", record(&[POINTER, at], 1, 60, &[10, 0, 0, 1])),
            ("a pointer forwards", record(&[POINTER, at + 2], 1, 60, &[10, 0, 0, 1])),
            ("a label of no kind", record(&[0x40, 0], 1, 60, &[10, 0, 0, 1])),
            ("a name without end", record(&b"\x01a".repeat(200), 1, 60, &[10, 0, 0, 1])),
            ("five bytes of address", record(&ASKED, 1, 60, &[10, 0, 0, 1, 1])),
            ("an alias that is longer than it says", record(&ASKED, CNAME, 60, b"\x01a\0\0")),
        ] {
            assert_eq!(question.read(&[front.clone(), record].concat()), Err(Unfit::Malformed), "{what}");
        }
    }

    #[test]
    fn addresses_beyond_the_bound_do_not_count() {
        let many: Vec<_> = (0..200).map(|last| record(&ASKED, 1, 60, &[10, 0, 0, last])).collect();
        let Ok(Reply::Addresses(addresses, _)) = read(0, &many, &[]) else { panic!("addresses") };
        assert_eq!(addresses.len(), MAX_ADDRESSES);
    }
}
