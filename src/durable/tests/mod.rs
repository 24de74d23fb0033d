//! The database by itself: on disk, on storage that fails, and (`torn`) on storage that loses what was not synced.

use super::*;
use crate::clock::instant;
use platter::Platter;

mod handover;
mod platter;
mod torn;

fn settings(dir: &Path) -> Settings {
    Settings { dir: dir.to_owned(), key_file: None, timeout: PATIENCE }
}

fn open(dir: &Path) -> Durable {
    let settings = settings(dir);
    Durable::open(&settings, &Clock::system(), |_| ()).unwrap()
}

/// A database on storage in memory, and what its watcher was told.
fn on(platter: &Platter) -> (Durable, mpsc::Receiver<bool>) {
    let (told, hears) = mpsc::channel();
    let told = Mutex::new(told);
    let watch = Box::new(move |works| {
        let _ = told.lock().unwrap().send(works);
    });
    let opener = platter.clone();
    let keys = Arc::new(Keyring::of(&[[7; 32]]));
    let started = Durable::start(
        move || Ok(opener.clone()),
        &settings(Path::new("memory")),
        keys,
        Arc::default(),
        None,
        None,
        &Clock::system(),
        watch,
    );
    (started.unwrap(), hears)
}

/// Tries until the disk works again.
async fn eventually_written(durable: &Durable, batch: impl Fn() -> Batch) {
    let until = instant() + Duration::from_secs(60);
    while durable.commit(batch()).await.is_err() {
        assert!(instant() < until, "the database does not recover");
        tokio::task::yield_now().await;
    }
}

fn put(key: &[u8], value: &[u8]) -> Batch {
    Batch::new().put(Table::Users, key, value.to_vec())
}

fn all(durable: &Durable, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    let read = durable.load(table, |key, value| {
        records.push((key.to_vec(), value.to_vec()));
        Ok(())
    });
    read.unwrap();
    records.sort();
    records
}

/// What is on disk if it holds nothing but these.
fn records(expected: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    expected.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// Longer than any test takes: nobody loses patience by themselves.
const PATIENCE: Duration = Duration::from_secs(3600);

/// As if everybody who waited before `moment` had waited too long.
fn lose_patience(durable: &Durable, moment: std::time::Instant) {
    durable.0.waiters.refuse_overdue(&durable.0.shared, moment + PATIENCE);
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let durable = open(folder.path());
    let batch = Batch::new().put(Table::Users, b"a", b"1".to_vec()).put(Table::Users, b"b", b"2".to_vec());
    durable.commit(batch).await.unwrap();
    durable.commit(Batch::new().remove(Table::Users, b"a").put(Table::Keys, b"a", b"3".to_vec())).await.unwrap();
    durable.later(Batch::new().put(Table::Factors, b"c", b"4".to_vec()));
    assert!(durable.close(Duration::from_secs(5)));
    drop(durable);

    let durable = open(folder.path());

    assert_eq!(all(&durable, Table::Users), [(b"b".to_vec(), b"2".to_vec())]);
    assert_eq!(all(&durable, Table::Keys), [(b"a".to_vec(), b"3".to_vec())]);
    assert_eq!(all(&durable, Table::Factors), [(b"c".to_vec(), b"4".to_vec())]);
    assert_eq!(all(&durable, Table::Signing), []);
}

#[tokio::test]
async fn threads_that_share_a_table_read_every_record_once() {
    let folder = tempfile::tempdir().unwrap();
    let durable = open(folder.path());
    let edges = [vec![], vec![0], vec![0, 0], vec![1], vec![254, 255], vec![255], vec![255, 255, 255]];
    let keys: Vec<Vec<u8>> = edges.into_iter().chain((0..=999_u16).map(|i| (i * 65).to_be_bytes().to_vec())).collect();
    let batch = keys.iter().fold(Batch::new(), |batch, key| batch.put(Table::Sessions, key, key.clone()));
    durable.commit(batch).await.unwrap();

    let read = Mutex::new(Vec::new());
    let shared = durable.load_shared(Table::Sessions, || {
        |key: &[u8], value: &[u8]| {
            assert_eq!(key, value);
            read.lock().unwrap().push(key.to_vec());
            Ok(())
        }
    });

    shared.unwrap();
    let mut read = read.into_inner().unwrap();
    read.sort();
    let mut expected = keys;
    expected.sort();
    expected.dedup();
    assert_eq!(read, expected);
    durable.load_shared(Table::Signing, || |_: &[u8], _: &[u8]| Err("nothing is in it")).unwrap();
    for unfit in [&[][..], &[1], &[255, 255, 255]] {
        let reader = || move |key: &[u8], _: &[u8]| if key == unfit { Err("it is unfit") } else { Ok(()) };
        let error = durable.load_shared(Table::Sessions, reader).unwrap_err().to_string();
        assert_eq!(error, "table `sessions`: it is unfit");
    }
}

#[test]
fn a_record_is_opened_by_older_keys_too_and_by_no_other_and_nowhere_else() {
    let sealed = Keyring::of(&[[1; 32]]).seal(Table::Users, b"a", b"text").unwrap();
    let mut text = Vec::new();
    let both = Keyring::of(&[[2; 32], [1; 32]]);

    both.open(Table::Users, b"a", &sealed, &mut text).unwrap();
    assert_eq!(text, b"text");
    for (table, key, record) in [
        (Table::Keys, b"a".as_slice(), sealed.clone()),
        (Table::Users, b"b", sealed.clone()),
        (Table::Users, b"a", sealed[..sealed.len() - 1].to_vec()),
        (Table::Users, b"a", sealed.iter().rev().copied().collect()),
        (Table::Users, b"a", Vec::new()),
    ] {
        both.open(table, key, &record, &mut text).unwrap_err();
    }
    let resealed = both.seal(Table::Users, b"a", b"text").unwrap();
    assert_ne!(resealed[1..5], sealed[1..5], "the first key seals");
    let other = Keyring::of(&[[3; 32]]).open(Table::Users, b"a", &sealed, &mut text).unwrap_err();
    assert!(other.contains("which is not in server.state_key_file"), "{other}");
}

#[tokio::test]
async fn a_full_disk_refuses_changes_and_is_told_and_recovers() {
    let platter = Platter::default();
    let (durable, hears) = on(&platter);
    durable.commit(put(b"a", b"before")).await.unwrap();

    platter.fail_writes(true);
    assert_eq!(durable.commit(put(b"a", b"refused")).await, Err(Unavailable));
    assert_eq!(durable.commit(put(b"b", b"refused")).await, Err(Unavailable));
    durable.later(put(b"c", b"later"));
    assert_eq!(hears.recv(), Ok(false));
    assert!(!durable.healthy());

    platter.fail_writes(false);
    eventually_written(&durable, || put(b"d", b"after")).await;
    assert_eq!(hears.recv(), Ok(true));
    assert!(durable.healthy() && durable.close(Duration::from_secs(60)));
    let (durable, _) = on(&platter);
    assert_eq!(all(&durable, Table::Users), records(&[("a", "before"), ("c", "later"), ("d", "after")]));
}

/// When the sync fails nobody knows what is on disk; what was refused must not come to light later.
#[tokio::test]
async fn what_was_refused_in_the_sync_is_undone() {
    let platter = Platter::default();
    let (durable, _) = on(&platter);
    durable.commit(put(b"a", b"1").put(Table::Users, b"b", b"1".to_vec())).await.unwrap();

    platter.fail_syncs(true);
    let change = put(b"a", b"2").remove(Table::Users, b"b").put(Table::Users, b"c", b"2".to_vec());
    assert_eq!(durable.commit(change).await, Err(Unavailable));
    platter.fail_syncs(false);
    eventually_written(&durable, || put(b"d", b"3")).await;

    assert_eq!(all(&durable, Table::Users), records(&[("a", "1"), ("b", "1"), ("d", "3")]));
}

/// Nobody waits for a disk that does not answer; and what it does in the end is as if nobody had asked.
#[tokio::test]
async fn a_disk_that_hangs_refuses_changes_in_time_and_what_it_wrote_is_taken_back() {
    let platter = Platter::default();
    let (durable, hears) = on(&platter);
    durable.commit(put(b"a", b"1").put(Table::Users, b"b", b"1".to_vec())).await.unwrap();
    let (ran, runs) = mpsc::channel();

    platter.hang_syncs(true);
    let change = put(b"a", b"2").remove(Table::Users, b"b").put(Table::Users, b"c", b"2".to_vec());
    let hanging = durable.commit_then(change, move || ran.send(()).unwrap());
    platter.until_it_hangs();
    let behind = durable.commit(put(b"d", b"2"));
    assert!(durable.healthy() && durable.answers());
    lose_patience(&durable, instant());

    assert_eq!(hanging.await, Err(Unavailable));
    assert_eq!(behind.await, Err(Unavailable));
    assert_eq!(hears.recv(), Ok(false), "it is told while the disk still hangs");
    assert!(!durable.healthy() && !durable.answers());
    assert_eq!(durable.commit(put(b"e", b"2")).await, Err(Unavailable), "nobody else begins to wait");
    assert_eq!(durable.counts().timeouts.load(Ordering::Relaxed), 2);
    assert_eq!(durable.counts().failures.load(Ordering::Relaxed), 3);

    platter.hang_syncs(false);
    assert_eq!(hears.recv(), Ok(true));
    durable.commit(put(b"f", b"3")).await.unwrap();
    assert!(runs.try_recv().is_err(), "what was refused does not come into effect");
    let expected = records(&[("a", "1"), ("b", "1"), ("f", "3")]);
    assert_eq!(all(&durable, Table::Users), expected);
    assert!(durable.close(Duration::from_secs(60)));
    drop(durable);
    assert_eq!(all(&on(&platter).0, Table::Users), expected);
}

/// Changes of several people go to disk together; those who waited in vain are taken out of the middle.
#[tokio::test]
async fn what_is_taken_back_takes_nothing_from_others() {
    let platter = Platter::default();
    let (durable, _hears) = on(&platter);
    let before =
        ["a", "b", "c", "d"].iter().fold(Batch::new(), |all, key| all.put(Table::Users, key.as_bytes(), b"1".to_vec()));
    durable.commit(before).await.unwrap();
    let ((go_on, waits), (began, begins)) = (mpsc::channel::<()>(), mpsc::channel());
    let busy = durable.commit_then(put(b"x", b"1"), move || {
        began.send(()).unwrap();
        waits.recv().unwrap();
    });
    begins.recv().unwrap();

    let refused =
        durable.commit(put(b"a", b"2").put(Table::Users, b"b", b"2".to_vec()).remove(Table::Users, b"c").put(
            Table::Users,
            b"n",
            b"2".to_vec(),
        ));
    let moment = instant();
    let others = [
        durable.commit(put(b"a", b"3")),
        durable.commit(Batch::new().remove(Table::Users, b"b")),
        durable.commit(Batch::new().replace(Table::Users, b"c", b"3".to_vec())),
        durable.commit(Batch::new().replace(Table::Users, b"n", b"3".to_vec())),
    ];
    platter.hang_syncs(true);
    go_on.send(()).unwrap();
    busy.await.unwrap();
    platter.until_it_hangs();
    lose_patience(&durable, moment);
    platter.hang_syncs(false);

    assert_eq!(refused.await, Err(Unavailable));
    for other in others {
        assert_eq!(other.await, Ok(()));
    }
    assert!(durable.close(Duration::from_secs(60)));
    drop(durable);
    let found = all(&on(&platter).0, Table::Users);
    assert_eq!(found, records(&[("a", "3"), ("c", "3"), ("d", "1"), ("x", "1")]));
}

#[test]
fn a_disk_that_hangs_does_not_keep_the_gateway_from_ending() {
    let platter = Platter::default();
    let (durable, hears) = on(&platter);
    platter.hang_syncs(true);
    let waiting = durable.commit(put(b"a", b"1"));
    platter.until_it_hangs();

    assert!(!durable.close(Duration::ZERO));
    drop(durable);

    assert_eq!(waiting.wait(), Err(Unavailable));
    assert_eq!(hears.recv(), Ok(false));
    platter.hang_syncs(false);
}

#[tokio::test]
async fn keys_that_name_somebody_are_not_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let durable = open(folder.path());
    let name = b"staff\0someone@example.com";
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name);
    for table in [Table::Factors, Table::Keys, Table::Revocations, Table::Signing, Table::Users] {
        durable.commit(Batch::new().put(table, name, b"value".to_vec())).await.unwrap();
        durable.commit(Batch::new().put(table, digest.as_ref(), b"value".to_vec())).await.unwrap();
    }
    durable.commit(Batch::new().put(Table::Sessions, b"in the clear", b"value".to_vec())).await.unwrap();
    assert!(durable.close(Duration::from_secs(60)));
    drop(durable);

    let content = fs::read(folder.path().join(DATABASE)).unwrap();
    let holds = |text: &[u8]| content.windows(text.len()).any(|window| window == text);
    assert!(!holds(name) && !holds(b"someone@example.com") && !holds(digest.as_ref()));
    assert!(holds(b"in the clear"), "it is looked for where it would be");

    let durable = open(folder.path());
    for table in [Table::Factors, Table::Keys, Table::Revocations, Table::Signing, Table::Users] {
        let mut expected = vec![(name.to_vec(), b"value".to_vec()), (digest.as_ref().to_vec(), b"value".to_vec())];
        expected.sort();
        assert_eq!(all(&durable, table), expected);
        durable.commit(Batch::new().remove(table, name)).await.unwrap();
        assert_eq!(all(&durable, table).len(), 1, "it is found again by its key");
    }
}

#[tokio::test]
async fn a_change_is_carried_out_although_nobody_waits_for_it() {
    let platter = Platter::default();
    let (durable, _) = on(&platter);
    let (done, hears) = mpsc::channel();

    drop(durable.commit_then(put(b"a", b"1"), move || done.send(()).unwrap()));

    assert_eq!(hears.recv(), Ok(()));
    assert_eq!(all(&durable, Table::Users).len(), 1);
}

#[tokio::test]
async fn what_was_left_for_later_does_not_undo_what_was_written_since() {
    let platter = Platter::default();
    let (durable, _) = on(&platter);
    durable.later(Batch::new().remove(Table::Users, b"a"));
    durable.commit(put(b"a", b"1")).await.unwrap();

    assert!(durable.close(Duration::from_secs(60)));

    let (durable, _) = on(&platter);
    assert_eq!(all(&durable, Table::Users).len(), 1);
}

#[tokio::test]
async fn everything_is_sealed_anew_after_a_change_of_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = ("A".repeat(43), format!("{}E", "B".repeat(42)));
    let key_file = folder.path().join("state.key");
    let settings = Settings { key_file: Some(key_file.clone()), ..settings(&folder.path().join("state")) };
    let open = |keys: &str| {
        fs::write(&key_file, keys).unwrap();
        Durable::open(&settings, &Clock::system(), |_| ())
    };
    let durable = open(&format!("{old}\n")).unwrap();
    for key in 0..50_u8 {
        durable.commit(put(&[key], b"text")).await.unwrap();
    }
    assert!(durable.close(Duration::from_secs(60)));
    drop(durable);

    let durable = open(&format!("# new\n{new}=\n{old}=\n")).unwrap();
    let until = instant() + Duration::from_secs(60);
    while durable.needs_older_keys() {
        assert!(instant() < until, "it is not sealed anew");
        std::thread::yield_now();
    }
    assert!(durable.close(Duration::from_secs(60)));
    drop(durable);

    let durable = open(&new).unwrap();
    assert_eq!(all(&durable, Table::Users).len(), 50);
    drop(durable);
    let refusal = open(&old).unwrap_err().to_string();
    assert!(refusal.contains("which is not in server.state_key_file"), "{refusal}");
    let refusal = open("swordfish").unwrap_err().to_string();
    assert!(refusal.contains("line 1 is no key") && !refusal.contains("swordfish"), "{refusal}");
}
