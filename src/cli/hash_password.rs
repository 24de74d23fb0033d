//! `portcullis hash-password`: reads a password from the terminal without echo, or from standard input, and prints
//! the argon2id hash that belongs into the users file.

use super::{Failure, typed};
use crate::accounts;

/// `hash-password` takes nothing from the command line: arguments show up in process lists and shell histories.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments) -> Result<(), Failure> {
    let password = typed::new_password()?;
    let hash = accounts::hash_password(password.expose()).map_err(|error| Failure::new(error.to_string()))?;
    println!("{hash}");
    Ok(())
}
