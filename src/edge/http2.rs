//! One connection that speaks HTTP/2: its bounds, its requests and how they are answered (R18, R19; RFC 9113).
//!
//! In: a [`Wire`] that counts what passes. Out: [`Inbound`](crate::inbound::Inbound) requests to the handler, answers to
//! the client. hyper and h2 read and write frames; each stream is a task ([`Answers`](super::unread::Answers) ends those
//! that nobody reads). What is done for each request is done here as seldom as can be: the time is what the worker's
//! sweep saw where it need not be exact, and what is different in each answer is kept out of HPACK's table.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    rt::{Sleep, Timer},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::TokioTimer;
use tokio::task::spawn_local;

use super::{
    Handler,
    batch::Batched,
    http::{Exchange, Tracked, note_end},
    progress::Progress,
    unread::Streams,
    wire::Wire,
};
use crate::{
    clock::{self, Timestamp},
    inbound::Malformed,
    upstream::Tunnel,
};

/// Serves until the connection ends.
pub(super) async fn serve<H: Handler>(context: Rc<Exchange<H>>, wire: Wire) {
    let limits = context.worker.limits;
    let mut builder = http2::Builder::new(Streams(Rc::clone(&context.answers)));
    builder
        .timer(PulseTimer { timer: TokioTimer::new(), pulse: Arc::clone(&context.worker.pulse) })
        .auto_date_header(false)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_TIMEOUT);
    if context.worker.handler.takes_tunnels() {
        builder.enable_connect_protocol();
    }
    let progress = Arc::clone(&context.progress);
    let client = Arc::clone(&context.connection);
    // Boxed: what waits for the handler is large, and hyper would carry it from place to place.
    let service = service_fn(move |request| Box::pin(answer(Rc::clone(&context), request)));
    let wire = Batched::new(wire);
    let mut connection = pin!(builder.serve_connection(wire.clone(), service));
    let mut told = false;
    let ended = poll_fn(|cx| {
        progress.remember(cx.waker());
        if client.cutter.is_cut(cx.waker()) {
            return Poll::Ready(Ok(()));
        }
        if (progress.is_closing() || progress.is_winding_down()) && !std::mem::replace(&mut told, true) {
            connection.as_mut().graceful_shutdown();
        }
        let polled = connection.as_mut().poll(cx);
        match wire.poll_send(cx) {
            // Nobody can be told any more.
            Poll::Ready(Err(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(())) | Poll::Pending => polled,
        }
    });
    note_end(ended.await);
}

async fn answer<H: Handler>(
    context: Rc<Exchange<H>>,
    request: Request<Incoming>,
) -> Result<Response<Tracked<H::Body>>, Infallible> {
    let malformed = (request.headers().len() > context.worker.limits.max_headers).then_some(Malformed::TooManyHeaders);
    if let Some(reason) = malformed {
        context.worker.counters.count_malformed(reason);
    }
    let under_way = context.begin();
    let stream = (request.method() == Method::CONNECT).then(|| TunnelStream::begin(&context));
    // hyper leaves the body out of an answer to HEAD in HTTP/1 only; a client takes one in HTTP/2 for a broken stream.
    let silent = request.method() == Method::HEAD;
    let (mut inbound, body) = context.inbound(request, malformed);
    let mut response = context.worker.handler.handle(&mut inbound, body).await;
    let under_way = match response.extensions().get::<Tunnel>().cloned() {
        // The stream goes on without an answer, and the connection is not idle until it has ended.
        Some(tunnel) => {
            drop(spawn_local(async move {
                tunnel.closed().await;
                drop((under_way, stream));
            }));
            None
        }
        None => Some(under_way),
    };
    if let Some(length) = response.body().size_hint().exact().filter(|length| silent && *length > 0) {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length.into());
    }
    let now = || context.worker.clock.now();
    context.worker.date.add_to(response.headers_mut(), now);
    let answer = (!silent && !response.body().is_end_stream()).then(|| context.answers.enter());
    Ok(response.map(|body| Tracked::on_stream(body, silent, answer, under_way)))
}

/// A stream that is a tunnel, or asks to be.
struct TunnelStream(Arc<Progress>);

impl TunnelStream {
    fn begin<H>(context: &Exchange<H>) -> Self {
        context.progress.begin_tunnel();
        Self(Arc::clone(&context.progress))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.0.end_tunnel();
    }
}

/// The `Date` of answers (RFC 9110 section 6.6.1), spelled once a second.
#[derive(Debug, Default)]
pub(crate) struct Date(RefCell<Option<(u64, HeaderValue)>>);

impl Date {
    /// Says when it was answered, unless the upstream has said so.
    fn add_to(&self, headers: &mut HeaderMap, now: impl FnOnce() -> Timestamp) {
        let value = headers.entry(header::DATE).or_insert_with(|| self.at(now()));
        // h2 looks for a value among those that a field has had from the oldest on, and keeps a minute's seconds.
        value.set_sensitive(true);
    }

    fn at(&self, now: Timestamp) -> HeaderValue {
        let second = now.unix_seconds();
        let mut spelled = self.0.borrow_mut();
        match &*spelled {
            Some((of, value)) if *of == second => value.clone(),
            Some(_) | None => {
                let text = httpdate::fmt_http_date(now.to_system_time());
                // A date has no byte that a field may not have.
                let value = HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static(""));
                *spelled = Some((second, value.clone()));
                value
            }
        }
    }
}

/// The time as a worker's sweep last saw it.
#[derive(Debug)]
pub(crate) struct Pulse {
    begun: Instant,
    /// Milliseconds since then.
    seen: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { begun: clock::instant(), seen: AtomicU64::new(0) }
    }
}

impl Pulse {
    pub(crate) fn beat(&self, now: Instant) {
        let since = now.saturating_duration_since(self.begun).as_millis();
        self.seen.store(u64::try_from(since).unwrap_or(u64::MAX), Relaxed);
    }

    fn last(&self) -> Instant {
        self.begun.checked_add(Duration::from_millis(self.seen.load(Relaxed))).unwrap_or(self.begun)
    }
}

/// hyper asks it for the time with each request, to know since when nothing came: a sweep more or less does not matter
/// to that. It waits as long as it is told, however long ago the last sweep was.
#[derive(Debug)]
struct PulseTimer {
    timer: TokioTimer,
    pulse: Arc<Pulse>,
}

impl PulseTimer {
    /// What is reckoned from [`Pulse::last`], from now.
    fn exact(&self, deadline: Instant) -> Instant {
        let since_beat = clock::instant().saturating_duration_since(self.pulse.last());
        deadline.checked_add(since_beat).unwrap_or(deadline)
    }
}

impl Timer for PulseTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.timer.sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.timer.sleep_until(self.exact(deadline))
    }

    fn now(&self) -> Instant {
        self.pulse.last()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, new_deadline: Instant) {
        self.timer.reset(sleep, self.exact(new_deadline));
    }
}

/// Streams that were reset before a handler saw them (CVE-2023-44487).
const RESETS: usize = 20;
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// For each stream, what an answer may run ahead of the client.
const SEND_BUFFER: usize = 64 * 1024;
const PING: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn date_of(date: &Date, headers: &mut HeaderMap, seconds: u64) -> String {
        date.add_to(headers, || Timestamp::from_unix_seconds(seconds));
        assert_eq!(headers.get_all(header::DATE).iter().count(), 1);
        headers[header::DATE].to_str().unwrap().to_owned()
    }

    #[test]
    fn an_answer_says_when_it_was_made() {
        let date = Date::default();
        for (seconds, text) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_778, "Sun, 06 Nov 1994 08:49:38 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            assert_eq!(date_of(&date, &mut HeaderMap::new(), seconds), text);
        }
    }

    #[test]
    fn an_upstreams_date_stays() {
        let mut headers = HeaderMap::new();
        headers.insert(header::DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));

        assert_eq!(date_of(&Date::default(), &mut headers, 1), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(headers[header::DATE].is_sensitive());
    }

    #[test]
    fn a_worker_that_was_held_up_waits_in_full() {
        let (timer, second) = (TokioTimer::new(), Duration::from_secs(1));
        let begun = clock::instant().checked_sub(90 * second).unwrap();
        let timer = PulseTimer { timer, pulse: Arc::new(Pulse { begun, seen: AtomicU64::default() }) };

        let deadline = timer.exact(timer.now() + 20 * second);

        assert!(deadline >= clock::instant() + 19 * second, "{deadline:?}");
    }

    #[test]
    fn the_pulse_is_never_ahead_of_what_was_seen() {
        let pulse = Pulse::default();
        let now = pulse.begun + Duration::from_millis(1234);
        assert_eq!(pulse.last(), pulse.begun);

        pulse.beat(now);

        assert_eq!(pulse.last(), now);
    }
}
