//! A database that changes hands, and changes that are passed on.

use super::*;
use crate::durable::handover::{Answer, InMemory, Listener, Passed};

fn in_memory(handed: Option<InMemory>) -> Durable {
    Durable::in_memory(handed, &Clock::system(), |_| ()).unwrap()
}

/// As another process gets it.
fn hand_over(old: &Durable) -> Durable {
    old.release(PATIENCE).unwrap();
    let (file, key) = old.held().unwrap();
    in_memory(Some(InMemory { file: file.try_clone_to_owned().unwrap(), key }))
}

/// A listener that says yes or no, and what it heard.
fn listener(says: bool) -> (Listener, mpsc::Receiver<Vec<Passed>>) {
    let (told, hears) = mpsc::channel();
    (Box::new(move |changes| told.send(changes).is_ok() && says), hears)
}

#[tokio::test]
async fn what_is_released_is_there_for_the_next_one_and_changes_wait() {
    let old = in_memory(None);
    old.commit(put(b"a", b"1")).await.unwrap();
    let new = hand_over(&old);
    assert_eq!(all(&new, Table::Users), records(&[("a", "1")]));

    let waiting = old.commit(put(b"b", b"2"));
    let (asked, asks) = mpsc::channel();
    old.follow(Box::new(move |changes, answer| drop(asked.send((changes, answer)))));
    let (changes, answer): (Vec<Passed>, Answer) = asks.recv().unwrap();
    assert_eq!(changes[0].record(), (&b"b"[..], Some(&b"2"[..])));
    new.take_in(&changes, || ()).await.unwrap();
    assert!(answer.changed());

    waiting.await.unwrap();
    assert_eq!(all(&new, Table::Users), records(&[("a", "1"), ("b", "2")]));
}

#[tokio::test]
async fn what_nobody_took_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    for durable in [in_memory(None), open(folder.path())] {
        durable.release(PATIENCE).unwrap();
        let waiting = durable.commit(put(b"a", b"1"));

        durable.resume();

        waiting.await.unwrap();
        assert_eq!(all(&durable, Table::Users), records(&[("a", "1")]));
    }
}

#[tokio::test]
async fn a_directory_that_was_released_is_free_until_it_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let old = open(folder.path());
    let again = || Durable::open(&settings(folder.path()), &Clock::system(), |_| ());
    assert!(again().is_err());

    old.release(PATIENCE).unwrap();

    let new = again().unwrap();
    new.commit(put(b"a", b"1")).await.unwrap();
    // Nobody else has it while it is there.
    old.resume();
    assert!(old.commit(put(b"a", b"2")).await.is_err());
    assert_eq!(all(&new, Table::Users), records(&[("a", "1")]));
}

#[tokio::test]
async fn an_answer_that_is_dropped_is_no() {
    let old = in_memory(None);
    let _new = hand_over(&old);
    old.follow(Box::new(|_, answer| drop(answer)));
    assert!(old.commit(put(b"a", b"1")).await.is_err());
}

#[tokio::test]
async fn whoever_waits_hears_of_a_change_once_it_holds_elsewhere() {
    let durable = in_memory(None);
    let (listens, hears) = listener(true);
    durable.tell(Some(listens));
    let held = Arc::new(AtomicBool::new(false));
    let holds = Arc::clone(&held);

    durable.commit_then(put(b"a", b"1"), move || holds.store(true, Ordering::Release)).await.unwrap();
    let told = hears.recv().unwrap();
    assert_eq!(told[0].record(), (&b"a"[..], Some(&b"1"[..])));
    assert!(held.load(Ordering::Acquire));
    // Not what comes from there.
    durable.take_in(&told, || ()).await.unwrap();
    assert!(hears.try_recv().is_err());
}

#[tokio::test]
async fn what_cannot_be_told_holds_nowhere() {
    let durable = in_memory(None);
    durable.commit(put(b"a", b"1")).await.unwrap();
    let (listens, _hears) = listener(false);
    durable.tell(Some(listens));

    assert!(durable.commit(put(b"a", b"2")).await.is_err());
    durable.tell(None);
    durable.commit(put(b"b", b"3")).await.unwrap();

    assert_eq!(all(&durable, Table::Users), records(&[("a", "1"), ("b", "3")]));
}
