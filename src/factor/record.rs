//! A second factor on disk: JSON within what `durable` seals. Members may be added, never change their meaning.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{
    code::Hashed,
    totp::{Key, Step},
};
use crate::clock::Timestamp;

/// The factor of one account.
#[derive(Debug)]
pub(super) struct Record {
    /// `None`: it was taken away.
    pub(super) key: Option<Key>,
    /// The last step whose code was used.
    pub(super) last: Option<Step>,
    /// Those that are left.
    pub(super) recovery: Vec<Hashed>,
    /// When it was given or taken away: invitations that are older are used up.
    pub(super) since: Timestamp,
}

#[derive(Deserialize, Serialize)]
struct Written {
    version: u32,
    key: Option<String>,
    last_step: Option<u64>,
    recovery: Vec<String>,
    since_millis: u64,
}

impl Record {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut written = Written {
            version: VERSION,
            key: self.key.as_ref().map(|key| STANDARD_NO_PAD.encode(key.bytes())),
            last_step: self.last.map(|Step(step)| step),
            recovery: self.recovery.iter().map(|Hashed(hash)| STANDARD_NO_PAD.encode(hash)).collect(),
            since_millis: self.since.unix_millis(),
        };
        // Texts and numbers always serialize; were it otherwise, an empty record is none that can be read.
        let text = serde_json::to_vec(&written).unwrap_or_default();
        written.key.zeroize();
        text
    }

    /// `None`: of another version, or none of ours.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let mut written: Written =
            serde_json::from_slice(text).ok().filter(|written: &Written| written.version == VERSION)?;
        let key = match written.key.take().map(Zeroizing::new) {
            None => None,
            Some(key) => Some(Key::from_bytes(&Zeroizing::new(STANDARD_NO_PAD.decode(&*key).ok()?))?),
        };
        let hash = |text: &String| STANDARD_NO_PAD.decode(text).ok()?.try_into().ok().map(Hashed);
        Some(Self {
            key,
            last: written.last_step.map(Step),
            recovery: written.recovery.iter().map(hash).collect::<Option<_>>()?,
            since: Timestamp::from_unix_millis(written.since_millis),
        })
    }
}

const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        for key in [Some(Key::generate()), None] {
            let record = Record {
                key,
                last: Some(Step(60_000_000)),
                recovery: vec![Hashed([7; 32]), Hashed([8; 32])],
                since: Timestamp::from_unix_millis(1_800_000_000_123),
            };

            let read = Record::read(&record.write()).expect("a record");

            assert_eq!(read.key.as_ref().map(Key::bytes), record.key.as_ref().map(Key::bytes));
            assert_eq!((read.last, read.recovery, read.since), (record.last, record.recovery, record.since));
        }
    }

    #[test]
    fn what_is_no_record_is_none() {
        let good = Record { key: Some(Key::generate()), last: None, recovery: Vec::new(), since: Timestamp::default() };
        let text = String::from_utf8(good.write()).unwrap();
        assert!(Record::read(text.as_bytes()).is_some());
        for broken in [
            String::new(),
            text.replace("\"version\":1", "\"version\":2"),
            text.replace("\"key\":\"", "\"key\":\"AAAA"),
            text.replace("\"recovery\":[]", "\"recovery\":[\"AAAA\"]"),
            text[..text.len() - 1].to_owned(),
        ] {
            assert!(Record::read(broken.as_bytes()).is_none(), "{broken}");
        }
    }
}
