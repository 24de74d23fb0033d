//! What the kernel knows of a process: CPU time, resident memory, system calls by name. Reads `/proc`; calls `perf`,
//! or `strace` where `perf` cannot count.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::Result;

/// Where the proxy runs.
pub(crate) const PROXY_CORE: &str = "0";
/// Where the load and the upstream run.
pub(crate) const LOAD_CORE: &str = "1";

/// Puts this process, and what it starts from now on, on one core.
pub(crate) fn pin_this_process(core: &str) {
    let pid = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-a", "-c", "-p", core, &pid]).stdout(Stdio::null()).status();
    if !pinned.is_ok_and(|status| status.success()) {
        eprintln!("compare: could not pin the load to core {core}; figures will be noisy");
    }
}

/// CPU time of some processes, all their threads together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    /// On a core, exactly, in microseconds.
    pub(crate) total: f64,
    /// User and kernel in clock ticks: sampled, good for the ratio.
    user_ticks: u64,
    kernel_ticks: u64,
}

impl Cpu {
    pub(crate) fn read(processes: &[u32]) -> Result<Self> {
        let mut cpu = Self { total: 0.0, user_ticks: 0, kernel_ticks: 0 };
        for process in processes {
            // After the command's name, which may hold anything, utime and stime are the 12th and 13th word.
            let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
            let (_, words) = stat.rsplit_once(") ").ok_or("an odd /proc/PID/stat")?;
            let words: Vec<&str> = words.split(' ').collect();
            cpu.user_ticks += words.get(11).ok_or("a short /proc/PID/stat")?.parse::<u64>()?;
            cpu.kernel_ticks += words.get(12).ok_or("a short /proc/PID/stat")?.parse::<u64>()?;
            for thread in fs::read_dir(format!("/proc/{process}/task"))? {
                let schedule = fs::read_to_string(thread?.path().join("schedstat"))?;
                let nanos: f64 = schedule.split(' ').next().ok_or("an empty schedstat")?.parse()?;
                cpu.total += nanos / 1000.0;
            }
        }
        Ok(cpu)
    }

    /// What was used between two readings.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total - earlier.total,
            user_ticks: self.user_ticks - earlier.user_ticks,
            kernel_ticks: self.kernel_ticks - earlier.kernel_ticks,
        }
    }

    /// The part of the time spent in user space, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "ticks of a few seconds")]
    pub(crate) fn user_share(&self) -> f64 {
        let ticks = self.user_ticks + self.kernel_ticks;
        if ticks == 0 { 0.0 } else { self.user_ticks as f64 / ticks as f64 }
    }
}

/// Resident memory of some processes together, in KiB.
pub(crate) fn resident_kib(processes: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for process in processes {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        sum += line.trim().trim_end_matches(" kB").parse::<u64>()?;
    }
    Ok(sum)
}

/// A process and all that descend from it.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(process) = found.get(at) {
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        at += 1;
    }
    found
}

/// System calls per request, by name.
#[derive(Clone, Debug)]
pub(crate) struct SystemCalls {
    /// Which tool counted.
    pub(crate) tool: &'static str,
    pub(crate) per_request: BTreeMap<String, f64>,
}

/// Counts for two seconds under the running load, whose requests `counter` tells.
pub(crate) async fn system_calls(processes: &[u32], counter: Arc<AtomicU64>) -> Result<SystemCalls> {
    let list = processes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    // The load lives on this thread: the tool is awaited on another.
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let counted = with_perf(&list, &counter)
            .or_else(|perf| with_strace(&list, &counter).map_err(|strace| format!("perf: {perf}; strace: {strace}")));
        let _ = sender.send(counted);
    });
    Ok(tokio::time::timeout(Duration::from_secs(60), receiver).await???)
}

type Counted = std::result::Result<SystemCalls, String>;

fn with_perf(processes: &str, counter: &AtomicU64) -> Counted {
    let total = "raw_syscalls:sys_enter";
    let events: Vec<String> = std::iter::once(total.to_owned())
        .chain(CALLS.iter().map(|call| format!("syscalls:sys_enter_{call}")))
        .collect();
    // The inner command says when counting has begun and when it ends.
    let mut child = Command::new("perf")
        .args(["stat", "-x", ",", "-e", &events.join(","), "-p", processes, "--"])
        .args(["sh", "-c", "echo begin; sleep 2; echo end"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut marks = Vec::new();
    if let Some(output) = child.stdout.take() {
        marks.extend(
            BufReader::new(output).lines().map_while(std::result::Result::ok).map(|_| counter.load(Ordering::Relaxed)),
        );
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stderr);
    let [begin, end] = marks[..] else { return Err(text.lines().next().unwrap_or("no output").to_owned()) };
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(',');
        if let (Some(Ok(count)), Some(_), Some(event)) =
            (fields.next().map(str::parse::<f64>), fields.next(), fields.next())
        {
            counts.insert(event.rsplit("sys_enter_").next().unwrap_or(event).to_owned(), count);
        }
    }
    let all = counts.remove(total).filter(|count| *count > 0.0).ok_or("perf counted nothing")?;
    let named: f64 = counts.values().sum();
    counts.insert("other".into(), (all - named).max(0.0));
    per_request("perf", counts, begin, end)
}

fn with_strace(processes: &str, counter: &AtomicU64) -> Counted {
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let path = file.path().to_string_lossy().into_owned();
    let mut command = Command::new("timeout");
    command.args(["--signal=INT", "2", "strace", "-qq", "-f", "-c", "-o", &path]);
    command.args(processes.split(',').flat_map(|process| ["-p", process]));
    let begin = counter.load(Ordering::Relaxed);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| error.to_string())?;
    let end = counter.load(Ordering::Relaxed);
    let table = fs::read_to_string(file.path()).map_err(|error| error.to_string())?;
    let counts: BTreeMap<String, f64> = table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (name, count) = (words.last()?, words.get(3)?);
            (*name != "total").then_some(((*name).to_owned(), count.parse().ok()?))
        })
        .collect();
    if counts.is_empty() {
        return Err("strace counted nothing".into());
    }
    per_request("strace", counts, begin, end)
}

#[expect(clippy::cast_precision_loss, reason = "requests of two seconds")]
fn per_request(tool: &'static str, counts: BTreeMap<String, f64>, begin: u64, end: u64) -> Counted {
    let requests = end.saturating_sub(begin) as f64;
    if requests < 1.0 {
        return Err("no request ended while calls were counted".into());
    }
    Ok(SystemCalls { tool, per_request: counts.into_iter().map(|(call, count)| (call, count / requests)).collect() })
}

/// Calls that are counted by name; each event costs perf some time to take away again, so not all 360 are asked for.
const CALLS: &[&str] = &[
    "accept4",
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "connect",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "eventfd2",
    "fcntl",
    "futex",
    "getpeername",
    "getpid",
    "getrandom",
    "getsockname",
    "getsockopt",
    "io_uring_enter",
    "ioctl",
    "madvise",
    "mmap",
    "munmap",
    "nanosleep",
    "openat",
    "poll",
    "ppoll",
    "pread64",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "rt_sigprocmask",
    "sched_yield",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "socket",
    "splice",
    "timerfd_settime",
    "write",
    "writev",
];
