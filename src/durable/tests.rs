//! The database by itself.

use super::*;

fn open(dir: &Path) -> Durable {
    let settings = Settings { dir: dir.to_owned(), key_file: None };
    Durable::open(&settings, &Clock::system(), |_| ()).unwrap()
}

fn all(durable: &Durable, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    durable.load(table, |key, value| records.push((key.to_vec(), value.to_vec()))).unwrap();
    records
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
async fn a_record_is_opened_by_older_keys_too_and_by_no_other_and_nowhere_else() {
    let (old, new) = (Keyring::random(), Keyring::random());
    let sealed = old.seal(Table::Users, b"a", b"text").unwrap();
    let mut text = Vec::new();
    let both = new.followed_by(old);

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
    let other = Keyring::random().open(Table::Users, b"a", &sealed, &mut text).unwrap_err();
    assert!(other.contains("which is not in server.state_key_file"), "{other}");
}
