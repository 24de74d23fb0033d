//! Logins between the password and the code.
//!
//! In: somebody whose password was right. Out: a random id for the form, by which the next request finds them.
//! Invariants: an id counts in the browser that the password came from, for five minutes, and for one request at a
//! time: it is taken out while its code is judged, so that guesses cannot run side by side. Wrong codes are five at
//! most. Bounded: only right passwords make entries, a few for each user, and there are never more than
//! [`MAX_ENTRIES`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Known;
use crate::{
    accounts::User,
    clock::Timestamp,
    factor::totp::Key,
    login::{Settings, step_up::StepUp},
    session::{BuildKeyHasher, SessionKey, SessionToken},
};

/// All of them, for all workers.
#[derive(Debug, Default)]
pub struct Pending(Mutex<HashMap<SessionKey, Waiting, BuildKeyHasher>>);

/// One login that waits for a code.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) provider: Arc<str>,
    /// As it was when the password was checked.
    pub(super) user: Arc<User>,
    /// What was typed as a name, for the throttle.
    pub(super) login: Box<str>,
    pub(super) step_up: Option<StepUp>,
    /// What was asked for beside the password; the code's page does not ask again.
    pub(super) remember: bool,
    pub(super) stage: Stage,
    /// Whose form counts: the hash of the browser's cookie.
    browser: SessionKey,
    expires: Timestamp,
    wrong: u8,
}

/// What is waited for.
#[derive(Debug)]
pub(super) enum Stage {
    /// A code of the app, or a recovery code.
    Code,
    /// The code of an invitation.
    Invitation,
    /// The first code of a new key.
    Enrolment {
        key: Key,
        /// When the invitation was made.
        invited: Timestamp,
    },
}

/// One that waits, for the process that follows this one.
#[derive(Deserialize, Serialize, Zeroize, ZeroizeOnDrop)]
pub(in crate::login) struct HandedWaiting {
    id: [u8; 32],
    browser: [u8; 32],
    provider: String,
    user: String,
    user_id: String,
    /// Of the password that was right.
    proof: [u8; 16],
    login: String,
    /// As in `prompt`.
    step_up: Option<String>,
    remember: bool,
    stage: HandedStage,
    /// In milliseconds since the epoch.
    expires: u64,
    wrong: u8,
}

#[derive(Deserialize, Serialize, Zeroize)]
enum HandedStage {
    Code,
    Invitation,
    Enrolment { key: Vec<u8>, invited: u64 },
}

impl HandedWaiting {
    fn of(id: &SessionKey, waiting: &Waiting) -> Self {
        Self {
            id: *id.bytes(),
            browser: *waiting.browser.bytes(),
            provider: waiting.provider.to_string(),
            user: waiting.user.name.to_string(),
            user_id: waiting.user.id.to_string(),
            proof: waiting.user.proof(),
            login: waiting.login.to_string(),
            step_up: waiting.step_up.map(|step_up| step_up.as_str().to_owned()),
            remember: waiting.remember,
            stage: match &waiting.stage {
                Stage::Code => HandedStage::Code,
                Stage::Invitation => HandedStage::Invitation,
                Stage::Enrolment { key, invited } => {
                    HandedStage::Enrolment { key: key.bytes().to_vec(), invited: invited.unix_millis() }
                }
            },
            expires: waiting.expires.unix_millis(),
            wrong: waiting.wrong,
        }
    }

    /// `None`: the user is another one here, or is not there.
    fn read(&self, settings: &Settings) -> Option<(SessionKey, Waiting)> {
        let provider = settings.provider(Some(&self.provider))?;
        let user = provider.accounts.find(&self.user)?;
        if *user.id != *self.user_id || !user.keeps(&self.proof) {
            return None;
        }
        let waiting = Waiting {
            provider: Arc::clone(&provider.name),
            user: Arc::clone(user),
            login: (*self.login).into(),
            step_up: match &self.step_up {
                Some(prompt) => Some(StepUp::parse(prompt)?),
                None => None,
            },
            remember: self.remember,
            stage: match &self.stage {
                HandedStage::Code => Stage::Code,
                HandedStage::Invitation => Stage::Invitation,
                HandedStage::Enrolment { key, invited } => {
                    Stage::Enrolment { key: Key::from_bytes(key)?, invited: Timestamp::from_unix_millis(*invited) }
                }
            },
            browser: SessionKey::from_bytes(&self.browser)?,
            expires: Timestamp::from_unix_millis(self.expires),
            wrong: self.wrong,
        };
        Some((SessionKey::from_bytes(&self.id)?, waiting))
    }
}

impl Waiting {
    pub(super) fn new(known: &Known<'_>, step_up: Option<StepUp>, stage: Stage, browser: SessionKey) -> Self {
        Self {
            provider: Arc::clone(&known.provider.name),
            user: Arc::clone(&known.user),
            login: known.login.into(),
            step_up,
            remember: known.remember,
            stage,
            browser,
            expires: Timestamp::default(),
            wrong: 0,
        }
    }

    /// The same login, waiting for something else, with fresh attempts.
    pub(super) fn at(self, stage: Stage) -> Self {
        Self { stage, wrong: 0, ..self }
    }
}

impl Pending {
    /// Lets a login wait from now on; answers the id for its form. `None`: too many wait already.
    pub(super) fn begin(&self, waiting: Waiting, now: Timestamp) -> Option<SessionToken> {
        let lifetime = match waiting.stage {
            Stage::Code | Stage::Invitation => LIFETIME,
            Stage::Enrolment { .. } => ENROLMENT_LIFETIME,
        };
        let id = SessionToken::generate();
        let mut all = self.lock();
        if all.len() >= MAX_ENTRIES {
            all.retain(|_, one| now < one.expires);
        }
        let of_user = |one: &Waiting| one.provider == waiting.provider && one.user.id == waiting.user.id;
        let mut theirs: Vec<_> =
            all.iter().filter(|(_, one)| of_user(one)).map(|(key, one)| (one.expires, *key)).collect();
        if theirs.len() >= MAX_OF_USER {
            // The oldest go, so that nobody who knows the password keeps its owner out.
            theirs.sort_unstable();
            for (_, key) in theirs.iter().take(theirs.len() + 1 - MAX_OF_USER) {
                all.remove(key);
            }
        }
        if all.len() >= MAX_ENTRIES {
            return None;
        }
        all.insert(id.key(), Waiting { expires: now.plus(lifetime), ..waiting });
        Some(id)
    }

    /// Takes the login that a form of this browser continues; nobody else finds it until it is put back.
    pub(super) fn take(&self, id: &SessionToken, browser: &SessionKey, now: Timestamp) -> Option<Waiting> {
        let mut all = self.lock();
        let key = id.key();
        // Another browser's attempt costs its owner nothing.
        all.get(&key).filter(|waiting| waiting.browser == *browser)?;
        all.remove(&key).filter(|waiting| now < waiting.expires)
    }

    /// Puts a login back whose code was not judged.
    pub(super) fn put_back(&self, id: &SessionToken, waiting: Waiting) {
        self.lock().insert(id.key(), waiting);
    }

    /// Puts a login back whose code was wrong; `None` once that was the last try.
    pub(super) fn put_back_wrong(&self, id: &SessionToken, mut waiting: Waiting) -> Option<()> {
        waiting.wrong += 1;
        (waiting.wrong < MAX_WRONG).then(|| self.put_back(id, waiting))
    }

    /// What another process needs to go on with them. Those whose code is judged at this moment are not among them.
    pub(in crate::login) fn hand_over(&self) -> Vec<HandedWaiting> {
        self.lock().iter().map(|(id, waiting)| HandedWaiting::of(id, waiting)).collect()
    }

    /// Goes on with those of another process, whose users are the same here.
    pub(in crate::login) fn take_over(&self, handed: &[HandedWaiting], settings: &Settings) {
        self.lock().extend(handed.iter().take(MAX_ENTRIES).filter_map(|handed| handed.read(settings)));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Waiting, BuildKeyHasher>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From the password to the code.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// From the invitation's code to the first code of an app that may have to be installed first.
const ENROLMENT_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Wrong codes of one login.
const MAX_WRONG: u8 = 5;

/// Logins of one user that wait at the same time.
const MAX_OF_USER: usize = 4;

/// Logins that wait at the same time, some 200 bytes each.
const MAX_ENTRIES: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn user(name: &str) -> Arc<User> {
        Arc::new(User {
            name: name.into(),
            id: name.into(),
            display_name: None,
            email: None,
            password: "".into(),
            second_factor: true,
            roles: Box::default(),
            groups: Box::default(),
        })
    }

    fn waiting(name: &str, browser: &SessionToken) -> Waiting {
        Waiting {
            provider: "local".into(),
            user: user(name),
            login: name.into(),
            step_up: None,
            remember: false,
            stage: Stage::Code,
            browser: browser.key(),
            expires: Timestamp::default(),
            wrong: 0,
        }
    }

    #[test]
    fn a_login_waits_in_its_browser_for_five_minutes() {
        let pending = Pending::default();
        let (hers, other) = (SessionToken::generate(), SessionToken::generate());
        let id = pending.begin(waiting("alice", &hers), NOW).unwrap();

        assert!(pending.take(&id, &other.key(), NOW).is_none(), "another browser");
        assert!(pending.take(&SessionToken::generate(), &hers.key(), NOW).is_none(), "another id");
        let taken = pending.take(&id, &hers.key(), NOW).expect("hers");
        assert!(pending.take(&id, &hers.key(), NOW).is_none(), "one at a time");
        pending.put_back(&id, taken);
        assert!(pending.take(&id, &hers.key(), NOW.plus(LIFETIME)).is_none(), "too late");
        assert!(pending.take(&id, &hers.key(), NOW).is_none(), "and then gone");
    }

    #[test]
    fn five_wrong_codes_end_a_login() {
        let pending = Pending::default();
        let browser = SessionToken::generate();
        let id = pending.begin(waiting("alice", &browser), NOW).unwrap();

        for left in (0..5).rev() {
            let taken = pending.take(&id, &browser.key(), NOW).expect("still waiting");
            assert_eq!(pending.put_back_wrong(&id, taken).is_some(), left > 0, "{left}");
        }
        assert!(pending.take(&id, &browser.key(), NOW).is_none());
    }

    #[test]
    fn waiting_logins_are_bounded() {
        let pending = Pending::default();
        let browser = SessionToken::generate();
        let ids: Vec<_> = (0..6).map(|_| pending.begin(waiting("alice", &browser), NOW).unwrap()).collect();
        let alive = ids.iter().filter(|id| pending.take(id, &browser.key(), NOW).is_some()).count();
        assert_eq!(alive, MAX_OF_USER);

        for i in 0..MAX_ENTRIES {
            assert!(pending.begin(waiting(&format!("user-{i}"), &browser), NOW).is_some());
        }
        assert!(pending.begin(waiting("alice", &browser), NOW).is_none());
        assert!(pending.begin(waiting("alice", &browser), NOW.plus(LIFETIME)).is_some(), "room is made");
    }
}
