//! What the audit log hears of logins and logouts.
//!
//! Who failed is told only where the name is somebody's: in place of an unknown name people type passwords.

use super::{Context, Provider};
use crate::{
    accounts::User,
    session::Session,
    telemetry::audit::{Event, Value, What},
};

impl Context<'_> {
    /// Somebody has a new session.
    pub(super) fn tell_login(&self, provider: &Provider, session: &Session, dropped_grants: usize) {
        let more = [
            ("provider", Value::from(&*provider.name)),
            ("factor", session.identity().factor().count().into()),
            ("dropped_grants", dropped_grants.into()),
        ];
        self.tell_session(What::Login, session, &more);
    }

    /// Somebody ended their session.
    pub(super) fn tell_logout(&self, session: &Session) {
        self.tell_session(What::Logout, session, &[]);
    }

    /// Somebody ended sessions of their own, by one of them.
    pub(super) fn tell_own_sessions_ended(&self, by: &Session, ended: usize) {
        self.tell_session(What::SessionsEnded, by, &[("ended", ended.into())]);
    }

    /// Somebody, known or not, was kept out.
    pub(super) fn tell_kept_out(&self, what: What, why: &'static str, provider: &Provider, user: Option<&User>) {
        let event = Event {
            realm: user.map(|_| &*provider.realm),
            subject: user.map(|user| &*user.id),
            why: Some(why),
            more: &[("provider", Value::from(&*provider.name))],
            ..Event::new(what, self.origin)
        };
        self.audit.record(&event);
    }

    /// Something happened to somebody's second factor.
    pub(super) fn tell_factor(&self, what: What, provider: &Provider, user: &User, more: &[(&'static str, Value<'_>)]) {
        let (realm, subject) = (Some(&*provider.realm), Some(&*user.id));
        self.audit.record(&Event { realm, subject, more, ..Event::new(what, self.origin) });
    }

    /// A login form did not come from a page of ours in this browser.
    pub(super) fn tell_form_refused(&self) {
        self.audit.record(&Event { why: Some("form_token"), ..Event::new(What::LoginFailed, self.origin) });
    }

    fn tell_session(&self, what: What, session: &Session, more: &[(&'static str, Value<'_>)]) {
        let key = session.key().to_string();
        let event = Event {
            realm: Some(session.identity().realm()),
            subject: Some(session.identity().subject()),
            session: Some(&key),
            more,
            ..Event::new(what, self.origin)
        };
        self.audit.record(&event);
    }
}
