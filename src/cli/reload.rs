//! `portcullis reload`: lets a running gateway read its configuration again. It succeeds only if the new configuration
//! is in use.

use std::path::Path;

use http::Method;
use serde_json::Value;

use super::{
    Failure,
    admin_client::{AdminArguments, AdminClient},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    admin: AdminArguments,
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let client = AdminClient::new(path, &arguments.admin)?;
    let told = client.ask(Method::POST, "reload", None)?;
    let lines = |name: &str| -> Vec<String> {
        told[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    lines("warnings").iter().for_each(|warning| println!("warning: {warning}"));
    lines("changes").iter().for_each(|change| println!("{change}"));
    for (name, what) in [("sessions_ended", "ended"), ("sessions_updated", "updated")] {
        match told[name].as_u64() {
            None | Some(0) => {}
            Some(1) => println!("1 session {what}"),
            Some(number) => println!("{number} sessions {what}"),
        }
    }
    println!("reloaded: generation {} is in use", told["generation"]);
    Ok(())
}
