//! Of several addresses of one server, the first that answers (RFC 8305, "happy eyeballs").
//!
//! In: addresses in the system's order of preference (RFC 6724). Out: a connection to one of them, or why there is none
//! to any. Families alternate; the next attempt begins 250 ms after the last one, or at once when that failed, and all
//! go on until one stands. The others are dropped. The caller bounds the whole.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use smallvec::SmallVec;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Addresses of one name.
pub(super) type Addresses = SmallVec<[SocketAddr; 4]>;

/// The first connection that stands. Must run where local tasks can be spawned.
///
/// # Errors
/// Of the last attempt that failed; `None` without addresses.
pub(super) async fn connect(addresses: Addresses) -> Result<TcpStream, Option<io::Error>> {
    if let [address] = addresses[..] {
        return TcpStream::connect(address).await.map_err(Some);
    }
    first(alternating(&addresses), TcpStream::connect).await
}

async fn first<T: 'static, F>(addresses: Addresses, attempt: impl Fn(SocketAddr) -> F) -> Result<T, Option<io::Error>>
where
    F: Future<Output = io::Result<T>> + 'static,
{
    let mut attempts = JoinSet::new();
    let mut left = addresses.into_iter();
    let mut failure = None;
    let mut next = left.next();
    let mut begins = Instant::now();
    loop {
        if attempts.is_empty() && next.is_none() {
            return Err(failure);
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(why)) => {
                    failure = Some(why);
                    begins = Instant::now();
                }
                // Attempts are not aborted while this waits, and do not panic.
                Err(_) => {}
            },
            () = sleep_until(begins), if next.is_some() => {
                if let Some(address) = next {
                    attempts.spawn_local(attempt(address));
                }
                next = left.next();
                begins = Instant::now() + ATTEMPT_DELAY;
            }
        }
    }
}

/// One family and the other in turn, beginning with that of the first (RFC 8305 section 4).
fn alternating(addresses: &[SocketAddr]) -> Addresses {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let mut these = addresses.iter().filter(|address| address.is_ipv6() == first_is_v6);
    let mut those = addresses.iter().filter(|address| address.is_ipv6() != first_is_v6);
    let mut all = Addresses::new();
    loop {
        let (this, that) = (these.next(), those.next());
        if this.is_none() && that.is_none() {
            return all;
        }
        all.extend(this.into_iter().chain(that).copied());
    }
}

/// RFC 8305 section 5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending, rc::Rc};

    use tokio::task::LocalSet;

    use super::*;

    fn addresses(list: &[&str]) -> Addresses {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(test))
    }

    const THREE: [&str; 3] = ["[::1]:1", "[::2]:1", "10.0.0.1:1"];

    #[test]
    fn families_alternate_beginning_with_the_preferred_one() {
        assert_eq!(alternating(&addresses(&THREE)), addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1"]));
        let four = ["10.0.0.1:1", "10.0.0.2:1", "[::1]:1"];
        assert_eq!(alternating(&addresses(&four)), addresses(&["10.0.0.1:1", "[::1]:1", "10.0.0.2:1"]));
        assert_eq!(alternating(&[]), Addresses::new());
    }

    #[test]
    fn an_address_that_never_answers_does_not_keep_the_next_one_from_being_tried() {
        let asked = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&asked);

        let reached = run(first(addresses(&THREE), move |address| {
            log.borrow_mut().push(address);
            async move {
                if address == "10.0.0.1:1".parse().unwrap() {
                    return Ok(address);
                }
                pending().await
            }
        }));

        // In the order of the list that is given: `connect` alternates before.
        assert_eq!(reached.unwrap(), "10.0.0.1:1".parse().unwrap());
        assert_eq!(asked.borrow().len(), 3);
    }

    #[test]
    fn a_slow_answer_counts_while_others_are_tried() {
        let (told, heard) = tokio::sync::oneshot::channel::<()>();
        let heard = RefCell::new(Some(heard));
        let told = RefCell::new(Some(told));

        let reached = run(first(addresses(&THREE), move |address| {
            // The first answers only once the second is being tried.
            let first = heard.borrow_mut().take();
            let second = if first.is_none() { told.borrow_mut().take() } else { None };
            async move {
                if let Some(heard) = first {
                    let _ = heard.await;
                    return Ok(address);
                }
                drop(second);
                pending().await
            }
        }));

        assert_eq!(reached.unwrap(), addresses(&THREE)[0]);
    }

    #[test]
    fn when_all_fail_the_last_reason_is_told_and_none_without_addresses() {
        let failing = |_| async { Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused)) };

        let failure = run(first(addresses(&THREE), failing)).unwrap_err();
        assert_eq!(failure.unwrap().kind(), io::ErrorKind::ConnectionRefused);
        assert!(run(first(Addresses::new(), failing)).unwrap_err().is_none());
    }
}
