//! What is on disk: account, certificates with their keys, and what was tried. JSON within what `durable` seals.
//!
//! In: bytes of table `acme`. Out: `Record`s, or `None` for what is no record of ours. Members may be added, never
//! change their meaning.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::{Zeroize, Zeroizing};

use crate::host::Host;

/// An account at a directory.
#[derive(Deserialize, Serialize)]
pub(super) struct AccountRecord {
    /// The library's text of address and key.
    pub(super) credentials: String,
    pub(super) contact: Vec<String>,
    /// The external account that it was bound to.
    pub(super) external: Option<String>,
}

impl Drop for AccountRecord {
    fn drop(&mut self) {
        self.credentials.zeroize();
    }
}

/// A certificate that was issued.
#[derive(Deserialize, Serialize)]
pub(super) struct CertificateRecord {
    pub(super) directory: String,
    /// PEM, leaf first.
    pub(super) chain: String,
    /// PEM.
    pub(super) key: String,
}

impl Drop for CertificateRecord {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Orders that brought nothing. Written before an order begins, so that it holds if we never come back from it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct AttemptRecord {
    /// Of the settings that it was made under.
    pub(super) settings: String,
    /// In a row.
    pub(super) failures: u32,
    /// Nothing is tried before.
    pub(super) until_millis: u64,
}

/// What a record is of.
pub(super) enum Key {
    Account(String),
    Certificate(Host),
    /// Of orders for a host.
    Attempt(Host),
    /// Of a directory as a whole.
    Pause(String),
}

impl Key {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Account(directory) => format!("account {directory}"),
            Self::Certificate(host) => format!("certificate {}", host.as_str()),
            Self::Attempt(host) => format!("attempt {}", host.as_str()),
            Self::Pause(directory) => format!("pause {directory}"),
        }
        .into_bytes()
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, of) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
        match kind {
            "account" => Some(Self::Account(of.to_owned())),
            "certificate" => of.parse().ok().map(Self::Certificate),
            "attempt" => of.parse().ok().map(Self::Attempt),
            "pause" => Some(Self::Pause(of.to_owned())),
            _ => None,
        }
    }
}

/// With room for all of it: a vector that grows leaves what it held behind.
pub(super) fn write(record: &impl Serialize) -> Vec<u8> {
    let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
    match serde_json::to_writer(&mut *text, record) {
        Ok(()) => std::mem::take(&mut *text),
        // Texts and numbers are always JSON.
        Err(_) => Vec::new(),
    }
}

/// `None`: none of ours.
pub(super) fn read<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    serde_json::from_slice(text).ok()
}

const ROOM: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let host: Host = "a.example".parse().unwrap();
        for key in [
            Key::Account("https://acme.example/dir".into()),
            Key::Certificate(host.clone()),
            Key::Attempt(host),
            Key::Pause("https://acme.example/dir".into()),
        ] {
            let bytes = key.to_bytes();
            assert_eq!(Key::read(&bytes).unwrap().to_bytes(), bytes);
        }
        for odd in [&b""[..], b"account", b"other x", b"certificate no host", b"\xff x"] {
            assert!(Key::read(odd).is_none(), "{odd:?}");
        }
    }
}
