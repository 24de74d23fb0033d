//! Sockets: made once, accepted from in one loop per listener, handed to the worker with the fewest connections.
//!
//! In: [`Bound`] listeners. Out: `Arrival`s, each with a `Ticket` that holds its place under the limits (R19) until
//! the socket is closed, whoever owns it then. Peers that may not speak plain HTTP to us are closed unheard (R15).
//! When descriptors run out, accepting pauses instead of spinning.

use std::{
    collections::HashMap,
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc::UnboundedSender,
};

use crate::{
    client::{PeerAddr, network},
    edge::{Counters, Limits, Peers},
    listener::{Listener, OwnListener},
    shutdown::{Guard, Shutdown},
};

/// A listening socket. Clients queue in it from now on.
pub struct Bound {
    socket: OwnedFd,
    kind: Kind,
    address: Option<SocketAddr>,
    /// Set when another process has it, and its file.
    given: Arc<AtomicBool>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Kind {
    Http,
    Https,
    /// The file is removed when we stop listening, if it is ours.
    Unix(Option<PathBuf>),
}

impl Bound {
    /// Where it listens, with the port that was chosen if 0 was asked for; `None` for a unix socket.
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Where whoever connects finds it; `None` for a unix socket without a path.
    pub fn own(&self) -> Option<OwnListener> {
        let path = || SockRef::from(&self.socket).local_addr().ok()?.as_pathname().map(Path::to_owned);
        self.address.map(OwnListener::Ip).or_else(|| path().map(OwnListener::Unix))
    }

    /// Whether TLS is spoken here.
    pub fn is_https(&self) -> bool {
        self.kind == Kind::Https
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("kind", &self.kind).field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Kind::Unix(Some(path)) = &self.kind
            && !self.given.load(Relaxed)
        {
            // Before the socket closes, so that it is surely ours.
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes a listening socket, with port 0 on any free port.
///
/// # Errors
/// Those of the system. For a unix socket also `AddrInUse` when somebody listens there or the path is no socket.
pub fn bind(listener: &Listener) -> io::Result<Bound> {
    match listener {
        Listener::Http(address) => bind_tcp(*address, Kind::Http),
        Listener::Https(address) => bind_tcp(*address, Kind::Https),
        Listener::Unix { path, mode } => bind_unix(path, *mode),
        Listener::Inherited { .. } => Err(io::Error::other("it was not opened for us")),
    }
}

impl Bound {
    /// A socket that somebody else opened, and whose file, if it has one, is not ours to remove.
    ///
    /// # Errors
    /// When it does not listen, is no stream, or TLS is asked for on a unix socket.
    pub(super) fn adopt(socket: OwnedFd, encrypted: bool) -> io::Result<Self> {
        let socket = Socket::from(socket);
        let is_stream = socket.r#type()? == Type::STREAM;
        if !is_stream || !rustix::net::sockopt::socket_acceptconn(&socket)? {
            return Err(io::Error::other(
                "it is no stream socket that listens (in systemd: `ListenStream=`, `Accept=no`)",
            ));
        }
        socket.set_nonblocking(true)?;
        socket.set_cloexec(true)?;
        let address = socket.local_addr()?.as_socket();
        let kind = match (address, encrypted) {
            (Some(_), true) => Kind::Https,
            (Some(_), false) => Kind::Http,
            (None, false) => Kind::Unix(None),
            (None, true) => {
                return Err(io::Error::other("it is a unix socket, where no TLS is spoken: write `,plain`"));
            }
        };
        if address.is_some() {
            socket.set_tcp_nodelay(true)?;
            socket.set_keepalive(true)?;
        }
        Ok(Self { socket: socket.into(), kind, address, given: Arc::default() })
    }

    /// A socket of this listener that another process had, with its file, if it has one.
    ///
    /// # Errors
    /// As for one that somebody else opened.
    pub fn take_over(socket: OwnedFd, listener: &Listener) -> io::Result<Self> {
        let mut bound = Self::adopt(socket, listener.is_encrypted())?;
        if let Listener::Unix { path, .. } = listener {
            bound.kind = Kind::Unix(Some(path.clone()));
        }
        Ok(bound)
    }

    /// The socket for another process, and the mark that it has got it: then the file is its own.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn share(&self) -> io::Result<(OwnedFd, Arc<AtomicBool>)> {
        Ok((self.socket.try_clone()?, Arc::clone(&self.given)))
    }
}

/// Raises this process's limit of open descriptors as far as it may; answers the limit that holds now.
///
/// # Errors
/// When the system refuses.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(limit.current.unwrap_or(u64::MAX));
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) socket: OwnedFd,
    pub(crate) peer: PeerAddr,
    pub(crate) local_port: u16,
    pub(crate) encrypted: bool,
    /// A PROXY protocol header comes first, and says who the peer is; the ticket does not count an address yet.
    pub(crate) proxied: bool,
    pub(crate) ticket: Ticket,
}

/// A connection's place under the limits. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Ticket {
    places: Arc<Places>,
    worker: usize,
    block: Option<IpAddr>,
    _guard: Guard,
}

/// Who is connected: for limits and for choosing a worker.
#[derive(Debug)]
pub(crate) struct Places {
    loads: Box<[AtomicUsize]>,
    /// Touched twice per connection, never per request: one lock for all is enough.
    blocks: Mutex<HashMap<IpAddr, usize>>,
    counters: Arc<Counters>,
    next: AtomicU64,
}

impl Places {
    pub(crate) fn new(workers: usize, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            blocks: Mutex::default(),
            counters,
            next: AtomicU64::new(0),
        })
    }

    /// A place for one more, or `None` after counting why not. `peer` is `None` where it is not known yet.
    fn take(
        self: &Arc<Self>,
        peer: Option<PeerAddr>,
        limits: &Limits,
        peers: &Peers,
        shutdown: &Shutdown,
    ) -> Option<Ticket> {
        if self.counters.open.load(Relaxed) >= limits.max_connections as u64 {
            self.counters.refused_full.fetch_add(1, Relaxed);
            return None;
        }
        let counted = match peer {
            Some(PeerAddr::Ip(address)) => self.count(address.ip(), limits, peers)?,
            Some(PeerAddr::Unix) | None => None,
        };
        let worker = self.least_loaded();
        if let Some(load) = self.loads.get(worker) {
            load.fetch_add(1, Relaxed);
        }
        self.counters.open.fetch_add(1, Relaxed);
        self.counters.accepted.fetch_add(1, Relaxed);
        Some(Ticket { places: Arc::clone(self), worker, block: counted, _guard: shutdown.guard() })
    }

    /// Counts one more connection of an address, and answers under what; `None` where there are too many.
    fn count(&self, address: IpAddr, limits: &Limits, peers: &Peers) -> Option<Option<IpAddr>> {
        if (peers.uncounted)(address) {
            return Some(None);
        }
        let block = network(address);
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let count = blocks.entry(block).or_insert(0);
        if *count >= limits.max_connections_per_address {
            self.counters.refused_address.fetch_add(1, Relaxed);
            return None;
        }
        *count += 1;
        Some(Some(block))
    }

    /// Of equals, each in turn.
    fn least_loaded(&self) -> usize {
        let count = self.loads.len().max(1);
        let start = usize::try_from(self.next.fetch_add(1, Relaxed)).unwrap_or_default() % count;
        let load = |worker: &usize| self.loads.get(*worker).map_or(usize::MAX, |load| load.load(Relaxed));
        (0..count).map(|step| (start + step) % count).min_by_key(load).unwrap_or_default()
    }
}

impl Ticket {
    /// Counts the address that has turned out to be the peer's; `false`: it has too many connections.
    pub(crate) fn count(&mut self, address: IpAddr, limits: &Limits, peers: &Peers) -> bool {
        match self.places.count(address, limits, peers) {
            Some(block) => {
                self.block = block;
                true
            }
            None => false,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(load) = self.places.loads.get(self.worker) {
            load.fetch_sub(1, Relaxed);
        }
        self.places.counters.open.fetch_sub(1, Relaxed);
        if let Some(block) = self.block {
            let mut blocks = self.places.blocks.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = blocks.get_mut(&block) {
                *count -= 1;
                if *count == 0 {
                    blocks.remove(&block);
                }
            }
        }
    }
}

/// What an accept loop needs.
pub(crate) struct Acceptor {
    pub(crate) bound: Bound,
    pub(crate) places: Arc<Places>,
    pub(crate) workers: Arc<[UnboundedSender<Arrival>]>,
    pub(crate) limits: Limits,
    pub(crate) peers: Peers,
    pub(crate) shutdown: Shutdown,
    pub(crate) counters: Arc<Counters>,
}

impl Acceptor {
    /// Accepts until the end is asked for; then the socket is closed.
    pub(crate) async fn run(self) {
        let stop = self.shutdown.clone();
        tokio::select! {
            biased;
            () = stop.triggered() => {}
            outcome = self.accept_all() => {
                if let Err(error) = outcome {
                    tracing::error!(%error, listener = ?self.bound, "this listener accepts no more");
                }
            }
        }
    }

    async fn accept_all(&self) -> io::Result<()> {
        let listener = Accepting::new(&self.bound)?;
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => self.hand_out(socket, peer),
                Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                        // Connections that end free descriptors; until then trying again is only heat.
                        self.counters.accept_pauses.fetch_add(1, Relaxed);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP) => return Err(error),
                    // The others belong to the connection that just failed (accept(2), "Error handling").
                    Some(_) | None => {}
                },
            }
        }
    }

    fn hand_out(&self, socket: OwnedFd, peer: PeerAddr) {
        let encrypted = self.bound.is_https();
        if let PeerAddr::Ip(address) = peer
            && !encrypted
            && !(self.peers.plain_allowed)(address.ip())
        {
            self.counters.refused_peer.fetch_add(1, Relaxed);
            return;
        }
        let proxied = matches!(peer, PeerAddr::Ip(address) if (self.peers.proxied)(address.ip()));
        let counted = (!proxied).then_some(peer);
        let Some(ticket) = self.places.take(counted, &self.limits, &self.peers, &self.shutdown) else { return };
        let local_port = self.bound.address.map_or(0, |address| address.port());
        let worker = ticket.worker;
        let arrival = Arrival { socket, peer, local_port, encrypted, proxied, ticket };
        if let Some(worker) = self.workers.get(worker) {
            // A worker that is gone takes nobody; the socket closes.
            let _ = worker.send(arrival);
        }
    }
}

/// A listening socket within the runtime that accepts from it.
enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accepting {
    fn new(bound: &Bound) -> io::Result<Self> {
        let socket = bound.socket.try_clone()?;
        match &bound.kind {
            Kind::Http | Kind::Https => TcpListener::from_std(socket.into()).map(Self::Tcp),
            Kind::Unix(_) => UnixListener::from_std(socket.into()).map(Self::Unix),
        }
    }

    /// The socket leaves this runtime, to enter its worker's.
    async fn accept(&self) -> io::Result<(OwnedFd, PeerAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                Ok((socket.into_std()?.into(), canonical(address)))
            }
            Self::Unix(listener) => Ok((listener.accept().await?.0.into_std()?.into(), PeerAddr::Unix)),
        }
    }
}

/// An IPv4 client on an IPv6 socket is an IPv4 client.
fn canonical(address: SocketAddr) -> PeerAddr {
    PeerAddr::Ip(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn bind_tcp(address: SocketAddr, kind: Kind) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit both: no system call per connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let address = socket.local_addr()?.as_socket();
    Ok(Bound { socket: socket.into(), kind, address, given: Arc::default() })
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<Bound> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    // The file is made with the socket's own mode, so that nobody can connect before the mode holds; the second
    // call undoes what the umask took away.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode))?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    let bound =
        Bound { socket: socket.into(), kind: Kind::Unix(Some(path.to_owned())), address: None, given: Arc::default() };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    rustix::net::listen(&bound.socket, BACKLOG)?;
    Ok(bound)
}

/// Removes a socket file that nobody listens on; anything else stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{}: {what}", path.display())));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => return in_use("exists and is no socket"),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => in_use("somebody listens there"),
    }
}

const BACKLOG: i32 = 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_file_is_removed_only_if_nobody_listens_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.sock");
        let listener = Listener::Unix { path: path.clone(), mode: 0o640 };

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let bound = bind(&listener).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(bind(&listener).unwrap_err().kind(), io::ErrorKind::AddrInUse);

        drop(bound);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&listener).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn ipv6_clients_are_counted_by_their_64_bits() {
        let block = |text: &str| network(text.parse().unwrap());

        assert_eq!(block("2001:db8::1"), block("2001:db8::ffff:1"));
        assert_ne!(block("2001:db8::1"), block("2001:db8:0:1::1"));
        assert_ne!(block("192.0.2.1"), block("192.0.2.2"));
    }

    #[test]
    fn an_ipv4_client_on_an_ipv6_socket_is_an_ipv4_client() {
        assert_eq!(canonical("[::ffff:192.0.2.1]:80".parse().unwrap()), PeerAddr::Ip("192.0.2.1:80".parse().unwrap()));
    }

    #[test]
    fn the_descriptor_limit_is_raised_to_its_maximum() {
        let limit = raise_descriptor_limit().unwrap();

        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), limit);
    }
}
