//! A users file as it is changed: by `portcullis users`, and by the gateway when it hashes a password anew.
//!
//! In: a path and what to change. Out: the file, replaced in one step, with the comments, the order, the mode and the
//! owner that it had. Reading users to serve them is `config`'s matter.
//! Invariants: one writer at a time, by a lock on the file that is there; whoever reads sees the old file or the new
//! one, never half of one; a new file is its owner's alone; no error repeats a password or a hash.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

mod replace;
mod toml;

use super::{AccountsError, User, htpasswd, verifier::Verifier};
use replace::Locked;
use toml::Document;

/// A users file, locked for changing until it is dropped.
pub struct UsersFile {
    locked: Locked,
    content: Content,
}

enum Content {
    Htpasswd(String),
    Toml(Document),
}

/// Somebody in a users file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Entry {
    /// What is typed to log in.
    pub name: String,
    /// The stable subject, where it is not the name.
    pub id: Option<String>,
    /// Shown to people and upstreams.
    pub display_name: Option<String>,
    /// Also accepted to log in.
    pub email: Option<String>,
    /// Whether a code of an authenticator app is asked for besides the password.
    pub second_factor: bool,
    /// Roles.
    pub roles: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
}

/// Why a users file was not read or changed; it is then as it was. `Display` says what and how to mend it.
#[derive(Debug)]
pub struct FileError {
    path: PathBuf,
    what: String,
}

impl FileError {
    fn new(path: &Path, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), what: what.into() }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

impl std::error::Error for FileError {}

impl UsersFile {
    /// Makes an empty file where there is none, readable by its owner only.
    ///
    /// # Errors
    /// What the system says.
    pub fn create_if_absent(path: &Path) -> Result<(), FileError> {
        replace::create_if_absent(path)
    }

    /// Opens a file for changing. Waits for another writer, a few seconds at most.
    ///
    /// # Errors
    /// When it cannot be read or is no users file, or when somebody else keeps it locked.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Self::of(path, Locked::open(path)?)
    }

    /// As [`Self::open`], without waiting: `None` where another writer is at work.
    pub(super) fn open_now(path: &Path) -> Result<Option<Self>, FileError> {
        Locked::open_within(path, Duration::ZERO)?.map(|locked| Self::of(path, locked)).transpose()
    }

    fn of(path: &Path, locked: Locked) -> Result<Self, FileError> {
        let text = locked.text();
        let content = if is_htpasswd(path, text) {
            htpasswd::parse(text).map_err(|unreadable| {
                let line = unreadable.first().map_or(0, |unreadable| unreadable.line);
                FileError::new(path, format!("line {line} is no name:hash"))
            })?;
            Content::Htpasswd(text.to_owned())
        } else {
            Content::Toml(Document::parse(text).map_err(|what| FileError::new(path, what))?)
        };
        Ok(Self { locked, content })
    }

    /// Everybody in it, with the kind of their hash in words.
    pub fn list(&self) -> Vec<(Entry, String)> {
        match &self.content {
            Content::Htpasswd(text) => {
                let entries = htpasswd::parse(text).unwrap_or_default();
                let entry = |entry: &htpasswd::Entry<'_>| {
                    (Entry { name: entry.name.to_owned(), ..Entry::default() }, Verifier::describe(entry.hash))
                };
                entries.iter().map(entry).collect()
            }
            Content::Toml(document) => {
                let hash = |name: &str| match document.hash(name) {
                    Some(hash) => Verifier::describe(hash),
                    None => String::from("kept elsewhere"),
                };
                document.entries().into_iter().map(|entry| (entry.clone(), hash(&entry.name))).collect()
            }
        }
    }

    /// The hash of somebody, if it stands in this file.
    pub fn hash(&self, name: &str) -> Option<&str> {
        match &self.content {
            Content::Htpasswd(text) => {
                htpasswd::parse(text).ok()?.iter().find(|entry| entry.name == name).map(|entry| entry.hash)
            }
            Content::Toml(document) => document.hash(name),
        }
    }

    /// Adds somebody at the end.
    ///
    /// # Errors
    /// When the entry is unfit, collides with another, or cannot be written in this format.
    pub fn add(&mut self, entry: &Entry, hash: &str) -> Result<(), FileError> {
        let mut users: Vec<User> = self.list().into_iter().map(|(entry, _)| user(&entry, hash)).collect();
        users.push(user(entry, hash));
        let added = users.len() - 1;
        let complaint = |errors: Vec<AccountsError>| errors.into_iter().find(|error| error.user == added);
        if let Some(error) = super::Accounts::new(users).err().and_then(complaint) {
            return Err(self.complain(error.message));
        }
        match &mut self.content {
            Content::Htpasswd(text) => {
                let bare = Entry { name: entry.name.clone(), ..Entry::default() };
                if *entry != bare {
                    return Err(self.complain(
                        "lines of htpasswd hold a name and a hash, nothing else; roles, groups and the rest ask for a \
                         file in TOML",
                    ));
                }
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                text.push_str(&format!("{}:{hash}\n", entry.name));
                if !htpasswd::is_htpasswd(text) || self.hash(&entry.name) != Some(hash) {
                    return Err(self.complain("the name cannot be written in the format of htpasswd"));
                }
            }
            Content::Toml(document) => document.add(entry, hash).map_err(|what| self.complain(what))?,
        }
        Ok(())
    }

    /// Gives somebody another hash.
    ///
    /// # Errors
    /// When there is nobody of that name, or when the password is kept elsewhere.
    pub fn set_hash(&mut self, name: &str, hash: &str) -> Result<(), FileError> {
        match &mut self.content {
            Content::Htpasswd(text) => match change_line(text, name, |rest| Some(format!("{name}:{hash}{rest}"))) {
                Some(changed) => *text = changed,
                None => return Err(self.nobody(name)),
            },
            Content::Toml(document) => match document.set_hash(name, hash) {
                Some(Ok(())) => {}
                Some(Err(what)) => return Err(self.complain(what)),
                None => return Err(self.nobody(name)),
            },
        }
        Ok(())
    }

    /// Takes somebody out.
    ///
    /// # Errors
    /// When there is nobody of that name.
    pub fn remove(&mut self, name: &str) -> Result<(), FileError> {
        let removed = match &mut self.content {
            Content::Htpasswd(text) => change_line(text, name, |_| None).map(|changed| *text = changed).is_some(),
            Content::Toml(document) => document.remove(name),
        };
        if removed { Ok(()) } else { Err(self.nobody(name)) }
    }

    /// Replaces the file on disk.
    ///
    /// # Errors
    /// When it cannot be written with its mode and owner; it is then as it was.
    pub fn save(self) -> Result<(), FileError> {
        let text = match self.content {
            Content::Htpasswd(text) => text,
            Content::Toml(document) => document.into_text(),
        };
        self.locked.replace(&text)
    }

    fn complain(&self, what: impl Into<String>) -> FileError {
        FileError::new(self.locked.path(), what)
    }

    fn nobody(&self, name: &str) -> FileError {
        self.complain(format!("there is no user {name:?}; `portcullis users list` shows who there is"))
    }
}

/// What was not written yet has the format that the file's name speaks of.
fn is_htpasswd(path: &Path, text: &str) -> bool {
    let says_something = text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#'));
    let named = || path.file_name().is_some_and(|name| name.to_string_lossy().contains("htpasswd"));
    if says_something { htpasswd::is_htpasswd(text) } else { named() }
}

/// The text with each line of a user changed, given what follows the hash; `None` if there is none.
fn change_line(text: &str, name: &str, change: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut changed = String::with_capacity(text.len() + 128);
    let mut found = false;
    for line in text.split_inclusive('\n') {
        let written = line.trim_end();
        let rest = written.strip_prefix(name).and_then(|rest| rest.strip_prefix(':'));
        let is_comment = written.trim_start().starts_with('#');
        let Some(rest) = rest.filter(|_| !is_comment) else {
            changed.push_str(line);
            continue;
        };
        found = true;
        let note = rest.find(':').and_then(|colon| rest.get(colon..)).unwrap_or_default();
        if let Some(new) = change(note) {
            changed.push_str(&new);
            changed.push_str(line.get(written.len()..).unwrap_or("\n"));
        }
    }
    found.then_some(changed)
}

fn user(entry: &Entry, hash: &str) -> User {
    let texts = |list: &[String]| list.iter().map(|text| text.as_str().into()).collect();
    let text = |text: &String| text.as_str().into();
    User {
        name: text(&entry.name),
        id: text(entry.id.as_ref().unwrap_or(&entry.name)),
        display_name: entry.display_name.as_ref().map(text),
        email: entry.email.as_ref().map(text),
        password: hash.into(),
        second_factor: entry.second_factor,
        roles: texts(&entry.roles),
        groups: texts(&entry.groups),
    }
}

#[cfg(test)]
mod tests;
