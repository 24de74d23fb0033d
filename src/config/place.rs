//! Where in the configuration something was written: file, line and column, or an environment variable, and the key
//! path. Every decoded value keeps its place, so that a rule that fails late still points at the text.

use std::{
    cmp::Ordering,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A place in a configuration file or the environment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Place {
    origin: Arc<Origin>,
    line: u32,
    column: u32,
    key: Arc<str>,
}

/// What a place lies in.
#[derive(Debug)]
enum Origin {
    /// A file, by its number among those read, its path as it was given, and the folder that its relative paths mean.
    File { number: usize, path: PathBuf, folder: PathBuf },
    /// A variable of the environment, and the folder that its relative paths mean.
    Environment { name: String, folder: PathBuf },
}

impl Place {
    /// The whole of a file; `number` orders the reports of several files.
    pub(super) fn file(number: usize, path: &Path, folder: &Path) -> Self {
        let origin = Origin::File { number, path: path.into(), folder: folder.into() };
        Self { origin: Arc::new(origin), line: 0, column: 0, key: Arc::from("") }
    }

    /// An environment variable that overrides `key`.
    pub(super) fn environment(name: &str, key: &str, folder: &Path) -> Self {
        let origin = Origin::Environment { name: name.into(), folder: folder.into() };
        Self { origin: Arc::new(origin), line: 0, column: 0, key: Arc::from(key) }
    }

    /// The same file or variable, at this line and column (both from 1) and key path.
    pub(super) fn at(&self, line: u32, column: u32, key: impl Into<Arc<str>>) -> Self {
        Self { origin: Arc::clone(&self.origin), line, column, key: key.into() }
    }

    /// The same text, for a key inside.
    pub(super) fn inside(&self, key: &str) -> Self {
        self.at(self.line, self.column, join(&self.key, key))
    }

    /// The dotted key path, array elements as `route[2]` (from 0); empty for a whole file.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Line and column, both from 1; `None` for whole files and environment variables.
    pub fn line_and_column(&self) -> Option<(u32, u32)> {
        (self.line > 0).then_some((self.line, self.column))
    }

    /// A relative path means one beside the file that names it.
    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        match &*self.origin {
            Origin::File { folder, .. } | Origin::Environment { folder, .. } => folder.join(path),
        }
    }

    /// Whether both lie in the same piece of configuration, where one problem may cause another. A variable of the
    /// environment belongs to the files' sections.
    pub(super) fn shares_unit(&self, other: &Self) -> bool {
        let same_file = match (&*self.origin, &*other.origin) {
            (Origin::File { number, .. }, Origin::File { number: other, .. }) => number == other,
            (Origin::Environment { .. }, _) | (_, Origin::Environment { .. }) => true,
        };
        same_file && self.unit() == other.unit()
    }

    /// The piece that stands or falls together: a section, one route, one issuer, one upstream.
    fn unit(&self) -> &str {
        let mut ends = self.key.match_indices('.').map(|(end, _)| end);
        let first = ends.next().unwrap_or(self.key.len());
        match self.key.get(..first) {
            Some("admin" | "jwt" | "login" | "upstream") => {
                let second = ends.next().unwrap_or(self.key.len());
                self.key.get(..second).unwrap_or_default()
            }
            Some(section) => section,
            None => "",
        }
    }

    /// Order of reports: files in the order they were read, then the environment.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let rank = |place: &Self| match &*place.origin {
            Origin::File { number, .. } => *number,
            Origin::Environment { .. } => usize::MAX,
        };
        rank(self).cmp(&rank(other)).then(self.line.cmp(&other.line)).then(self.column.cmp(&other.column))
    }
}

/// `parent.key`, or `key` at the top.
pub(super) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// `file:line:column: key`, as far as they are known.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.origin {
            Origin::File { path, .. } => write!(f, "{}", path.display())?,
            Origin::Environment { name, .. } => f.write_str(name)?,
        }
        if let Some((line, column)) = self.line_and_column() {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        Ok(())
    }
}
