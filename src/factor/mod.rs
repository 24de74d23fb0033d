//! Second factors of local users: time-based codes, recovery codes, and how somebody first gets them.
//!
//! `totp` judges codes, `code` makes those that are used once, `invitation` is how an administrator lets somebody
//! enrol. In: an account, and what was typed. Out: whether it counts, after it was noted on disk that it did.
//! Invariants: a code counts once, also across restarts, because what was used is on disk before the answer (R27); an
//! account without a secret is refused and enrols only with an invitation, so that a lost disk opens nothing; guesses
//! are judged one after the other, and after ten wrong ones each next has to wait twice as long, up to an hour.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ahash::RandomState;
use zeroize::Zeroizing;

use self::{
    code::{Code, Hashed, Purpose},
    invitation::Invitation,
    record::Record,
    totp::{Key, Match, Step},
};
use crate::{
    clock::Timestamp,
    durable::{Batch, Durable, LoadError, Table, Unavailable},
};

mod base32;
pub mod code;
pub mod invitation;
mod record;
pub mod totp;

/// Whose factor it is: a subject within its realm (R5).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Account {
    realm: Box<str>,
    subject: Box<str>,
}

/// The second factors of all users. What is in memory is on disk, or about to be.
pub struct Factors {
    /// Held for a few hashes by requests that bring a code; never across an await.
    all: Mutex<HashMap<Account, Entry, RandomState>>,
    durable: Option<Durable>,
    /// Where invitations are left; `None`: nobody can be invited.
    invitations: Option<PathBuf>,
}

struct Entry {
    record: Record,
    /// Wrong codes since the last right one.
    wrong: u32,
    /// No code is looked at before.
    wait_until: Timestamp,
}

/// A code that was right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accepted {
    /// Of the app.
    Totp,
    /// A recovery code, which is used up.
    Recovery {
        /// How many are left.
        left: usize,
    },
}

/// Why a code does not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CheckError {
    /// There is no factor to check it against.
    NotEnrolled,
    /// It is wrong.
    Wrong,
    /// It was right, and was used before.
    Used,
    /// Too many were wrong; this one was not looked at.
    TooMany {
        /// When to try again.
        retry_after: Duration,
    },
    /// That it was used cannot be written down.
    Unavailable,
}

/// Where an account stands.
#[derive(Debug)]
pub enum Standing {
    /// It has a factor.
    Enrolled,
    /// It has none, and may enrol with the code of this invitation.
    Invited(Invitation),
    /// It has none and nobody invited it: it is refused.
    Missing,
}

/// Why nobody was enrolled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EnrolError {
    /// Somebody was quicker.
    AlreadyEnrolled,
    /// It cannot be written down.
    Unavailable,
}

/// The codes of [`Factors::enrol`], to be shown once.
pub type RecoveryCodes = [Code; RECOVERY_CODES];

impl Account {
    /// A realm has no control characters, so the two cannot run into each other.
    pub fn new(realm: &str, subject: &str) -> Self {
        Self { realm: realm.into(), subject: subject.into() }
    }

    fn key(&self) -> Vec<u8> {
        [self.realm.as_bytes(), b"\0", self.subject.as_bytes()].concat()
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (realm, subject) = std::str::from_utf8(key).ok()?.split_once('\0')?;
        Some(Self::new(realm, subject))
    }
}

impl Factors {
    /// Reads what is on disk. Without a database nothing survives a restart; the configuration asks for one where
    /// anybody has a second factor.
    ///
    /// # Errors
    /// [`LoadError`] when the disk fails or a record cannot be read.
    pub fn open(durable: Option<Durable>, invitations: Option<PathBuf>) -> Result<Self, LoadError> {
        let mut all = HashMap::default();
        if let Some(durable) = &durable {
            durable.load(Table::Factors, |key, value| match (Account::from_key(key), Record::read(value)) {
                (Some(account), Some(record)) => {
                    all.insert(account, Entry::new(record));
                    Ok(())
                }
                (None, _) => Err("a key is no account"),
                (_, None) => Err("a second factor cannot be read"),
            })?;
        }
        Ok(Self { all: Mutex::new(all), durable, invitations })
    }

    /// Where an account stands. An invitation that resets takes its factor away first. Reads a file, on a thread for
    /// it.
    ///
    /// # Errors
    /// [`Unavailable`] when a reset cannot be written down.
    pub async fn standing(&self, account: &Account, now: Timestamp) -> Result<(Standing, bool), Unavailable> {
        let invitation = match &self.invitations {
            Some(folder) => Invitation::find(folder.clone(), account.clone()).await,
            None => None,
        };
        let (enrolled, since) = self
            .lock()
            .get(account)
            .map_or_else(|| (false, Timestamp::default()), |entry| (entry.record.key.is_some(), entry.record.since));
        // One that is older than what it would change has done its work.
        let invitation = invitation.filter(|invitation| invitation.issued > since);
        let reset = enrolled && invitation.as_ref().is_some_and(|invitation| invitation.reset);
        if reset {
            let before = invitation.as_ref().map_or(now, |invitation| invitation.issued);
            self.reset(account, before.minus(Duration::from_millis(1)).max(since)).await?;
        }
        let standing = match invitation.filter(|invitation| now < invitation.expires) {
            _ if enrolled && !reset => Standing::Enrolled,
            Some(invitation) => Standing::Invited(invitation),
            None => Standing::Missing,
        };
        Ok((standing, reset))
    }

    /// Judges a code of the app or a recovery code; whichever is right is used up, on disk, when this returns.
    ///
    /// # Errors
    /// [`CheckError`]: nobody may go on.
    pub async fn check(&self, account: &Account, typed: &str, now: Timestamp) -> Result<Accepted, CheckError> {
        let (accepted, written, hash) = {
            let mut all = self.lock();
            let entry = all.get_mut(account).ok_or(CheckError::NotEnrolled)?;
            let Some(key) = &entry.record.key else { return Err(CheckError::NotEnrolled) };
            if now < entry.wait_until {
                return Err(CheckError::TooMany { retry_after: entry.wait_until.since(now) });
            }
            let hash = Code::parse(typed).map(|code| code.hash(account, Purpose::Recovery));
            let judged = match hash {
                Some(hash) => entry.record.use_recovery(&hash).ok_or(CheckError::Wrong),
                None => match key.check(&compact(typed), entry.record.last, now) {
                    Match::Fresh(step) => {
                        entry.record.last = Some(step);
                        Ok(Accepted::Totp)
                    }
                    Match::Used => Err(CheckError::Used),
                    Match::Wrong => Err(CheckError::Wrong),
                },
            };
            let accepted = judged.inspect_err(|_| entry.guessed_wrong(now))?;
            entry.wrong = 0;
            // Handed over under the lock, so that the disk sees changes in the order of memory.
            (accepted, self.commit(account, &entry.record), hash)
        };
        if written.await.is_err() {
            // The step stays used in memory: its code has been sent over the wire. A recovery code is too dear for
            // that, and nobody was let in with it.
            if let Some(hash) = hash
                && let Some(entry) = self.lock().get_mut(account)
            {
                entry.record.recovery.push(hash);
            }
            return Err(CheckError::Unavailable);
        }
        Ok(accepted)
    }

    /// Gives an account a factor: a key, the step of the first code that proved it, and new recovery codes. Invitations
    /// that were made until `since` are used up.
    ///
    /// # Errors
    /// [`EnrolError`]: nothing has changed.
    pub async fn enrol(
        &self,
        account: &Account,
        key: Key,
        first: Step,
        since: Timestamp,
    ) -> Result<RecoveryCodes, EnrolError> {
        let codes: RecoveryCodes = std::array::from_fn(|_| Code::generate());
        let recovery = codes.iter().map(|code| code.hash(account, Purpose::Recovery)).collect();
        let record = Record { key: Some(key), last: Some(first), recovery, since };
        let (written, before) = {
            let mut all = self.lock();
            if all.get(account).is_some_and(|entry| entry.record.key.is_some()) {
                return Err(EnrolError::AlreadyEnrolled);
            }
            let written = self.commit(account, &record);
            (written, all.insert(account.clone(), Entry::new(record)))
        };
        if written.await.is_err() {
            let mut all = self.lock();
            match before {
                Some(before) => all.insert(account.clone(), before),
                None => all.remove(account),
            };
            return Err(EnrolError::Unavailable);
        }
        if let Some(folder) = &self.invitations {
            Invitation::remove(folder.clone(), account.clone()).await;
        }
        Ok(codes)
    }

    /// Takes an account's factor away; `false` if it has none. It enrols anew with an invitation made after `since`.
    ///
    /// # Errors
    /// [`Unavailable`]: it cannot be written down, and the factor is still asked for.
    pub async fn reset(&self, account: &Account, since: Timestamp) -> Result<bool, Unavailable> {
        let written = {
            let mut all = self.lock();
            let Some(entry) = all.get_mut(account).filter(|entry| entry.record.key.is_some()) else {
                return Ok(false);
            };
            // What is left tells which invitations are used up. From now on nobody gets in, written down or not.
            entry.record = Record { key: None, last: None, recovery: Vec::new(), since };
            self.commit(account, &entry.record)
        };
        written.await.map(|()| true)
    }

    /// How many recovery codes an account has left.
    pub fn recovery_codes_left(&self, account: &Account) -> usize {
        self.lock().get(account).map_or(0, |entry| entry.record.recovery.len())
    }

    fn commit(&self, account: &Account, record: &Record) -> impl Future<Output = Result<(), Unavailable>> + use<> {
        let commit = self
            .durable
            .as_ref()
            .map(|durable| durable.commit(Batch::new().put(Table::Factors, &account.key(), record.write())));
        async move {
            match commit {
                Some(commit) => commit.await,
                None => Ok(()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Account, Entry, RandomState>> {
        // Nothing panics while it is held.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Factors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factors").field("accounts", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Entry {
    const fn new(record: Record) -> Self {
        Self { record, wrong: 0, wait_until: Timestamp::from_unix_millis(0) }
    }

    fn guessed_wrong(&mut self, now: Timestamp) {
        self.wrong = self.wrong.saturating_add(1);
        if let Some(doublings) = self.wrong.checked_sub(FREE_GUESSES) {
            let wait = FIRST_WAIT.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
            self.wait_until = now.plus(wait.min(LONGEST_WAIT));
        }
    }
}

impl Record {
    fn use_recovery(&mut self, hash: &Hashed) -> Option<Accepted> {
        let before = self.recovery.len();
        self.recovery.retain(|kept| !kept.matches(hash));
        (self.recovery.len() < before).then_some(Accepted::Recovery { left: self.recovery.len() })
    }
}

/// A code of the app as it was typed, without the blanks that apps show.
fn compact(typed: &str) -> Zeroizing<String> {
    Zeroizing::new(typed.chars().filter(|letter| !letter.is_whitespace()).take(16).collect())
}

/// Recovery codes of one enrolment.
pub const RECOVERY_CODES: usize = 10;

/// Wrong codes in a row before the next one has to wait.
const FREE_GUESSES: u32 = 10;
/// How long the first of them waits; each further one twice as long. Three of a million codes are right at any time:
/// whoever knows the password and tries for a year is let in with a chance of three in a hundred, and is told of in the
/// audit log some nine thousand times.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests;
