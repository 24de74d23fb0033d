//! The query of an admin call: each parameter at most once, none unknown. A misspelt `subject` must not end everybody's
//! sessions, or list everybody's keys.

use percent_encoding::percent_decode_str;

use super::problem::Problem;

/// Name and value of each parameter, decoded, in their order. `known` is what there is, and `otherwise` says so.
pub(super) fn parameters<'a>(
    text: &'a str,
    known: &[&str],
    otherwise: &'static str,
) -> Result<Vec<(&'a str, String)>, Problem> {
    let mut found: Vec<(&str, String)> = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = value.replace('+', " ");
        let value = percent_decode_str(&value).decode_utf8();
        let value = value.map_err(|_| Problem::BadQuery("the query is not percent-encoded UTF-8"))?.into_owned();
        if !known.contains(&name) {
            return Err(Problem::BadQuery(otherwise));
        }
        if found.iter().any(|(earlier, _)| *earlier == name) {
            return Err(Problem::BadQuery("a parameter is there twice"));
        }
        found.push((name, value));
    }
    Ok(found)
}

/// A page's length.
pub(super) fn limit(value: &str) -> Result<usize, Problem> {
    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or(Problem::BadQuery("`limit` is a number from 1 to 1000"))
}

/// A page's length where none is asked for.
pub(super) const DEFAULT_LIMIT: usize = 100;

const MAX_LIMIT: usize = 1000;
