//! Every file that a configuration was made from, as it was when it was read: what a watch compares with what is there
//! now. Only a hash of the contents is kept, since secrets are among them (R34).

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};

/// The files and folders that were looked at while a configuration was read, those included that were not there.
#[derive(Clone)]
pub struct Inputs {
    stamps: Stamps,
    contents: Context,
}

/// What tells one state of the files from another without reading them.
pub type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// What tells one state of a file from another without reading it: symbolic links are followed, so that a link to
/// another file is another state, too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Inputs {
    /// Reads a file, and remembers it whether or not that succeeds.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        // Before the reading: what changes in between is then seen as a change.
        self.note(path);
        let bytes = fs::read(path)?;
        self.contents.update(path.as_os_str().as_encoded_bytes());
        self.contents.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.contents.update(&bytes);
        Ok(bytes)
    }

    /// Remembers a file or folder without reading it: its coming or going changes the configuration.
    pub(super) fn note(&mut self, path: &Path) {
        self.stamps.insert(path.to_owned(), Stamp::of(path));
    }

    /// The files as they were.
    pub const fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// The same files as they are now. Asks the file system for each of them.
    pub fn stamps_now(&self) -> Stamps {
        self.stamps.keys().map(|path| (path.clone(), Stamp::of(path))).collect()
    }

    /// A hash of all that was read, and in which order.
    pub fn digest(&self) -> [u8; 32] {
        let digest = self.contents.clone().finish();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        bytes
    }
}

impl Default for Inputs {
    fn default() -> Self {
        Self { stamps: BTreeMap::new(), contents: Context::new(&SHA256) }
    }
}

impl std::fmt::Debug for Inputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.stamps.keys()).finish()
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_is_written_replaced_relinked_removed_or_made_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["written", "replaced", "removed", "one", "other"] {
            fs::write(at(name), "before").unwrap();
        }
        symlink("one", at("link")).unwrap();
        let steps: [(&str, &dyn Fn()); 5] = [
            ("written", &|| fs::write(at("written"), "after, and longer").unwrap()),
            ("replaced", &|| {
                fs::write(at("draft"), "before").unwrap();
                fs::rename(at("draft"), at("replaced")).unwrap();
            }),
            ("link", &|| {
                symlink("other", at("link.new")).unwrap();
                fs::rename(at("link.new"), at("link")).unwrap();
            }),
            ("removed", &|| fs::remove_file(at("removed")).unwrap()),
            ("made", &|| fs::write(at("made"), "").unwrap()),
        ];
        for (name, step) in steps {
            let mut inputs = Inputs::default();
            let _ = inputs.read(&at(name));
            assert_eq!(*inputs.stamps(), inputs.stamps_now(), "{name}");

            step();

            assert_ne!(*inputs.stamps(), inputs.stamps_now(), "{name}");
        }
    }

    #[test]
    fn the_digest_tells_contents_and_their_places_apart() {
        let folder = tempfile::tempdir().unwrap();
        let read = |files: &[(&str, &str)]| {
            let mut inputs = Inputs::default();
            for (name, text) in files {
                fs::write(folder.path().join(name), text).unwrap();
                inputs.read(&folder.path().join(name)).unwrap();
            }
            inputs.digest()
        };

        assert_eq!(read(&[("a", "1"), ("b", "2")]), read(&[("a", "1"), ("b", "2")]));
        assert_ne!(read(&[("a", "1"), ("b", "2")]), read(&[("a", "2"), ("b", "1")]));
        assert_ne!(read(&[("a", "1"), ("b", "2")]), read(&[("a", "12"), ("b", "")]));
    }
}
