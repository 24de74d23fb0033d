//! Local users: who they are, and whether a password is theirs. Hashing never runs on a worker.
//!
//! In: `[[user]]` entries, then what somebody typed. Out: a user, or nothing, after the same work in both cases.
//!
//! **The same work**, also where some hashes are bcrypt and some argon2: every attempt tries one hash of each kind
//! that the provider's users have, the user's own or else a decoy. So neither the time of one attempt nor of many says
//! whether a name is somebody's, nor what kind of hash somebody has. It costs the sum of all kinds, hence there are
//! few of them; as passwords are hashed anew at logins, one is left in the end.
//!
//! Invariants: argon2 and bcrypt only; the queue in front of the hashing threads is bounded; passwords are taken byte
//! by byte as they were typed, without Unicode normalization, and never printed.

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use ahash::RandomState;
use aws_lc_rs::digest::{SHA256, digest};

mod hasher;
pub mod htpasswd;
mod password;
mod renewal;
pub mod users_file;
mod verifier;

pub use hasher::{Busy, Hasher};
pub use password::{MAX_PASSWORD_BYTES, PasswordError, hash_password};
use renewal::Renewal;
pub use verifier::looks_like_a_hash;
use verifier::{Kind, Verifier};

/// The users of one provider, indexed by name and by email.
pub struct Accounts {
    users: Box<[Account]>,
    names: HashMap<Box<str>, usize, RandomState>,
    /// In lower case.
    emails: HashMap<Box<str>, usize, RandomState>,
    /// A decoy of each kind among the users' hashes; never empty.
    decoys: Arc<[Verifier]>,
}

/// One `[[user]]`.
#[derive(Clone)]
pub struct User {
    /// What is typed to log in: 1 to 255 bytes without control characters or outer blanks.
    pub name: Box<str>,
    /// The stable subject; default: the name. The same bounds.
    pub id: Box<str>,
    /// Shown to people and upstreams.
    pub display_name: Option<Box<str>>,
    /// Also accepted to log in.
    pub email: Option<Box<str>>,
    /// A hash: argon2 in PHC string form, or bcrypt.
    pub password: Box<str>,
    /// Whether a code of a second factor is asked for besides.
    pub second_factor: bool,
    /// Roles.
    pub roles: Box<[Box<str>]>,
    /// Groups.
    pub groups: Box<[Box<str>]>,
}

impl User {
    /// Names this user's password as long as it stays the same, and tells nothing of it (R29).
    pub fn proof(&self) -> [u8; 16] {
        let digest = digest(&SHA256, self.password.as_bytes());
        let mut proof = [0; 16];
        proof.copy_from_slice(&digest.as_ref()[..16]);
        proof
    }

    /// Whether a session that a hash of this proof opened is still of the same password: the hash is the same, or was
    /// made of it when that password was typed again (R29).
    pub fn keeps(&self, proof: &[u8; 16]) -> bool {
        self.proof() == *proof || Verifier::parse(&self.password).is_ok_and(|hash| hash.salt() == proof)
    }
}

/// Why a set of users cannot be used. `Display` says which user, what is wrong and how to mend it.
#[derive(Clone, Debug)]
pub struct AccountsError {
    /// Index of the offending user in the given list.
    pub user: usize,
    /// What is wrong, and how to mend it.
    pub message: String,
}

/// Whom somebody claims to be: a user, or nobody. From outside [`Hasher::check`] the two cannot be told apart.
pub struct Candidate {
    user: Option<Arc<User>>,
    work: Work,
    renewal: Option<Arc<Renewal>>,
}

struct Account {
    user: Arc<User>,
    verifier: Arc<Verifier>,
    /// Index of the decoy of the same kind.
    kind: usize,
    /// Where the hash is outdated and stands in a users file.
    renewal: Option<Arc<Renewal>>,
}

/// What every attempt costs: one hash of each kind.
struct Work {
    decoys: Arc<[Verifier]>,
    /// The hash that counts, and the decoy in whose place it is tried.
    own: Option<(usize, Arc<Verifier>)>,
}

impl Accounts {
    /// Checks names, emails and hashes: names, ids and emails are unique, emails whatever their case, and no name is
    /// another user's email.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the users.
    pub fn new(users: Vec<User>) -> Result<Self, Vec<AccountsError>> {
        let mut errors = Vec::new();
        let mut verifiers = Vec::with_capacity(users.len());
        for (user, entry) in users.iter().enumerate() {
            let mut complain = |message| errors.push(AccountsError { user, message });
            check_texts(entry).into_iter().for_each(&mut complain);
            match Verifier::parse(&entry.password) {
                Ok(verifier) => verifiers.push(Arc::new(verifier)),
                Err(message) => complain(format!("the password of {:?} {message}", entry.name)),
            }
        }
        let mut ids = HashMap::with_hasher(RandomState::new());
        let mut names = HashMap::with_hasher(RandomState::new());
        let mut emails = HashMap::with_hasher(RandomState::new());
        for (user, entry) in users.iter().enumerate() {
            let mut complain = |message| errors.push(AccountsError { user, message });
            if names.insert(entry.name.clone(), user).is_some() {
                complain(format!("the name {:?} is given twice; a name logs in one user", entry.name));
            }
            if ids.insert(entry.id.clone(), user).is_some() {
                complain(format!("the id {:?} is given twice; users with one id would share sessions", entry.id));
            }
            if let Some(email) = &entry.email
                && emails.insert(email.to_lowercase().into_boxed_str(), user).is_some()
            {
                complain(format!("the email {email:?} is given twice; an email logs in one user"));
            }
        }
        for (user, entry) in users.iter().enumerate() {
            if emails.get(entry.name.to_lowercase().as_str()).is_some_and(|owner| *owner != user) {
                let message = format!("the name {:?} is another user's email", entry.name);
                errors.push(AccountsError { user, message });
            }
        }
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.user);
            return Err(errors);
        }
        let mut kinds: Vec<Kind> = Vec::new();
        let kind_of = |verifier: &Arc<Verifier>| {
            let kind = verifier.kind();
            kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
                kinds.push(kind);
                kinds.len() - 1
            })
        };
        let indices: Vec<usize> = verifiers.iter().map(kind_of).collect();
        if let Some(user) = indices.iter().position(|kind| *kind >= MAX_KINDS) {
            let message = format!(
                "the password of {:?} is hashed in one more way than the {MAX_KINDS} of the users before; every login \
                 pays for all of them, so there may be no more; make a new hash with `portcullis hash-password`",
                users[user].name
            );
            return Err(vec![AccountsError { user, message }]);
        }
        let account = |((user, verifier), kind)| Account { user: Arc::new(user), verifier, kind, renewal: None };
        let users = users.into_iter().zip(verifiers).zip(indices).map(account).collect();
        Ok(Self { users, names, emails, decoys: decoys(&kinds) })
    }

    /// Says for each user in which file the hash stands, so that an outdated one can be replaced there at a login.
    pub fn kept_in(mut self, files: &[Option<Arc<Path>>]) -> Self {
        for (account, file) in self.users.iter_mut().zip(files) {
            let file = file.as_ref().filter(|_| account.verifier.kind().is_outdated());
            account.renewal = file.map(|file| {
                let (user, file) = (Arc::clone(&account.user), Arc::clone(file));
                Arc::new(Renewal { user, file, done: AtomicBool::new(false) })
            });
        }
        self
    }

    /// A user by name (exact) or email (whatever its case).
    pub fn find(&self, login: &str) -> Option<&Arc<User>> {
        self.account(login).map(|account| &account.user)
    }

    /// Whom this login claims to be, for [`Hasher::check`].
    pub fn candidate(&self, login: &str) -> Candidate {
        let account = self.account(login);
        Candidate {
            user: account.map(|account| Arc::clone(&account.user)),
            renewal: account.and_then(|account| account.renewal.clone()),
            work: Work {
                decoys: Arc::clone(&self.decoys),
                own: account.map(|account| (account.kind, Arc::clone(&account.verifier))),
            },
        }
    }

    /// Every user, in the given order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.iter().map(|account| &account.user)
    }

    /// Users whose hashes are not what [`hash_password`] makes: cheaper to try, or bcrypt.
    pub fn outdated(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.iter().filter(|account| account.verifier.kind().is_outdated()).map(|account| &account.user)
    }

    fn account(&self, login: &str) -> Option<&Account> {
        let user = self.names.get(login).or_else(|| self.emails.get(login.to_lowercase().as_str()))?;
        self.users.get(*user)
    }
}

impl Default for Accounts {
    fn default() -> Self {
        Self { users: Box::default(), names: HashMap::default(), emails: HashMap::default(), decoys: decoys(&[]) }
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the hash: offline, it is worth a password (R34).
        f.debug_struct("User")
            .field("name", &self.name)
            .field("id", &self.id)
            .field("display_name", &self.display_name)
            .field("email", &self.email)
            .field("second_factor", &self.second_factor)
            .field("roles", &self.roles)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for AccountsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}: {}", self.user + 1, self.message)
    }
}

impl std::error::Error for AccountsError {}

fn decoys(kinds: &[Kind]) -> Arc<[Verifier]> {
    let usual = [Kind::usual()];
    let kinds = if kinds.is_empty() { &usual } else { kinds };
    kinds.iter().map(|kind| Verifier::decoy(*kind)).collect()
}

fn check_texts(user: &User) -> Vec<String> {
    let unfit =
        |text: &str| text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) || text.trim() != text;
    let mut complaints = Vec::new();
    let mut check = |what: &str, text: &str| {
        if unfit(text) {
            complaints.push(format!(
                "{what} {text:?} must have 1 to 255 bytes, no control characters and no blanks at its ends"
            ));
        }
    };
    check("the name", &user.name);
    check("the id", &user.id);
    if let Some(email) = &user.email {
        check("the email", email);
        if !email.contains('@') {
            complaints.push(format!("the email {email:?} has no @"));
        }
    }
    complaints
}

/// Kinds of hashes in one provider.
const MAX_KINDS: usize = 6;

#[cfg(test)]
mod tests;
