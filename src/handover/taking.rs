//! The new process: asks the old one for its sockets, then for its state, and goes on where that one stopped.
//!
//! In: `server.upgrade_socket`. Out: sockets by name, ticket keys, a database in memory, logins under way, and a
//! [`Link`] on which the two keep each other informed for as long as the old one drains.

use std::{
    cell::Cell,
    fmt, io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use super::{
    VERSION, apply,
    wire::{self, Message, Wire, check_directory},
};
use crate::{
    clock,
    durable::{
        Durable, Table,
        handover::{InMemory, Passed},
    },
    edge::HandedTickets,
    login::HandedLogins,
    reload,
    session::SessionKey,
    state::Live,
};

/// The process that is to be followed, before it has given anything away but its sockets.
pub struct Predecessor {
    wire: Wire,
    sockets: Vec<(String, OwnedFd)>,
}

/// Its word on everything but the last.
pub struct Link(Wire);

/// Why it does not want to be followed.
#[derive(Debug)]
pub struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self(match error.kind() {
            _ if wire::is_gone(&error) => "the running process has hung up; its log says why".to_owned(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "the running process does not answer".to_owned(),
            _ => error.to_string(),
        })
    }
}

impl Predecessor {
    /// Asks whoever listens at `socket`; `None`: nobody does. `state` is `server.state_dir`.
    ///
    /// # Errors
    /// [`Refused`] when others than this user could listen there, or the process there does not want to.
    pub fn find(socket: &Path, state: Option<&Path>) -> Result<Option<Self>, Refused> {
        check_directory(socket)?;
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let wire = Wire::new(stream)?;
        wire.wait_for(Some(ANSWERS))?;
        let hello = Message::Hello {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            state: state.map(|dir| dir.display().to_string()),
        };
        wire.send(&hello, &[])?;
        match wire.receive()? {
            (Message::Sockets { names }, sockets) if names.len() == sockets.len() => {
                Ok(Some(Self { wire, sockets: names.into_iter().zip(sockets).collect() }))
            }
            (Message::Refused { why }, _) => Err(Refused(why)),
            _ => Err(Refused("the running process does not say what it should".to_owned())),
        }
    }

    /// A socket of this name, each once.
    pub fn socket(&mut self, name: &str) -> Option<OwnedFd> {
        let place = self.sockets.iter().position(|(theirs, _)| theirs == name)?;
        Some(self.sockets.remove(place).1)
    }

    /// Lets it give its state away. Changes wait until [`Taking::take`], or until this process is gone.
    ///
    /// # Errors
    /// [`Refused`]: it goes on as before.
    pub fn release(self) -> Result<Taking, Refused> {
        self.wire.wait_for(Some(RELEASES))?;
        self.wire.send(&Message::Release, &[])?;
        match self.wire.receive()? {
            (Message::Released { tickets, key }, files) => {
                let memory = key.zip(files.into_iter().next()).map(|(key, file)| InMemory { file, key });
                Ok(Taking { wire: self.wire, tickets, memory })
            }
            (Message::Refused { why }, _) => Err(Refused(why)),
            _ => Err(Refused("the running process does not say what it should".to_owned())),
        }
    }
}

/// What was given away; still to be taken.
pub struct Taking {
    wire: Wire,
    tickets: Vec<HandedTickets>,
    memory: Option<InMemory>,
}

impl Taking {
    /// The keys of TLS tickets.
    pub fn tickets(&self) -> &[HandedTickets] {
        &self.tickets
    }

    /// The database, if it is in no directory.
    pub const fn memory(&mut self) -> Option<InMemory> {
        self.memory.take()
    }

    /// Takes over. From then on the other one accepts no more.
    ///
    /// # Errors
    /// [`Refused`]: it has not heard it, and goes on; this process must not serve.
    pub fn take(self) -> Result<(Link, HandedLogins), Refused> {
        self.wire.wait_for(Some(HANDS_OVER))?;
        self.wire.send(&Message::Take { process: std::process::id() }, &[])?;
        match self.wire.receive()?.0 {
            Message::Taken { logins } => Ok((Link(self.wire), logins)),
            _ => Err(Refused("the running process does not let itself be followed".to_owned())),
        }
    }
}

impl Link {
    /// Does what the other one asks for and has it follow every change, until it is gone; until then `is_there` is set.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn serve(self, live: &Arc<Live>, durable: Durable, is_there: Arc<AtomicBool>) -> io::Result<()> {
        let wire = Arc::new(self.0);
        wire.wait_for(None)?;
        is_there.store(true, Ordering::Release);
        let (hearing, heard) = mpsc::channel();
        let predecessor = Arc::new(wire.process());
        let telling =
            Telling { wire: Arc::clone(&wire), heard, number: Cell::new(0), predecessor: Arc::clone(&predecessor) };
        durable.tell(Some(Box::new(move |changes| telling.tell(changes))));
        let live = Arc::clone(live);
        std::thread::Builder::new().name("handover".into()).spawn(move || {
            match hear(&wire, &live, &durable, &hearing) {
                Err(error) if wire::is_gone(&error) => {}
                Ok(()) => end(predecessor.as_ref().as_ref(), "it does not say what it should"),
                Err(error) => end(predecessor.as_ref().as_ref(), &error.to_string()),
            }
            // Whoever waits for its word need not any more.
            drop(hearing);
            durable.tell(None);
            is_there.store(false, Ordering::Release);
            tracing::info!("the process before this one has left");
        })?;
        Ok(())
    }
}

/// Until it is gone, or says what it should not.
fn hear(wire: &Arc<Wire>, live: &Arc<Live>, durable: &Durable, hearing: &mpsc::Sender<u64>) -> io::Result<()> {
    loop {
        match wire.receive()?.0 {
            Message::Ask { number, changes } => {
                take_in(live, durable, changes, Reply { wire: Arc::clone(wire), number, changed: false });
            }
            Message::Heard { number } => drop(hearing.send(number)),
            _ => return Ok(()),
        }
    }
}

/// Changes what the other process wants. It hears of it before anything else that changes later.
fn take_in(live: &Arc<Live>, durable: &Durable, changes: Vec<Passed>, reply: Reply) {
    let changes = Arc::new(changes);
    let (applied, of) = (Arc::clone(&changes), Arc::clone(live));
    drop(durable.take_in(&changes, move || reply.say(apply(&of, &applied) && still_counts(&of, &applied))));
}

/// Whether sessions that were opened there may be: users and roles may be others here (R29).
fn still_counts(live: &Live, changes: &[Passed]) -> bool {
    let sessions = &live.shared.sessions;
    let opened = changes.iter().filter(|change| change.table() == Table::Sessions).filter_map(|change| {
        let (key, value) = change.record();
        value.and_then(|_| sessions.find(&SessionKey::from_bytes(key)?))
    });
    // After they were opened: a reload in this moment sees them.
    let snapshot = live.snapshot();
    opened.fold(true, |all, session| {
        let counts = reload::follows_its_source(&snapshot, &session);
        if !counts {
            sessions.drop_followed(session.key());
        }
        all && counts
    })
}

/// The one answer to what the other process wants: given when this is dropped, whatever became of it.
struct Reply {
    wire: Arc<Wire>,
    number: u64,
    changed: bool,
}

impl Reply {
    fn say(mut self, changed: bool) {
        self.changed = changed;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Self { wire, number, changed } = self;
        // Where it does not hear this, its end or ours is near.
        let _ = wire.send(&Message::Done { number: *number, changed: *changed }, &[]);
    }
}

/// How the other process follows.
struct Telling {
    wire: Arc<Wire>,
    heard: mpsc::Receiver<u64>,
    number: Cell<u64>,
    predecessor: Arc<Option<OwnedFd>>,
}

impl Telling {
    /// Whether these changes hold there, or nothing does any more.
    fn tell(&self, mut changes: Vec<Passed>) -> bool {
        while !changes.is_empty() {
            let rest = changes.split_off(changes.len().min(CHANGES_AT_ONCE));
            let number = self.number.get();
            self.number.set(number + 1);
            let told = self.wire.send(&Message::Changed { number, changes }, &[]);
            if told.is_err() || !self.wait_for(number, FOLLOWS) {
                end(self.predecessor.as_ref().as_ref(), "it does not follow");
                return self.wait_for(NEVER, FOLLOWS);
            }
            changes = rest;
        }
        true
    }

    /// Until it says so or is gone.
    fn wait_for(&self, number: u64, limit: Duration) -> bool {
        let until = clock::instant() + limit;
        loop {
            match self.heard.recv_timeout(until.saturating_duration_since(clock::instant())) {
                Ok(heard) if heard != number => {}
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }
}

/// Ends the other process, in which something might go on that has ended here.
fn end(predecessor: Option<&OwnedFd>, why: &str) {
    tracing::error!(why, "the process before this one is ended");
    if !wire::end(predecessor) {
        tracing::error!("the process before this one cannot be ended; logins and logouts are refused until it is gone");
    }
}

/// No number of a change.
const NEVER: u64 = u64::MAX;
/// Changes in one message: far fewer than it has room for.
const CHANGES_AT_ONCE: usize = 512;
/// For the other process to follow a change, or to be gone.
const FOLLOWS: Duration = Duration::from_secs(4);
/// For it to hand over at last.
const HANDS_OVER: Duration = Duration::from_secs(30);
/// For the other process to say its next word.
const ANSWERS: Duration = Duration::from_secs(10);
/// For its database to be closed.
const RELEASES: Duration = Duration::from_secs(20);
