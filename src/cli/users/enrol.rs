//! `portcullis users enrol`: lets somebody set up a second factor, with a code that is handed to them.
//!
//! Works whether or not the gateway runs: the leave to enrol is a file in `server.state_dir`.

use std::path::Path;

use crate::{
    accounts::User,
    cli::{Failure, load},
    clock::Clock,
    config::Config,
    factor::{
        Account,
        invitation::{Invitation, LIFETIME},
    },
    login::Provider,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Who: the name or email that they log in with.
    name: String,

    /// Take away the second factor that they have: their phone is lost. It counts no more at their next login; sessions
    /// that are open stay open.
    #[arg(long)]
    reset: bool,
}

pub(super) fn run(path: &Path, provider: Option<&str>, arguments: &Arguments) -> Result<(), Failure> {
    let config = load(path)?;
    let (provider, user) = find(&config, provider, &arguments.name)?;
    let name = &arguments.name;
    if !user.second_factor {
        return Err(Failure::new(format!(
            "{name:?} has no second factor to set up; write factor = \"totp\" to their entry first"
        )));
    }
    let Some(state) = &config.startup.state else {
        return Err(Failure::new(String::from("there is no server.state_dir, where second factors are kept")));
    };
    let account = Account::new(&provider.realm, &user.id);
    let code = Invitation::write(&state.dir, &account, arguments.reset, Clock::system().now())
        .map_err(|error| Failure::new(format!("{} cannot be written to: {error}", state.dir.display())))?;
    println!("{}", *code.text());
    let minutes = LIFETIME.as_secs() / 60;
    eprintln!(
        "This is the enrolment code of {name:?}. It counts once, for {minutes} minutes, after their password on the login \
         page: hand it over in person or on the phone."
    );
    match arguments.reset {
        true => eprintln!(
            "The second factor that they have counts no more. Sessions that are open stay open: `portcullis revoke subject \
             {}` ends them.",
            user.id
        ),
        false => eprintln!("If they have a second factor already, nothing changes; --reset takes it away."),
    }
    Ok(())
}

fn find<'c>(config: &'c Config, provider: Option<&str>, name: &str) -> Result<(&'c Provider, &'c User), Failure> {
    let providers =
        config.snapshot.login.providers.iter().filter(|one| provider.is_none_or(|wanted| *one.name == *wanted));
    let mut found = providers.filter_map(|provider| Some((provider, &**provider.accounts.find(name)?)));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Failure::new(format!("there is no user {name:?}"))),
        (Some(_), Some(_)) => Err(Failure::new(format!("there are several users {name:?}; say --provider NAME"))),
    }
}
