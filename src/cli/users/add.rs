//! `portcullis users add`.

use std::path::Path;

use super::{failed, hash, open};
use crate::{
    accounts::users_file::{Entry, UsersFile},
    cli::{Failure, typed},
};

/// Whom to add.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// What is typed to log in.
    name: String,

    /// The stable subject that upstreams and rules know the user by; default: the name.
    #[arg(long)]
    id: Option<String>,

    /// Also accepted to log in.
    #[arg(long)]
    email: Option<String>,

    /// Shown to people and upstreams.
    #[arg(long)]
    display_name: Option<String>,

    /// What is asked for besides the password; `portcullis users enrol` gives the code to set it up with.
    #[arg(long)]
    factor: Option<SecondFactor>,

    /// A role; may be repeated.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,

    /// A group; may be repeated.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SecondFactor {
    /// Codes of an authenticator app.
    Totp,
}

pub(super) fn run(file: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { name, id, email, display_name, factor, roles, groups } = arguments.clone();
    let second_factor = factor.is_some();
    let entry = Entry { name, id, display_name, email, second_factor, roles, groups };
    // Before anything is asked or locked: a name that is taken is told at once, and nobody waits for typing.
    if file.exists() {
        open(file)?.add(&entry, REHEARSED).map_err(failed)?;
    }
    let hash = hash(&typed::new_password()?)?;
    UsersFile::create_if_absent(file).map_err(failed)?;
    let mut users = open(file)?;
    users.add(&entry, &hash).map_err(failed)?;
    users.save().map_err(failed)?;
    println!("added {:?} to {}", entry.name, file.display());
    if entry.second_factor {
        println!("to let them set up their second factor: portcullis users enrol {:?}", entry.name);
    }
    Ok(())
}

/// Any hash that could be one.
const REHEARSED: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
