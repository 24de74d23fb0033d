//! Prometheus metrics: counters on the request's path, and their exposition (text format 0.0.4).
//!
//! Each worker counts in cells that no other thread writes, so counting takes plain loads and stores and no cache line
//! is fought over; a scrape adds the workers up. Other modules keep their own numbers and register a collector.
//! Labels are names from the configuration and closed sets of words, never a path or a user, so the number of time
//! series is bounded by the configuration.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt::{self, Write},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;

use super::outcome::Decision;
use crate::clock::Timestamp;

/// Adds the metrics of one module to a scrape. Called on the scraping thread; must not wait.
pub type Collector = Box<dyn Fn(&mut Exposition) + Send + Sync>;

/// All metrics of the process.
pub struct Registry {
    started: Timestamp,
    workers: Mutex<Vec<Arc<WorkerCounters>>>,
    collectors: Mutex<Vec<Collector>>,
}

impl Registry {
    /// An empty registry of a process that began at `started`.
    pub(super) const fn new(started: Timestamp) -> Self {
        Self { started, workers: Mutex::new(Vec::new()), collectors: Mutex::new(Vec::new()) }
    }

    /// Adds a collector, for the rest of the process's life.
    pub fn register(&self, collector: Collector) {
        lock(&self.collectors).push(collector);
    }

    /// The counters of one more worker.
    pub(super) fn worker(&self) -> WorkerMetrics {
        let counters = Arc::<WorkerCounters>::default();
        lock(&self.workers).push(Arc::clone(&counters));
        WorkerMetrics {
            unrouted: counters.routes.series(&Arc::from(NO_ROUTE)),
            routes: Slots::default(),
            upstreams: Slots::default(),
            refusals: Reasons::default(),
            reports: Reasons::default(),
            counters,
        }
    }

    /// Everything, in the text format 0.0.4 of Prometheus.
    pub fn expose(&self) -> String {
        let mut exposition = Exposition::default();
        expose_process(&mut exposition, self.started);
        self.expose_requests(&mut exposition);
        for collector in lock(&self.collectors).iter() {
            collector(&mut exposition);
        }
        exposition.finish()
    }

    fn expose_requests(&self, exposition: &mut Exposition) {
        let workers = lock(&self.workers).clone();
        let mut in_flight = 0;
        let mut routes = BTreeMap::<Arc<str>, RouteTotals>::new();
        let mut upstreams = BTreeMap::<Arc<str>, DurationTotals>::new();
        let mut refusals = BTreeMap::<&'static str, u64>::new();
        let mut reports = BTreeMap::<&'static str, u64>::new();
        for worker in &workers {
            in_flight += worker.in_flight.load(Ordering::Relaxed);
            worker.routes.each(|name, counters| counters.add_to(routes.entry(Arc::clone(name)).or_default()));
            worker.upstreams.each(|name, durations| durations.add_to(upstreams.entry(Arc::clone(name)).or_default()));
            for (totals, counters) in [(&mut refusals, &worker.refusals), (&mut reports, &worker.reports)] {
                for (reason, count) in lock(counters).iter() {
                    *totals.entry(reason).or_default() += count.value();
                }
            }
        }

        exposition
            .gauge("portcullis_requests_in_flight", "Requests whose answer has not ended yet.")
            .value(&[], u64::try_from(in_flight).unwrap_or(0));
        let help = "Requests by route, status code and decision. Code 499: the client left before the answer began.";
        let mut samples = exposition.counter("portcullis_requests_total", help);
        for (route, totals) in &routes {
            for (key, count) in &totals.answers {
                key.with_labels(|code, decision| {
                    samples.value(&[("route", route), ("code", code), ("decision", decision)], *count);
                });
            }
        }
        let help = "From the request's head to the end of the answer; tunnels are not observed.";
        let mut samples = exposition.histogram("portcullis_request_duration_seconds", help);
        for (route, totals) in &routes {
            totals.durations.expose(&mut samples, &[("route", route)]);
        }
        let mut samples = exposition.counter("portcullis_bytes_in_total", "Bytes of request bodies read from clients.");
        for (route, totals) in &routes {
            samples.value(&[("route", route)], totals.bytes_in);
        }
        let mut samples = exposition.counter("portcullis_bytes_out_total", "Bytes of answer bodies given to clients.");
        for (route, totals) in &routes {
            samples.value(&[("route", route)], totals.bytes_out);
        }
        let mut samples = exposition.counter("portcullis_refusals_total", "Answers of our own that are no success.");
        for (reason, count) in &refusals {
            samples.value(&[("reason", reason)], *count);
        }
        let help = "Requests that routes which only report let through, by why they would have been refused.";
        let mut samples = exposition.counter("portcullis_reported_total", help);
        for (reason, count) in &reports {
            samples.value(&[("reason", reason)], *count);
        }
        let help = "From the end of the request's head to the head of the upstream's answer.";
        let mut samples = exposition.histogram("portcullis_upstream_duration_seconds", help);
        for (upstream, durations) in &upstreams {
            durations.expose(&mut samples, &[("upstream", upstream)]);
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("workers", &lock(&self.workers).len()).finish_non_exhaustive()
    }
}

/// A scrape under way: families of samples, each told with its help and type, however many collectors add to it.
#[derive(Debug, Default)]
pub struct Exposition {
    families: Vec<Family>,
}

/// The kinds of metric that are used here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: String,
}

impl Exposition {
    /// A number that only rises; its name ends with `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Samples<'_> {
        debug_assert!(name.ends_with("_total"), "{name}: a counter's name ends with _total");
        self.family(name, help, Kind::Counter)
    }

    /// A number that rises and falls.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Samples<'_> {
        self.family(name, help, Kind::Gauge)
    }

    /// Observations counted in buckets.
    pub fn histogram(&mut self, name: &'static str, help: &'static str) -> Samples<'_> {
        self.family(name, help, Kind::Histogram)
    }

    fn family(&mut self, name: &'static str, help: &'static str, kind: Kind) -> Samples<'_> {
        debug_assert!(is_metric_name(name), "{name} is no metric name");
        let index = self.families.iter().position(|family| family.name == name).unwrap_or_else(|| {
            self.families.push(Family { name, help, kind, samples: String::new() });
            self.families.len() - 1
        });
        debug_assert!(self.families[index].kind == kind, "{name} has two types");
        Samples(&mut self.families[index])
    }

    /// The text. A family without a sample is left out.
    pub fn finish(self) -> String {
        let mut text = String::with_capacity(self.families.iter().map(|f| f.samples.len() + 128).sum());
        for family in self.families.iter().filter(|family| !family.samples.is_empty()) {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
            // Writing to memory cannot fail.
            let _ = writeln!(text, "# HELP {} {help}\n# TYPE {} {kind}", family.name, family.name);
            text.push_str(&family.samples);
        }
        text
    }
}

/// Takes the samples of one family.
#[derive(Debug)]
pub struct Samples<'a>(&'a mut Family);

/// A sample's value.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// A count.
    Integer(u64),
    /// Anything else.
    Float(f64),
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Integer(number)
    }
}

impl From<usize> for Number {
    fn from(number: usize) -> Self {
        Self::Integer(u64::try_from(number).unwrap_or(u64::MAX))
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<bool> for Number {
    fn from(flag: bool) -> Self {
        Self::Integer(u64::from(flag))
    }
}

impl From<Timestamp> for Number {
    /// Seconds since the epoch, as Prometheus counts time.
    fn from(time: Timestamp) -> Self {
        Self::Float(Duration::from_millis(time.unix_millis()).as_secs_f64())
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) if number.is_nan() => f.write_str("NaN"),
            Self::Float(number) if number.is_infinite() => f.write_str(if *number > 0.0 { "+Inf" } else { "-Inf" }),
            Self::Float(number) => write!(f, "{number}"),
        }
    }
}

impl Samples<'_> {
    /// One sample. Label values may be any text; names are ours.
    pub fn value(&mut self, labels: &[(&'static str, &str)], value: impl Into<Number>) -> &mut Self {
        self.sample("", labels, None, value.into());
        self
    }

    /// The samples of one histogram: pairs of an upper bound in the metric's unit and the observations at or below
    /// it but above the bound before (not cumulative, ascending, without `+Inf`), observations above all, and the sum.
    pub fn buckets(
        &mut self,
        labels: &[(&'static str, &str)],
        buckets: impl IntoIterator<Item = (f64, u64)>,
        above: u64,
        sum: f64,
    ) -> &mut Self {
        let mut count = 0;
        for (bound, observed) in buckets {
            count += observed;
            self.sample("_bucket", labels, Some(bound), Number::Integer(count));
        }
        count += above;
        self.sample("_bucket", labels, Some(f64::INFINITY), Number::Integer(count));
        self.sample("_sum", labels, None, Number::Float(sum));
        self.sample("_count", labels, None, Number::Integer(count));
        self
    }

    fn sample(&mut self, suffix: &str, labels: &[(&'static str, &str)], bound: Option<f64>, value: Number) {
        let text = &mut self.0.samples;
        text.push_str(self.0.name);
        text.push_str(suffix);
        let mut separator = '{';
        for (name, label) in labels {
            debug_assert!(is_metric_name(name) && !name.contains(':'), "{name} is no label name");
            text.push(separator);
            separator = ',';
            text.push_str(name);
            text.push_str("=\"");
            for c in label.chars() {
                match c {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    c => text.push(c),
                }
            }
            text.push('"');
        }
        // Writing to memory cannot fail.
        if let Some(bound) = bound {
            let _ = write!(text, "{separator}le=\"{}\"", Number::Float(bound));
            separator = ',';
        }
        if separator == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

/// What one worker counts with. Everything here is read by a scrape, but written by this worker only.
#[derive(Debug)]
pub(super) struct WorkerMetrics {
    counters: Arc<WorkerCounters>,
    unrouted: Rc<Series<RouteCounters>>,
    routes: Slots<RouteCounters>,
    upstreams: Slots<Durations>,
    refusals: Reasons,
    reports: Reasons,
}

impl WorkerMetrics {
    pub(super) fn request_began(&self) {
        let in_flight = &self.counters.in_flight;
        in_flight.store(in_flight.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(super) fn request_ended(&self) {
        let in_flight = &self.counters.in_flight;
        in_flight.store(in_flight.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }

    /// The counters of requests without a route.
    pub(super) fn unrouted(&self) -> Rc<Series<RouteCounters>> {
        Rc::clone(&self.unrouted)
    }

    /// The counters of a route. `index` only finds them faster: after a reload the name decides.
    pub(super) fn route(&self, index: usize, name: &Arc<str>) -> Rc<Series<RouteCounters>> {
        self.routes.slot(index, name, &self.counters.routes)
    }

    /// One answer's head of an upstream.
    pub(super) fn upstream_answered(&self, index: usize, name: &Arc<str>, elapsed: Duration) {
        self.upstreams.slot(index, name, &self.counters.upstreams).counters.observe(elapsed);
    }

    /// One refusal.
    pub(super) fn refused(&self, reason: &'static str) {
        self.refusals.count(reason, &self.counters.refusals);
    }

    /// One request that was let through although it should not have been.
    pub(super) fn reported(&self, reason: &'static str) {
        self.reports.count(reason, &self.counters.reports);
    }
}

/// Counters by reason, in one worker.
#[derive(Debug, Default)]
struct Reasons(RefCell<Vec<(&'static str, Arc<Counter>)>>);

/// The same, for whoever scrapes.
type SharedReasons = Mutex<Vec<(&'static str, Arc<Counter>)>>;

impl Reasons {
    fn count(&self, reason: &'static str, shared: &SharedReasons) {
        let mut known = self.0.borrow_mut();
        if let Some((_, count)) = known.iter().find(|(known, _)| *known == reason) {
            count.add(1);
            return;
        }
        let reason = if known.len() < MAX_REASONS { reason } else { "other" };
        let mut shared = lock(shared);
        if let Some((_, count)) = shared.iter().find(|(known, _)| *known == reason) {
            count.add(1);
            return;
        }
        let count = Arc::new(Counter::default());
        count.add(1);
        shared.push((reason, Arc::clone(&count)));
        known.push((reason, count));
    }
}

/// The counters that have one name, in one worker.
#[derive(Debug)]
pub(super) struct Series<T> {
    pub(super) name: Arc<str>,
    counters: Arc<T>,
}

impl Series<RouteCounters> {
    /// One request that has ended. `duration` is `None` for tunnels.
    pub(super) fn record(&self, status: Option<StatusCode>, decision: Decision, duration: Option<Duration>) {
        self.counters.answers.count(AnswerKey::new(status, decision));
        if let Some(duration) = duration {
            self.counters.durations.observe(duration);
        }
    }

    pub(super) fn record_bytes(&self, bytes_in: u64, bytes_out: u64) {
        self.counters.bytes_in.add(bytes_in);
        self.counters.bytes_out.add(bytes_out);
    }
}

/// A worker's way from an index in the snapshot to counters.
#[derive(Debug)]
struct Slots<T>(RefCell<Vec<Option<Rc<Series<T>>>>>);

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T: Default> Slots<T> {
    fn slot(&self, index: usize, name: &Arc<str>, all: &NamedCounters<T>) -> Rc<Series<T>> {
        let mut slots = self.0.borrow_mut();
        if let Some(Some(series)) = slots.get(index) {
            // The slot holds a reference to its name, so the same address is the same name.
            if Arc::ptr_eq(&series.name, name) {
                return Rc::clone(series);
            }
        }
        let series = all.series(name);
        if index < MAX_SLOTS {
            if slots.len() <= index {
                slots.resize_with(index + 1, || None);
            }
            slots[index] = Some(Rc::clone(&series));
        }
        series
    }
}

/// One worker's counters; the scrape reads them through an `Arc`.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerCounters {
    in_flight: AtomicI64,
    routes: NamedCounters<RouteCounters>,
    upstreams: NamedCounters<Durations>,
    /// Locked when a reason occurs for the first time and by scrapes.
    refusals: SharedReasons,
    reports: SharedReasons,
}

/// Counters by name. Locked when a name occurs for the first time after a reload, and by scrapes; names come from the
/// configuration, and those of earlier generations stay, as counters must not go back.
#[derive(Debug)]
struct NamedCounters<T>(Mutex<HashMap<Arc<str>, Arc<T>>>);

impl<T> Default for NamedCounters<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Default> NamedCounters<T> {
    fn series(&self, name: &Arc<str>) -> Rc<Series<T>> {
        let counters = Arc::clone(lock(&self.0).entry(Arc::clone(name)).or_default());
        Rc::new(Series { name: Arc::clone(name), counters })
    }

    fn each(&self, mut visit: impl FnMut(&Arc<str>, &T)) {
        for (name, counters) in lock(&self.0).iter() {
            visit(name, counters);
        }
    }
}

/// What is counted for each route.
#[derive(Debug, Default)]
pub(super) struct RouteCounters {
    answers: Answers,
    durations: Durations,
    bytes_in: Counter,
    bytes_out: Counter,
}

impl RouteCounters {
    fn add_to(&self, totals: &mut RouteTotals) {
        self.answers.each(|key, count| *totals.answers.entry(key).or_default() += count);
        self.durations.add_to(&mut totals.durations);
        totals.bytes_in += self.bytes_in.value();
        totals.bytes_out += self.bytes_out.value();
    }
}

#[derive(Debug, Default)]
struct RouteTotals {
    answers: BTreeMap<AnswerKey, u64>,
    durations: DurationTotals,
    bytes_in: u64,
    bytes_out: u64,
}

/// A status code and a decision in one word, never 0.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct AnswerKey(u32);

impl AnswerKey {
    /// More different answers than a route has room for.
    const OTHER: Self = Self(u32::MAX);

    fn new(status: Option<StatusCode>, decision: Decision) -> Self {
        let code = status.map_or(CLIENT_GONE, |status| status.as_u16());
        Self((u32::from(code) << 2) | decision as u32)
    }

    fn with_labels(self, give: impl FnOnce(&str, &str)) {
        if self == Self::OTHER {
            return give("other", "other");
        }
        let decision = [Decision::Allow, Decision::Deny, Decision::Error, Decision::Reported]
            .into_iter()
            .find(|decision| *decision as u32 == self.0 & 3)
            .map_or("other", Decision::label);
        give(&(self.0 >> 2).to_string(), decision);
    }
}

/// Counts by [`AnswerKey`]. The commonest answer of a route mostly comes first, so the search ends at once.
#[derive(Debug, Default)]
struct Answers([(AtomicU32, Counter); MAX_ANSWERS]);

impl Answers {
    fn count(&self, key: AnswerKey) {
        for (taken, count) in &self.0[..MAX_ANSWERS - 1] {
            let held = taken.load(Ordering::Relaxed);
            if held == key.0 || held == 0 {
                count.add(1);
                // Stored after the count, so that a scrape never sees a key with nothing.
                if held == 0 {
                    taken.store(key.0, Ordering::Release);
                }
                return;
            }
        }
        let (taken, count) = &self.0[MAX_ANSWERS - 1];
        count.add(1);
        taken.store(AnswerKey::OTHER.0, Ordering::Release);
    }

    fn each(&self, mut visit: impl FnMut(AnswerKey, u64)) {
        for (taken, count) in &self.0 {
            match taken.load(Ordering::Acquire) {
                0 => {}
                key => visit(AnswerKey(key), count.value()),
            }
        }
    }
}

/// Durations in buckets.
#[derive(Debug, Default)]
struct Durations {
    buckets: [Counter; BUCKETS_MICROS.len()],
    above: Counter,
    micros: Counter,
}

impl Durations {
    fn observe(&self, duration: Duration) {
        // `as_micros` would calculate in 128 bits.
        let micros = duration.as_secs().saturating_mul(1_000_000).saturating_add(duration.subsec_micros().into());
        let bucket = BUCKETS_MICROS.iter().position(|bound| micros <= *bound);
        bucket.and_then(|index| self.buckets.get(index)).unwrap_or(&self.above).add(1);
        self.micros.add(micros);
    }

    fn add_to(&self, totals: &mut DurationTotals) {
        for (total, count) in totals.buckets.iter_mut().zip(&self.buckets) {
            *total += count.value();
        }
        totals.above += self.above.value();
        totals.micros += self.micros.value();
    }
}

#[derive(Debug, Default)]
struct DurationTotals {
    buckets: [u64; BUCKETS_MICROS.len()],
    above: u64,
    micros: u64,
}

impl DurationTotals {
    fn expose(&self, samples: &mut Samples<'_>, labels: &[(&'static str, &str)]) {
        let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        let buckets = BUCKETS_MICROS.into_iter().map(seconds).zip(self.buckets);
        samples.buckets(labels, buckets, self.above, seconds(self.micros));
    }
}

/// Written by one thread only: an increment is a load and a store, not a locked instruction.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The metrics that every Prometheus client has. What the system does not tell is left out.
fn expose_process(exposition: &mut Exposition, started: Timestamp) {
    exposition
        .gauge("portcullis_build_info", "The running version; always 1.")
        .value(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
    exposition
        .gauge("process_start_time_seconds", "Start of the process, in seconds since 1970-01-01T00:00:00Z.")
        .value(&[], started);
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    if let (Ok(seconds), Ok(nanos)) = (u64::try_from(cpu.tv_sec), u32::try_from(cpu.tv_nsec)) {
        exposition
            .counter("process_cpu_seconds_total", "User and system CPU time spent.")
            .value(&[], Duration::new(seconds, nanos).as_secs_f64());
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let kibibytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        };
        if let Some(resident) = kibibytes("VmRSS:") {
            exposition.gauge("process_resident_memory_bytes", "Resident memory.").value(&[], resident * 1024);
        }
        if let Some(size) = kibibytes("VmSize:") {
            exposition.gauge("process_virtual_memory_bytes", "Virtual memory.").value(&[], size * 1024);
        }
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        // One of them reads this very folder.
        let open = descriptors.count().saturating_sub(1);
        exposition.gauge("process_open_fds", "Open file descriptors.").value(&[], open);
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        exposition.gauge("process_max_fds", "File descriptors that may be open.").value(&[], limit);
    }
}

/// `[a-zA-Z_:][a-zA-Z0-9_:]*`
fn is_metric_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b':';
    !name.is_empty() && name.bytes().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The route label of requests that have none; no route can have this name.
const NO_ROUTE: &str = "-";
/// The code of requests whose client left before the answer began, as nginx counts them.
const CLIENT_GONE: u16 = 499;
/// Different answers counted for each route, the last of them "other".
const MAX_ANSWERS: usize = 24;
/// Reasons of refusals; they are a closed set far below this.
const MAX_REASONS: usize = 128;
/// Indexes that find their counters without a lock.
const MAX_SLOTS: usize = 1 << 16;
/// Upper bounds of the duration buckets.
const BUCKETS_MICROS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A strict reader of the text format: family name → (type, samples as (name, labels, value)).
    type Parsed = BTreeMap<String, (String, Vec<(String, BTreeMap<String, String>, f64)>)>;

    fn parse(text: &str) -> Parsed {
        let mut families = Parsed::new();
        let mut current = String::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                current = rest.split_once(' ').unwrap().0.to_owned();
                assert!(!families.contains_key(&current), "{current} is told twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current);
                families.insert(current.clone(), (kind.to_owned(), Vec::new()));
            } else {
                let (name, labels, value) = parse_sample(line);
                let family = families.get_mut(&current).unwrap();
                let suffixes: &[&str] = if family.0 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffixes.iter().any(|s| name == format!("{current}{s}")), "{name} within {current}");
                family.1.push((name, labels, value));
            }
        }
        families
    }

    fn parse_sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
        let (head, value) = line.rsplit_once(' ').unwrap();
        let Some((name, rest)) = head.split_once('{') else {
            return (head.to_owned(), BTreeMap::new(), value.parse().unwrap());
        };
        let mut labels = BTreeMap::new();
        let mut chars = rest.chars();
        loop {
            let key: String = chars.by_ref().take_while(|c| *c != '=').collect();
            assert_eq!(chars.next(), Some('"'));
            let mut label = String::new();
            loop {
                match chars.next().unwrap() {
                    '"' => break,
                    '\\' => label.push(match chars.next().unwrap() {
                        'n' => '\n',
                        c @ ('"' | '\\') => c,
                        c => panic!("bad escape {c}"),
                    }),
                    c => label.push(c),
                }
            }
            assert!(labels.insert(key, label).is_none());
            match chars.next() {
                Some(',') => {}
                Some('}') => break,
                other => panic!("{other:?} in {line}"),
            }
        }
        assert_eq!(chars.next(), None);
        (name.to_owned(), labels, value.parse().unwrap())
    }

    fn value(parsed: &Parsed, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parsed.values().flat_map(|(_, samples)| samples).find(|s| s.0 == name && s.1 == wanted).map(|s| s.2)
    }

    fn registry() -> Registry {
        Registry::new(Timestamp::from_unix_seconds(1_900_000_000))
    }

    #[test]
    fn label_values_are_escaped_and_read_back() {
        let mut exposition = Exposition::default();
        let odd = "quote \" backslash \\ line\nend größe";

        exposition.gauge("a_gauge", "Help with \\ and\nline.").value(&[("x", odd), ("y", "")], 1.5);
        exposition.counter("b_total", "B.").value(&[], f64::INFINITY);
        let text = exposition.finish();

        assert!(text.starts_with("# HELP a_gauge Help with \\\\ and\\nline.\n# TYPE a_gauge gauge\n"), "{text}");
        assert!(text.ends_with("\nb_total +Inf\n"), "{text}");
        assert_eq!(value(&parse(&text), "a_gauge", &[("x", odd), ("y", "")]), Some(1.5));
    }

    #[test]
    fn a_family_of_two_collectors_is_told_once() {
        let registry = registry();
        for edge in ["a", "b"] {
            registry.register(Box::new(move |exposition| {
                exposition.gauge("portcullis_connections", "Open connections.").value(&[("listener", edge)], 3_u64);
                exposition.gauge("portcullis_of_its_own", "In between.").value(&[("of", edge)], 1_u64);
            }));
        }

        let parsed = parse(&registry.expose());

        assert_eq!(parsed["portcullis_connections"].1.len(), 2);
    }

    #[test]
    fn workers_are_added_up() {
        let registry = registry();
        let name: Arc<str> = "admin".into();
        for _ in 0..3 {
            let worker = registry.worker();
            worker.request_began();
            let route = worker.route(0, &name);
            route.record(Some(StatusCode::OK), Decision::Allow, Some(Duration::from_millis(3)));
            route.record(Some(StatusCode::FORBIDDEN), Decision::Deny, Some(Duration::from_secs(60)));
            route.record(None, Decision::Error, None);
            route.record_bytes(10, 100);
            worker.refused("not_allowed");
            worker.upstream_answered(4, &Arc::from("legacy"), Duration::from_millis(2));
        }

        let parsed = parse(&registry.expose());

        let requests = |code, decision| {
            value(&parsed, "portcullis_requests_total", &[("route", "admin"), ("code", code), ("decision", decision)])
        };
        assert_eq!(requests("200", "allow"), Some(3.0));
        assert_eq!(requests("403", "deny"), Some(3.0));
        assert_eq!(requests("499", "error"), Some(3.0));
        assert_eq!(value(&parsed, "portcullis_requests_in_flight", &[]), Some(3.0));
        assert_eq!(value(&parsed, "portcullis_refusals_total", &[("reason", "not_allowed")]), Some(3.0));
        assert_eq!(value(&parsed, "portcullis_bytes_in_total", &[("route", "admin")]), Some(30.0));
        assert_eq!(value(&parsed, "portcullis_bytes_out_total", &[("route", "admin")]), Some(300.0));
        let upstream = value(&parsed, "portcullis_upstream_duration_seconds_count", &[("upstream", "legacy")]);
        assert_eq!(upstream, Some(3.0));
        let bucket =
            |le| value(&parsed, "portcullis_request_duration_seconds_bucket", &[("route", "admin"), ("le", le)]);
        assert_eq!(bucket("0.0025"), Some(0.0));
        assert_eq!(bucket("0.005"), Some(3.0));
        assert_eq!(bucket("10"), Some(3.0));
        assert_eq!(bucket("+Inf"), Some(6.0));
        let sum = value(&parsed, "portcullis_request_duration_seconds_sum", &[("route", "admin")]).unwrap();
        assert!((sum - 180.009).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn after_a_reload_the_name_decides_not_the_index() {
        let registry = registry();
        let worker = registry.worker();
        let ok = |series: &Series<RouteCounters>| series.record(Some(StatusCode::OK), Decision::Allow, None);

        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        ok(&worker.route(0, &a));
        ok(&worker.route(1, &b));
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        ok(&worker.route(1, &a));
        ok(&worker.route(0, &b));
        ok(&worker.route(0, &b));

        let parsed = parse(&registry.expose());
        let requests = |route| {
            value(&parsed, "portcullis_requests_total", &[("route", route), ("code", "200"), ("decision", "allow")])
        };
        assert_eq!(requests("a"), Some(2.0));
        assert_eq!(requests("b"), Some(3.0));
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let registry = registry();
        let worker = registry.worker();
        let reasons: Vec<&'static str> =
            (0..200).map(|n| &*Box::leak(format!("reason_{n}").into_boxed_str())).collect();
        let route = worker.unrouted();

        for code in 100..999 {
            route.record(StatusCode::from_u16(code).ok(), Decision::Deny, None);
        }
        for reason in reasons {
            worker.refused(reason);
        }

        let parsed = parse(&registry.expose());
        let total = |name: &str| parsed[name].1.iter().map(|s| s.2).sum::<f64>();
        assert_eq!(parsed["portcullis_requests_total"].1.len(), MAX_ANSWERS);
        assert_eq!(total("portcullis_requests_total"), 899.0);
        assert_eq!(parsed["portcullis_refusals_total"].1.len(), MAX_REASONS + 1);
        assert_eq!(total("portcullis_refusals_total"), 200.0);
    }

    #[test]
    fn the_usual_process_metrics_are_there() {
        let parsed = parse(&registry().expose());

        assert_eq!(value(&parsed, "process_start_time_seconds", &[]), Some(1_900_000_000.0));
        assert_eq!(value(&parsed, "portcullis_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
        for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
            assert!(value(&parsed, name, &[]).is_some_and(|value| value > 0.0), "{name}");
        }
    }
}
