//! The `Date` of answers over HTTP/2 (RFC 9110 section 6.6.1), spelled once a second.
//!
//! In: an answer's fields and the time. Out: the fields with a `Date`, the upstream's own where it has said one. It is
//! different in each answer, and so kept out of HPACK's table (RFC 7541 section 6.2.3).

use std::cell::RefCell;

use http::{HeaderMap, HeaderValue, header};

use crate::clock::Timestamp;

/// The `Date` of answers (RFC 9110 section 6.6.1), spelled once a second.
#[derive(Debug, Default)]
pub(crate) struct Date(RefCell<Option<(u64, HeaderValue)>>);

impl Date {
    /// Says when it was answered, unless the upstream has said so.
    pub(super) fn add_to(&self, headers: &mut HeaderMap, now: impl FnOnce() -> Timestamp) {
        let value = headers.entry(header::DATE).or_insert_with(|| self.at(now()));
        // h2 looks for a value among those that a field has had from the oldest on, and keeps a minute's seconds.
        value.set_sensitive(true);
    }

    fn at(&self, now: Timestamp) -> HeaderValue {
        let second = now.unix_seconds();
        let mut spelled = self.0.borrow_mut();
        match &*spelled {
            Some((of, value)) if *of == second => value.clone(),
            Some(_) | None => {
                let text = httpdate::fmt_http_date(now.to_system_time());
                // A date has no byte that a field may not have.
                let value = HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static(""));
                *spelled = Some((second, value.clone()));
                value
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date_of(date: &Date, headers: &mut HeaderMap, seconds: u64) -> String {
        date.add_to(headers, || Timestamp::from_unix_seconds(seconds));
        assert_eq!(headers.get_all(header::DATE).iter().count(), 1);
        headers[header::DATE].to_str().unwrap().to_owned()
    }

    #[test]
    fn an_answer_says_when_it_was_made() {
        let date = Date::default();
        for (seconds, text) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_778, "Sun, 06 Nov 1994 08:49:38 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            assert_eq!(date_of(&date, &mut HeaderMap::new(), seconds), text);
        }
    }

    #[test]
    fn an_upstreams_date_stays() {
        let mut headers = HeaderMap::new();
        headers.insert(header::DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));

        assert_eq!(date_of(&Date::default(), &mut headers, 1), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(headers[header::DATE].is_sensitive());
    }
}
