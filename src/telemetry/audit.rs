//! The audit log: who did what, to whom, from where, in which request, and why it was refused.
//!
//! In: an [`Event`] of labels and names. Out: one JSON object a line, whatever `log.format` says of the others.
//! Invariants: no secret is ever in an event, and a name that nobody has is not either, since passwords are typed
//! there by mistake; texts are escaped and cut (R34); telling never waits. Lines that could not be kept are counted,
//! and told of in the log itself.
//!
//! To tell of something new: a variant of [`What`], its word in [`What::label`], and where it happens
//! `audit.record(&Event { …, ..Event::new(What::…, origin) })`.

use std::{fmt, net::IpAddr, sync::Arc};

use super::{LogFormat, line::Line, log::Queue};
use crate::clock::Timestamp;

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What.
    pub what: What,
    /// When, from where, in which request.
    pub origin: Origin<'a>,
    /// Name of the admin token that asked for it; `None`: the subject did, or somebody unknown.
    pub admin: Option<&'a str>,
    /// What the subject means something in (R5).
    pub realm: Option<&'a str>,
    /// Whom it concerns.
    pub subject: Option<&'a str>,
    /// The session's key: it names a session and opens nothing.
    pub session: Option<&'a str>,
    /// Why it was refused: a fixed word.
    pub why: Option<&'static str>,
    /// What else is to be told of this kind of event.
    pub more: &'a [(&'static str, Value<'a>)],
}

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    /// A call of the admin API, with its status.
    AdminCall,
    /// Somebody has a second factor now.
    FactorEnrolled,
    /// A second factor was taken away.
    FactorReset,
    /// A session was opened by a login.
    Login,
    /// A login was refused: `why`.
    LoginFailed,
    /// A login was told to wait before its password was looked at.
    LoginThrottled,
    /// Somebody ended the session they presented.
    Logout,
    /// Audit lines were lost before this one: `count`.
    Lost,
    /// Somebody used one of their recovery codes: `left`.
    RecoveryCodeUsed,
    /// An administrator voided tokens, sessions or keys: `kind` says which.
    Revoked,
    /// An administrator made an API key: `id`, `name`.
    ApiKeyMade,
    /// The configuration was read again: what came of it.
    Reload,
    /// A password was hashed anew when it was typed: `file`.
    PasswordRehashed,
    /// An administrator opened a session.
    SessionCreated,
    /// A session ended to make room for another, `for_session`: `why` names the limit.
    SessionEvicted,
    /// A session ended because what opened it is gone or has changed: `why`.
    SessionVoided,
    /// A session goes on with what its source says of its owner now.
    SessionUpdated,
    /// An administrator, or their owner by one of them, ended sessions.
    SessionsEnded,
    /// An administrator opened sessions in bulk.
    SessionsImported,
    /// A program got an access token: `client_id`, `grant`.
    TokenIssued,
    /// A program exchanged its refresh token.
    TokenRefreshed,
    /// A program got no token: `why`.
    TokenRefused,
    /// A refresh token was shown that had been spent, which ended its family.
    TokenReused,
    /// A program gave its tokens back.
    TokenRevoked,
}

impl What {
    /// The word for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ApiKeyMade => "api_key.made",
            Self::AdminCall => "admin.call",
            Self::FactorEnrolled => "factor.enrolled",
            Self::FactorReset => "factor.reset",
            Self::Login => "login",
            Self::LoginFailed => "login.failed",
            Self::LoginThrottled => "login.throttled",
            Self::Logout => "logout",
            Self::Lost => "audit.lost",
            Self::RecoveryCodeUsed => "factor.recovery_code_used",
            Self::Revoked => "revoked",
            Self::Reload => "reload",
            Self::PasswordRehashed => "password.rehashed",
            Self::SessionCreated => "session.created",
            Self::SessionEvicted => "session.evicted",
            Self::SessionUpdated => "session.updated",
            Self::SessionVoided => "session.voided",
            Self::SessionsEnded => "sessions.ended",
            Self::SessionsImported => "sessions.imported",
            Self::TokenIssued => "token.issued",
            Self::TokenRefreshed => "token.refreshed",
            Self::TokenRefused => "token.refused",
            Self::TokenReused => "token.reused",
            Self::TokenRevoked => "token.revoked",
        }
    }
}

/// When, from where, and in which request something happened.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// When.
    pub now: Timestamp,
    /// Who was at the other end.
    pub client: Client,
    /// The request's name in the access log; empty where there is none.
    pub request_id: &'a str,
}

impl Origin<'static> {
    /// The gateway itself, asked by nobody.
    pub const fn gateway(now: Timestamp) -> Self {
        Self { now, client: Client::Gateway, request_id: "" }
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Client {
    /// A client, as the gateway sees it (R15).
    Address(IpAddr),
    /// Nobody: the gateway does it by itself.
    Gateway,
    /// A process of this machine.
    Unix,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Gateway => f.write_str("gateway"),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl<'a> Event<'a> {
    /// So far without anybody; the rest is filled in by `..`.
    pub const fn new(what: What, origin: Origin<'a>) -> Self {
        Self { what, origin, admin: None, realm: None, subject: None, session: None, why: None, more: &[] }
    }

    fn line(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(384);
        let mut line = Line::begin(&mut bytes, LogFormat::Json);
        line.plain("time", &humantime::format_rfc3339_millis(self.origin.now.to_system_time()).to_string());
        line.plain("log", "audit");
        line.plain("event", self.what.label());
        let texts = [
            ("admin", self.admin),
            ("realm", self.realm),
            ("subject", self.subject),
            ("session", self.session),
            ("why", self.why),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                line.text_up_to(MAX_TEXT, key, text.as_bytes());
            }
        }
        line.display("client", &self.origin.client);
        if !self.origin.request_id.is_empty() {
            line.text_up_to(MAX_TEXT, "request_id", self.origin.request_id.as_bytes());
        }
        for (key, value) in self.more {
            match value {
                Value::Flag(flag) => line.flag(key, *flag),
                Value::Number(number) => line.number(key, *number),
                Value::Text(text) => line.text_up_to(MAX_TEXT, key, text.as_bytes()),
            }
        }
        line.end();
        bytes
    }
}

/// A value of an audit line.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Yes or no.
    Flag(bool),
    /// A count.
    Number(u64),
    /// Any text; it is escaped and cut.
    Text(&'a str),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Value<'_> {
    fn from(number: usize) -> Self {
        Self::Number(u64::try_from(number).unwrap_or(u64::MAX))
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// Where events are told. Cheap to clone, usable from every thread.
#[derive(Clone, Debug)]
pub struct Audit {
    /// `None`: `log.audit = "off"`.
    queue: Option<Arc<Queue>>,
}

impl Audit {
    /// One that keeps nothing.
    pub const fn off() -> Self {
        Self { queue: None }
    }

    pub(super) const fn to(queue: Arc<Queue>) -> Self {
        Self { queue: Some(queue) }
    }

    pub(super) const fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Tells of an event. Never waits: where too much waits for a slow sink already, the line is counted as lost.
    pub fn record(&self, event: &Event<'_>) {
        if let Some(queue) = &self.queue {
            queue.push_audit(event.origin.now, event.line());
        }
    }
}

/// The line that says how many are missing.
pub(super) fn lost(count: u64, last: Timestamp) -> Vec<u8> {
    let more = [("count", Value::Number(count))];
    Event { more: &more, ..Event::new(What::Lost, Origin::gateway(last)) }.line()
}

/// Bytes of one text. Names are shorter; more would be somebody's attempt to fill the log.
const MAX_TEXT: usize = 256;

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;
    use crate::telemetry::{LogSettings, LogSink, Telemetry};

    const ORIGIN: Origin<'static> = Origin {
        now: Timestamp::from_unix_millis(1_893_499_200_123),
        client: Client::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))),
        request_id: "0123abcd",
    };

    fn read(event: &Event<'_>) -> serde_json::Value {
        let bytes = event.line();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn a_line_tells_who_from_where_what_and_why() {
        let event = Event {
            realm: Some("staff"),
            subject: Some("id-of-alice"),
            why: Some("wrong_password"),
            more: &[
                ("provider", Value::Text("local")),
                ("dropped_grants", Value::Number(2)),
                ("new", Value::Flag(true)),
            ],
            ..Event::new(What::LoginFailed, ORIGIN)
        };

        let expect = serde_json::json!({
            "time": "2030-01-01T12:00:00.123Z", "log": "audit", "event": "login.failed", "realm": "staff",
            "subject": "id-of-alice", "why": "wrong_password", "client": "192.0.2.7", "request_id": "0123abcd",
            "provider": "local", "dropped_grants": 2, "new": true,
        });
        assert_eq!(read(&event), expect);
    }

    #[test]
    fn whatever_a_name_holds_it_is_one_line_of_printable_ascii() {
        let name = "eve\r\n{\"event\":\"login\"}\u{1b}[2J\u{202e}é";
        let event = Event { subject: Some(name), ..Event::new(What::Logout, ORIGIN) };

        assert!(event.line().iter().all(|byte| matches!(byte, 0x20..=0x7e | b'\n')));
        assert_eq!(read(&event)["subject"], name);
        assert_eq!(read(&event)["event"], "logout");
    }

    #[test]
    fn a_long_name_is_cut() {
        let name = "a".repeat(10_000);
        let event = Event { subject: Some(&name), ..Event::new(What::Logout, ORIGIN) };

        assert_eq!(read(&event)["subject"].as_str().unwrap().len(), MAX_TEXT + "...".len());
    }

    #[test]
    fn it_is_json_beside_an_access_log_for_people_and_can_be_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        for (sink, lines) in [(LogSink::Off, 0), (LogSink::File(path.clone()), 1)] {
            let on = sink != LogSink::Off;
            let settings =
                LogSettings { format: LogFormat::Text, access: LogSink::Off, audit: sink, ..LogSettings::default() };
            let telemetry = Telemetry::start(&settings, ORIGIN.now).unwrap();
            assert_eq!(telemetry.audit().is_on(), on);

            telemetry.audit().record(&Event::new(What::Login, ORIGIN));
            assert!(telemetry.finish(Duration::from_secs(10)));

            let text = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(text.lines().count(), lines);
            assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
        }
    }
}
