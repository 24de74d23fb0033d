//! Sealing of records: AES-256-GCM-SIV (RFC 8452), with table and key as associated data.
//!
//! In: a record. Out: version, id of the key, random nonce, ciphertext, tag. SIV, because nonces are random and there
//! are many: should two be equal, it tells that two records are equal, and nothing else.
//! The first key of the file seals; all of them open.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest,
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use zeroize::Zeroizing;

use super::{OpenError, Settings, Table};
use crate::secret;

/// The keys of `server.state_key_file`; at least one.
pub(super) struct Keyring(Vec<Key>);

struct Key {
    id: [u8; ID_LEN],
    key: LessSafeKey,
}

impl Keyring {
    /// Reads the key file; without one, the key inside the directory, which is made at first.
    pub(super) fn load(settings: &Settings) -> Result<Self, OpenError> {
        match &settings.key_file {
            Some(path) => Self::read(path),
            None => {
                let path = settings.dir.join(KEY);
                if !path.exists() {
                    make_key(&path)
                        .map_err(|error| OpenError(format!("{} cannot be made: {error}", path.display())))?;
                }
                Self::read(&path)
            }
        }
    }

    fn read(path: &Path) -> Result<Self, OpenError> {
        let at = |what: String| OpenError(format!("{}: {what}", path.display()));
        let text = fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|error| at(format!("the keys that state is sealed with cannot be read ({error})")))?;
        let lines = text.lines().map(str::trim).enumerate();
        let mut keys = Vec::new();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let key = Key::parse(line).ok_or_else(|| {
                at(format!(
                    "line {} is no key: 32 random bytes in base64, as `openssl rand -base64 32` prints",
                    number + 1
                ))
            })?;
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(at(
                "no key: a line with 32 random bytes in base64, as `openssl rand -base64 32` prints".to_owned()
            ));
        }
        Ok(Self(keys))
    }

    /// These keys, the newest first.
    pub(super) fn of(keys: &[[u8; 32]]) -> Self {
        Self(keys.iter().filter_map(Key::new).collect())
    }

    /// Whether there are older keys that records may be sealed with.
    pub(super) fn has_older(&self) -> bool {
        self.0.len() > 1
    }

    /// Whether a record is sealed with another key than the newest.
    pub(super) fn is_older(&self, sealed: &[u8]) -> bool {
        self.0.first().is_some_and(|newest| sealed.get(1..=ID_LEN) != Some(newest.id.as_slice()))
    }

    /// Seals a record with the newest key.
    pub(super) fn seal(&self, table: Table, key: &[u8], value: &[u8]) -> Result<Vec<u8>, String> {
        let newest = self.0.first().ok_or("there is no key to seal with")?;
        let nonce: [u8; NONCE_LEN] = secret::random();
        let mut sealed = Vec::with_capacity(HEAD_LEN + value.len() + TAG_LEN);
        sealed.push(VERSION);
        sealed.extend_from_slice(&newest.id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(value);
        let tag = newest
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated(table, key)),
                sealed.get_mut(HEAD_LEN..).unwrap_or_default(),
            )
            .map_err(|_| "a record is too large to be sealed")?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens a record into `text`.
    pub(super) fn open(&self, table: Table, key: &[u8], sealed: &[u8], text: &mut Vec<u8>) -> Result<(), String> {
        let damaged = || "a record is damaged, or was put where it does not belong".to_owned();
        let (head, body) = sealed.split_at_checked(HEAD_LEN).ok_or_else(damaged)?;
        if head.first() != Some(&VERSION) {
            return Err("a record was written by another version of this program".to_owned());
        }
        let (id, nonce) = head.get(1..).and_then(|rest| rest.split_at_checked(ID_LEN)).ok_or_else(damaged)?;
        let known = self.0.iter().find(|known| known.id == *id).ok_or_else(|| {
            format!("a record is sealed with the key {}, which is not in server.state_key_file", shown(id))
        })?;
        let nonce: [u8; NONCE_LEN] = nonce.try_into().map_err(|_| damaged())?;
        text.clear();
        text.extend_from_slice(body);
        let aad = Aad::from(associated(table, key));
        let opened = known.key.open_in_place(Nonce::assume_unique_for_key(nonce), aad, text);
        let len = opened.map_err(|_| damaged())?.len();
        text.truncate(len);
        Ok(())
    }
}

impl Key {
    fn parse(line: &str) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD_NO_PAD.decode(line.trim_end_matches('=')).ok()?);
        Self::new(bytes.as_slice().try_into().ok()?)
    }

    fn new(bytes: &[u8; 32]) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, bytes).ok()?);
        let digest = digest::digest(&digest::SHA256, &[b"portcullis state key".as_slice(), bytes].concat());
        let id = digest.as_ref().first_chunk()?;
        Some(Self { id: *id, key })
    }
}

fn associated(table: Table, key: &[u8]) -> Vec<u8> {
    [table.name().as_bytes(), b"\0", key].concat()
}

fn shown(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn make_key(path: &Path) -> std::io::Result<()> {
    let text = Zeroizing::new(STANDARD_NO_PAD.encode(Zeroizing::new(secret::random::<32>()).as_slice()) + "\n");
    let draft = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // Under its name only when it is whole; the directory is synced before the first record is written.
    fs::rename(&draft, path)
}

/// The key's file where `server.state_key_file` names none.
const KEY: &str = "state.key";

/// Raised when what is sealed is laid out in another way.
const VERSION: u8 = 2;
const ID_LEN: usize = 4;
const TAG_LEN: usize = 16;
const HEAD_LEN: usize = 1 + ID_LEN + NONCE_LEN;
