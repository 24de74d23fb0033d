//! The old process: what it offers, and what it does once it has been followed.
//!
//! In: a connection of the new process. Out: its number, for whoever waits to leave. One conversation at a time, on a
//! thread of its own. Whatever fails before `Take` is undone: the database is opened again, and nobody has noticed.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{
    VERSION, apply, can_be_passed,
    wire::{self, MOST_DESCRIPTORS, Message, Wire},
};
use crate::{
    durable::{
        Durable,
        handover::{Answer, Ask, Passed},
    },
    edge::TlsSlot,
    login::HandedLogins,
    state::Live,
};

/// A listening socket that can be handed over.
#[derive(Debug)]
pub struct Handle {
    /// What it is for; the same in both processes.
    pub name: String,
    /// The socket.
    pub socket: OwnedFd,
    /// Set when its file belongs to the process that follows.
    pub given: Arc<AtomicBool>,
}

/// What a process that follows gets.
pub struct Offer {
    live: Arc<Live>,
    tls: Option<Arc<TlsSlot>>,
    state: Option<PathBuf>,
    /// Emptied when we stop listening: they would keep the sockets open.
    handles: Mutex<Vec<Handle>>,
    busy: AtomicBool,
    /// Whether a process that was followed is still there: it would hear of nothing that the next one ends.
    before: Arc<AtomicBool>,
    /// The number of the process that has taken over.
    taken: watch::Sender<Option<u32>>,
    /// Dropped when the new process is to listen in its place.
    own_socket: Mutex<Option<Box<dyn Send>>>,
}

impl Offer {
    /// `state`: `server.state_dir`. `before`: set while a process that was followed is there. `own_socket` is where
    /// followers connect; it closes when it is dropped.
    pub fn new(
        live: Arc<Live>,
        tls: Option<Arc<TlsSlot>>,
        state: Option<PathBuf>,
        handles: Vec<Handle>,
        before: Arc<AtomicBool>,
        own_socket: Box<dyn Send>,
    ) -> Arc<Self> {
        Arc::new(Self {
            live,
            tls,
            state,
            handles: Mutex::new(handles),
            busy: AtomicBool::new(false),
            before,
            taken: watch::Sender::new(None),
            own_socket: Mutex::new(Some(own_socket)),
        })
    }

    /// Tells which process has taken over, once one has: then drain, and leave.
    pub fn taken(&self) -> watch::Receiver<Option<u32>> {
        self.taken.subscribe()
    }

    /// Nothing is offered any more, because this process stops.
    pub fn withdraw(&self) {
        self.handles().clear();
        self.own_socket().take();
    }

    /// Talks to whoever has connected, on a thread of its own; one at a time.
    pub fn talk(self: &Arc<Self>, stream: UnixStream) {
        if self.busy.swap(true, Ordering::AcqRel) {
            tracing::warn!("another process wanted to follow this one, beside the one that does; it was not heard");
            return;
        }
        let offer = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("handover".into()).spawn(move || {
            let ended = offer.converse(stream);
            // Whoever reads of it below may try again.
            offer.busy.store(false, Ordering::Release);
            if let Err(error) = ended {
                tracing::warn!(%error, "a process wanted to follow this one, and nothing came of it");
            }
        });
        if let Err(error) = spawned {
            self.busy.store(false, Ordering::Release);
            tracing::error!(%error, "no thread to be followed by another process");
        }
    }

    fn converse(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        let wire = Wire::new(stream)?;
        wire.wait_for(Some(FIRST_WORD))?;
        let refuse = |why: String| {
            // It hears it, or finds nobody there.
            let _ = wire.send(&Message::Refused { why: why.clone() }, &[]);
            Err(io::Error::other(why))
        };
        let Message::Hello { version, program, state } = wire.receive()?.0 else { return refuse("no greeting".into()) };
        if version != VERSION {
            return refuse(format!(
                "it speaks version {version} of the hand-over, and this process {VERSION}: restart"
            ));
        }
        let ours = self.state.as_ref().map(|dir| dir.display().to_string());
        if state != ours {
            return refuse("server.state_dir is another one there: change it with a restart".to_owned());
        }
        if self.before.load(Ordering::Acquire) {
            return refuse("the process before the one that runs has not left yet: come again when it has".to_owned());
        }
        {
            let handles = self.handles();
            if handles.is_empty() || handles.len() > MOST_DESCRIPTORS {
                return refuse(format!("{} listening sockets cannot be handed over", handles.len()));
            }
            let names = handles.iter().map(|handle| handle.name.clone()).collect();
            let sockets: Vec<_> = handles.iter().map(|handle| handle.socket.as_fd()).collect();
            wire.send(&Message::Sockets { names }, &sockets)?;
        }
        tracing::info!(version = program, "a process wants to follow this one");
        wire.wait_for(Some(PREPARES))?;
        let Message::Release = wire.receive()?.0 else { return refuse("it does not ask for the state".into()) };
        let Some(durable) = self.live.shared.durable.clone() else { return refuse("there is no state".into()) };
        self.live.shared.sessions.keep_up(crate::session::MemoryStore::SEGMENTS);
        self.live.shared.made_keys.keep_up(&self.live.snapshot().api_keys);
        if durable.release(RELEASES).is_none() {
            return refuse("the database cannot be closed now; see the log of the process that runs".to_owned());
        }
        let process = wire.process();
        match self.give(&wire, &durable) {
            Ok(process) => self.be_followed(wire, &durable, process),
            Err(error) => {
                // Whoever is slow must not believe to have it, nor write to it.
                if !wire::is_gone(&error) {
                    wire::end(process.as_ref());
                }
                wire.hang_up();
                durable.resume();
                tracing::warn!("this process goes on as before");
                Err(error)
            }
        }
    }

    /// The number of the process that has taken everything.
    fn give(&self, wire: &Wire, durable: &Durable) -> io::Result<u32> {
        let tickets = self.tls.as_ref().map(|tls| tls.current().hand_over_tickets()).unwrap_or_default();
        let held = durable.held();
        let (file, key) = held.unzip();
        let files: Vec<_> = file.into_iter().collect();
        wire.send(&Message::Released { tickets, key }, &files)?;
        wire.wait_for(Some(RESTORES))?;
        match wire.receive()?.0 {
            Message::Take { process } => Ok(process),
            _ => Err(io::Error::other("it does not take what it was given")),
        }
    }

    fn be_followed(self: &Arc<Self>, wire: Wire, durable: &Durable, process: u32) -> io::Result<()> {
        let shared = &self.live.shared;
        // The new process listens in its place as soon as it hears that it may.
        self.own_socket().take();
        // A proof that counts there must not count here as well.
        shared.proofs.close();
        let logins = HandedLogins::of(&shared.throttle, &shared.second);
        if let Err(error) = wire.send(&Message::Taken { logins }, &[]) {
            shared.proofs.open();
            durable.resume();
            tracing::warn!("this process goes on as before, and cannot be followed any more");
            return Err(error);
        }
        for handle in self.handles().drain(..) {
            handle.given.store(true, Ordering::Release);
        }
        shared.shutdown.hand_over();
        // Until this process ends: nobody there may believe that it is gone before it is.
        let wire = Arc::new(wire);
        let asked = Arc::<Asked>::default();
        durable.follow(Self::ask(&wire, &asked));
        tracing::info!(process, "another process has taken over; this one finishes what it has begun");
        self.taken.send_replace(Some(process));
        match wire.wait_for(None).and_then(|()| self.hear(&wire, &asked)) {
            Err(error) if wire::is_gone(&error) => leave_at_once("it is gone"),
            Err(error) => leave_at_once(&error.to_string()),
        }
    }

    /// How the new process is asked for changes.
    fn ask(wire: &Arc<Wire>, asked: &Arc<Asked>) -> Ask {
        let (wire, asked, numbers) = (Arc::clone(wire), Arc::clone(asked), AtomicU64::new(0));
        Box::new(move |changes, answer| {
            if !can_be_passed(&changes) {
                return drop(answer);
            }
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            asked.lock().insert(number, (changes.clone(), answer));
            if let Err(error) = wire.send(&Message::Ask { number, changes }, &[]) {
                // Nobody knows how much of it was heard.
                leave_at_once(&error.to_string());
            }
        })
    }

    /// Does as the new process does, in the same order, for as long as both are there.
    fn hear(&self, wire: &Wire, asked: &Asked) -> io::Result<Infallible> {
        let lost = |why: &str| Err(io::Error::other(why));
        loop {
            match wire.receive()?.0 {
                Message::Changed { number, changes } => {
                    if !apply(&self.live, &changes) {
                        return lost("what it has changed cannot be changed here");
                    }
                    wire.send(&Message::Heard { number }, &[])?;
                }
                Message::Done { number, changed } => {
                    let Some((changes, answer)) = asked.lock().remove(&number) else { continue };
                    // Whoever waited too long was refused, and it holds all the same.
                    if changed && !answer.changed() && !apply(&self.live, &changes) {
                        return lost("what it has changed cannot be changed here");
                    }
                }
                _ => return lost("it does not say what it should"),
            }
        }
    }

    fn handles(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_socket(&self) -> MutexGuard<'_, Option<Box<dyn Send>>> {
        self.own_socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the new process was asked for and has not answered.
#[derive(Default)]
struct Asked(Mutex<HashMap<u64, (Vec<Passed>, Answer)>>);

impl Asked {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Vec<Passed>, Answer)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What ends in the process that has taken over could go on here.
fn leave_at_once(why: &str) -> ! {
    tracing::error!(why, "the process that has taken over cannot be followed; this one ends at once");
    std::process::exit(1)
}

/// For the new process to say who it is.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// To read its files and make its sockets.
const PREPARES: Duration = Duration::from_secs(60);
/// For the database to be closed.
const RELEASES: Duration = Duration::from_secs(10);
/// To open the database and restore what is in it; changes wait meanwhile.
const RESTORES: Duration = Duration::from_secs(60);
