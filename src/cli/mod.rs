//! The commands: arguments in, exit code out (0 done, 1 failed, 2 wrong usage;
//! 3 of `diff`: something becomes more open).

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::config::{self, Config};

mod admin_client;
mod check;
mod dev;
mod diff;
mod explain;
mod hash_password;
mod import;
mod keys;
mod reload;
mod revoke;
mod run;
mod sessions;
mod successor;
mod table;
mod token;
mod typed;
mod users;
mod welcome;

/// A reverse-proxy authentication gateway: TLS in, session or JWT checked, X-User-* out.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, about, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    /// The configuration file.
    #[arg(long, short, global = true, default_value = "gateway.toml", env = "PORTCULLIS_CONFIG")]
    config: PathBuf,

    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  portcullis dev --upstream http://127.0.0.1:3000     try it in front of a backend of yours
  portcullis check                                    is gateway.toml right?
  portcullis users add alice --role user              somebody who can log in
  portcullis explain GET https://localhost/admin/users --as sub=bob,roles=user
  portcullis --config /etc/portcullis/gateway.toml    serve";

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration, run its [[test]] cases and warn about risky routes.
    Check(check::Arguments),
    /// Say which requests another configuration opens and closes.
    Diff(diff::Arguments),
    /// Try the gateway without any file, on the built-in echo or a backend of yours.
    Dev(dev::Arguments),
    /// Say which route a request takes and why each rule passes or fails.
    Explain(explain::Arguments),
    /// Make an argon2id hash of a password for the users file.
    HashPassword(hash_password::Arguments),
    /// Write routes from what describes an API already.
    Import(import::Arguments),
    /// API keys for programs: make, list and revoke them.
    Keys(keys::Arguments),
    /// Void tokens and sessions of a running gateway: one, or all of somebody.
    Revoke(revoke::Arguments),
    /// Let a running gateway read its configuration again, and say what came of it.
    Reload(reload::Arguments),
    /// Start the gateway (the default).
    Run(run::Arguments),
    /// Say who is signed in, and end sessions, through the admin API.
    Sessions(sessions::Arguments),
    /// Sign a JWT with the secret of a configured issuer, to try things out.
    Token(token::Arguments),
    /// Change a users file: add somebody, set a password, remove, list.
    Users(users::Arguments),
}

/// Why a command did not do what was asked: what, where and how to mend it, ready to be printed.
#[derive(Debug)]
struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    const fn new(text: String) -> Self {
        Self::with_code(text, 1)
    }

    /// With an exit code of its own.
    const fn with_code(text: String, code: u8) -> Self {
        Self { text, code }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads a configuration file with this process's environment.
fn load(path: &Path) -> Result<Config, Failure> {
    let file = path.display();
    if matches!(path.try_exists(), Ok(false)) {
        return Err(Failure::new(format!(
            "there is no {file}; name a configuration with --config FILE, or try `portcullis dev`, which needs none"
        )));
    }
    config::load(path, environment()).map_err(|report| Failure::new(format!("{file} cannot be used\n\n{report}")))
}

/// This process's environment; variables that are no UTF-8 cannot be meant for us.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Reads the arguments and runs the command.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = arguments.config;
    let outcome = match arguments.command.unwrap_or_else(|| Command::Run(run::Arguments::default())) {
        Command::Check(arguments) => check::run(&config, &arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Dev(arguments) => dev::run(&arguments),
        Command::Explain(arguments) => explain::run(&config, &arguments),
        Command::HashPassword(arguments) => hash_password::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Keys(arguments) => keys::run(&config, &arguments),
        Command::Revoke(arguments) => revoke::run(&config, &arguments),
        Command::Reload(arguments) => reload::run(&config, &arguments),
        Command::Run(arguments) => run::run(&config, &arguments),
        Command::Sessions(arguments) => sessions::run(&config, &arguments),
        Command::Token(arguments) => token::run(&config, &arguments),
        Command::Users(arguments) => users::run(&config, &arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("portcullis: {failure}");
            ExitCode::from(failure.code)
        }
    }
}
