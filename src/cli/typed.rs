//! A password as somebody types it: from the terminal without echo, twice, or the first line of standard input. Never
//! an argument: those show up in process lists and shell histories.

use std::io::{self, BufRead, IsTerminal, Read};

use zeroize::Zeroize;

use super::Failure;
use crate::secret::Secret;

/// Reads a new password.
pub(super) fn new_password() -> Result<Secret<String>, Failure> {
    if io::stdin().is_terminal() { ask_twice() } else { first_line() }
}

fn ask_twice() -> Result<Secret<String>, Failure> {
    let ask = |prompt| rpassword::prompt_password(prompt).map(Secret::new);
    let unreadable = |error| Failure::new(format!("the terminal cannot be read: {error}"));
    let password = ask("Password: ").map_err(unreadable)?;
    let again = ask("Again:    ").map_err(unreadable)?;
    if password.matches(again.expose().as_bytes()) {
        Ok(password)
    } else {
        Err(Failure::new("the two passwords differ; nothing was done".into()))
    }
}

fn first_line() -> Result<Secret<String>, Failure> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(MAX_LINE_BYTES)
        .read_line(&mut text)
        .map_err(|error| Failure::new(format!("standard input cannot be read: {error}")))?;
    let password = Secret::new(text.trim_end_matches(['\r', '\n']).to_owned());
    text.zeroize();
    Ok(password)
}

/// More than any password: a file that was sent here by mistake is not read to its end.
const MAX_LINE_BYTES: u64 = 4096;
