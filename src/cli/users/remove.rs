//! `portcullis users remove`.

use std::path::Path;

use super::{failed, open};
use crate::cli::Failure;

/// Whom to take out.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What is typed to log in.
    name: String,
}

pub(super) fn run(file: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let mut users = open(file)?;
    users.remove(&arguments.name).map_err(failed)?;
    users.save().map_err(failed)?;
    println!("removed {:?} from {}", arguments.name, file.display());
    Ok(())
}
