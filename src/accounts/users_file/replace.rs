//! A file locked against other writers, and replaced in one step.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use super::FileError;
use crate::{clock, secret};

/// A file that nobody else changes as long as this lives.
pub(super) struct Locked {
    /// Behind all symbolic links: what they point to is replaced, not they.
    path: PathBuf,
    file: File,
    text: String,
}

/// Makes an empty file for its owner alone, unless there is one.
pub(super) fn create_if_absent(path: &Path) -> Result<(), FileError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(FileError::new(path, format!("cannot be made: {error}"))),
    }
}

impl Locked {
    /// Waits for another writer for a few seconds at most.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let locked = Self::open_within(path, PATIENCE)?;
        locked.ok_or_else(|| FileError::new(path, "another program is changing it; try again when it is done"))
    }

    /// `None`: another writer had it for so long.
    pub(super) fn open_within(path: &Path, patience: Duration) -> Result<Option<Self>, FileError> {
        let failed = |error: io::Error| FileError::new(path, format!("cannot be read: {error}"));
        let path = fs::canonicalize(path).map_err(failed)?;
        let deadline = clock::instant() + patience;
        loop {
            let mut file = File::open(&path).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) if clock::instant() < deadline => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(failed(error.into())),
            }
            // Whoever had the lock may have put another file in its place.
            let (ours, there) = (file.metadata().map_err(failed)?, fs::metadata(&path).map_err(failed)?);
            if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
                continue;
            }
            if !ours.is_file() || ours.len() > MAX_BYTES {
                return Err(FileError::new(&path, "is no file of at most 64 MiB"));
            }
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(failed)?;
            return Ok(Some(Self { path, file, text }));
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Puts a new file in its place, on disk when this returns.
    pub(super) fn replace(&self, text: &str) -> Result<(), FileError> {
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let random = u64::from_ne_bytes(secret::random());
        let beside = folder.join(format!(".{name}.{random:016x}"));
        let written = self.write(&beside, text).and_then(|()| fs::rename(&beside, &self.path));
        if let Err(error) = written {
            // It may not even have been made.
            let _ = fs::remove_file(&beside);
            let mend = "it is as it was; replacing it asks for the right to write in its folder, and to give files to \
                        its owner";
            return Err(FileError::new(&self.path, format!("cannot be replaced: {error}; {mend}")));
        }
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| FileError::new(&self.path, format!("was replaced, but may not be on disk: {error}")))
    }

    fn write(&self, beside: &Path, text: &str) -> io::Result<()> {
        let old = self.file.metadata()?;
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
        let made = new.metadata()?;
        if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
            let uid = (made.uid() != old.uid()).then_some(old.uid());
            fchown(&new, uid, Some(old.gid()))?;
        }
        new.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        new.write_all(text.as_bytes())?;
        new.sync_all()
    }
}

/// How long to wait for another writer, and how often to look.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

const MAX_BYTES: u64 = 64 << 20;
