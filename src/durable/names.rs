//! What records are called on disk.
//!
//! A record's value is sealed, its key is not: the database orders by it. Where keys name somebody (a realm and a
//! subject, or a hash of them that anybody could compute for a list of names), the key on disk is an HMAC of it under a
//! random secret, and the key itself goes into the sealed value. Where keys are random or fixed words they stay as
//! they are: sessions are found by hashes of random tokens.
//! The secret is a record of its own ([`Table::Meta`]), sealed like any other, so it outlives a change of keys.

use std::borrow::Cow;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::{Batch, Change, Table};

/// Makes the names of one database.
pub(super) struct Names(hmac::Key);

impl Names {
    /// Bytes of the secret.
    pub(super) const SECRET_LEN: usize = 32;

    pub(super) fn new(secret: &[u8; Self::SECRET_LEN]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The changes as they go to disk.
    pub(super) fn hide(&self, batch: Batch) -> Batch {
        Batch(batch.0.into_iter().map(|change| self.hide_one(change)).collect())
    }

    /// Key and value of a record, from its key and what was sealed.
    ///
    /// # Errors
    /// When it is not made so.
    pub(super) fn show<'a>(
        table: Table,
        stored: &'a [u8],
        text: &'a [u8],
    ) -> Result<(&'a [u8], &'a [u8]), &'static str> {
        if !table.hides_keys() {
            return Ok((stored, text));
        }
        let (len, rest) = text.split_first_chunk().ok_or(DAMAGED)?;
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| DAMAGED)?;
        rest.split_at_checked(len).ok_or(DAMAGED)
    }

    fn hide_one(&self, change: Change) -> Change {
        if !change.table.hides_keys() {
            return change;
        }
        let name = hmac::sign(&self.0, &[change.table.name().as_bytes(), b"\0", &change.key].concat());
        let value = change.value.map(|value| {
            let len = u32::try_from(change.key.len()).unwrap_or(u32::MAX).to_be_bytes();
            Zeroizing::new([&len[..], &change.key, &value].concat())
        });
        Change { key: Cow::Borrowed(name.as_ref()).into(), shown: Some(change.key), value, ..change }
    }
}

const DAMAGED: &str = "a record is damaged";
