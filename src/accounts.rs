//! Local users: who they are, and whether a password is theirs. Hashing never runs on a worker.
//!
//! In: `[[user]]` entries, then what somebody typed. Out: a user, or nothing, after the same work in both cases: a
//! name that nobody has is checked against a decoy made with the parameters of one of the users, always the same one
//! for the same name, so that neither one attempt nor many tell names apart.
//! Invariants: argon2id only (RFC 9106); the queue in front of the hashing threads is bounded; passwords are taken
//! byte by byte as they were typed, without Unicode normalization, and never printed.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use ahash::RandomState;
use argon2::{Algorithm, Argon2, Block, Params, Version, password_hash::phc::PasswordHash};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use tokio::sync::oneshot;

use crate::secret::{self, Secret};

/// The users of one provider, indexed by name and by email.
pub struct Accounts {
    users: Box<[Account]>,
    names: HashMap<Box<str>, usize, RandomState>,
    /// In lower case.
    emails: HashMap<Box<str>, usize, RandomState>,
    /// One for each set of parameters among the users; never empty.
    decoys: Box<[Arc<Verifier>]>,
    /// Chooses decoys; keyed, so that nobody outside can foretell which.
    decoy_hash: RandomState,
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
    /// argon2id in PHC string form.
    pub password: Box<str>,
    /// Roles.
    pub roles: Box<[Box<str>]>,
    /// Groups.
    pub groups: Box<[Box<str>]>,
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
    verifier: Arc<Verifier>,
}

/// The threads that check passwords. Cheap to clone; they end when the last clone is dropped.
#[derive(Clone)]
pub struct Hasher(Arc<Handle>);

/// All hashing threads are busy and the queue is full: the attempt was not made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Busy {
    /// When to try again.
    pub retry_after: Duration,
}

/// Why no hash was made of a password.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PasswordError {
    /// There is none.
    Empty,
    /// It has more than [`MAX_PASSWORD_BYTES`].
    TooLong,
}

/// Bytes of the longest password.
pub const MAX_PASSWORD_BYTES: usize = 1024;

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
        let decoys = Decoys::of(&verifiers);
        let account = |((user, verifier), decoy)| Account { user: Arc::new(user), verifier, decoy };
        let users = users.into_iter().zip(verifiers).zip(decoys.of_user).map(account).collect();
        Ok(Self { users, names, emails, decoys: decoys.all, decoy_hash: RandomState::new() })
    }

    /// A user by name (exact) or email (whatever its case).
    pub fn find(&self, login: &str) -> Option<&Arc<User>> {
        self.account(login).map(|account| &account.user)
    }

    /// Whom this login claims to be, for [`Hasher::check`].
    pub fn candidate(&self, login: &str) -> Candidate {
        if let Some(account) = self.account(login) {
            return Candidate { user: Some(Arc::clone(&account.user)), verifier: Arc::clone(&account.verifier) };
        }
        // As many names get a set of parameters as users have it.
        let chosen = self.decoy_hash.hash_one(login.to_lowercase());
        let stand_in = usize::try_from(chosen % (self.users.len().max(1) as u64)).unwrap_or(0);
        let decoy = self.users.get(stand_in).map_or(0, |account| account.decoy);
        Candidate { user: None, verifier: Arc::clone(&self.decoys[decoy]) }
    }

    /// Every user, in the given order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.iter().map(|account| &account.user)
    }

    /// Users whose hashes are cheaper to try than what is recommended, for a warning.
    pub fn weakly_hashed(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.iter().filter(|account| account.verifier.work() < RECOMMENDED_WORK).map(|account| &account.user)
    }

    fn account(&self, login: &str) -> Option<&Account> {
        let user = self.names.get(login).or_else(|| self.emails.get(login.to_lowercase().as_str()))?;
        self.users.get(*user)
    }
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            users: Box::default(),
            names: HashMap::default(),
            emails: HashMap::default(),
            decoys: Decoys::of(&[]).all,
            decoy_hash: RandomState::new(),
        }
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

impl fmt::Display for PasswordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the password is empty"),
            Self::TooLong => write!(f, "the password is longer than {MAX_PASSWORD_BYTES} bytes"),
        }
    }
}

impl std::error::Error for PasswordError {}

impl Hasher {
    /// Starts `threads` hashing threads behind a queue of `waiting` attempts. Each takes the memory of one hash
    /// (19 MiB as recommended) while it works, and gives it back when there is nothing to do.
    ///
    /// # Errors
    /// When the operating system starts no thread.
    pub fn start(threads: usize, waiting: usize) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            waiting: Mutex::new(Waiting { jobs: VecDeque::with_capacity(waiting), max: waiting, closed: false }),
            wake: Condvar::new(),
        });
        // Made first: if a thread does not start, dropping it ends those that did.
        let handle = Arc::new(Handle(Arc::clone(&queue)));
        for number in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("portcullis-hash-{number}")).spawn(move || work(&queue))?;
        }
        Ok(Self(handle))
    }

    /// Whether the password is the candidate's: `Some` user if so. Wrong passwords and unknown users take the same
    /// work and give the same answer. A password above [`MAX_PASSWORD_BYTES`] is nobody's.
    ///
    /// # Errors
    /// [`Busy`] when too many attempts wait already.
    pub async fn check(&self, candidate: Candidate, password: Secret<String>) -> Result<Option<Arc<User>>, Busy> {
        if password.expose().len() > MAX_PASSWORD_BYTES {
            return Ok(None);
        }
        let (reply, answer) = oneshot::channel();
        self.0.0.push(Job { verifier: candidate.verifier, password, reply })?;
        // A reply that is dropped unsent means that no thread lives to give it: the same as busy.
        let is_right = answer.await.map_err(|_| BUSY)?;
        Ok(candidate.user.filter(|_| is_right))
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

/// An argon2id hash in PHC string form for `password = "…"`, with a random salt and the parameters that OWASP
/// recommends (m = 19 MiB, t = 2, p = 1). Takes some ten milliseconds: not for a worker.
///
/// # Errors
/// [`PasswordError`] when the password is empty or too long.
pub fn hash_password(password: &str) -> Result<String, PasswordError> {
    hash_with(&Params::DEFAULT, password)
}

struct Account {
    user: Arc<User>,
    verifier: Arc<Verifier>,
    /// Index of the decoy with the same parameters.
    decoy: usize,
}

/// A parsed hash, ready to compare with.
struct Verifier {
    argon2: Argon2<'static>,
    salt: Box<[u8]>,
    output: Box<[u8]>,
}

impl Verifier {
    fn parse(text: &str) -> Result<Self, String> {
        let advice = "make one with `portcullis hash-password`";
        if !text.starts_with('$') {
            return Err(format!("is no hash ($argon2id$…); {advice}"));
        }
        if !text.starts_with("$argon2id$") {
            let kind = text.split('$').nth(1).unwrap_or_default();
            let plain = kind.len() <= 16 && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            let kind = if plain { kind } else { "unknown" };
            return Err(format!("is hashed with {kind:?}; only argon2id is accepted: {advice}"));
        }
        let broken = |what: &dyn fmt::Display| format!("is an argon2id hash that cannot be read ({what}); {advice}");
        let hash = PasswordHash::new(text).map_err(|error| broken(&error))?;
        if hash.version != Some(Version::V0x13.into()) {
            return Err(broken(&"version must be 19"));
        }
        let params = Params::try_from(&hash).map_err(|error| broken(&error))?;
        if params.m_cost() > MAX_MEMORY_KIB || params.t_cost() > MAX_PASSES || params.p_cost() > MAX_LANES {
            let most = format!("m={MAX_MEMORY_KIB}, t={MAX_PASSES}, p={MAX_LANES}");
            return Err(format!("asks for more work than is sensible (at most {most}); {advice}"));
        }
        let salt = hash.salt.ok_or_else(|| broken(&"no salt"))?;
        let output = hash.hash.ok_or_else(|| broken(&"no hash after the salt"))?;
        if salt.len() < argon2::MIN_SALT_LEN || output.len() < MIN_OUTPUT_BYTES {
            return Err(broken(&"salt below 8 or hash below 16 bytes"));
        }
        Ok(Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            salt: salt.as_ref().into(),
            output: output.as_bytes().into(),
        })
    }

    /// A hash of nothing, as costly as this one.
    fn decoy(&self) -> Self {
        let random: [u8; 64] = secret::random();
        let fill = |length: usize| random.iter().copied().cycle().take(length).collect();
        Self { argon2: self.argon2.clone(), salt: fill(self.salt.len()), output: fill(self.output.len()) }
    }

    fn matches(&self, password: &[u8], memory: &mut Vec<Block>) -> bool {
        let blocks = self.argon2.params().block_count();
        if memory.len() < blocks {
            memory.resize(blocks, Block::new());
        }
        let mut output = vec![0; self.output.len()];
        let hashed =
            self.argon2.hash_password_into_with_memory(password, &self.salt, &mut output, memory.as_mut_slice());
        hashed.is_ok() && secret::constant_time_eq(&output, &self.output)
    }

    fn cost(&self) -> (u32, u32, u32, usize, usize) {
        let params = self.argon2.params();
        (params.m_cost(), params.t_cost(), params.p_cost(), self.salt.len(), self.output.len())
    }

    /// Blocks written to try one password.
    fn work(&self) -> u64 {
        let params = self.argon2.params();
        u64::from(params.m_cost()) * u64::from(params.t_cost())
    }
}

/// Decoys for a set of users.
struct Decoys {
    all: Box<[Arc<Verifier>]>,
    /// For each user, the index of the decoy that costs the same.
    of_user: Vec<usize>,
}

impl Decoys {
    fn of(verifiers: &[Arc<Verifier>]) -> Self {
        let mut all: Vec<Arc<Verifier>> = Vec::new();
        let of_user = verifiers
            .iter()
            .map(|verifier| {
                all.iter().position(|decoy| decoy.cost() == verifier.cost()).unwrap_or_else(|| {
                    all.push(Arc::new(verifier.decoy()));
                    all.len() - 1
                })
            })
            .collect();
        if all.is_empty() {
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
            let zeros = |length| vec![0; length].into_boxed_slice();
            let usual = Verifier { argon2, salt: zeros(SALT_BYTES), output: zeros(Params::DEFAULT_OUTPUT_LEN) };
            all.push(Arc::new(usual.decoy()));
        }
        Self { all: all.into(), of_user }
    }
}

/// Closes the queue when the last [`Hasher`] goes.
struct Handle(Arc<Queue>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

struct Queue {
    /// A plain lock, held for a push or a pop: an attempt costs ten thousand times that.
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

struct Waiting {
    jobs: VecDeque<Job>,
    max: usize,
    closed: bool,
}

struct Job {
    verifier: Arc<Verifier>,
    password: Secret<String>,
    reply: oneshot::Sender<bool>,
}

impl Queue {
    fn push(&self, job: Job) -> Result<(), Busy> {
        let mut waiting = self.lock();
        if waiting.jobs.len() >= waiting.max {
            // Those whose client has gone must not keep others out.
            waiting.jobs.retain(|job| !job.reply.is_closed());
        }
        if waiting.jobs.len() >= waiting.max {
            return Err(BUSY);
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hashing thread's life.
fn work(queue: &Queue) {
    let mut memory = Vec::new();
    let mut waiting = queue.lock();
    loop {
        if let Some(job) = waiting.jobs.pop_front() {
            drop(waiting);
            if !job.reply.is_closed() {
                let is_right = job.verifier.matches(job.password.expose().as_bytes(), &mut memory);
                // The client may have gone meanwhile.
                let _ = job.reply.send(is_right);
            }
            waiting = queue.lock();
        } else if waiting.closed {
            return;
        } else if memory.is_empty() {
            waiting = queue.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        } else {
            let (guard, wait) = queue.wake.wait_timeout(waiting, KEEP_MEMORY).unwrap_or_else(PoisonError::into_inner);
            waiting = guard;
            if wait.timed_out() {
                memory = Vec::new();
            }
        }
    }
}

fn hash_with(params: &Params, password: &str) -> Result<String, PasswordError> {
    if password.is_empty() {
        return Err(PasswordError::Empty);
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(PasswordError::TooLong);
    }
    let salt: [u8; SALT_BYTES] = secret::random();
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    // Fails only for lengths out of range, and all lengths here are constants in range or checked above.
    argon2.hash_password_into(password.as_bytes(), &salt, &mut output).map_err(|_| PasswordError::TooLong)?;
    let (m, t, p) = (params.m_cost(), params.t_cost(), params.p_cost());
    let (salt, output) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(output));
    Ok(format!("$argon2id$v=19$m={m},t={t},p={p}${salt}${output}"))
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

const BUSY: Busy = Busy { retry_after: Duration::from_secs(1) };

/// How long a hashing thread without work keeps its memory.
const KEEP_MEMORY: Duration = Duration::from_secs(10);

/// RFC 9106 section 3.1 recommends 128 bits.
const SALT_BYTES: usize = 16;

/// Below this, two passwords might share a hash.
const MIN_OUTPUT_BYTES: usize = 16;

/// What a hash may cost: 1 GiB, and a few seconds. More is a slip, or an attack on the next start.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 16;

/// The cheapest of the parameter sets that OWASP calls equal: m = 7 MiB, t = 5.
const RECOMMENDED_WORK: u64 = 7 * 1024 * 5;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::clock;

    /// As cheap as argon2 gets: 8 KiB, one pass.
    fn cheap() -> Params {
        Params::new(8, 1, 1, None).unwrap()
    }

    fn user(name: &str, password: &str) -> User {
        User {
            name: name.into(),
            id: name.into(),
            display_name: None,
            email: Some(format!("{name}@example.com").into()),
            password: hash_with(&cheap(), password).unwrap().into(),
            roles: Box::default(),
            groups: Box::default(),
        }
    }

    fn password(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    async fn check(hasher: &Hasher, accounts: &Accounts, login: &str, typed: &str) -> Option<String> {
        let user = hasher.check(accounts.candidate(login), password(typed)).await.unwrap();
        user.map(|user| user.name.to_string())
    }

    #[tokio::test]
    async fn the_right_password_of_a_known_user_is_the_only_way_in() {
        let accounts = Accounts::new(vec![user("alice", "correct horse"), user("bob", "battery staple")]).unwrap();
        let hasher = Hasher::start(1, 8).unwrap();

        for (login, typed, expect) in [
            ("alice", "correct horse", Some("alice")),
            ("alice@example.com", "correct horse", Some("alice")),
            ("Alice@Example.COM", "correct horse", Some("alice")),
            ("bob", "battery staple", Some("bob")),
            ("alice", "battery staple", None),
            ("alice", "Correct horse", None),
            ("alice", "", None),
            ("Alice", "correct horse", None),
            ("carol", "correct horse", None),
            ("", "", None),
        ] {
            assert_eq!(check(&hasher, &accounts, login, typed).await.as_deref(), expect, "{login} {typed}");
        }
    }

    #[tokio::test]
    async fn passwords_are_compared_as_typed_without_normalization() {
        let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}");
        let accounts = Accounts::new(vec![user("alice", composed)]).unwrap();
        let hasher = Hasher::start(1, 8).unwrap();

        assert!(check(&hasher, &accounts, "alice", composed).await.is_some());
        assert!(check(&hasher, &accounts, "alice", decomposed).await.is_none());
    }

    #[tokio::test]
    async fn passwords_are_bounded() {
        let longest = "x".repeat(MAX_PASSWORD_BYTES);
        let accounts = Accounts::new(vec![user("alice", &longest)]).unwrap();
        let hasher = Hasher::start(1, 8).unwrap();

        assert!(check(&hasher, &accounts, "alice", &longest).await.is_some());
        assert!(check(&hasher, &accounts, "alice", &"x".repeat(MAX_PASSWORD_BYTES + 1)).await.is_none());
        assert_eq!(hash_password(&"x".repeat(MAX_PASSWORD_BYTES + 1)), Err(PasswordError::TooLong));
        assert_eq!(hash_password(""), Err(PasswordError::Empty));
    }

    #[tokio::test]
    async fn an_empty_provider_knows_nobody() {
        let hasher = Hasher::start(1, 8).unwrap();

        assert_eq!(check(&hasher, &Accounts::default(), "alice", "anything").await, None);
        assert_eq!(check(&hasher, &Accounts::new(vec![]).unwrap(), "alice", "anything").await, None);
    }

    #[tokio::test]
    async fn a_hash_for_the_configuration_logs_in_and_is_as_strong_as_recommended() {
        let hash = hash_password("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, hash_password("correct horse").unwrap(), "salts differ");

        let strong = User { password: hash.into(), ..user("alice", "-") };
        let accounts = Accounts::new(vec![strong, user("bob", "-")]).unwrap();
        let hasher = Hasher::start(1, 8).unwrap();

        assert!(check(&hasher, &accounts, "alice", "correct horse").await.is_some());
        assert_eq!(accounts.weakly_hashed().map(|user| &*user.name).collect::<Vec<_>>(), ["bob"]);
    }

    #[test]
    fn unfit_hashes_are_refused_with_advice() {
        let good = hash_with(&cheap(), "password").unwrap();
        for (given, complaint) in [
            (String::from("hunter2"), "is no hash"),
            ("$2b$12$EXRkfkdmXn2gzds2SSitu.MW9.gAVqa9eLS1//RYtYCmB1eLHg.9q".into(), "hashed with \"2b\""),
            ("$6$salt$hash".into(), "hashed with \"6\""),
            (good.replace("argon2id", "argon2i"), "hashed with \"argon2i\""),
            (good.replace("argon2id", "argon2d"), "hashed with \"argon2d\""),
            (good.replace("v=19", "v=16"), "version must be 19"),
            (good.replace("$v=19", ""), "version must be 19"),
            (good.replace("m=8", "m=4194304"), "more work than is sensible"),
            (good.replace("t=1", "t=0"), "cannot be read"),
            (good.rsplit_once('$').unwrap().0.to_owned(), "no hash after the salt"),
            ("$argon2id$".into(), "cannot be read"),
        ] {
            let entry = User { password: given.clone().into(), ..user("alice", "-") };
            let errors = Accounts::new(vec![entry]).unwrap_err();
            assert!(errors.len() == 1 && errors[0].message.contains(complaint), "{given}: {errors:?}");
            assert!(errors[0].message.contains("portcullis hash-password"));
            assert!(!errors[0].message.contains("hunter2"), "a password may stand there by mistake");
        }
        assert!(Accounts::new(vec![User { password: good.into(), ..user("alice", "-") }]).is_ok());
    }

    #[test]
    fn names_ids_and_emails_are_unique_and_all_errors_are_told() {
        let same = |id: &str| User { id: id.into(), ..user("alice", "-") };
        let errors = Accounts::new(vec![same("1"), same("2")]).unwrap_err();
        assert_eq!(errors.iter().map(|error| error.user).collect::<Vec<_>>(), [1, 1]);

        let errors = Accounts::new(vec![same("1"), User { id: "1".into(), ..user("bob", "-") }]).unwrap_err();
        assert!(errors[0].message.contains("share sessions"));

        let claims = User { email: None, ..user("ALICE@example.com", "-") };
        let errors = Accounts::new(vec![user("alice", "-"), claims]).unwrap_err();
        assert!(errors[0].to_string().contains("user 2: the name \"ALICE@example.com\" is another user's email"));

        let own = User { name: "alice@example.com".into(), ..user("alice", "-") };
        assert!(Accounts::new(vec![own]).is_ok());

        let unfit = User { name: " alice".into(), email: Some("nobody".into()), ..user("alice", "-") };
        assert_eq!(Accounts::new(vec![unfit]).unwrap_err().len(), 2);
    }

    #[test]
    fn a_user_does_not_print_the_hash() {
        let user = user("alice", "correct horse");

        assert!(format!("{user:?}").contains("alice"));
        assert!(!format!("{user:?}").contains("argon2id"));
    }

    #[tokio::test]
    async fn a_full_queue_answers_at_once() {
        let slow = Params::new(64 * 1024, 4, 1, None).unwrap();
        let entry = User { password: hash_with(&slow, "right").unwrap().into(), ..user("alice", "-") };
        let accounts = Accounts::new(vec![entry]).unwrap();
        let hasher = Hasher::start(1, 1).unwrap();
        let attempt = || hasher.check(accounts.candidate("alice"), password("right"));

        // Polled in order: one may be hashing already and one waits, so of four at least two are turned away.
        let (a, b, c, d) = tokio::join!(attempt(), attempt(), attempt(), attempt());
        let busy = [&a, &b, &c, &d].iter().filter(|answer| answer.is_err()).count();

        assert!(a.unwrap().is_some());
        assert!((2..=3).contains(&busy), "{busy}");
        assert!(attempt().await.unwrap().is_some(), "later there is room again");
    }

    #[tokio::test]
    async fn an_attempt_whose_client_has_gone_gives_up_its_place() {
        let accounts = Accounts::new(vec![user("alice", "right")]).unwrap();
        let hasher = Hasher::start(1, 1).unwrap();

        for _ in 0..50 {
            let mut gone = Box::pin(hasher.check(accounts.candidate("alice"), password("right")));
            let _ = std::future::poll_fn(|cx| std::task::Poll::Ready(gone.as_mut().poll(cx))).await;
            drop(gone);
        }

        assert!(hasher.check(accounts.candidate("alice"), password("right")).await.unwrap().is_some());
    }

    #[test]
    fn decoys_cost_what_users_cost_in_the_same_proportion() {
        let dear = Params::new(16, 2, 1, None).unwrap();
        let entry = |i: usize| {
            let params = if i.is_multiple_of(4) { &dear } else { &cheap() };
            User { password: hash_with(params, "x").unwrap().into(), ..user(&format!("user-{i}"), "-") }
        };
        let accounts = Accounts::new((0..40).map(entry).collect()).unwrap();

        let cost = |login: &str| accounts.candidate(login).verifier.cost();
        let costs: Vec<_> = (0..2000).map(|i| cost(&format!("nobody-{i}"))).collect();

        assert_eq!(cost("Nobody@example.com"), cost("nobody@example.com"));
        assert!((0..100).all(|i| costs[i] == cost(&format!("nobody-{i}"))), "the same name costs the same each time");
        let dear = costs.iter().filter(|(m, ..)| *m == 16).count();
        assert!((350..650).contains(&dear), "a quarter of 2000, give or take: {dear}");
    }

    /// The two-sample test: what an attacker can measure tells unknown users and wrong passwords apart no better than
    /// the noise between two samples of one kind.
    #[tokio::test]
    async fn an_unknown_user_and_a_wrong_password_take_the_same_time() {
        let params = Params::new(1024, 2, 1, None).unwrap();
        let entry = User { password: hash_with(&params, "right").unwrap().into(), ..user("alice", "-") };
        let accounts = Accounts::new(vec![entry]).unwrap();
        let hasher = Hasher::start(1, 8).unwrap();
        let (mut wrong, mut unknown) = (Vec::new(), Vec::new());

        for i in 0..60 {
            for (login, sample) in [("alice", &mut wrong), ("nobody", &mut unknown)] {
                let started: Instant = clock::instant();
                assert_eq!(check(&hasher, &accounts, login, &format!("guess-{i}")).await, None);
                sample.push(started.elapsed());
            }
        }

        wrong.sort();
        unknown.sort();
        let median = |sample: &[Duration]| sample[sample.len() / 2].as_secs_f64();
        let ratio = median(&wrong) / median(&unknown);
        assert!((0.7..1.4).contains(&ratio), "medians differ by a factor of {ratio}");
    }
}
