//! What the users, their hashes and the hashing threads promise.

use std::time::Duration;

use argon2::Params;

use super::{password::hash_with, *};
use crate::secret::Secret;

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
        second_factor: false,
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
    assert_eq!(accounts.outdated().map(|user| &*user.name).collect::<Vec<_>>(), ["bob"]);
}

#[test]
fn unfit_hashes_are_refused_with_advice() {
    let good = hash_with(&cheap(), "password").unwrap();
    for (given, complaint) in [
        (String::from("hunter2"), "is no hash"),
        ("$ecret of mine".into(), "is no hash"),
        (good.replace("argon2id", "argon2d"), "is no hash"),
        ("$apr1$xGvkzbtG$xYZ".into(), "hashed with MD5 (apr1)"),
        ("$1$salt$hash".into(), "hashed with MD5 (crypt)"),
        ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".into(), "hashed with SHA-1 without a salt"),
        ("$6$salt$hash".into(), "hashed with SHA-512 (crypt)"),
        ("rqXexS6ZhobKA".into(), "is no hash"),
        (BCRYPT.replace("$2b$", "$2x$"), "hashed with a broken bcrypt"),
        (BCRYPT.replace("$05$", "$15$"), "bcrypt cost 15"),
        (BCRYPT.replace("$05$", "$03$"), "bcrypt cost 3"),
        (BCRYPT.replace("$05$", "$5$"), "cannot be read"),
        (format!("{BCRYPT}a"), "cannot be read"),
        (BCRYPT.replace('K', "!"), "cannot be read"),
        (good.replace("m=8", "m=262145"), "more work than is sensible"),
        (good.replace("m=8,t=1", "m=262144,t=5"), "more work than is sensible"),
        (good.replace("m=8,t=1,p=1", "m=256,t=1,p=17"), "more work than is sensible"),
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
        assert!(!errors[0].message.contains("ecret"), "a password may begin like a hash");
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

/// `U*U` of the test vectors of Solar Designer's crypt_blowfish.
const BCRYPT: &str = "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

fn hashed(name: &str, hash: &str) -> User {
    User { password: hash.into(), ..user(name, "-") }
}

#[tokio::test]
async fn bcrypt_is_read_in_all_its_good_spellings() {
    let hasher = Hasher::start(1, 8).unwrap();
    for version in ["2a", "2b", "2y"] {
        let accounts = Accounts::new(vec![hashed("alice", &BCRYPT.replace("2b", version))]).unwrap();

        assert!(check(&hasher, &accounts, "alice", "U*U").await.is_some(), "{version}");
        assert!(check(&hasher, &accounts, "alice", "U*U*").await.is_none(), "{version}");
        assert!(check(&hasher, &accounts, "alice", "").await.is_none(), "{version}");
    }
}

/// bcrypt cuts at 72 bytes and repeats the password from a zero byte on: both would let other passwords in.
#[tokio::test]
async fn what_bcrypt_would_cut_or_confuse_is_nobodys() {
    let longest = "x".repeat(72);
    let alice = hashed("alice", "$2b$04$CCCCCCCCCCCCCCCCCCCCC.ug0A3dTXhy5U.dFjx/qguZ8I4CB77BC");
    let bob = hashed("bob", "$2b$04$CCCCCCCCCCCCCCCCCCCCC.ThcCpjPKXmu6XgQqJJEGokAiEUquQVe");
    let accounts = Accounts::new(vec![alice, bob]).unwrap();
    let hasher = Hasher::start(1, 8).unwrap();

    assert!(check(&hasher, &accounts, "alice", &longest).await.is_some());
    assert!(check(&hasher, &accounts, "alice", &format!("{longest}y")).await.is_none());
    assert!(check(&hasher, &accounts, "alice", &"x".repeat(71)).await.is_none());
    assert!(check(&hasher, &accounts, "bob", "ab").await.is_some());
    assert!(check(&hasher, &accounts, "bob", "ab\0ab").await.is_none());
}

#[tokio::test]
async fn argon2i_is_read_too() {
    // From the reference implementation: `echo -n password | argon2 somesalt -i -t 2 -m 8 -p 1`.
    let hash = format!("$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ${}", "iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8");
    let accounts = Accounts::new(vec![hashed("alice", &hash)]).unwrap();

    assert!(check(&Hasher::start(1, 8).unwrap(), &accounts, "alice", "password").await.is_some());
}

/// Also in a file of mixed hashes: each attempt tries one of every kind, whoever it is for.
#[test]
fn every_attempt_does_the_work_of_every_kind() {
    let dear = hash_with(&Params::new(16, 2, 1, None).unwrap(), "x").unwrap();
    let users = vec![user("a", "x"), user("b", "y"), hashed("c", &dear), hashed("d", BCRYPT), hashed("e", BCRYPT)];
    let accounts = Accounts::new(users).unwrap();

    let work = |login: &str| {
        let Candidate { work, .. } = accounts.candidate(login);
        let kind = |(index, decoy): (usize, &Verifier)| match &work.own {
            Some((own, verifier)) if *own == index => verifier.kind(),
            Some(_) | None => decoy.kind(),
        };
        work.decoys.iter().enumerate().map(kind).collect::<Vec<_>>()
    };
    assert_eq!(work("nobody").len(), 3);
    for login in ["a", "b", "c", "d", "e", "d@example.com", "D"] {
        assert_eq!(work(login), work("nobody"), "{login}");
    }
}

#[test]
fn kinds_of_hashes_are_bounded() {
    let of = |passes| hash_with(&Params::new(8, passes, 1, None).unwrap(), "x").unwrap();
    let entry = |passes: u32| hashed(&format!("user-{passes}"), &of(passes));

    assert!(Accounts::new((1..=6).map(entry).collect()).is_ok());
    let errors = Accounts::new((1..=7).map(entry).collect()).unwrap_err();

    assert_eq!(errors[0].user, 6);
    assert!(errors[0].message.contains("hashed in one more way than the 6"), "{}", errors[0]);
}

/// What an attacker can measure does not tell unknown users from wrong passwords; with hashes of one kind, and of two.
/// Judged by the time that this thread has on a processor, which other work on the machine does not lengthen.
#[test]
fn an_unknown_user_and_a_wrong_password_take_the_same_time() {
    let params = Params::new(1024, 2, 1, None).unwrap();
    let argon2 = hash_with(&params, "right").unwrap();
    for users in [vec![hashed("alice", &argon2)], vec![hashed("alice", &argon2), hashed("bob", BCRYPT)]] {
        let logins: Vec<String> = users.iter().map(|user| user.name.to_string()).chain(["nobody".into()]).collect();
        let accounts = Accounts::new(users).unwrap();
        let mut works: Vec<_> = logins.iter().map(|login| accounts.candidate(login).work).collect();
        // What an unknown user would cost if nothing were hashed for them.
        works.push(Work { decoys: Arc::new([]), own: None });
        let mut samples = vec![Vec::new(); works.len()];
        let mut memory = Vec::new();

        for i in 0..40 {
            // In turn, and each first as often as the others: whatever changes with time changes for all.
            for turn in 0..works.len() {
                let which = (turn + i) % works.len();
                let started = time_on_processor();
                assert!(!works[which].is_right(format!("guess-{i}").as_bytes(), &mut memory));
                samples[which].push(time_on_processor() - started);
            }
        }

        let (skipped, samples) = samples.split_last().unwrap();
        let (unknown, known) = samples.split_last().unwrap();
        for (login, known) in logins.iter().zip(known) {
            assert!(alike(known, unknown), "{login}: {known:?} {unknown:?}");
            assert!(!alike(known, skipped), "it would be seen");
        }
    }
}

/// Whether the ranks of two samples are mixed: of all pairs, few have one side longer by a third.
fn alike(one: &[Duration], other: &[Duration]) -> bool {
    let longer = |a: &[Duration], b: &[Duration]| {
        let pairs = a.iter().flat_map(|a| b.iter().map(move |b| *a * 3 > *b * 4));
        pairs.filter(|is_longer| *is_longer).count()
    };
    let few = one.len() * other.len() / 4;
    longer(one, other) < few && longer(other, one) < few
}

fn time_on_processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// A users file with bcrypt hashes, and the users in it as the gateway knows them.
fn outdated_file(folder: &Path) -> (std::path::PathBuf, Accounts) {
    let path = folder.join("users.toml");
    let text = format!("# staff\n[[user]]\nname = \"alice\" # the first\npassword = \"{BCRYPT}\"\n");
    std::fs::write(&path, text).unwrap();
    let accounts = Accounts::new(vec![hashed("alice", BCRYPT)]).unwrap();
    let file = Some(path.as_path().into());
    (path, accounts.kept_in(&[file]))
}

/// Until the hashing threads have done what they had to.
async fn settle(hasher: &Hasher) {
    while !hasher.is_at_rest() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_outdated_hash_is_replaced_when_its_password_is_typed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, accounts) = outdated_file(folder.path());
    let before = std::fs::read_to_string(&path).unwrap();
    let hasher = Hasher::start(1, 8).unwrap();

    check(&hasher, &accounts, "alice", "wrong").await;
    settle(&hasher).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before, "a guess changes nothing");

    assert!(check(&hasher, &accounts, "alice", "U*U").await.is_some());
    settle(&hasher).await;
    let after = std::fs::read_to_string(&path).unwrap();
    let hash = users_file::UsersFile::open(&path).unwrap().hash("alice").unwrap().to_owned();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert_eq!(after, before.replace(BCRYPT, &hash));

    assert!(check(&hasher, &accounts, "alice", "U*U").await.is_some(), "the old hash still counts until a reload");
    settle(&hasher).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), after, "once");
    let reloaded = Accounts::new(vec![hashed("alice", &hash)]).unwrap();
    assert!(check(&hasher, &reloaded, "alice", "U*U").await.is_some());
    assert_eq!(reloaded.outdated().count(), 0);
}

#[tokio::test]
async fn a_hash_that_somebody_changed_meanwhile_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, accounts) = outdated_file(folder.path());
    let changed = std::fs::read_to_string(&path).unwrap().replace("$05$", "$06$");
    std::fs::write(&path, &changed).unwrap();
    let hasher = Hasher::start(1, 8).unwrap();

    assert!(check(&hasher, &accounts, "alice", "U*U").await.is_some());
    settle(&hasher).await;

    assert_eq!(std::fs::read_to_string(&path).unwrap(), changed);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_keeps_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let (path, accounts) = outdated_file(folder.path());
    std::fs::remove_file(&path).unwrap();
    let hasher = Hasher::start(1, 8).unwrap();

    for _ in 0..2 {
        assert!(check(&hasher, &accounts, "alice", "U*U").await.is_some());
    }
}

/// R29: a changed password ends sessions; the same one, hashed anew, does not.
#[test]
fn a_renewed_hash_says_what_it_was_made_of() {
    let old = hashed("alice", BCRYPT);
    let renewed = hashed("alice", &password::renew(old.proof(), "U*U").unwrap());
    let again = hashed("alice", &hash_password("U*U").unwrap());

    assert!(old.keeps(&old.proof()));
    assert!(renewed.keeps(&old.proof()) && renewed.keeps(&renewed.proof()));
    assert!(!again.keeps(&old.proof()), "set by somebody, though it is the same");
    assert!(!old.keeps(&renewed.proof()));
}

#[tokio::test]
async fn a_password_that_bcrypt_took_and_argon2_would_not_is_not_renewed() {
    assert_eq!(password::renew([0; 16], ""), Err(PasswordError::Empty));
    assert_eq!(password::renew([0; 16], &"x".repeat(MAX_PASSWORD_BYTES + 1)), Err(PasswordError::TooLong));
}
