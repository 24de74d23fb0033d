//! Header fields as they came, of requests and of answers.

/// The value of a field that must not come more than once.
#[track_caller]
pub(crate) fn only<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    let all = all(fields, name);
    assert!(all.len() <= 1, "{name} came more than once: {all:?}");
    all.first().copied()
}

/// All values of a field, in order.
pub(crate) fn all<'f>(fields: &'f [(String, String)], name: &str) -> Vec<&'f str> {
    fields.iter().filter(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}
