//! `portcullis diff OLD NEW`: which requests another configuration opens and closes, found by asking both.
//!
//! Exit codes: 0 if nothing becomes more open, 3 if something does, 1 if one of the two cannot be used.

use std::path::PathBuf;

use super::{Failure, load};
use crate::{
    clock::Clock,
    reload::diff::{Kind, compare},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration that is in use.
    old: PathBuf,

    /// The configuration that shall take its place.
    new: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (old, new) = (load(&arguments.old)?, load(&arguments.new)?);
    let found = compare(&old.snapshot, &new.snapshot, Clock::system().now(), usize::MAX);
    for difference in &found.differences {
        println!("{difference}");
    }
    let restart = old.startup.differences(&new.startup);
    if !restart.is_empty() {
        println!("needs a restart: {}", restart.join(", "));
    }
    let opened = found.differences.iter().filter(|difference| difference.kind == Kind::MoreOpen).count();
    match (opened, found.differences.len()) {
        (0, 0) => println!("the same requests get through, to the same places"),
        (0, _) => println!("nothing becomes more open"),
        (1, _) => return Err(Failure::with_code("one route becomes more open".into(), OPENED)),
        (routes, _) => return Err(Failure::with_code(format!("{routes} routes become more open"), OPENED)),
    }
    Ok(())
}

/// For scripts that want a person to look before something opens.
const OPENED: u8 = 3;
