//! Following a process, and being followed: what [`handover`] needs of a gateway.
//!
//! In: `server.upgrade_socket`. Out: the process before, step by step, and at the end an [`Offer`] of our own in its
//! place. Invariant: what fails before [`take`] is an error of the start, and leaves the process before as it was.

use std::{
    io,
    os::unix::net::UnixListener,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{StartError, failed};
use crate::{
    config::Startup,
    edge::{self, TlsSlot},
    handover::{self, Handle, Link, Offer, Predecessor, Taking},
    listener::Listener,
    state::Live,
};

/// The process that is to be followed; `None`: there is none.
pub(super) fn predecessor(startup: &Startup) -> Result<Option<Predecessor>, StartError> {
    let what = "the running process cannot be followed";
    let Some(socket) = &startup.upgrade_socket else {
        return Err(failed(what)("the configuration has no `server.upgrade_socket`"));
    };
    let found = Predecessor::find(socket, startup.state.as_ref().map(|state| &*state.dir)).map_err(failed(what))?;
    if found.is_none() {
        tracing::info!(socket = %socket.display(), "there is no process to be followed; this one starts as usual");
    }
    Ok(found)
}

/// Lets it give its state away.
pub(super) fn release(predecessor: Predecessor) -> Result<Taking, StartError> {
    predecessor.release().map_err(failed("the running process does not give its state away"))
}

/// Takes over.
pub(super) fn take(taking: Taking, tls: Option<&TlsSlot>, live: &Live) -> Result<Link, StartError> {
    if let Some(tls) = tls {
        tls.current().take_over_tickets(taking.tickets());
    }
    let (link, logins) = taking.take().map_err(failed("the running process does not hand over"))?;
    let shared = &live.shared;
    // Proofs are dated in whole seconds: what was made in this one may have been used there.
    shared.proofs.begin_again(shared.clock.now().plus(Duration::from_secs(1)));
    logins.take_over(&shared.throttle, &shared.second, &live.snapshot().login);
    Ok(link)
}

/// Does what the process before asks for while it drains, and tells it what has changed; meanwhile the answer is set.
pub(super) fn keep_in_step(link: Link, live: &Arc<Live>) -> io::Result<Arc<AtomicBool>> {
    let durable = live.shared.durable.clone().ok_or_else(|| io::Error::other("there is no state"))?;
    let is_there = Arc::<AtomicBool>::default();
    link.serve(live, durable, Arc::clone(&is_there))?;
    Ok(is_there)
}

/// What the next process gets, and where it asks. A process that has followed another serves without it, should it
/// fail.
pub(super) fn offer(
    startup: &Startup,
    live: &Arc<Live>,
    tls: Option<&Arc<TlsSlot>>,
    handles: Vec<Handle>,
    before: Option<Arc<AtomicBool>>,
) -> Result<(Option<Arc<Offer>>, Option<UnixListener>), StartError> {
    let Some(socket) = &startup.upgrade_socket else {
        return Ok((None, None));
    };
    let open = || {
        handover::check_directory(socket)?;
        let bound = edge::bind(&Listener::Unix { path: socket.clone(), mode: 0o600 })?;
        let listener = UnixListener::from(bound.share()?.0);
        Ok::<_, io::Error>((bound, listener))
    };
    match open() {
        Ok((bound, listener)) => {
            let state = startup.state.as_ref().map(|state| state.dir.clone());
            let offer =
                Offer::new(Arc::clone(live), tls.cloned(), state, handles, before.unwrap_or_default(), Box::new(bound));
            Ok((Some(offer), Some(listener)))
        }
        Err(error) if before.is_some() => {
            tracing::error!(%error, "server.upgrade_socket cannot be used; this process cannot be followed");
            Ok((None, None))
        }
        Err(error) => Err(failed("server.upgrade_socket cannot be used")(error)),
    }
}

/// Hears processes that want to follow, for as long as it is polled.
pub(super) async fn wait_for_followers(offer: Arc<Offer>, asking: UnixListener) {
    let asking = match tokio::net::UnixListener::from_std(asking) {
        Ok(asking) => asking,
        Err(error) => return tracing::error!(%error, "server.upgrade_socket is not heard"),
    };
    loop {
        match asking.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => offer.talk(stream),
            Err(error) => {
                tracing::warn!(%error, "a process that wanted to follow was not heard");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
