//! SIGUSR2: the program, as it is on disk now, is started to follow this process.
//!
//! In: this process's own arguments. Out: a child that runs them with `run --upgrade`. It asks for everything at
//! `server.upgrade_socket` like any other; a child that fails has changed nothing.

use std::{
    env,
    ffi::OsString,
    process::{Command, Stdio},
};

/// Starts it. `can_be_followed`: there is a socket to ask at.
pub(super) fn start(can_be_followed: bool) {
    if !can_be_followed {
        return tracing::error!("no process can follow this one: the configuration has no `server.upgrade_socket`");
    }
    let mut arguments = env::args_os();
    let Some(program) = arguments.next() else {
        return tracing::error!("no process can follow this one: it does not know its own name");
    };
    let mut command = Command::new(program);
    command.args(of_follower(arguments.collect())).stdin(Stdio::null());
    // They were meant for this process alone.
    for variable in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
        command.env_remove(variable);
    }
    match command.spawn() {
        Ok(mut child) => {
            tracing::info!(process = child.id(), "a process was started to follow this one");
            // It outlives this one; if it fails, its end has to be noticed.
            let waiting = std::thread::Builder::new().name("successor".into()).spawn(move || match child.wait() {
                Ok(status) => tracing::error!(%status, "the process that was to follow has ended; this one goes on"),
                Err(error) => tracing::warn!(%error, "nobody knows what became of the process that was to follow"),
            });
            if let Err(error) = waiting {
                tracing::warn!(%error, "nobody watches the process that was started");
            }
        }
        Err(error) => tracing::error!(%error, "no process could be started to follow this one"),
    }
}

/// This process's arguments with `run --upgrade`.
fn of_follower(mut arguments: Vec<OsString>) -> Vec<OsString> {
    for word in ["run", "--upgrade"] {
        if !arguments.iter().any(|argument| argument == word) {
            arguments.push(word.into());
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_has_the_same_arguments_and_follows() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();

        assert_eq!(of_follower(words(&["-c", "a.toml"])), words(&["-c", "a.toml", "run", "--upgrade"]));
        assert_eq!(of_follower(words(&["run", "--upgrade"])), words(&["run", "--upgrade"]));
    }
}
