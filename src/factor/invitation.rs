//! An administrator's leave to enrol: a small file in `server.state_dir`, written by `portcullis users enrol` whether
//! or not the gateway runs (the database itself is locked while it does), read when its user has given the password.
//!
//! It holds a hash of the code, never the code. Who can write there can let somebody enrol, who still needs the
//! password. Invariants: an invitation counts for an hour and for one enrolment; a file that is larger than any of
//! ours, of another version or for somebody else is none. Files are never touched on a worker.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{
    Account,
    code::{Code, Hashed, Purpose},
};
use crate::{clock::Timestamp, id::RequestId};

/// One invitation.
#[derive(Clone, Debug)]
pub struct Invitation {
    code: Hashed,
    /// When it was made.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// Whether the factor that the account has goes.
    pub reset: bool,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    realm: String,
    subject: String,
    code_sha256: String,
    issued_millis: u64,
    expires_millis: u64,
    reset: bool,
}

impl Invitation {
    /// Writes one into the state directory, in the place of any before it, and answers its code.
    ///
    /// # Errors
    /// When the directory is missing, cannot be written to, or is another user's.
    pub fn write(state_dir: &Path, account: &Account, reset: bool, now: Timestamp) -> io::Result<Code> {
        let code = Code::generate();
        let Hashed(hash) = code.hash(account, Purpose::Enrolment);
        let written = Written {
            version: VERSION,
            realm: account.realm.to_string(),
            subject: account.subject.to_string(),
            code_sha256: hex(&hash),
            issued_millis: now.unix_millis(),
            expires_millis: now.plus(LIFETIME).unix_millis(),
            reset,
        };
        let owner = fs::metadata(state_dir)?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            // Root would write where another user decides what the names mean.
            let why =
                format!("it belongs to another user: run this as that one (user id {owner}), as the gateway runs");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let folder = folder(state_dir);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let path = path(&folder, account);
        let unfinished = path.with_extension(RequestId::generate().as_str());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        let finished = (|| {
            file.write_all(&serde_json::to_vec(&written)?)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)
        })();
        if finished.is_err() {
            // The error that counts is the first one.
            let _ = fs::remove_file(&unfinished);
        }
        finished.map(|()| code)
    }

    /// Whether this is its code.
    pub fn admits(&self, account: &Account, typed: &str) -> bool {
        Code::parse(typed).is_some_and(|code| self.code.matches(&code.hash(account, Purpose::Enrolment)))
    }

    /// The invitation of an account, expired or not.
    pub(super) async fn find(state_dir: PathBuf, account: Account) -> Option<Self> {
        // A thread that does not come back has found nothing.
        tokio::task::spawn_blocking(move || Self::read(&state_dir, &account)).await.ok().flatten()
    }

    /// Removes it once it has done its work. If that fails it is still used up: the factor is younger.
    pub(super) async fn remove(state_dir: PathBuf, account: Account) {
        let removed = tokio::task::spawn_blocking(move || fs::remove_file(path(&folder(&state_dir), &account))).await;
        if let Ok(Err(error)) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("an invitation that is used up cannot be removed: {error}");
        }
    }

    fn read(state_dir: &Path, account: &Account) -> Option<Self> {
        let path = path(&folder(state_dir), account);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("the invitation {} cannot be read: {error}", path.display());
                return None;
            }
        };
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        let invitation = Self::parse(&text, account);
        if invitation.is_none() {
            tracing::warn!("{} is no invitation of this version for this account", path.display());
        }
        invitation
    }

    fn parse(text: &[u8], account: &Account) -> Option<Self> {
        let written: Written = serde_json::from_slice(text).ok()?;
        let meant = (&*written.realm, &*written.subject) == (&*account.realm, &*account.subject);
        let (issued, expires) =
            (Timestamp::from_unix_millis(written.issued_millis), Timestamp::from_unix_millis(written.expires_millis));
        (written.version == VERSION && meant && expires <= issued.plus(LIFETIME)).then_some(())?;
        Some(Self { code: Hashed(unhex(&written.code_sha256)?), issued, expires, reset: written.reset })
    }
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("invitations")
}

/// Named by a hash: subjects hold what file names cannot.
fn path(folder: &Path, account: &Account) -> PathBuf {
    folder.join(format!("{}.json", hex(digest(&SHA256, &account.key()).as_ref())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.is_ascii() && text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pair = |i: usize| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..32).map(pair).collect();
    bytes.filter(|_| digits)?.try_into().ok()
}

/// How long an invitation counts.
pub const LIFETIME: Duration = Duration::from_secs(60 * 60);

const VERSION: u32 = 1;

/// Above what any invitation has: subjects have at most 255 bytes, realms no more.
const MAX_BYTES: u64 = 8 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    #[test]
    fn an_invitation_is_for_one_account_and_tells_no_code() {
        let folder = tempfile::tempdir().unwrap();
        let alice = Account::new("staff", "alice/../../x");
        let code = Invitation::write(folder.path(), &alice, false, NOW).unwrap();

        let found = Invitation::read(folder.path(), &alice).expect("an invitation");

        assert!(found.admits(&alice, &code.text()) && found.admits(&alice, &code.text().to_lowercase()));
        assert!(!found.admits(&alice, &Code::generate().text()) && !found.admits(&alice, ""));
        assert!(Invitation::read(folder.path(), &Account::new("staff", "bob")).is_none());
        assert_eq!((found.issued, found.expires, found.reset), (NOW, NOW.plus(LIFETIME), false));
        let file = path(&super::folder(folder.path()), &alice);
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains(&*code.text()) && !text.contains(&code.text().replace('-', "")), "{text}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(super::folder(folder.path())).unwrap().count(), 1, "nothing unfinished is left");
    }

    #[test]
    fn what_is_no_invitation_invites_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let alice = Account::new("staff", "alice");
        Invitation::write(folder.path(), &alice, true, NOW).unwrap();
        let text = fs::read_to_string(path(&super::folder(folder.path()), &alice)).unwrap();
        assert!(Invitation::parse(text.as_bytes(), &alice).is_some_and(|invitation| invitation.reset));

        for broken in [
            String::new(),
            text.replace("\"version\":1", "\"version\":2"),
            text.replace("alice", "bob"),
            text.replace("\"realm\":\"staff\"", "\"realm\":\"other\""),
            text.replace("\"expires_millis\":1", "\"expires_millis\":2"),
            text.replace("\"code_sha256\":\"", "\"code_sha256\":\"é"),
            text.replace("\"reset\":true", "\"reset\":true,\"more\":1"),
            text[..text.len() - 1].to_owned(),
        ] {
            assert!(Invitation::parse(broken.as_bytes(), &alice).is_none(), "{broken}");
        }
    }
}
