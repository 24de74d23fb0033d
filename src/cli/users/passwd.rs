//! `portcullis users passwd`.

use std::path::Path;

use super::{failed, hash, open};
use crate::cli::{Failure, typed};

/// Whose password to change.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What is typed to log in.
    name: String,
}

pub(super) fn run(file: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let name = &arguments.name;
    // Before anything is asked; the lock is not kept while somebody types.
    if !open(file)?.list().iter().any(|(entry, _)| entry.name == *name) {
        let there = "`portcullis users list` shows who there is";
        return Err(Failure::new(format!("{}: there is no user {name:?}; {there}", file.display())));
    }
    let hash = hash(&typed::new_password()?)?;
    let mut users = open(file)?;
    users.set_hash(name, &hash).map_err(failed)?;
    users.save().map_err(failed)?;
    println!("changed the password of {name:?} in {}", file.display());
    Ok(())
}
