//! `portcullis sessions`: who is signed in, and an end of that, through the admin API of a running gateway.

use std::path::Path;

use http::Method;

use super::{
    Failure,
    admin_client::{AdminArguments, AdminClient, query},
    table::{PAGE, Table},
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
            // All sessions of one user are one page.
            let limit = user.is_none().then_some(PAGE);
            let parameters = [("subject", user.as_deref()), ("realm", realm.as_deref()), ("limit", limit)];
            SESSIONS.print(&client, &parameters, *json)
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

fn checked_key(key: &str) -> Result<&str, Failure> {
    let sound = key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    if sound { Ok(key) } else { Err(Failure::new("--key wants the 64 digits of `portcullis sessions list`".into())) }
}

const SESSIONS: Table = Table {
    name: "sessions",
    columns: [
        ("USER", "subject", 20),
        ("REALM", "realm", 10),
        ("SINCE", "created_at", 20),
        ("LAST SEEN", "last_seen_at", 20),
        ("ADDRESS", "address", 15),
        ("DEVICE", "device", 26),
        ("KEY", "key", 64),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_digits() {
        assert!(checked_key(&"0".repeat(64)).is_ok());
        for bad in ["", "../routes", &"0".repeat(63), &"g".repeat(64)] {
            assert!(checked_key(bad).is_err(), "{bad}");
        }
    }
}
