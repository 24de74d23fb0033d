//! What a person would call the device that a `User-Agent` describes: "Firefox on Windows".
//!
//! In: whatever a client sent. Out: a few words, mostly our own, at most [`MAX_BYTES`] of printable ASCII. A client can
//! call itself what it likes, so this helps people to tell their sessions apart and decides nothing.

use http::{HeaderMap, header::USER_AGENT};

/// Bytes of a device's name.
pub(super) const MAX_BYTES: usize = 48;

/// The name of the device that sent these headers.
pub(super) fn device(headers: &HeaderMap) -> Box<str> {
    let mut sent = headers.get_all(USER_AGENT).iter();
    let (Some(text), None) = (sent.next(), sent.next()) else { return UNKNOWN.into() };
    of(text.as_bytes())
}

/// What a name says: it is kept in English, and told in the reader's language.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Device<'a> {
    /// A browser and what it runs on.
    BrowserOn(&'a str, &'a str),
    /// What it calls itself, or a browser.
    Named(&'a str),
    /// Some browser on a system that is known.
    SomeBrowserOn(&'a str),
    /// Nothing.
    Unknown,
}

impl<'a> Device<'a> {
    /// Reads what [`device`] wrote.
    pub(super) fn of(name: &'a str) -> Self {
        if name == UNKNOWN {
            return Self::Unknown;
        }
        match (name.strip_prefix(SOME_BROWSER_ON), name.split_once(" on ")) {
            (Some(system), _) => Self::SomeBrowserOn(system),
            (None, Some((browser, system))) => Self::BrowserOn(browser, system),
            (None, None) => Self::Named(name),
        }
    }
}

fn of(text: &[u8]) -> Box<str> {
    // What is worth reading stands far before this.
    let text = text.get(..MAX_READ).unwrap_or(text);
    let first = |table: &[(&str, &'static str)]| {
        table.iter().find(|(word, _)| memchr::memmem::find(text, word.as_bytes()).is_some()).map(|(_, name)| *name)
    };
    match (first(BROWSERS), first(SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}").into(),
        (Some(browser), None) => browser.into(),
        (None, Some(system)) => format!("{SOME_BROWSER_ON}{system}").into(),
        (None, None) => product(text),
    }
}

/// The first product token (RFC 9110 section 10.1.5) of a program that is no browser: `curl/8.5.0` is curl.
fn product(text: &[u8]) -> Box<str> {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let name: String = text.iter().take_while(|byte| token(byte)).take(MAX_BYTES).copied().map(char::from).collect();
    if name.is_empty() { UNKNOWN.into() } else { name.into() }
}

const UNKNOWN: &str = "Unknown device";
const SOME_BROWSER_ON: &str = "A browser on ";

const MAX_READ: usize = 512;

/// In the order in which they count: nearly every browser says that it is some others, too.
const BROWSERS: &[(&str, &str)] = &[
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("OPR/", "Opera"),
    ("OPX/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Vivaldi/", "Vivaldi"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("Version/", "Safari"),
    ("Safari/", "Safari"),
];

const SYSTEMS: &[(&str, &str)] = &[
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Macintosh", "macOS"),
    ("Linux", "Linux"),
    ("FreeBSD", "FreeBSD"),
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_device_is_called_what_people_call_it() {
        for (sent, expected) in [
            ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0", "Firefox on Windows"),
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
                "Chrome on Linux",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 \
                 Safari/537.36 Edg/142.0.0.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 \
                 Safari/605.1.15",
                "Safari on macOS",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                 Version/18.1 Mobile/15E148 Safari/604.1",
                "Safari on iPhone",
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/142.0 \
                 Mobile/15E148 Safari/604.1",
                "Chrome on iPad",
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; SM-S911B) AppleWebKit/537.36 (KHTML, like Gecko) \
                 SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
                "Samsung Internet on Android",
            ),
            ("Mozilla/5.0 (Linux; Android 15) Gecko/145.0 Firefox/145.0", "Firefox on Android"),
            ("Mozilla/5.0 (Windows NT 10.0) SomethingNew/1.0", "A browser on Windows"),
            ("curl/8.5.0", "curl"),
            ("python-requests/2.32", "python-requests"),
            ("", "Unknown device"),
            ("<script>alert(1)</script>", "Unknown device"),
        ] {
            assert_eq!(&*of(sent.as_bytes()), expected, "{sent}");
        }
        assert_eq!(&*device(&HeaderMap::new()), "Unknown device");
        let mut two = HeaderMap::new();
        two.append(USER_AGENT, HeaderValue::from_static("curl/8"));
        assert_eq!(&*device(&two), "curl");
        two.append(USER_AGENT, HeaderValue::from_static("Firefox/1"));
        assert_eq!(&*device(&two), "Unknown device");
    }

    #[test]
    fn a_name_is_read_as_it_was_written() {
        for (sent, expected) in [
            ("X11; Linux Firefox/145.0", Device::BrowserOn("Firefox", "Linux")),
            ("Windows SomethingNew/1.0", Device::SomeBrowserOn("Windows")),
            ("curl/8.5.0", Device::Named("curl")),
            ("Firefox/1", Device::Named("Firefox")),
            ("", Device::Unknown),
        ] {
            assert_eq!(Device::of(&of(sent.as_bytes())), expected, "{sent}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_the_name_is_short_and_plain(sent in prop::collection::vec(any::<u8>(), 0..2000)) {
            let name = of(&sent);

            prop_assert!(!name.is_empty() && name.len() <= MAX_BYTES, "{name}");
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" -_.".contains(&byte)), "{name}");
        }
    }
}
