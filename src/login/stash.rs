//! Forms that came after their session had run out, kept until the same person has logged in again in the same browser
//! and says by a click that they shall be sent.
//!
//! In: the head and body of a post that only its expired session kept out (so it was ours: R31 was checked before), and
//! whose that session was. Out: a page with the form's fields, and the way to where it was meant for.
//!
//! **It is the browser that sends the form again**, from hidden fields and over a redirect that keeps the method (307):
//! the second post is a request like any other, with its own route, credential and checks, and what comes of it stands
//! at its own address. The gateway makes no request by itself. A browser cannot send again what has files, another type
//! than form fields, or what it would encode differently; so only such forms are kept of which it is known that the
//! same bytes come again, and at the click the bytes are compared. All others are told that they were not sent.
//!
//! Invariants: one form for each session and browser; shown and sent only to the (realm, subject) of that session, in
//! the browser that holds the cookie; once; for [`RECENTLY`]; bounded in bytes each and in all, and a full stash keeps
//! nothing new. Neither header fields nor fields that look like passwords are kept. Bodies are wiped.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::{HeaderMap, Method, header, request::Parts};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::return_to::{ReturnTo, decode};
use crate::{
    clock::Timestamp,
    session::{BuildKeyHasher, Owner, RECENTLY, SessionKey, SessionToken, cookie},
};

/// Name of the cookie that ties a kept form to its browser. One of ours: cut out of `Cookie` (R14).
pub const STASH_COOKIE: &str = "__Host-portcullis-kept";

/// All kept forms; shared by all workers.
#[derive(Debug, Default)]
pub struct Stash {
    /// A plain lock, held for a few look-ups by requests that have to do with a kept form.
    state: Mutex<State>,
    /// How many forms were kept so far.
    kept: AtomicU64,
    /// How many of these were sent after all.
    sent: AtomicU64,
}

/// A form that a browser can send again byte by byte.
#[derive(Debug)]
pub struct Form {
    target: ReturnTo,
    body: Zeroizing<Vec<u8>>,
}

/// What a person sees of a kept form.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) target: ReturnTo,
    body: Zeroizing<Vec<u8>>,
}

/// What became of a form that somebody wants to send.
#[derive(Debug)]
pub(super) enum Taken {
    /// It goes there, and is kept no more.
    Sent(ReturnTo),
    /// What the browser sent is not what was kept; it stays.
    Altered,
    /// There is none, or none of this person's.
    Nothing,
}

#[derive(Debug, Default)]
struct State {
    /// By the hash of the browser's secret.
    forms: HashMap<SessionKey, Entry, BuildKeyHasher>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    session: SessionKey,
    owner: Owner,
    form: Form,
    until: Timestamp,
}

impl Stash {
    /// Nothing is kept yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps a form of a session that ran out, in the place of what was kept of the same session or browser. Answers
    /// with the secret for the browser, or `None` if there is no room.
    pub fn keep(
        &self,
        form: Form,
        session: SessionKey,
        owner: Owner,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Option<SessionToken> {
        let before = browser(headers).map(|secret| secret.key());
        let secret = SessionToken::generate();
        let entry = Entry { session, owner, form, until: now.plus(RECENTLY) };
        let mut state = self.lock();
        state.retain(|key, entry| entry.until > now && entry.session != session && Some(*key) != before);
        if state.forms.len() >= MAX_FORMS || entry.bytes() > MAX_BYTES - state.bytes {
            return None;
        }
        state.bytes += entry.bytes();
        state.forms.insert(secret.key(), entry);
        self.kept.fetch_add(1, Relaxed);
        Some(secret)
    }

    /// Forgets what is past its time. Called now and then.
    pub fn sweep(&self, now: Timestamp) {
        self.lock().retain(|_, entry| entry.until > now);
    }

    /// How many forms were kept, and how many of these were sent after all.
    pub fn counts(&self) -> (u64, u64) {
        (self.kept.load(Relaxed), self.sent.load(Relaxed))
    }

    /// Whether a form waits for this person in this browser.
    pub(super) fn waits(&self, headers: &HeaderMap, realm: &str, subject: &str, now: Timestamp) -> bool {
        browser(headers).is_some_and(|secret| self.lock().of(&secret, realm, subject, now).is_some())
    }

    /// The form that waits for this person in this browser.
    pub(super) fn show(&self, headers: &HeaderMap, realm: &str, subject: &str, now: Timestamp) -> Option<Shown> {
        let secret = browser(headers)?;
        let state = self.lock();
        let entry = state.of(&secret, realm, subject, now)?;
        Some(Shown { target: entry.form.target.clone(), body: entry.form.body.clone() })
    }

    /// Gives a form away, once, to whoever sends the very bytes that were kept.
    pub(super) fn take(
        &self,
        headers: &HeaderMap,
        (realm, subject): (&str, &str),
        body: &[u8],
        now: Timestamp,
    ) -> Taken {
        let Some(secret) = browser(headers) else {
            return Taken::Nothing;
        };
        let mut state = self.lock();
        match state.of(&secret, realm, subject, now) {
            None => return Taken::Nothing,
            Some(entry) if *entry.form.body != body => return Taken::Altered,
            Some(_) => {}
        }
        match state.remove(&secret.key()) {
            Some(entry) => {
                self.sent.fetch_add(1, Relaxed);
                Taken::Sent(entry.form.target)
            }
            None => Taken::Nothing,
        }
    }

    /// Forgets what waits for this person in this browser.
    pub(super) fn discard(&self, headers: &HeaderMap, realm: &str, subject: &str, now: Timestamp) {
        let Some(secret) = browser(headers) else { return };
        let mut state = self.lock();
        if state.of(&secret, realm, subject, now).is_some() {
            state.remove(&secret.key());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(&self, secret: &SessionToken, realm: &str, subject: &str, now: Timestamp) -> Option<&Entry> {
        let entry = self.forms.get(&secret.key())?;
        let is_theirs = *entry.owner.realm == *realm && *entry.owner.subject == *subject;
        (is_theirs && entry.until > now).then_some(entry)
    }

    fn remove(&mut self, key: &SessionKey) -> Option<Entry> {
        let entry = self.forms.remove(key)?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    fn retain(&mut self, keep: impl Fn(&SessionKey, &Entry) -> bool) {
        let bytes = &mut self.bytes;
        self.forms.retain(|key, entry| {
            let kept = keep(key, entry);
            if !kept {
                *bytes -= entry.bytes();
            }
            kept
        });
    }
}

impl Entry {
    /// What it counts against the bound.
    fn bytes(&self) -> usize {
        self.form.body.len() + self.form.target.as_str().len() + self.owner.subject.len() + ENTRY_BYTES
    }
}

/// Whether the body of this request is worth reading: a form of the plain kind, to an address that can be returned to,
/// and not known to be too large.
pub fn is_form(head: &Parts) -> bool {
    let mut types = head.headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (types.next(), types.next()) else {
        return false;
    };
    // Browsers add no parameter; another character set would come back as UTF-8.
    head.method == Method::POST
        && kind.as_bytes().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
        && !head.headers.contains_key(header::CONTENT_ENCODING)
        && target(head).is_some()
}

impl Form {
    /// Bytes of the largest body that is kept.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// Takes a form that a browser will send again as it is.
    pub fn new(head: &Parts, body: Zeroizing<Vec<u8>>) -> Option<Self> {
        if !is_form(head) || body.len() > Self::MAX_BYTES {
            return None;
        }
        let fields = fields(&body)?;
        let fits = fields.len() <= MAX_FIELDS && fields.iter().all(|(name, value)| can_be_hidden(name, value));
        (fits && encode(&fields).as_bytes() == &**body)
            .then(|| Self { target: target(head).unwrap_or(ReturnTo::ROOT), body })
    }
}

impl Shown {
    /// The fields, in their order.
    pub(super) fn fields(&self) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
        fields(&self.body).unwrap_or_default()
    }
}

fn target(head: &Parts) -> Option<ReturnTo> {
    ReturnTo::parse(head.uri.path_and_query()?.as_str())
}

fn browser(headers: &HeaderMap) -> Option<SessionToken> {
    match cookie::find(headers, STASH_COOKIE) {
        cookie::Presented::One(value) => SessionToken::parse(value),
        cookie::Presented::Absent | cookie::Presented::Several => None,
    }
}

fn fields(body: &[u8]) -> Option<Vec<(Cow<'_, str>, Cow<'_, str>)>> {
    let text = std::str::from_utf8(body).ok()?;
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').and_then(|(name, value)| Some((decode(name)?, decode(value)?)))).collect()
}

/// As browsers do (WHATWG URL, "application/x-www-form-urlencoded serializing").
fn encode(fields: &[(Cow<'_, str>, Cow<'_, str>)]) -> Zeroizing<String> {
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');
    let push = |text: &mut String, part: &str| {
        for (i, word) in part.split(' ').enumerate() {
            if i > 0 {
                text.push('+');
            }
            text.extend(utf8_percent_encode(word, ENCODED));
        }
    };
    let mut text = Zeroizing::new(String::new());
    for (i, (name, value)) in fields.iter().enumerate() {
        if i > 0 {
            text.push('&');
        }
        push(&mut text, name);
        text.push('=');
        push(&mut text, value);
    }
    text
}

/// Whether a hidden field gives back this very name and value, and may be kept at all. Line ends come back as CR LF
/// (WHATWG HTML, "constructing the entry list"); a field without a name is not sent, one named `_charset_` is changed.
fn can_be_hidden(name: &str, value: &str) -> bool {
    let plain = |text: &str| {
        let bare = text.replace("\r\n", "");
        !bare.contains(|c: char| c.is_control() && c != '\t')
    };
    !name.is_empty()
        && plain(name)
        && plain(value)
        && !["_charset_", "isindex"].iter().any(|special| name.eq_ignore_ascii_case(special))
        && !is_credential(name)
}

/// Whether a field's name says that its value is a credential: it is not kept, not even for a short time.
fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let anywhere = ["passw", "passphrase", "passcode", "pwd", "secret", "credential", "cvc", "cvv"];
    let words = ["pin", "otp", "totp", "tan", "kennwort"];
    anywhere.iter().any(|part| name.contains(part))
        || name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| words.contains(&word))
}

/// In all, with what it takes to hold them.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Even of forms without content.
const MAX_FORMS: usize = 16_384;

/// More than people fill in; each is an element of the page.
const MAX_FIELDS: usize = 1000;

/// What an entry takes beside its texts, roughly.
const ENTRY_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn head(target: &str, kind: &str) -> Parts {
        let request = http::Request::post(target).header(header::CONTENT_TYPE, kind);
        request.body(()).unwrap().into_parts().0
    }

    const FORM: &str = "application/x-www-form-urlencoded";

    fn form(body: &str) -> Option<Form> {
        Form::new(&head("/save?x=1", FORM), Zeroizing::new(body.as_bytes().to_vec()))
    }

    fn owner(subject: &str) -> Owner {
        Owner { realm: "staff".into(), subject: subject.into() }
    }

    fn with(secret: &SessionToken) -> HeaderMap {
        let pair = format!("{STASH_COOKIE}={}", secret.expose());
        HeaderMap::from_iter([(header::COOKIE, http::HeaderValue::try_from(pair).unwrap())])
    }

    fn keep(stash: &Stash, body: &str, session: u8, subject: &str) -> Option<SessionToken> {
        let key = SessionKey::parse(&format!("{session:02x}").repeat(32)).unwrap();
        stash.keep(form(body).unwrap(), key, owner(subject), &HeaderMap::new(), NOW)
    }

    #[test]
    fn only_what_a_browser_sends_again_byte_by_byte_is_kept() {
        for (body, expect) in [
            ("a=1&b=2", true),
            ("a=caf%C3%A9+au+lait&b=x%26y%3Dz%0D%0Asecond+line", true),
            ("a=*-._&%3C%22%3E=%27", true),
            ("a=&a=&a=", true),
            ("", true),
            ("a=%01%02", false),
            ("a=1&", false),
            ("&a=1", false),
            ("a", false),
            ("=1", false),
            ("a=b=c", false),
            ("a=b%20c", false),
            ("a=%c3%a9", false),
            ("a=~", false),
            ("a=\u{e9}", false),
            ("a=%E9", false),
            ("a=%0A", false),
            ("a=%0D", false),
            ("a=%00", false),
            ("_charset_=UTF-8", false),
            ("{\"a\":1}", false),
        ] {
            assert_eq!(form(body).is_some(), expect, "{body:?}");
        }
        assert!(form(&format!("a={}", "x".repeat(Form::MAX_BYTES - 2))).is_some());
        assert!(form(&format!("a={}", "x".repeat(Form::MAX_BYTES - 1))).is_none());
        assert!(form(&vec!["a=1"; MAX_FIELDS + 1].join("&")).is_none());
    }

    #[test]
    fn passwords_are_not_kept() {
        for (name, expect) in [
            ("password", false),
            ("new_Password_2", false),
            ("user%5Bpasswd%5D", false),
            ("client-secret", false),
            ("otp", false),
            ("card.pin", false),
            ("shopping", true),
            ("opinion", true),
            ("csrf_token", true),
        ] {
            assert_eq!(form(&format!("a=1&{name}=x")).is_some(), expect, "{name}");
        }
    }

    #[test]
    fn only_plain_forms_to_local_paths_are_kept() {
        for (target, kind, expect) in [
            ("/save", FORM, true),
            ("/save?a=b", "Application/X-WWW-Form-URLEncoded", true),
            ("/save", "application/x-www-form-urlencoded; charset=utf-8", false),
            ("/save", "multipart/form-data; boundary=x", false),
            ("/save", "application/json", false),
            ("/save", "text/plain", false),
            ("//evil.example", FORM, false),
        ] {
            assert_eq!(is_form(&head(target, kind)), expect, "{target} {kind}");
        }
    }

    #[test]
    fn a_form_waits_for_its_person_in_its_browser() {
        let stash = Stash::new();
        let secret = keep(&stash, "a=1", 1, "alice").unwrap();
        let other = keep(&stash, "a=2", 2, "bob").unwrap();

        assert_eq!(stash.show(&with(&secret), "staff", "alice", NOW).unwrap().target.as_str(), "/save?x=1");
        for (cookies, realm, subject) in [
            (with(&secret), "staff", "bob"),
            (with(&secret), "partners", "alice"),
            (with(&other), "staff", "alice"),
            (with(&SessionToken::generate()), "staff", "alice"),
            (HeaderMap::new(), "staff", "alice"),
        ] {
            assert!(stash.show(&cookies, realm, subject, NOW).is_none());
            assert!(!stash.waits(&cookies, realm, subject, NOW));
            stash.discard(&cookies, realm, subject, NOW);
            assert!(matches!(stash.take(&cookies, (realm, subject), b"a=1", NOW), Taken::Nothing));
        }
        assert!(stash.waits(&with(&secret), "staff", "alice", NOW), "nobody else could touch it");
    }

    #[test]
    fn a_form_is_sent_once_and_only_unaltered() {
        let stash = Stash::new();
        let cookies = with(&keep(&stash, "a=1", 1, "alice").unwrap());
        let take = |body: &[u8]| stash.take(&cookies, ("staff", "alice"), body, NOW);

        assert!(matches!(take(b"a=2"), Taken::Altered));
        assert!(matches!(take(b"a=1"), Taken::Sent(target) if target.as_str() == "/save?x=1"));
        assert!(matches!(take(b"a=1"), Taken::Nothing));
        assert_eq!(stash.counts(), (1, 1));
        assert_eq!(stash.lock().bytes, 0);
    }

    #[test]
    fn a_form_is_kept_for_a_quarter_of_an_hour() {
        let stash = Stash::new();
        let cookies = with(&keep(&stash, "a=1", 1, "alice").unwrap());

        assert!(stash.waits(&cookies, "staff", "alice", NOW.plus(RECENTLY).minus(std::time::Duration::from_millis(1))));
        assert!(!stash.waits(&cookies, "staff", "alice", NOW.plus(RECENTLY)));
        stash.sweep(NOW.plus(RECENTLY));
        let state = stash.lock();
        assert_eq!((state.forms.len(), state.bytes), (0, 0));
    }

    #[test]
    fn each_session_and_each_browser_has_one_form() {
        let stash = Stash::new();
        let first = keep(&stash, "a=1", 1, "alice").unwrap();
        let second = keep(&stash, "a=2", 1, "alice").unwrap();
        assert!(
            !stash.waits(&with(&first), "staff", "alice", NOW) && stash.waits(&with(&second), "staff", "alice", NOW)
        );

        let key = SessionKey::parse(&"09".repeat(32)).unwrap();
        stash.keep(form("a=3").unwrap(), key, owner("bob"), &with(&second), NOW).unwrap();
        assert_eq!(stash.lock().forms.len(), 1);
    }

    #[test]
    fn a_full_stash_keeps_nothing_new_and_loses_nothing() {
        let stash = Stash::new();
        let large = format!("a={}", "x".repeat(60_000));
        let kept = (0..=u8::MAX).filter_map(|i| keep(&stash, &large, i, "alice")).count();
        let more = (0..=u8::MAX).map(|i| SessionKey::parse(&format!("ab{i:02x}cdef").repeat(8)).unwrap());
        let kept = kept
            + more
                .filter(|key| stash.keep(form(&large).unwrap(), *key, owner("eve"), &HeaderMap::new(), NOW).is_some())
                .count();

        assert_eq!(kept, MAX_BYTES / (60_002 + "/save?x=1".len() + "alice".len() + ENTRY_BYTES));
        let state = stash.lock();
        assert!(state.bytes <= MAX_BYTES);
        assert!(state.forms.values().any(|entry| &*entry.owner.subject == "alice"));
    }

    proptest! {
        #[test]
        fn what_is_kept_comes_back_as_it_was(body in "([a-c]=[x+%0-9A-F]{0,6}&?){0,4}") {
            if let Some(kept) = form(&body) {
                let again = encode(&fields(&kept.body).unwrap());
                prop_assert_eq!(again.as_str(), body);
            }
        }
    }
}
