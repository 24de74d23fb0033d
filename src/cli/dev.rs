//! `portcullis dev`: the shipped set-up without any file, on the built-in echo or a backend of one's own.

use std::path::{Path, PathBuf};

use super::{Failure, environment, run};
use crate::config;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The backend to stand in front of, such as http://127.0.0.1:3000; the built-in echo if left out.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,

    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: std::net::SocketAddr,

    /// Where the local certificate and the generated secrets are kept between starts.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let folder = arguments.state.clone().map_or_else(default_folder, Ok)?;
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::new(format!("{} cannot be made: {error}", folder.display())))?;
    let text = text(arguments);
    let read = {
        let folder = folder.clone();
        move || config::load_text("portcullis dev", &text, &folder, environment())
    };
    let config = read().map_err(|report| Failure::new(format!("these arguments do not fit\n\n{report}")))?;
    run::serve(config, &folder, Box::new(read))
}

/// The shipped file with another upstream and listener. Quoted by JSON's rules, which TOML's basic strings share.
fn text(arguments: &Arguments) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = SHIPPED.replace(SHIPPED_LISTENER, &quoted(&format!("https://{}", arguments.listen)));
    text = text.replace(SHIPPED_TELEMETRY, "\n").replace(SHIPPED_PROBES, "");
    match &arguments.upstream {
        Some(url) => text.replace(SHIPPED_UPSTREAM, &quoted(url)),
        None => text,
    }
}

fn default_folder() -> Result<PathBuf, Failure> {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    data.or_else(home)
        .map(|data| data.join("portcullis-dev"))
        .ok_or_else(|| Failure::new("there is no home folder; name one with --state FOLDER".into()))
}

const SHIPPED: &str = include_str!("../../gateway.toml");
const SHIPPED_LISTENER: &str = "\"https://127.0.0.1:8443\"";
const SHIPPED_TELEMETRY: &str = "\n[telemetry]\n";
const SHIPPED_PROBES: &str = "listen = \"http://127.0.0.1:9091\"";
const SHIPPED_UPSTREAM: &str = "\"echo:\"";

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> Arguments {
        Arguments { upstream: Some("http://127.0.0.1:3000".into()), listen: ([127, 0, 0, 1], 9443).into(), state: None }
    }

    #[test]
    fn what_dev_makes_of_the_shipped_file_is_a_good_configuration() {
        let folder = tempfile::tempdir().unwrap();

        let config = config::load_text("dev", &text(&arguments()), folder.path(), [])
            .unwrap_or_else(|report| panic!("{report}"));

        assert!(config.startup.telemetry.is_none());
        assert_eq!(config.startup.edge.listeners.len(), 1);
    }

    #[test]
    fn the_shipped_file_holds_what_dev_replaces() {
        let text = text(&arguments());

        assert!(text.contains("\"http://127.0.0.1:3000\"") && text.contains("\"https://127.0.0.1:9443\""));
        assert!(!text.contains(SHIPPED_UPSTREAM) && !text.contains(SHIPPED_PROBES));
    }
}
