//! What a backend with quirks may take a path for (R8).
//!
//! In: a canonical path and the quirks of one upstream. Out: every path that the backend may read it as, or `None`
//! where there are too many, or one of them climbs with `..` or holds an undeclared `//`: such a request is refused.
//! Readings are closed under all quirks in any order, because nobody knows in which order a backend applies its own.
//! Letters are left as they are: the tree of routes is asked without case instead.

use super::path::{Quirks, is_dot_segment};

/// The path itself and every other reading; spelled, maybe, in ways that R7 would refuse.
pub(super) fn readings(path: &str, quirks: Quirks) -> Option<Vec<String>> {
    let mut all = vec![path.to_owned()];
    let mut next = 0;
    while let Some(current) = all.get(next).cloned() {
        next += 1;
        if current.split('/').any(|segment| is_dot_segment(segment.as_bytes())) {
            return None;
        }
        // A reading with an empty segment (`/;x/admin` without `;x`) is one that R7 refuses: who knows what becomes of
        // it where `//` was not declared?
        if !quirks.double_slash && current.contains("//") {
            return None;
        }
        for changed in steps(&current, quirks) {
            if !all.contains(&changed) {
                all.push(changed);
            }
        }
        if all.len() > MOST_READINGS {
            return None;
        }
    }
    Some(all)
}

/// What each quirk makes of a path, one at a time.
fn steps(path: &str, quirks: Quirks) -> impl Iterator<Item = String> {
    let shorter = || path.strip_suffix('/').filter(|shorter| !shorter.is_empty()).map(str::to_owned);
    [
        (quirks.semicolon && path.contains(';')).then(|| without_parameters(path, &[";"])),
        (quirks.semicolon && path.contains("%3B")).then(|| without_parameters(path, &[";", "%3B"])),
        (quirks.encoded_slash && path.contains("%2F")).then(|| path.replace("%2F", "/")),
        (quirks.double_slash && path.contains("//")).then(|| merged_slashes(path)),
        quirks.suffix.then(|| without_suffix(path)).flatten(),
        quirks.trailing_slash.then(shorter).flatten(),
    ]
    .into_iter()
    .flatten()
}

fn without_parameters(path: &str, marks: &[&str]) -> String {
    let bare = |segment: &str| {
        let cut = marks.iter().filter_map(|mark| segment.find(mark)).min().unwrap_or(segment.len());
        segment.get(..cut).unwrap_or_default().to_owned()
    };
    path.split('/').map(bare).collect::<Vec<_>>().join("/")
}

fn merged_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !merged.ends_with('/') {
            merged.push(c);
        }
    }
    merged
}

/// Without the extension of the last segment; a dot that begins the segment begins no extension.
fn without_suffix(path: &str) -> Option<String> {
    let (stem, extension) = path.rsplit_once('.')?;
    (!extension.contains('/') && !stem.ends_with('/')).then(|| stem.to_owned())
}

/// More than this, and no one can say what the backend will make of it.
const MOST_READINGS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(path: &str, quirks: Quirks) -> Option<Vec<String>> {
        readings(path, quirks).map(|all| all.into_iter().skip(1).collect())
    }

    #[test]
    fn each_quirk_reads_in_its_way() {
        let none = Quirks::default();
        for (path, quirks, expect) in [
            ("/a;x/b", Quirks { semicolon: true, ..none }, vec!["/a/b"]),
            ("/a%3Bx/b", Quirks { semicolon: true, ..none }, vec!["/a/b"]),
            ("/a%2Fb", Quirks { encoded_slash: true, ..none }, vec!["/a/b"]),
            ("/a//b///c", Quirks { double_slash: true, ..none }, vec!["/a/b/c"]),
            ("/a/", Quirks { trailing_slash: true, ..none }, vec!["/a"]),
            ("/a", Quirks { trailing_slash: true, ..none }, vec![]),
            ("/", Quirks { trailing_slash: true, ..none }, vec![]),
            ("/a.tar.gz", Quirks { suffix: true, ..none }, vec!["/a.tar", "/a"]),
            ("/.git", Quirks { suffix: true, ..none }, vec![]),
            ("/a.b/c", Quirks { suffix: true, ..none }, vec![]),
            ("/a;x//b", Quirks { semicolon: true, double_slash: true, ..none }, vec!["/a//b", "/a;x/b", "/a/b"]),
            ("/a/b.c", none, vec![]),
        ] {
            assert_eq!(paths(path, quirks), Some(expect.into_iter().map(str::to_owned).collect()), "{path}");
        }
    }

    #[test]
    fn quirks_combine_in_any_order() {
        let quirks = Quirks { semicolon: true, encoded_slash: true, ..Quirks::default() };

        let mut all = paths("/a;x%2Fb", quirks).unwrap();
        all.sort();

        assert_eq!(all, ["/a", "/a/b", "/a;x/b"]);
    }

    #[test]
    fn a_reading_that_climbs_is_none() {
        let quirks = Quirks { semicolon: true, encoded_slash: true, ..Quirks::default() };
        for path in ["/a/..;/b", "/a/..%2Fb", "/a/.;x/b", "/a/..%3Bx"] {
            assert_eq!(paths(path, quirks), None, "{path}");
        }
    }

    #[test]
    fn a_reading_with_an_empty_segment_is_none_unless_declared() {
        let quirks = Quirks { semicolon: true, encoded_slash: true, ..Quirks::default() };
        for path in ["/;x/admin", "/%2Fadmin", "/a/%2Fb", "/a%2F/b", "/a/;/b"] {
            assert_eq!(paths(path, quirks), None, "{path}");
            assert!(paths(path, Quirks { double_slash: true, ..quirks }).is_some(), "{path}");
        }
    }

    #[test]
    fn too_many_readings_are_none() {
        let quirks = Quirks { suffix: true, ..Quirks::default() };

        assert_eq!(paths(&format!("/a{}", ".b".repeat(100)), quirks), None);
        assert!(paths(&format!("/a{}", ".b".repeat(10)), quirks).is_some());
    }
}
