//! `portcullis sessions`: who is signed in, and an end of that, through the admin API of a running gateway.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
};

use http::Method;
use serde_json::Value;

use super::{
    Failure,
    admin_client::{AdminArguments, AdminClient, query},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,

    #[command(flatten)]
    admin: AdminArguments,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Say who is signed in, where from and since when; the last column names the session.
    List {
        /// The stable identifier of one user; left out, everybody.
        #[arg(long, value_name = "SUBJECT")]
        user: Option<String>,

        /// The realm of the users; left out, that of the admin token.
        #[arg(long)]
        realm: Option<String>,

        /// One JSON object a line, with everything that the API tells.
        #[arg(long)]
        json: bool,
    },
    /// End every session of one user, or one session.
    Revoke {
        /// The stable identifier of the user.
        #[arg(long, value_name = "SUBJECT", required_unless_present = "key")]
        user: Option<String>,

        /// The realm of the user; left out, that of the admin token.
        #[arg(long, requires = "user")]
        realm: Option<String>,

        /// One session, as `list` names it.
        #[arg(long, conflicts_with = "user")]
        key: Option<String>,
    },
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let client = AdminClient::new(path, &arguments.admin)?;
    match &arguments.what {
        What::List { user, realm, json } => {
            let mut out = BufWriter::new(io::stdout().lock());
            list(&client, user.as_deref(), realm.as_deref(), *json, &mut out)
        }
        What::Revoke { user, realm, key } => {
            let target = match key {
                Some(key) => format!("sessions/{}", checked_key(key)?),
                None => {
                    let parameters = query(&[("realm", realm.as_deref()), ("subject", user.as_deref())]);
                    format!("sessions?{parameters}")
                }
            };
            let ended = client.ask(Method::DELETE, &target, None)?["ended"].as_u64().unwrap_or_default();
            println!("{ended} session{} ended", if ended == 1 { "" } else { "s" });
            Ok(())
        }
    }
}

fn list(
    client: &AdminClient,
    user: Option<&str>,
    realm: Option<&str>,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    if !json {
        write_line(out, &row(&["USER", "REALM", "SINCE", "LAST SEEN", "ADDRESS", "DEVICE", "KEY"], WIDTHS))?;
    }
    // All sessions of one user are one page.
    let limit = user.is_none().then_some(PAGE);
    client.list("sessions", &[("subject", user), ("realm", realm), ("limit", limit)], |session| {
        write_line(out, &if json { session.to_string() } else { shown(session) })
    })?;
    out.flush().map_err(|error| unwritable(&error))
}

fn shown(session: &Value) -> String {
    let text = |name: &str| session[name].as_str().unwrap_or("-");
    let cells = ["subject", "realm", "created_at", "last_seen_at", "address", "device", "key"];
    row(&cells.map(text), WIDTHS)
}

/// Columns for eyes and for `cut`: padded, and never broken by what is in them.
pub(super) fn row(cells: &[&str; 7], widths: [usize; 7]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        // A terminal obeys control characters, whoever chose the name.
        let cell: String = cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        line.push_str(&format!("{cell:width$}  "));
    }
    line.trim_end().to_owned()
}

fn checked_key(key: &str) -> Result<&str, Failure> {
    let sound = key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    if sound { Ok(key) } else { Err(Failure::new("--key wants the 64 digits of `portcullis sessions list`".into())) }
}

pub(super) fn write_line(out: &mut impl Write, line: &str) -> Result<(), Failure> {
    writeln!(out, "{line}").map_err(|error| unwritable(&error))
}

pub(super) fn unwritable(error: &io::Error) -> Failure {
    Failure::new(format!("the list cannot be written: {error}"))
}

const WIDTHS: [usize; 7] = [20, 10, 20, 20, 15, 26, 64];

/// As many as the API gives at once.
pub(super) const PAGE: &str = "1000";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_cannot_play_with_the_terminal() {
        let session = json!({ "subject": "a\u{1b}[2Jb\nc", "realm": "staff", "device": null });

        let line = shown(&session);

        assert!(!line.contains(['\u{1b}', '\n']), "{line:?}");
        assert!(line.contains("staff") && line.ends_with('-'), "{line:?}");
    }

    #[test]
    fn a_key_is_64_digits() {
        assert!(checked_key(&"0".repeat(64)).is_ok());
        for bad in ["", "../routes", &"0".repeat(63), &"g".repeat(64)] {
            assert!(checked_key(bad).is_err(), "{bad}");
        }
    }
}
