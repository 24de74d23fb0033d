//! `portcullis users`: changes a users file, in TOML or as htpasswd writes it. One file a subcommand.
//!
//! A gateway at work is not asked: it sees the file when it reads its configuration anew.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::Failure;
use crate::{
    accounts::{
        self,
        users_file::{FileError, UsersFile},
    },
    config,
    secret::Secret,
};

mod add;
mod enrol;
mod list;
mod passwd;
mod remove;

/// Which file, and what to do with it.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The users file; without it, the one that the configuration names.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "provider")]
    file: Option<PathBuf>,

    /// The login provider whose file is meant, where the configuration names several.
    #[arg(long, global = true, value_name = "NAME")]
    provider: Option<String>,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add somebody; the password is asked for, or read from standard input.
    Add(add::Arguments),
    /// Let somebody set up a second factor: prints the code for it. Their entry says factor = "totp".
    Enrol(enrol::Arguments),
    /// Show who there is, and how their passwords are hashed.
    List,
    /// Give somebody a new password; it is asked for, or read from standard input.
    Passwd(passwd::Arguments),
    /// Take somebody out.
    Remove(remove::Arguments),
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> Result<(), Failure> {
    if let Action::Enrol(enrol) = &arguments.action {
        if arguments.file.is_some() {
            return Err(Failure::new("--file does not go with enrol, which reads the whole configuration".into()));
        }
        return enrol::run(config, arguments.provider.as_deref(), enrol);
    }
    let file = match &arguments.file {
        Some(file) => file.clone(),
        None => configured(config, arguments.provider.as_deref())?,
    };
    match &arguments.action {
        Action::Add(arguments) => add::run(&file, arguments),
        Action::Enrol(_) => Ok(()),
        Action::List => list::run(&file),
        Action::Passwd(arguments) => passwd::run(&file, arguments),
        Action::Remove(arguments) => remove::run(&file, arguments),
    }
}

/// The users file of a provider, or the only one.
fn configured(config: &Path, provider: Option<&str>) -> Result<PathBuf, Failure> {
    let at = config.display();
    let mut files =
        config::users_files(config).map_err(|report| Failure::new(format!("{at} cannot be read\n\n{report}")))?;
    if let Some(provider) = provider {
        files.retain(|(name, _)| name == provider);
    }
    match (files.pop(), files.is_empty()) {
        (Some((_, file)), true) => Ok(file),
        (Some(_), false) => {
            Err(Failure::new(format!("{at} names several users files; say --provider NAME or --file FILE")))
        }
        (None, _) => {
            let whose = provider.map(|name| format!(" for a provider {name:?}")).unwrap_or_default();
            Err(Failure::new(format!("{at} names no users_file{whose}; write one, or say --file FILE")))
        }
    }
}

fn open(file: &Path) -> Result<UsersFile, Failure> {
    UsersFile::open(file).map_err(failed)
}

fn hash(password: &Secret<String>) -> Result<String, Failure> {
    accounts::hash_password(password.expose()).map_err(|error| Failure::new(error.to_string()))
}

fn failed(error: FileError) -> Failure {
    Failure::new(error.to_string())
}
