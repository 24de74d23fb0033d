//! The shared connections to one server: which of them takes a request, and who makes the next one.
//!
//! In: a request that needs a place. Out: a [`Seat`], or the right to make a connection, or the [`Flight`] of somebody
//! who is making one. Invariant: at most one connection is being made at a time, so that many requests at once do not
//! become many connections. Whoever gives up making one leaves the right to whoever waits.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::sync::Notify;

use super::session::{Seat, Session};
use crate::upstream::{UpstreamError, names::Name};

/// Connections to one server.
#[derive(Default)]
pub(in crate::upstream) struct Sessions {
    open: RefCell<Vec<Rc<Session>>>,
    flight: RefCell<Option<Rc<Flight>>>,
}

/// A connection that is being made.
#[derive(Default)]
pub(in crate::upstream) struct Flight {
    /// `None` if it was given up.
    outcome: Cell<Option<Result<(), UpstreamError>>>,
    landed: Notify,
}

/// The right to make a connection. Dropped, it passes to others.
pub(in crate::upstream) struct Departure<'a> {
    sessions: &'a Sessions,
    flight: Rc<Flight>,
}

impl Sessions {
    /// A place on the fullest connection that has one, so that others can end.
    pub(in crate::upstream) fn seat(&self, idle_ticks: u64) -> Option<Seat> {
        let mut open = self.open.borrow_mut();
        open.retain(|session| !session.is_over());
        let with_room = open.iter().filter(|session| session.room() > 0);
        with_room.max_by_key(|session| session.seats()).map(|session| session.take_seat(idle_ticks))
    }

    /// The right to make one more, or whom to wait for.
    pub(in crate::upstream) fn depart(&self) -> Result<Departure<'_>, Rc<Flight>> {
        let mut flight = self.flight.borrow_mut();
        if let Some(under_way) = &*flight {
            return Err(Rc::clone(under_way));
        }
        let mine = Rc::new(Flight::default());
        *flight = Some(Rc::clone(&mine));
        Ok(Departure { sessions: self, flight: mine })
    }

    /// Whether there is none, and none to come.
    pub(in crate::upstream) fn are_gone(&self) -> bool {
        self.open.borrow().is_empty() && self.flight.borrow().is_none()
    }

    /// Called on every tick.
    pub(in crate::upstream) fn judge(&self) {
        self.open.borrow_mut().retain(|session| session.judge());
    }

    /// They take no more requests; those under way finish.
    pub(in crate::upstream) fn retire(&self) {
        self.open.borrow_mut().retain(|session| {
            session.retire();
            session.seats() > 0
        });
    }

    /// Those that lead to none of the present addresses of `name` take no more requests.
    pub(in crate::upstream) fn retire_unless_at(&self, name: &Name) {
        for session in self.open.borrow().iter().filter(|session| !session.is_at(name)) {
            session.retire();
        }
    }

    /// Forgets them; those that have requests under way end with the last of these.
    pub(in crate::upstream) fn forget(&self) {
        self.open.borrow_mut().clear();
    }
}

impl Flight {
    /// Waits until it is over; `None`: it was given up, and somebody else may try.
    pub(in crate::upstream) async fn landed(&self) -> Option<Result<(), UpstreamError>> {
        self.landed.notified().await;
        self.outcome.get()
    }
}

impl Departure<'_> {
    /// It stands: the first seat on it.
    pub(in crate::upstream) fn arrive(self, session: Rc<Session>, idle_ticks: u64) -> Seat {
        let seat = session.take_seat(idle_ticks);
        self.sessions.open.borrow_mut().push(session);
        self.flight.outcome.set(Some(Ok(())));
        seat
    }

    /// It stands, and is for one request only.
    pub(in crate::upstream) fn end(self) {
        self.flight.outcome.set(Some(Ok(())));
    }

    /// It does not stand. Who waits has time of its own: one who had too little says nothing for the others.
    pub(in crate::upstream) fn fail(self, why: UpstreamError) {
        if !matches!(why, UpstreamError::Timeout(_)) {
            self.flight.outcome.set(Some(Err(why)));
        }
    }
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        *self.sessions.flight.borrow_mut() = None;
        self.flight.landed.notify_waiters();
    }
}
