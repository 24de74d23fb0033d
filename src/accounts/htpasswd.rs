//! The htpasswd format: one `name:hash` a line, as `htpasswd -B` writes it.
//!
//! In: the text of a file. Out: its entries with their lines, or what is wrong with a line. The hashes are judged with
//! those of all other users. Errors repeat nothing of a line: there may be a password in it.

/// One line that holds a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry<'a> {
    /// From 1.
    pub line: usize,
    /// What is typed to log in.
    pub name: &'a str,
    /// As it stands there.
    pub hash: &'a str,
}

/// A line that is neither empty, nor a comment, nor `name:hash`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unreadable {
    /// From 1.
    pub line: usize,
}

/// Whether a users file is in this format rather than in TOML: its first line that says something begins with no
/// table and no key.
pub fn is_htpasswd(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !line.starts_with('[') && !name.contains('=') && name.len() < line.len()
    })
}

/// The entries, in their order.
///
/// # Errors
/// Every line that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Entry<'_>>, Vec<Unreadable>> {
    let mut entries = Vec::new();
    let mut unreadable = Vec::new();
    for (index, text) in text.lines().enumerate() {
        let line = index + 1;
        // Apache's tools ignore blanks at the end of a line.
        let text = text.trim_end();
        if text.trim_start().is_empty() || text.trim_start().starts_with('#') {
            continue;
        }
        match text.split_once(':') {
            // What follows a second colon is a note of whoever wrote it.
            Some((name, rest)) if !name.is_empty() => {
                entries.push(Entry { line, name, hash: rest.split(':').next().unwrap_or_default() });
            }
            Some(_) | None => unreadable.push(Unreadable { line }),
        }
    }
    if unreadable.is_empty() { Ok(entries) } else { Err(unreadable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_apache_reads_them() {
        let text = "# staff\nalice:$2y$05$abc\r\n\nbob:$apr1$x$y:a note\n  # end";

        let entries = parse(text).unwrap();

        assert_eq!(
            entries,
            [Entry { line: 2, name: "alice", hash: "$2y$05$abc" }, Entry { line: 4, name: "bob", hash: "$apr1$x$y" }]
        );
    }

    #[test]
    fn a_line_without_name_or_colon_is_told_by_its_number_only() {
        let unreadable = parse("alice:$2y$05$abc\nhunter2\n:$2y$05$abc").unwrap_err();

        assert_eq!(unreadable, [Unreadable { line: 2 }, Unreadable { line: 3 }]);
    }

    #[test]
    fn toml_and_htpasswd_are_told_apart() {
        for htpasswd in ["alice:$2y$05$abc", "# x\n\n alice:x", "a b:{SHA}x=", "alice:x\n[[user]]"] {
            assert!(is_htpasswd(htpasswd), "{htpasswd:?}");
        }
        for toml in
            ["", "# only a comment", "[[user]]\nname = \"a:b\"", "user = [{ name = \"a:b\" }]", "nonsense", " [[user]]"]
        {
            assert!(!is_htpasswd(toml), "{toml:?}");
        }
    }
}
