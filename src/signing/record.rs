//! A key on disk: JSON within what `durable` seals. Members may be added, never change their meaning.

use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{
    key::{Algorithm, SigningKey},
    rotation::{Held, Stage},
};
use crate::clock::Timestamp;

#[derive(Deserialize, Serialize)]
struct Written {
    version: u32,
    algorithm: String,
    stage: String,
    since_millis: u64,
    pkcs8: String,
}

pub(super) fn write(held: &Held) -> Result<Vec<u8>, Unspecified> {
    let mut written = Written {
        version: VERSION,
        algorithm: held.key.algorithm().name().to_owned(),
        stage: held.stage.name().to_owned(),
        since_millis: held.since.unix_millis(),
        pkcs8: STANDARD_NO_PAD.encode(held.key.to_pkcs8()?.as_ref()),
    };
    // With room for all of it: a vector that grows leaves what it held behind.
    let mut text = Vec::with_capacity(written.pkcs8.len() + ROOM_FOR_THE_REST);
    let serialized = serde_json::to_writer(&mut text, &written);
    written.pkcs8.zeroize();
    serialized.map(|()| text).map_err(|_| Unspecified)
}

/// `None`: of another version, or none of ours.
pub(super) fn read(text: &[u8], typ: &str) -> Option<Held> {
    let mut written: Written = serde_json::from_slice(text).ok()?;
    let encoded = Zeroizing::new(std::mem::take(&mut written.pkcs8));
    if written.version != VERSION {
        return None;
    }
    let pkcs8 = Zeroizing::new(STANDARD_NO_PAD.decode(&*encoded).ok()?);
    let key = SigningKey::from_pkcs8(Algorithm::from_name(&written.algorithm)?, &pkcs8, typ).ok()?;
    Some(Held {
        key: Arc::new(key),
        stage: Stage::from_name(&written.stage)?,
        since: Timestamp::from_unix_millis(written.since_millis),
    })
}

const VERSION: u32 = 1;

const ROOM_FOR_THE_REST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn held(stage: Stage) -> Held {
        let key = Arc::new(SigningKey::generate(Algorithm::Es256, "JWT").unwrap());
        Held { key, stage, since: Timestamp::from_unix_millis(1_800_000_000_123) }
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        for stage in [Stage::Current, Stage::Next, Stage::Retired] {
            let held = held(stage);

            let read = read(&write(&held).unwrap(), "JWT").expect("a record");

            assert_eq!((read.key.kid(), read.stage, read.since), (held.key.kid(), held.stage, held.since));
        }
    }

    #[test]
    fn what_is_no_record_is_none() {
        let text = String::from_utf8(write(&held(Stage::Current)).unwrap()).unwrap();
        assert!(read(text.as_bytes(), "JWT").is_some());
        for broken in [
            String::new(),
            text.replace("\"version\":1", "\"version\":2"),
            text.replace("\"pkcs8\":\"", "\"pkcs8\":\"AAAA"),
            text.replace("current", "other"),
            text.replace("ES256", "EdDSA"),
            text[..text.len() - 1].to_owned(),
        ] {
            assert!(read(broken.as_bytes(), "JWT").is_none(), "{broken}");
        }
    }
}
