//! `portcullis hash-password`: reads a password from the terminal without echo, or from standard input, and prints
//! the argon2id hash that belongs into the users file.

use std::io::{self, BufRead, IsTerminal};

use zeroize::Zeroize;

use super::Failure;
use crate::{accounts, secret::Secret};

/// `hash-password` takes nothing from the command line: arguments show up in process lists and shell histories.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments) -> Result<(), Failure> {
    let password = if io::stdin().is_terminal() { ask_twice()? } else { first_line()? };
    let hash = accounts::hash_password(password.expose()).map_err(|error| Failure::new(error.to_string()))?;
    println!("{hash}");
    Ok(())
}

fn ask_twice() -> Result<Secret<String>, Failure> {
    let ask = |prompt| rpassword::prompt_password(prompt).map(Secret::new);
    let unreadable = |error| Failure::new(format!("the terminal cannot be read: {error}"));
    let password = ask("Password: ").map_err(unreadable)?;
    let again = ask("Again:    ").map_err(unreadable)?;
    if password.matches(again.expose().as_bytes()) {
        Ok(password)
    } else {
        Err(Failure::new("the two passwords differ; nothing was hashed".into()))
    }
}

fn first_line() -> Result<Secret<String>, Failure> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .read_line(&mut text)
        .map_err(|error| Failure::new(format!("standard input cannot be read: {error}")))?;
    let password = Secret::new(text.trim_end_matches(['\r', '\n']).to_owned());
    text.zeroize();
    Ok(password)
}
