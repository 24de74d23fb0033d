//! What changing a users file keeps, and what it refuses.

use std::{fs, os::unix::fs::PermissionsExt, thread};

use super::*;

const OLD: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$VFJVRVRSVUVUUlVFVFJVRVRSVUVUUlVF";
const NEW: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$TkVXTkVXTkVXTkVXTkVXTkVXTkVXTkVX";

struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new(name: &str, text: &str) -> (Self, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        (Self { folder }, path)
    }

    fn files(&self) -> usize {
        fs::read_dir(self.folder.path()).unwrap().count()
    }
}

fn toml() -> String {
    format!(
        "# The staff. Ask Eve before you change this.\n\n# of the first hour\n[[user]]\npassword = \"{OLD}\"   # 2024\n\
         name = \"alice\"\n\n# the auditor\n[[user]]\nname = \"bob\"\npassword = '{OLD}'\nroles = [\"audit\",  \"user\"]\n\
         \n[[user]]\nname = \"carol\"\npassword = {{ file = \"carol.secret\" }}\n# the end\n"
    )
}

fn entry(name: &str) -> Entry {
    Entry { name: name.to_owned(), ..Entry::default() }
}

/// The file after a change.
fn changed(path: &Path, change: impl FnOnce(&mut UsersFile)) -> String {
    let mut file = UsersFile::open(path).unwrap();
    change(&mut file);
    file.save().unwrap();
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_new_hash_changes_nothing_else() {
    let (_world, path) = World::new("users.toml", &toml());

    let text = changed(&path, |file| file.set_hash("alice", NEW).unwrap());
    assert_eq!(text, toml().replacen(OLD, NEW, 1));

    let text = changed(&path, |file| file.set_hash("bob", NEW).unwrap());
    assert_eq!(text, toml().replacen(OLD, NEW, 1).replace(&format!("'{OLD}'"), &format!("\"{NEW}\"")));
}

#[test]
fn who_is_added_comes_last_and_is_read_back() {
    let (_world, path) = World::new("users.toml", &toml());
    let dora = Entry {
        id: Some("u-4".into()),
        display_name: Some("Dora \"the\" \\ explorer\n[[user]]".into()),
        email: Some("dora@example.com".into()),
        roles: vec!["user".into(), "a b".into()],
        groups: vec!["ops".into()],
        ..entry("dora")
    };

    let text = changed(&path, |file| file.add(&dora, NEW).unwrap());

    assert!(text.starts_with(toml().trim_end().strip_suffix("# the end").unwrap()), "{text}");
    let listed = UsersFile::open(&path).unwrap().list();
    assert_eq!(listed.iter().map(|(entry, _)| &*entry.name).collect::<Vec<_>>(), ["alice", "bob", "carol", "dora"]);
    assert_eq!(listed[3], (dora, "argon2id m=8,t=1,p=1".to_owned()));
    assert_eq!(listed[2].1, "kept elsewhere");
}

#[test]
fn who_is_removed_takes_the_comment_above_along_and_no_other() {
    for (name, gone) in [
        ("alice", format!("# of the first hour\n[[user]]\npassword = \"{OLD}\"   # 2024\nname = \"alice\"\n\n")),
        (
            "bob",
            format!("# the auditor\n[[user]]\nname = \"bob\"\npassword = '{OLD}'\nroles = [\"audit\",  \"user\"]\n\n"),
        ),
    ] {
        let (_world, path) = World::new("users.toml", &toml());

        let text = changed(&path, |file| file.remove(name).unwrap());

        assert_eq!(text, toml().replace(&gone, ""), "{name}");
    }
}

#[test]
fn the_last_one_can_be_removed_and_the_first_one_added() {
    let (_world, path) = World::new("users.toml", "# nobody yet\n");

    let one = changed(&path, |file| file.add(&entry("alice"), NEW).unwrap());
    assert!(
        one.contains("# nobody yet") && one.contains("[[user]]\nname = \"alice\"\npassword = \"$argon2id"),
        "{one}"
    );
    let none = changed(&path, |file| file.remove("alice").unwrap());

    assert!(!none.contains("user"), "{none}");
    assert!(UsersFile::open(&path).unwrap().list().is_empty());
}

#[test]
fn users_in_one_array_are_changed_in_place() {
    let text = format!("user = [\n  {{ name = \"alice\", password = \"{OLD}\" }}, # first\n]\n");
    let (_world, path) = World::new("users.toml", &text);

    assert_eq!(changed(&path, |file| file.set_hash("alice", NEW).unwrap()), text.replace(OLD, NEW));
    changed(&path, |file| file.add(&entry("bob"), OLD).unwrap());
    changed(&path, |file| file.remove("alice").unwrap());

    let listed = UsersFile::open(&path).unwrap().list();
    assert_eq!(listed, [(entry("bob"), "argon2id m=8,t=1,p=1".to_owned())]);
}

#[test]
fn lines_of_htpasswd_are_changed_one_by_one() {
    let text = "# staff\nalice:$apr1$x$y:a note\r\n\nbob:$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    let (_world, path) = World::new("users", text);

    let listed = UsersFile::open(&path).unwrap().list();
    assert_eq!(listed[0], (entry("alice"), "MD5 (apr1), refused".to_owned()));
    assert_eq!(listed[1], (entry("bob"), "bcrypt 5".to_owned()));
    assert_eq!(changed(&path, |file| file.set_hash("alice", NEW).unwrap()), text.replace("$apr1$x$y", NEW));
    let text = changed(&path, |file| file.add(&entry("carol"), OLD).unwrap());
    assert!(text.ends_with(&format!("\ncarol:{OLD}\n")), "{text}");
    let text = changed(&path, |file| file.remove("bob").unwrap());
    assert_eq!(text, format!("# staff\nalice:{NEW}:a note\r\n\ncarol:{OLD}\n"));
}

#[test]
fn what_cannot_be_done_is_told_and_changes_nothing() {
    for (name, text) in [("users.toml", toml()), ("users", format!("alice:{OLD}\nbob:{OLD}\n"))] {
        let (world, path) = World::new(name, &text);
        let mut file = UsersFile::open(&path).unwrap();

        for (outcome, complaint) in [
            (file.add(&entry("alice"), NEW), "given twice"),
            (file.add(&entry(""), NEW), "1 to 255 bytes"),
            (file.add(&entry("new\nline"), NEW), "no control characters"),
            (file.add(&Entry { id: Some("bob".into()), ..entry("x") }, NEW), ""),
            (file.set_hash("nobody", NEW), "no user \"nobody\""),
            (file.set_hash("alic", NEW), "no user \"alic\""),
            (file.remove("nobody"), "no user \"nobody\""),
        ] {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(complaint) && error.contains(name), "{error}");
            assert!(!error.contains("argon2"), "{error}");
        }
        file.save().unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(world.files(), 1);
    }
    let (_world, path) = World::new("users.toml", &toml());
    let error = UsersFile::open(&path).unwrap().set_hash("carol", NEW).unwrap_err().to_string();
    assert!(error.contains("kept elsewhere"), "{error}");
    let (_world, path) = World::new("users", &format!("alice:{OLD}\n"));
    for name in ["a:b", "#c"] {
        assert!(UsersFile::open(&path).unwrap().add(&entry(name), NEW).is_err(), "{name}");
    }
    let error = UsersFile::open(&path).unwrap().add(&Entry { roles: vec!["r".into()], ..entry("x") }, NEW).unwrap_err();
    assert!(error.to_string().contains("TOML"), "{error}");
}

#[test]
fn a_broken_file_is_told_by_its_line_and_never_repeated() {
    for text in
        ["[[user]]\nname = \"alice\"\npassword = \"hunter2\n", "user = 3\n", "[user]\nname = \"a\"\n", "a:b\nhunter2\n"]
    {
        let (_world, path) = World::new("users.toml", text);

        let error = UsersFile::open(&path).err().unwrap().to_string();

        assert!(error.contains("line ") || error.contains("[[user]]"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn mode_owner_and_links_stay() {
    let (world, path) = World::new("users.toml", &toml());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&path, Some(12_345), Some(12_346)).unwrap();
    }
    let link = world.folder.path().join("link.toml");
    std::os::unix::fs::symlink("users.toml", &link).unwrap();

    changed(&link, |file| file.set_hash("alice", NEW).unwrap());

    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let new = fs::metadata(&path).unwrap();
    assert_eq!(new.permissions().mode() & 0o7777, 0o640);
    if is_root {
        use std::os::unix::fs::MetadataExt;
        assert_eq!((new.uid(), new.gid()), (12_345, 12_346));
    }
    assert_eq!(world.files(), 2, "nothing is left over");
}

#[test]
fn a_file_that_is_made_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.toml");

    UsersFile::create_if_absent(&path).unwrap();
    UsersFile::create_if_absent(&path).unwrap();

    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    changed(&path, |file| file.add(&entry("alice"), NEW).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn of_many_writers_none_is_lost_and_no_reader_sees_half() {
    let (_world, path) = World::new("users.toml", &toml());
    let writers: Vec<_> = (0..8)
        .map(|number| {
            let path = path.clone();
            thread::spawn(move || {
                changed(&path, |file| file.add(&entry(&format!("writer-{number}")), NEW).unwrap());
            })
        })
        .collect();

    while !writers.iter().all(thread::JoinHandle::is_finished) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("carol"), "{text}");
        text.parse::<toml_edit::DocumentMut>().unwrap();
    }

    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(UsersFile::open(&path).unwrap().list().len(), 3 + 8);
}

/// A file that was put in its place while a writer waited is the one that is changed.
#[test]
fn who_waited_for_the_lock_reads_the_file_that_is_there_then() {
    let (_world, path) = World::new("users.toml", &toml());
    let mut first = UsersFile::open(&path).unwrap();
    let second = thread::spawn(move || changed(&path, |file| file.remove("bob").unwrap()));

    first.add(&entry("dora"), NEW).unwrap();
    first.save().unwrap();

    let text = second.join().unwrap();
    assert!(text.contains("dora") && !text.contains("bob"), "{text}");
}
