//! What two processes say to each other while one follows the other: messages of bounded length, with descriptors
//! beside them.
//!
//! In and out: a unix socket whose other end is proved to be of the same user (SO_PEERCRED). A message is four bytes of
//! length and JSON; descriptors travel with its first bytes (SCM_RIGHTS, unix(7)) and are never inherited by a program
//! that is started.

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};
use tokio::net::unix::UCred;
use zeroize::Zeroizing;

use crate::{
    durable::handover::{Passed, SealKey},
    edge::HandedTickets,
    login::HandedLogins,
};

/// One thing that is said.
#[derive(Deserialize, Serialize)]
pub(super) enum Message {
    /// The new process wants to follow.
    Hello {
        /// Of this protocol.
        version: u32,
        /// Of the program, for the log.
        program: String,
        /// Where its state is, or that it is in memory.
        state: Option<String>,
    },
    /// It may not; nothing has changed.
    Refused { why: String },
    /// The old process's listening sockets, by what they are for; the descriptors are in the same order.
    Sockets { names: Vec<String> },
    /// The new process has everything else, and wants the state.
    Release,
    /// The old process has let go of the state; a database in memory comes as a descriptor, with its key.
    Released { tickets: Vec<HandedTickets>, key: Option<SealKey> },
    /// The new process has it all.
    Take { process: u32 },
    /// The old process accepts no more and changes nothing by itself. With what it knew besides.
    Taken { logins: HandedLogins },
    /// The old process wants this to be changed.
    Ask { number: u64, changes: Vec<Passed> },
    /// It was, or not. What follows was changed later.
    Done { number: u64, changed: bool },
    /// The new process has changed this, and has told nobody yet.
    Changed { number: u64, changes: Vec<Passed> },
    /// It holds in the old process.
    Heard { number: u64 },
}

/// One end. Threads that share it say one thing after the other.
pub(super) struct Wire {
    stream: UnixStream,
    /// Of the other end, as far as this process can see it.
    process: Option<Pid>,
    saying: Mutex<()>,
}

impl Wire {
    /// An end whose other end must be of this process's user.
    ///
    /// # Errors
    /// `PermissionDenied` when it is not; those of the system.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        let peer = peer(&stream)?;
        let (theirs, ours) = (peer.uid(), rustix::process::geteuid().as_raw());
        if theirs != ours {
            let why = format!("the other end belongs to user {theirs} and not to {ours}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, process: peer.pid().and_then(Pid::from_raw), saying: Mutex::default() })
    }

    /// The process that listened at the other end, by a handle that is never another's; `None`: the system gives none.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        pidfd_open(self.process?, PidfdFlags::empty()).ok()
    }

    /// How long [`Self::receive`] waits; `None`: for ever.
    pub(super) fn wait_for(&self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(limit)
    }

    /// Nothing is said any more, at either end.
    pub(super) fn hang_up(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// # Errors
    /// Those of the system; `InvalidInput` for what is too long to be said.
    pub(super) fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let text = Zeroizing::new(serde_json::to_vec(message)?);
        let length = u32::try_from(text.len()).ok().filter(|length| *length <= LONGEST).ok_or(()).map_err(too_long)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let head = length.to_be_bytes();
        let _one_at_a_time = self.saying.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = retry_on_intr(|| sendmsg(&self.stream, &[IoSlice::new(&head)], &mut beside, SendFlags::NOSIGNAL))?;
        let mut stream = &self.stream;
        stream.write_all(head.get(sent..).unwrap_or_default())?;
        stream.write_all(&text)
    }

    /// # Errors
    /// Those of the system; `InvalidData` for what is no message.
    pub(super) fn receive(&self) -> io::Result<(Message, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut head = [0; 4];
        let mut space = [IoSliceMut::new(&mut head)];
        let received = retry_on_intr(|| recvmsg(&self.stream, &mut space, &mut beside, RecvFlags::CMSG_CLOEXEC))?.bytes;
        let mut descriptors = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut stream = &self.stream;
        stream.read_exact(head.get_mut(received..).unwrap_or_default())?;
        let length = u32::from_be_bytes(head);
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut text = Zeroizing::new(vec![0; usize::try_from(length).unwrap_or_default()]);
        stream.read_exact(&mut text)?;
        Ok((serde_json::from_slice(&text)?, descriptors))
    }
}

/// Whether the other end is closed, so that nobody is there.
pub(super) fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};

    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Ends a process; `false`: it may go on.
pub(super) fn end(process: Option<&OwnedFd>) -> bool {
    let ended = process.map(|process| pidfd_send_signal(process, Signal::KILL));
    matches!(ended, Some(Ok(()) | Err(Errno::SRCH)))
}

/// Who is at the other end (SO_PEERCRED); a process of another namespace has no number here.
fn peer(stream: &UnixStream) -> io::Result<UCred> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream.try_clone()?)?.peer_cred()
}

/// Whether nobody but this user can reach a socket in this directory.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_directory(socket: &Path) -> io::Result<()> {
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let Some(folder) = socket.parent() else { return refused("it is in no directory".to_owned()) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let metadata = fs::metadata(folder)?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.uid() != rustix::process::geteuid().as_raw() || mode & 0o077 != 0 {
        return refused(format!(
            "{} must belong to the gateway's user alone: chmod 700 (it is {mode:03o})",
            folder.display()
        ));
    }
    Ok(())
}

/// Listening sockets of one gateway.
pub(super) const MOST_DESCRIPTORS: usize = 64;
/// Changes of a thousand sessions take a tenth.
const LONGEST: u32 = 16 << 20;
/// For the other end to take what is said.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_message_comes_with_its_descriptors() {
        let (one, other) = UnixStream::pair().unwrap();
        let (one, other) = (Wire::new(one).unwrap(), Wire::new(other).unwrap());
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(b"the same file").unwrap();

        one.send(&Message::Sockets { names: vec!["a".into(), "b".into()] }, &[file.as_fd(), file.as_fd()]).unwrap();
        let (message, descriptors) = other.receive().unwrap();

        assert!(matches!(message, Message::Sockets { names } if names == ["a", "b"]));
        assert_eq!(descriptors.len(), 2);
        let length = fs::File::from(descriptors.into_iter().next().unwrap()).metadata().unwrap().len();
        assert_eq!(length, 13);
    }

    #[test]
    fn what_is_no_message_is_refused_and_takes_no_memory() {
        for bytes in [&u32::MAX.to_be_bytes()[..], b"\0\0\0\x02{}", b"\0\0\0\x05nul", b"\0"] {
            let (mut one, other) = UnixStream::pair().unwrap();
            one.write_all(bytes).unwrap();
            drop(one);
            assert!(Wire::new(other).unwrap().receive().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("upgrade.sock");
        let mode = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();

        for open in [0o750, 0o701, 0o777] {
            mode(open);
            assert!(check_directory(&socket).unwrap_err().to_string().contains("chmod 700"));
        }
        mode(0o700);
        check_directory(&socket).unwrap();
    }
}
