//! Who the caller is, as an authenticator proved it.
//!
//! An identity's texts are kept in the form in which they travel (RULES R13: percent-encoded header values, lists
//! joined by commas, all slices of one allocation); the decoded form is kept only where it differs. Cloning a
//! prepared header value is a reference count.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::clock::Timestamp;

/// How a caller proved who they are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Via {
    /// An API key.
    ApiKey,
    /// A bearer token, verified locally under this issuer's configured name.
    Jwt(Arc<str>),
    /// The certificate of the connection.
    Mtls,
    /// A session cookie.
    Session,
}

impl Via {
    /// `api_key`, `jwt`, `mtls` or `session`: the value of `X-User-Auth`, and the word in logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Jwt(_) => "jwt",
            Self::Mtls => "mtls",
            Self::Session => "session",
        }
    }

    const fn header(&self) -> &'static HeaderValue {
        static API_KEY: HeaderValue = HeaderValue::from_static("api_key");
        static JWT: HeaderValue = HeaderValue::from_static("jwt");
        static MTLS: HeaderValue = HeaderValue::from_static("mtls");
        static SESSION: HeaderValue = HeaderValue::from_static("session");
        match self {
            Self::ApiKey => &API_KEY,
            Self::Jwt(_) => &JWT,
            Self::Mtls => &MTLS,
            Self::Session => &SESSION,
        }
    }
}

/// How many independent proofs a login took: what somebody knows, and what somebody has.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Factor {
    /// One, or it is not known.
    #[default]
    One,
    /// A password and a code, or what the source vouches for as much.
    Two,
}

impl Factor {
    /// The Authentication Context Class and Authentication Method Reference of two factors, in tokens and challenges
    /// (RFC 8176 section 2, RFC 9470).
    pub const TWO_NAME: &str = "mfa";

    /// From a written count.
    pub const fn from_count(count: u64) -> Option<Self> {
        match count {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            _ => None,
        }
    }

    /// 1 or 2.
    pub const fn count(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// What an authenticator or the login knows about a caller, before it becomes an [`Identity`], which has copies of its
/// texts in any case.
#[derive(Clone, Debug)]
pub struct IdentityParts<T = String> {
    /// The source of authority that `subject` and `roles` mean something in (R5).
    pub realm: Arc<str>,
    /// Stable identifier within the realm: 1 to 255 bytes, no control bytes (R13).
    pub subject: T,
    /// Display name.
    pub name: Option<T>,
    /// Email address.
    pub email: Option<T>,
    /// Whether the source vouches for the email (R6).
    pub email_verified: bool,
    /// Roles, in the source's order.
    pub roles: Vec<T>,
    /// Groups, in the source's order.
    pub groups: Vec<T>,
    /// OAuth scopes.
    pub scopes: Vec<T>,
    /// The other claims, for `claim:` rules and `identity.extra`.
    pub claims: Map<String, Value>,
    /// When the person last proved who they are (`auth_time`), if the source says so.
    pub auth_time: Option<Timestamp>,
    /// How many factors that took.
    pub factor: Factor,
    /// How this caller was authenticated.
    pub via: Via,
}

/// Why a set of claims is no identity; the credential is then invalid (R13).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IdentityError {
    /// The subject is empty.
    EmptySubject,
    /// The subject has more than 255 bytes.
    LongSubject,
    /// The subject holds a control byte.
    ControlInSubject,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptySubject => "the subject is missing or empty",
            Self::LongSubject => "the subject has more than 255 bytes",
            Self::ControlInSubject => "the subject holds a control character",
        })
    }
}

/// What opened a session, so that it can follow a change of that (R29).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// An `[[admin.token]]`.
    Admin {
        /// Its name.
        token: Arc<str>,
    },
    /// A login of a local user.
    User {
        /// Name of the provider.
        provider: Arc<str>,
        /// Names the password, and tells nothing of it.
        proof: [u8; 16],
    },
}

/// A caller. Immutable but for the slot with prepared extra headers.
#[derive(Debug)]
pub struct Identity {
    /// Of this identity alone, in the life of the process; never 0.
    serial: u64,
    realm: Arc<str>,
    subject: Text,
    name: Option<Text>,
    email: Option<Text>,
    roles: Option<List>,
    groups: Option<List>,
    scopes: Option<List>,
    claims: Option<Box<Claims>>,
    /// [`UNKNOWN`] if the source does not say: an `Option` would take as much again, in each of a million sessions.
    auth_time: Timestamp,
    factor: Factor,
    via: Via,
    email_verified: bool,
    source: Option<Box<Source>>,
    extra: ArcSwapOption<ExtraHeaders>,
}

/// Values of `identity.extra`, made once under one generation of the settings (R13).
#[derive(Debug)]
pub struct ExtraHeaders {
    /// The settings' generation; another generation makes its own.
    pub generation: u64,
    /// One value for each configured extra header, in the order of the settings; `None` is an absent claim.
    pub values: Box<[Option<HeaderValue>]>,
}

/// Claims beside those that are fields of their own. Few routes ask for one, so what is known as text is made into a map
/// for the first that does, and is no text any more.
#[derive(Debug)]
pub struct Claims {
    map: OnceLock<Map<String, Value>>,
    json: Mutex<Box<str>>,
}

/// One text: the header value, and the plain form if encoding changed it.
#[derive(Debug)]
struct Text {
    value: HeaderValue,
    plain: Option<Box<str>>,
}

/// A list: the joined header value, and the plain items if encoding changed one.
#[derive(Debug)]
struct List {
    value: HeaderValue,
    plain: Option<Box<[Box<str>]>>,
}

impl Identity {
    /// Checks the subject and prepares every header value once.
    ///
    /// # Errors
    /// [`IdentityError`] when the subject is unfit. Empty names, emails and list items are dropped.
    pub fn new(parts: IdentityParts) -> Result<Self, IdentityError> {
        Self::of_texts(parts)
    }

    /// As [`Identity::new`], of texts that stay where they are.
    ///
    /// # Errors
    /// [`IdentityError`] when the subject is unfit.
    pub fn of_texts<T: AsRef<str>>(parts: IdentityParts<T>) -> Result<Self, IdentityError> {
        let subject = parts.subject.as_ref();
        if subject.is_empty() {
            return Err(IdentityError::EmptySubject);
        }
        if subject.len() > 255 {
            return Err(IdentityError::LongSubject);
        }
        let controls = subject.bytes().fold(false, |found, byte| found | byte.is_ascii_control());
        if controls || (!subject.is_ascii() && subject.chars().any(char::is_control)) {
            return Err(IdentityError::ControlInSubject);
        }
        let mut packer = Packer::with_room_for(&parts);
        let subject = packer.text(subject);
        let mut optional = |text: Option<&T>| {
            text.map(AsRef::as_ref).filter(|text: &&str| !text.is_empty()).map(|text| packer.text(text))
        };
        let (name, email) = (optional(parts.name.as_ref()), optional(parts.email.as_ref()));
        let roles = packer.list(&parts.roles);
        let groups = packer.list(&parts.groups);
        let scopes = packer.list(&parts.scopes);
        let packed = packer.buffer.freeze();
        let text = |(range, plain): PackedText| Text { value: slice(&packed, range), plain };
        let list = |(range, plain): PackedList| List { value: slice(&packed, range), plain };
        Ok(Self {
            serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed),
            realm: parts.realm,
            subject: text(subject),
            name: name.map(text),
            email: email.map(text),
            roles: roles.map(list),
            groups: groups.map(list),
            scopes: scopes.map(list),
            claims: (!parts.claims.is_empty()).then(|| Box::new(parts.claims.into())),
            auth_time: parts.auth_time.unwrap_or(UNKNOWN),
            factor: parts.factor,
            via: parts.via,
            email_verified: parts.email_verified,
            source: None,
            extra: ArcSwapOption::empty(),
        })
    }

    /// A number that no other identity has, however alike they are; for what is made of one and kept elsewhere.
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// The same, opened by this.
    pub fn with_source(self, source: Option<Source>) -> Self {
        Self { source: source.map(Box::new), ..self }
    }

    /// The same with these other claims.
    pub fn with_claims(self, claims: impl Into<Claims>) -> Self {
        Self { claims: Some(Box::new(claims.into())), ..self }
    }

    /// What opened the session that it belongs to; `None`: not known, or no session.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_deref()
    }

    /// The source of authority (R5).
    pub const fn realm(&self) -> &Arc<str> {
        &self.realm
    }

    /// Stable identifier within the realm.
    pub fn subject(&self) -> &str {
        self.subject.plain()
    }

    /// Display name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_ref().map(Text::plain)
    }

    /// Email address, verified or not.
    pub fn email(&self) -> Option<&str> {
        self.email.as_ref().map(Text::plain)
    }

    /// Whether the source vouches for the email (R6).
    pub const fn email_verified(&self) -> bool {
        self.email_verified
    }

    /// Whether it says the same of the same subject, as far as its factors, roles, groups and scopes go.
    pub fn stands_for_the_same(&self, other: &Self) -> bool {
        *self.realm() == *other.realm()
            && self.subject() == other.subject()
            && self.factor() == other.factor()
            && self.roles().eq(other.roles())
            && self.groups().eq(other.groups())
            && self.scopes().eq(other.scopes())
    }

    /// Roles.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        List::items(self.roles.as_ref())
    }

    /// Groups.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        List::items(self.groups.as_ref())
    }

    /// OAuth scopes.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        List::items(self.scopes.as_ref())
    }

    /// The other claims.
    pub fn claims(&self) -> Option<&Map<String, Value>> {
        self.claims.as_deref().map(Claims::map)
    }

    /// When the person last proved who they are.
    pub fn auth_time(&self) -> Option<Timestamp> {
        (self.auth_time != UNKNOWN).then_some(self.auth_time)
    }

    /// How many factors that took.
    pub const fn factor(&self) -> Factor {
        self.factor
    }

    /// How the caller was authenticated.
    pub const fn via(&self) -> &Via {
        &self.via
    }

    /// The prepared header value of a field; `None` is an absent header (R12).
    pub fn header(&self, field: Field) -> Option<&HeaderValue> {
        match field {
            Field::Auth => Some(self.via.header()),
            Field::Email => self.email.as_ref().map(|t| &t.value),
            Field::Groups => self.groups.as_ref().map(|l| &l.value),
            Field::Id => Some(&self.subject.value),
            Field::Name => self.name.as_ref().map(|t| &t.value),
            Field::Roles => self.roles.as_ref().map(|l| &l.value),
            Field::Scopes => self.scopes.as_ref().map(|l| &l.value),
        }
    }

    /// The slot for the values of `identity.extra`; filled by `headers::identity`.
    pub const fn extra(&self) -> &ArcSwapOption<ExtraHeaders> {
        &self.extra
    }

    /// A copy with everything that can be told about the caller, for making a changed identity.
    pub fn to_parts(&self) -> IdentityParts {
        let owned = |items: &mut dyn Iterator<Item = &str>| items.map(str::to_owned).collect();
        IdentityParts {
            realm: Arc::clone(&self.realm),
            subject: self.subject().to_owned(),
            name: self.name().map(str::to_owned),
            email: self.email().map(str::to_owned),
            email_verified: self.email_verified,
            roles: owned(&mut self.roles()),
            groups: owned(&mut self.groups()),
            scopes: owned(&mut self.scopes()),
            claims: self.claims().cloned().unwrap_or_default(),
            auth_time: self.auth_time(),
            factor: self.factor,
            via: self.via.clone(),
        }
    }
}

/// The fields of an identity that a header can carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Field {
    /// How the caller was authenticated.
    Auth,
    /// Email address.
    Email,
    /// Groups, joined by commas.
    Groups,
    /// The subject.
    Id,
    /// Display name.
    Name,
    /// Roles, joined by commas.
    Roles,
    /// Scopes, joined by commas.
    Scopes,
}

/// Percent-encodes a single value for a header: `%`, control and non-ASCII bytes (R13).
pub fn encode_text(text: &str) -> Cow<'_, str> {
    encode(text, |b| (b == b'%') | !(0x20..0x7f).contains(&b))
}

/// Percent-encodes one item of a list: also `,`, `;` and space (R13).
pub fn encode_item(text: &str) -> Cow<'_, str> {
    encode(text, |b| (b == b'%') | (b == b',') | (b == b';') | !(0x21..0x7f).contains(&b))
}

/// What a backend does to read a value back: undoes [`encode_text`] and [`encode_item`].
pub fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn encode(text: &str, special: impl Fn(u8) -> bool) -> Cow<'_, str> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    // A value that begins or ends with a space would be trimmed on the way (RFC 9110 section 5.5).
    let edge = |i: usize, b: u8| b == b' ' && (i == 0 || i + 1 == text.len());
    let at_the_edge = text.starts_with(' ') || text.ends_with(' ');
    // All of them: many at a time are looked at faster than up to the first one.
    if !text.bytes().fold(at_the_edge, |found, b| found | special(b)) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 8);
    for (i, b) in text.bytes().enumerate() {
        if special(b) || edge(i, b) {
            encoded.push('%');
            encoded.push(char::from(DIGITS[usize::from(b >> 4)]));
            encoded.push(char::from(DIGITS[usize::from(b & 15)]));
        } else {
            encoded.push(char::from(b));
        }
    }
    Cow::Owned(encoded)
}

impl From<Map<String, Value>> for Claims {
    fn from(map: Map<String, Value>) -> Self {
        Self { map: map.into(), json: Mutex::default() }
    }
}

impl From<Box<str>> for Claims {
    /// From the text of one JSON object, which was read before.
    fn from(json: Box<str>) -> Self {
        Self { map: OnceLock::new(), json: json.into() }
    }
}

impl Claims {
    fn map(&self) -> &Map<String, Value> {
        self.map.get_or_init(|| {
            let json = std::mem::take(&mut *self.json.lock().unwrap_or_else(PoisonError::into_inner));
            // It was read before, so it is an object; of what is none, no rule would be met.
            serde_json::from_str(&json).unwrap_or_default()
        })
    }
}

impl Text {
    fn plain(&self) -> &str {
        self.plain.as_deref().unwrap_or_else(|| self.value.to_str().unwrap_or_default())
    }
}

impl List {
    fn items(list: Option<&Self>) -> impl Iterator<Item = &str> {
        let plain = list.and_then(|l| l.plain.as_deref());
        let joined = match (list, plain) {
            (Some(list), None) => list.value.to_str().ok(),
            _ => None,
        };
        let encoded = joined.into_iter().flat_map(|text| text.split(','));
        encoded.chain(plain.into_iter().flatten().map(|item| &**item))
    }
}

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

/// No login is as late as that.
const UNKNOWN: Timestamp = Timestamp::MAX;

type PackedText = (std::ops::Range<usize>, Option<Box<str>>);
type PackedList = (std::ops::Range<usize>, Option<Box<[Box<str>]>>);

/// Writes all values of one identity into one buffer.
struct Packer {
    buffer: BytesMut,
}

impl Packer {
    /// Exactly enough, unless something has to be encoded: a million identities stay in memory.
    fn with_room_for<T: AsRef<str>>(parts: &IdentityParts<T>) -> Self {
        let texts = [Some(&parts.subject), parts.name.as_ref(), parts.email.as_ref()].into_iter().flatten();
        let lists = [&parts.roles, &parts.groups, &parts.scopes].into_iter();
        let len = |text: &T| text.as_ref().len();
        let joined = |items: &Vec<T>| (items.iter().map(|item| len(item) + 1).sum::<usize>()).saturating_sub(1);
        Self { buffer: BytesMut::with_capacity(texts.map(len).chain(lists.map(joined)).sum()) }
    }

    fn text(&mut self, text: &str) -> PackedText {
        let start = self.buffer.len();
        let encoded = encode_text(text);
        self.buffer.extend_from_slice(encoded.as_bytes());
        let plain = matches!(encoded, Cow::Owned(_)).then(|| text.into());
        (start..self.buffer.len(), plain)
    }

    fn list(&mut self, items: &[impl AsRef<str>]) -> Option<PackedList> {
        let start = self.buffer.len();
        let mut changed = false;
        let items = items.iter().map(AsRef::as_ref).filter(|item: &&str| !item.is_empty());
        for item in items.clone() {
            if self.buffer.len() > start {
                self.buffer.extend_from_slice(b",");
            }
            let encoded = encode_item(item);
            changed |= matches!(encoded, Cow::Owned(_));
            self.buffer.extend_from_slice(encoded.as_bytes());
        }
        let plain = || items.map(Into::into).collect();
        (self.buffer.len() > start).then(|| (start..self.buffer.len(), changed.then(plain)))
    }
}

fn slice(packed: &Bytes, range: std::ops::Range<usize>) -> HeaderValue {
    // Everything in the buffer went through `encode`, which leaves only visible ASCII and inner spaces.
    HeaderValue::from_maybe_shared(packed.slice(range)).unwrap_or_else(|_| HeaderValue::from_static(""))
}
