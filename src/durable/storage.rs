//! The database's file: ordinary reads and writes, and a count of the syncs.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::StorageBackend;

/// A file on disk. It is locked through another one: see [`super::Durable::open`].
#[derive(Debug)]
pub(super) struct Disk {
    file: std::fs::File,
    syncs: Arc<AtomicU64>,
}

impl Disk {
    /// Opens the file, or makes it with mode 0600. A new file's name is on disk when this returns.
    pub(super) fn open(path: &Path, syncs: Arc<AtomicU64>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if let Some(folder) = path.parent() {
            std::fs::File::open(folder)?.sync_all()?;
        }
        Ok(Self { file, syncs })
    }
}

impl Disk {
    /// A file that is open.
    pub(super) const fn of(file: std::fs::File, syncs: Arc<AtomicU64>) -> Self {
        Self { file, syncs }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}
