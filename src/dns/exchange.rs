//! Asking name servers: datagrams, and TCP where an answer is too long for one (RFC 1035 section 4.2, RFC 7766).
//!
//! In: servers in the order in which they are asked, a name, what is asked for. Out: what the first of them that knows
//! says. Each question has a random id and a socket of its own, that is a random port (RFC 5452); the system lets
//! through to it only what comes from the server. What does not fit the question is not listened to, and the wait goes
//! on; a server that is silent, broken or at a loss is followed by the next.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::message::{Family, Question, Reply, Unfit};
use crate::secret;

/// Whom to ask, and for how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Servers {
    /// One after the other.
    pub(super) addresses: Box<[SocketAddr]>,
    /// For each server in the first round: one that is away must not keep the next one from being asked in time.
    pub(super) first_wait: Duration,
    /// For each in later rounds.
    pub(super) wait: Duration,
    /// How often each is asked.
    pub(super) rounds: u32,
}

/// What DNS says of one kind of address.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// As in [`Reply::Addresses`] or [`Reply::None`].
    Known(Reply),
    /// Nobody could tell.
    Unknown,
}

impl Servers {
    /// These, each asked `rounds` times.
    pub(super) fn new(addresses: impl Into<Box<[SocketAddr]>>, wait: Duration, rounds: u32) -> Self {
        Self { addresses: addresses.into(), first_wait: wait.min(FIRST_WAIT), wait, rounds }
    }

    /// What the first server that knows says. `Unknown` at once if there is none, or `host` is no name of DNS.
    pub(super) async fn ask(&self, host: &str, family: Family) -> Answer {
        for round in 0..self.rounds {
            let wait = if round == 0 { self.first_wait } else { self.wait };
            for server in &self.addresses {
                let Some(question) = Question::new(host, family, u16::from_ne_bytes(secret::random())) else {
                    return Answer::Unknown;
                };
                if let Ok(Some(reply)) = timeout(wait, ask_one(*server, &question)).await {
                    return Answer::Known(reply);
                }
            }
        }
        Answer::Unknown
    }
}

/// What this server says, if that is something.
async fn ask_one(server: SocketAddr, question: &Question) -> Option<Reply> {
    let mut edns = true;
    loop {
        let mut reply = by_datagram(server, question, edns).await.ok()?;
        if reply == Reply::Truncated {
            reply = by_stream(server, question, edns).await.ok()?;
        }
        match reply {
            Reply::Addresses(..) | Reply::None(_) => return Some(reply),
            Reply::NotUnderstood if edns => edns = false,
            Reply::NotUnderstood | Reply::Failed | Reply::Truncated => return None,
        }
    }
}

async fn by_datagram(server: SocketAddr, question: &Question, edns: bool) -> io::Result<Reply> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question.bytes(edns)).await?;
    // One byte more than is asked for, so that a longer one shows.
    let mut message = [0; MAX_DATAGRAM + 1];
    loop {
        let length = socket.recv(&mut message).await?;
        let Some(received) = message.get(..length.min(MAX_DATAGRAM)) else { continue };
        match question.read(received) {
            Ok(reply) => return Ok(reply),
            Err(Unfit::NotOurs) => {}
            Err(Unfit::Malformed) if length > MAX_DATAGRAM => return Ok(Reply::Truncated),
            Err(Unfit::Malformed) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

async fn by_stream(server: SocketAddr, question: &Question, edns: bool) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let bytes = question.bytes(edns);
    let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    question.read(&message).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// At most, in the first round.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Longer than what is asked for: some servers send more than that.
const MAX_DATAGRAM: usize = 4096;

#[cfg(test)]
pub(super) mod tests {
    use std::{cell::RefCell, future::Future, rc::Rc};

    use tokio::{net::TcpListener, task::LocalSet};

    use super::{
        super::message::tests::{ASKED, answer, record},
        *,
    };

    pub(in crate::dns) fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(test))
    }

    /// An answer with one address.
    pub(in crate::dns) fn told(asked: &[u8], last: u8) -> Vec<u8> {
        [answer(asked, 0, [1, 0]), record(&ASKED, 1, 60, &[10, 0, 0, last])].concat()
    }

    /// A server that says for each question what `says` makes of it, by datagram and by TCP, and counts questions.
    pub(in crate::dns) async fn server(
        says: impl Fn(&[u8], bool) -> Vec<Vec<u8>> + 'static,
    ) -> (SocketAddr, Rc<RefCell<Vec<bool>>>) {
        let (says, asked) = (Rc::new(says), Rc::new(RefCell::new(Vec::new())));
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The same port for both may be taken.
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, socket);
            }
        };
        let address = socket.local_addr().unwrap();
        let (by_tcp, log) = (Rc::clone(&says), Rc::clone(&asked));
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut question = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut question).await.unwrap();
                log.borrow_mut().push(true);
                for message in by_tcp(&question, true) {
                    stream.write_all(&message).await.unwrap();
                }
            }
        });
        let log = Rc::clone(&asked);
        tokio::task::spawn_local(async move {
            let mut question = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut question).await.unwrap();
                log.borrow_mut().push(false);
                for message in says(&question[..length], false) {
                    socket.send_to(&message, from).await.unwrap();
                }
            }
        });
        (address, asked)
    }

    pub(in crate::dns) fn servers(addresses: impl IntoIterator<Item = SocketAddr>) -> Servers {
        let wait = Duration::from_secs(30);
        Servers { addresses: addresses.into_iter().collect(), first_wait: wait, wait, rounds: 2 }
    }

    fn found(last: u8) -> Answer {
        Answer::Known(Reply::Addresses(vec![[10, 0, 0, last].into()], Duration::from_secs(60)))
    }

    fn framed(message: Vec<u8>) -> Vec<u8> {
        [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()
    }

    #[test]
    fn what_is_too_long_for_a_datagram_is_asked_for_by_tcp() {
        run(async {
            let (address, asked) = server(|asked, tcp| match tcp {
                // A cut answer may hold a part of what there is, which is not believed.
                false => vec![{
                    let mut cut = told(asked, 1);
                    cut[2] |= 0x02;
                    cut
                }],
                true => vec![framed(told(asked, 2))],
            })
            .await;

            assert_eq!(servers([address]).ask("a.test", Family::V4).await, found(2));
            assert_eq!(*asked.borrow(), [false, true]);
        });
    }

    #[test]
    fn a_server_that_lies_about_a_length_says_nothing_and_the_next_is_asked() {
        run(async {
            for length in [0_u16, 5, 200] {
                let (liar, _) = server(move |asked, tcp| match tcp {
                    false => vec![answer(asked, 0x0200, [0, 0])],
                    true => vec![[&length.to_be_bytes()[..], &told(asked, 1)].concat()],
                })
                .await;
                let (honest, _) = server(|asked, _| vec![told(asked, 2)]).await;

                assert_eq!(servers([liar, honest]).ask("a.test", Family::V4).await, found(2), "{length}");
            }
        });
    }

    #[test]
    fn a_server_that_is_silent_away_at_a_loss_or_broken_is_followed_by_the_next() {
        run(async {
            let (silent, _) = server(|_, _| Vec::new()).await;
            let (at_a_loss, _) = server(|asked, _| vec![answer(asked, 2, [0, 0])]).await;
            let (refuses, _) = server(|asked, _| vec![answer(asked, 5, [0, 0])]).await;
            let (broken, _) = server(|asked, _| vec![answer(asked, 0, [7, 0])]).await;
            let away = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            let (good, asked) = server(|asked, _| vec![told(asked, 1)]).await;
            let hurried = Servers { first_wait: Duration::from_secs(1), ..servers([silent, good]) };
            assert_eq!(hurried.ask("a.test", Family::V4).await, found(1));
            asked.borrow_mut().clear();
            for before in [at_a_loss, refuses, broken, away] {
                assert_eq!(servers([before, good]).ask("a.test", Family::V4).await, found(1), "{before}");
            }
            assert_eq!(asked.borrow().len(), 4);
            assert_eq!(servers([at_a_loss, broken, away]).ask("a.test", Family::V4).await, Answer::Unknown);
            assert_eq!(servers([]).ask("a.test", Family::V4).await, Answer::Unknown);
        });
    }

    #[test]
    fn that_there_is_nothing_is_believed_and_nobody_else_is_asked() {
        run(async {
            let (knows, _) = server(|asked, _| vec![answer(asked, 3, [0, 0])]).await;
            let (other, asked) = server(|asked, _| vec![told(asked, 1)]).await;

            assert_eq!(servers([knows, other]).ask("a.test", Family::V4).await, Answer::Known(Reply::None(None)));
            assert!(asked.borrow().is_empty());
        });
    }

    #[test]
    fn what_does_not_fit_the_question_is_not_listened_to() {
        run(async {
            let (address, _) = server(|asked, _| {
                let mut other_id = told(asked, 66);
                other_id[0] ^= 1;
                let mut other_name = told(asked, 66);
                other_name[13] ^= 1;
                vec![other_id, other_name, b"x".to_vec(), told(asked, 1)]
            })
            .await;

            assert_eq!(servers([address]).ask("a.test", Family::V4).await, found(1));
        });
    }

    #[test]
    fn nobody_but_the_server_that_was_asked_is_heard() {
        run(async {
            let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            tokio::task::spawn_local(async move {
                let mut question = [0; 512];
                let (length, from) = socket.recv_from(&mut question).await.unwrap();
                stranger.send_to(&told(&question[..length], 66), from).await.unwrap();
                socket.send_to(&told(&question[..length], 1), from).await.unwrap();
            });

            assert_eq!(servers([address]).ask("a.test", Family::V4).await, found(1));
        });
    }

    #[test]
    fn a_server_that_does_not_know_edns_is_asked_without() {
        run(async {
            for bare in [false, true] {
                let (address, asked) = server(move |asked, _| {
                    let has_edns = asked[11] == 1;
                    vec![match (has_edns, bare) {
                        (true, false) => answer(asked, 1, [0, 0]),
                        // A head alone.
                        (true, true) => [&asked[..2], &[0x80, 0x01, 0, 0, 0, 0, 0, 0, 0, 0]].concat(),
                        (false, _) => told(asked, 1),
                    }]
                })
                .await;

                assert_eq!(servers([address]).ask("a.test", Family::V4).await, found(1));
                assert_eq!(asked.borrow().len(), 2);
            }
        });
    }

    #[test]
    fn each_question_has_another_id_and_port() {
        run(async {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let log = Rc::clone(&seen);
            let (address, _) = server(move |asked, _| {
                log.borrow_mut().push(asked[..2].to_vec());
                vec![told(asked, 1)]
            })
            .await;
            for _ in 0..8 {
                servers([address]).ask("a.test", Family::V4).await;
            }

            let mut ids = seen.borrow().clone();
            ids.sort();
            ids.dedup();
            // Two of eight are the same once in 2,340 runs, four of eight never.
            assert!(ids.len() > 4, "{ids:?}");
        });
    }
}
