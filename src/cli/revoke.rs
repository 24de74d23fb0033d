//! `portcullis revoke`: voids what somebody holds, through the admin API of a running gateway.

use std::path::Path;

use http::Method;

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
    /// Log somebody out everywhere: every session of a subject ends.
    Subject {
        /// The stable identifier of the user.
        subject: String,

        /// The realm that the subject belongs to; left out, that of the admin token.
        #[arg(long)]
        realm: Option<String>,
    },
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let client = AdminClient::new(path, &arguments.admin)?;
    match &arguments.what {
        What::Subject { subject, realm } => {
            let parameters = query(&[("realm", realm.as_deref()), ("subject", Some(subject))]);
            let answer = client.ask(Method::DELETE, &format!("sessions?{parameters}"), None)?;
            println!("{} sessions ended", answer["ended"].as_u64().unwrap_or_default());
        }
    }
    Ok(())
}
