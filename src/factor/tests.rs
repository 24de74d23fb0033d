//! What counts as a second factor, how often, and what survives a crash.

use super::*;
use crate::{clock::Clock, durable::Settings};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const STEP: Duration = Duration::from_secs(30);

fn alice() -> Account {
    Account::new("staff", "alice")
}

fn bob() -> Account {
    Account::new("staff", "bob")
}

fn durable(folder: &std::path::Path) -> Durable {
    let settings = Settings { dir: folder.to_owned(), key_file: None, timeout: Settings::TIMEOUT };
    Durable::open(&settings, &Clock::manual(NOW), |_| {}).unwrap()
}

fn shown(key: &Key, at: Timestamp) -> String {
    totp::code_of(&key.text(), at).unwrap()
}

/// Enrols with the code of the step before `NOW`'s.
async fn enrolled(factors: &Factors, account: &Account) -> (Key, Vec<String>) {
    let key = Key::generate();
    let first = Step::at(NOW.minus(STEP));
    let codes = factors.enrol(account, key.clone(), first, NOW.minus(STEP)).await.ok().unwrap();
    (key, codes.iter().map(|code| code.text().to_string()).collect())
}

fn in_memory() -> Factors {
    Factors::open(None, None).unwrap()
}

#[tokio::test]
async fn a_code_counts_once_and_for_its_own_user() {
    let factors = in_memory();
    let (hers, _) = enrolled(&factors, &alice()).await;
    let (his, _) = enrolled(&factors, &bob()).await;

    assert_eq!(factors.check(&alice(), &shown(&his, NOW), NOW).await, Err(CheckError::Wrong));
    assert_eq!(factors.check(&alice(), &shown(&hers, NOW), NOW).await, Ok(Accepted::Totp));
    assert_eq!(factors.check(&alice(), &shown(&hers, NOW), NOW).await, Err(CheckError::Used));
    assert_eq!(factors.check(&alice(), &shown(&hers, NOW.minus(STEP)), NOW).await, Err(CheckError::Used));
    assert_eq!(factors.check(&bob(), &shown(&his, NOW), NOW).await, Ok(Accepted::Totp));
    let typed = shown(&hers, NOW.plus(STEP));
    let typed = format!(" {} {} ", &typed[..3], &typed[3..]);
    assert_eq!(factors.check(&alice(), &typed, NOW.plus(STEP)).await, Ok(Accepted::Totp), "as apps show it");
}

#[tokio::test]
async fn the_code_that_enrolled_does_not_log_in() {
    let factors = in_memory();
    let (key, _) = enrolled(&factors, &alice()).await;

    let before = NOW.minus(STEP);
    assert_eq!(factors.check(&alice(), &shown(&key, before), before).await, Err(CheckError::Used));
}

#[tokio::test]
async fn nobody_without_a_factor_gets_in() {
    let factors = in_memory();

    assert_eq!(factors.check(&alice(), "000000", NOW).await, Err(CheckError::NotEnrolled));
    assert!(matches!(factors.standing(&alice(), NOW).await, Ok((Standing::Missing, false))));
    enrolled(&factors, &alice()).await;
    assert!(factors.reset(&alice(), NOW).await.unwrap() && !factors.reset(&alice(), NOW).await.unwrap());
    assert_eq!(factors.check(&alice(), "000000", NOW).await, Err(CheckError::NotEnrolled));
    assert_eq!(factors.check(&alice(), "", NOW).await, Err(CheckError::NotEnrolled));
    assert!(matches!(factors.standing(&alice(), NOW).await, Ok((Standing::Missing, false))));
}

#[tokio::test]
async fn a_recovery_code_counts_once() {
    let factors = in_memory();
    let (_, codes) = enrolled(&factors, &alice()).await;
    let (_, his) = enrolled(&factors, &bob()).await;
    assert_eq!(codes.len(), 10);

    assert_eq!(factors.check(&alice(), &his[0], NOW).await, Err(CheckError::Wrong));
    assert_eq!(factors.check(&alice(), &codes[3], NOW).await, Ok(Accepted::Recovery { left: 9 }));
    assert_eq!(factors.check(&alice(), &codes[3], NOW).await, Err(CheckError::Wrong));
    for (i, code) in codes.iter().enumerate().filter(|(i, _)| *i != 3) {
        assert!(factors.check(&alice(), code, NOW).await.is_ok(), "{i}");
    }
    assert_eq!((factors.recovery_codes_left(&alice()), factors.recovery_codes_left(&bob())), (0, 10));
}

#[tokio::test]
async fn nobody_enrols_twice() {
    let factors = in_memory();
    let (key, _) = enrolled(&factors, &alice()).await;

    let again = factors.enrol(&alice(), Key::generate(), Step::at(NOW), NOW).await;

    assert_eq!(again.err(), Some(EnrolError::AlreadyEnrolled));
    assert_eq!(factors.check(&alice(), &shown(&key, NOW), NOW).await, Ok(Accepted::Totp), "the first one counts");
}

/// Ten are free; then each waits, and a right one in between is not looked at either. In a year not one in thirty
/// thousand codes is tried.
#[tokio::test]
async fn guessing_gets_slower_and_slower() {
    let factors = in_memory();
    let (key, _) = enrolled(&factors, &alice()).await;
    let (his, _) = enrolled(&factors, &bob()).await;
    let wrong = |at| if shown(&key, at) == "000000" { "000001" } else { "000000" };
    for _ in 0..10 {
        assert_eq!(factors.check(&alice(), wrong(NOW), NOW).await, Err(CheckError::Wrong));
    }

    let refused = factors.check(&alice(), &shown(&key, NOW), NOW).await;
    assert_eq!(refused, Err(CheckError::TooMany { retry_after: FIRST_WAIT }));
    assert_eq!(factors.check(&bob(), &shown(&his, NOW), NOW).await, Ok(Accepted::Totp), "others are not concerned");

    let day = Duration::from_secs(24 * 60 * 60);
    let mut tried = 0;
    let mut now = NOW;
    while now < NOW.plus(day * 10) {
        match factors.check(&alice(), "no code", now).await {
            Err(CheckError::TooMany { retry_after }) => now = now.plus(retry_after),
            Err(_) => tried += 1,
            Ok(_) => panic!("no code"),
        }
    }
    assert!((235..260).contains(&tried), "{tried} in ten days");
    assert_eq!(factors.check(&alice(), &shown(&key, now), now).await, Ok(Accepted::Totp), "who waits gets in");
    assert_eq!(factors.check(&alice(), "no code", now).await, Err(CheckError::Wrong), "and may be wrong again");
}

#[tokio::test]
async fn what_was_used_stays_used_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let (key, codes) = {
        let factors = Factors::open(Some(durable(folder.path())), None).unwrap();
        let (key, codes) = enrolled(&factors, &alice()).await;
        factors.check(&alice(), &shown(&key, NOW), NOW).await.unwrap();
        factors.check(&alice(), &codes[0], NOW).await.unwrap();
        enrolled(&factors, &bob()).await;
        factors.reset(&bob(), NOW).await.unwrap();
        (key, codes)
        // Dropped without being closed, as a killed process leaves it.
    };

    let factors = loop {
        // The writer's thread lets go of the directory a moment later.
        let settings = Settings { dir: folder.path().to_owned(), key_file: None, timeout: Settings::TIMEOUT };
        if let Ok(durable) = Durable::open(&settings, &Clock::manual(NOW), |_| {}) {
            break Factors::open(Some(durable), None).unwrap();
        }
        tokio::task::yield_now().await;
    };

    assert_eq!(factors.check(&alice(), &shown(&key, NOW), NOW).await, Err(CheckError::Used));
    assert_eq!(factors.check(&alice(), &codes[0], NOW).await, Err(CheckError::Wrong));
    assert_eq!(factors.check(&alice(), &codes[1], NOW).await, Ok(Accepted::Recovery { left: 8 }));
    assert_eq!(factors.check(&bob(), "000000", NOW).await, Err(CheckError::NotEnrolled));
}

#[tokio::test]
async fn a_key_on_disk_is_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let factors = Factors::open(Some(durable(folder.path())), None).unwrap();
    let (key, codes) = enrolled(&factors, &alice()).await;

    let everything = std::fs::read(folder.path().join("state.redb")).unwrap();

    let holds = |needle: &[u8]| everything.windows(needle.len()).any(|window| window == needle);
    let hash = Code::parse(&codes[0]).unwrap().hash(&alice(), Purpose::Recovery);
    assert!(!holds(key.bytes()) && !holds(key.text().replace(' ', "").as_bytes()) && !holds(&hash.0));
    assert!(!holds(b"alice"), "nor whose it is");
    assert!(holds(b"factors"), "the right file");
}

#[tokio::test]
async fn an_invitation_counts_for_an_hour_and_one_enrolment() {
    let folder = tempfile::tempdir().unwrap();
    let factors = Factors::open(None, Some(folder.path().to_owned())).unwrap();
    let code = Invitation::write(folder.path(), &alice(), false, NOW).unwrap();
    let standing = async |now| factors.standing(&alice(), now).await.unwrap().0;

    let Standing::Invited(invitation) = standing(NOW).await else { panic!("invited") };
    assert!(invitation.admits(&alice(), &code.text()));
    let last = NOW.plus(invitation::LIFETIME).minus(Duration::from_millis(1));
    assert!(matches!(standing(last).await, Standing::Invited(_)));
    assert!(matches!(standing(NOW.plus(invitation::LIFETIME)).await, Standing::Missing));

    factors.enrol(&alice(), Key::generate(), Step::at(NOW), NOW.plus(STEP)).await.ok().unwrap();
    assert!(matches!(standing(NOW.plus(STEP)).await, Standing::Enrolled));
    factors.reset(&alice(), NOW.plus(STEP)).await.unwrap();
    assert!(matches!(standing(NOW.plus(STEP)).await, Standing::Missing), "the old invitation is used up");
}

/// An invitation resets when it says so, expired or not: a lost phone does not become good again after an hour.
#[tokio::test]
async fn a_reset_takes_the_old_factor_away_and_never_comes_twice() {
    let folder = tempfile::tempdir().unwrap();
    let factors = Factors::open(None, Some(folder.path().to_owned())).unwrap();
    let (old, _) = enrolled(&factors, &alice()).await;
    Invitation::write(folder.path(), &alice(), false, NOW).unwrap();
    assert!(
        matches!(factors.standing(&alice(), NOW).await, Ok((Standing::Enrolled, false))),
        "it says nothing of a reset"
    );

    Invitation::write(folder.path(), &alice(), true, NOW).unwrap();
    let late = NOW.plus(invitation::LIFETIME * 2);
    assert!(matches!(factors.standing(&alice(), late).await, Ok((Standing::Missing, true))));
    assert_eq!(factors.check(&alice(), &shown(&old, late), late).await, Err(CheckError::NotEnrolled));

    assert!(matches!(factors.standing(&alice(), NOW).await, Ok((Standing::Invited(_), false))));
    let (new, _) = {
        let key = Key::generate();
        (key.clone(), factors.enrol(&alice(), key, Step::at(NOW), NOW.plus(STEP)).await.ok().unwrap())
    };
    Invitation::write(folder.path(), &alice(), true, NOW).unwrap();
    assert!(matches!(factors.standing(&alice(), late).await, Ok((Standing::Enrolled, false))), "older than the factor");
    assert_eq!(factors.check(&alice(), &shown(&new, late), late).await, Ok(Accepted::Totp));
}
