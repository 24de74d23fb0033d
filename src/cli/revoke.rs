//! `portcullis revoke`: voids what somebody holds, through the admin API of a running gateway.

use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
};

use http::Method;
use serde_json::{Value, json};

use super::{
    Failure,
    admin_client::{AdminArguments, AdminClient},
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
    /// Void one API key, for good.
    Key {
        /// Its id: what stands between the first two `_` of its text.
        id: String,
    },
    /// Void every token that an issuer has signed so far.
    Issuer {
        /// Its name in gateway.toml, or its `iss`.
        issuer: String,
    },
    /// Void one token by its `jti`.
    Jti {
        /// The `jti`.
        jti: String,

        /// The issuer's name in gateway.toml, or its `iss`.
        #[arg(long)]
        issuer: String,
    },
    /// Carry out a file of entries as the admin API takes them, one JSON object a line.
    Lines {
        /// The file; `-` reads standard input.
        file: PathBuf,
    },
    /// Log somebody out everywhere: their sessions end, and tokens issued so far are void.
    Subject {
        /// The stable identifier of the user.
        subject: String,

        /// The realm that the subject belongs to; left out, that of the admin token.
        #[arg(long)]
        realm: Option<String>,
    },
    /// Void one token, or the session of a cookie's value; it is read from a file, which process lists do not show.
    Token {
        /// The file; `-` reads standard input.
        file: PathBuf,
    },
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let client = AdminClient::new(path, &arguments.admin)?;
    let entry = match &arguments.what {
        What::Key { id } => json!({ "kind": "api_key", "id": id }),
        What::Issuer { issuer } => json!({ "kind": "issuer", "issuer": issuer }),
        What::Jti { jti, issuer } => json!({ "kind": "jti", "issuer": issuer, "jti": jti }),
        What::Lines { file } => return lines(&client, file),
        What::Subject { subject, realm } => json!({ "kind": "subject", "subject": subject, "realm": realm }),
        What::Token { file } => json!({ "kind": "token", "token": read(file)?.trim() }),
    };
    let answer = client.ask(Method::POST, "revocations", Some(&entry))?;
    println!("{}", told(&answer));
    Ok(())
}

/// Says what is void, and what the operator should know of it.
fn told(answer: &Value) -> String {
    let text = |name: &str| answer[name].as_str().unwrap_or_default();
    let what = match text("kind") {
        "api_key" => format!("the API key {} is void", text("id")),
        "issuer" => format!("tokens of {} issued until {} are void", text("issuer"), text("issued_until")),
        "jti" => format!("the token {} of {} is void", text("jti"), text("issuer")),
        "session" => return format!("the session of {} has ended", text("subject")),
        "subject" => format!(
            "{} is logged out everywhere: {} sessions ended, {} API keys are void, tokens issued until {} are void",
            text("subject"),
            answer["sessions_ended"].as_u64().unwrap_or_default(),
            answer["api_keys_revoked"].as_u64().unwrap_or_default(),
            text("issued_until"),
        ),
        _ => "the token is void".to_owned(),
    };
    let restart_only = answer["until"].is_null();
    let until = answer["until"].as_str().map(|until| format!("; remembered until {until}"));
    let durable = answer["durable"].as_bool().unwrap_or_default();
    let restart = if durable { "" } else { " or a restart: there is no server.state_dir" };
    let until =
        until.unwrap_or_else(|| if durable || !restart_only { String::new() } else { "; remembered until".into() });
    format!("{what}{until}{}", if restart_only { restart.trim_start_matches(" or") } else { restart })
}

fn lines(client: &AdminClient, file: &Path) -> Result<(), Failure> {
    let answers = client.ask_lines("revocations", read(file)?.into_bytes())?;
    let mut failed = 0_u64;
    for answer in &answers {
        if answer.get("error").is_some() {
            failed += 1;
            println!("{answer}");
        }
    }
    let done = answers.len() as u64 - failed;
    if failed == 0 {
        println!("{done} entries carried out");
        Ok(())
    } else {
        Err(Failure::new(format!("{done} entries carried out, {failed} not; they are told above")))
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let unreadable = |error: io::Error| Failure::new(format!("{} cannot be read: {error}", file.display()));
    if file != Path::new("-") {
        return fs::read_to_string(file).map_err(unreadable);
    }
    if io::stdin().is_terminal() {
        return rpassword::prompt_password("Token: ").map_err(unreadable);
    }
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}
