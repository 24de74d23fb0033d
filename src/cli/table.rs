//! Lists of the admin API on standard output: a table for eyes and `cut`, or one JSON object a line for programs.
//!
//! Invariant: what strangers have chosen, such as a name, neither breaks a line nor reaches a terminal as a command.

use std::io::{self, BufWriter, Write};

use serde_json::Value;

use super::{Failure, admin_client::AdminClient};

/// What a list is called in the API, and its columns.
pub(super) struct Table {
    /// Its path, and the field of the answer that holds it.
    pub(super) name: &'static str,
    /// Heading, field and width in characters.
    pub(super) columns: [(&'static str, &'static str, usize); 7],
}

impl Table {
    /// Prints all of it that the parameters leave, page by page.
    ///
    /// # Errors
    /// As [`AdminClient::list`], and if standard output cannot be written.
    pub(super) fn print(
        &self,
        client: &AdminClient,
        parameters: &[(&str, Option<&str>)],
        json: bool,
    ) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout().lock());
        let mut print = |line: String| writeln!(out, "{line}").map_err(|error| unwritable(&error));
        if !json {
            print(self.row(|heading, _| heading.to_owned()))?;
        }
        client.list(self.name, parameters, |entry| print(if json { entry.to_string() } else { self.shown(entry) }))?;
        out.flush().map_err(|error| unwritable(&error))
    }

    /// One entry.
    pub(super) fn shown(&self, entry: &Value) -> String {
        self.row(|_, field| {
            let text = entry[field].as_str().unwrap_or("-");
            text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
        })
    }

    fn row(&self, cell: impl Fn(&str, &str) -> String) -> String {
        let cells = self.columns.map(|(heading, field, width)| format!("{:width$}  ", cell(heading, field)));
        cells.concat().trim_end().to_owned()
    }
}

fn unwritable(error: &io::Error) -> Failure {
    Failure::new(format!("the list cannot be written: {error}"))
}

/// As many as the API gives at once.
pub(super) const PAGE: &str = "1000";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_cannot_play_with_the_terminal() {
        let column = |field| ("HEADING", field, 8);
        let columns = ["subject", "realm", "b", "c", "d", "e", "device"].map(column);
        let entry = json!({ "subject": "a\u{1b}[2Jb\nc", "realm": "staff", "device": null });

        let line = Table { name: "sessions", columns }.shown(&entry);

        assert!(!line.contains(['\u{1b}', '\n']), "{line:?}");
        assert!(line.contains("staff") && line.ends_with('-'), "{line:?}");
    }
}
