//! What people are reminded of while the gateway runs: routes whose rules are only reported yet. That lets everybody
//! through, and is easily forgotten.
//!
//! In: the present configuration and time. Out: a line of the log for each such route, at the start and once an hour.

use std::time::Duration;

use crate::{clock::Timestamp, state::Snapshot};

/// Reminds by the gateway's clock.
#[derive(Debug, Default)]
pub(super) struct Reminder {
    last: Option<Timestamp>,
}

impl Reminder {
    /// Called again and again.
    pub(super) fn remind(&mut self, snapshot: &Snapshot, now: Timestamp) {
        if !self.is_due(now) {
            return;
        }
        for route in snapshot.routes.routes().iter().filter(|route| route.only_reports(now)) {
            let until =
                route.report_until.map(|until| humantime::format_rfc3339_seconds(until.to_system_time()).to_string());
            let name = &*route.name;
            tracing::warn!(route = name, until, "the rules of a route are only reported: everybody is let through");
        }
    }

    /// Whether an hour is over; a clock that was set back makes nobody wait for longer.
    fn is_due(&mut self, now: Timestamp) -> bool {
        let is_due = self.last.is_none_or(|last| now < last || now.since(last) >= EVERY);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

const EVERY: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reminder_comes_at_the_start_and_each_hour() {
        let mut reminder = Reminder::default();
        let begin = Timestamp::from_unix_seconds(1_800_000_000);
        // Asked each second, as it is.
        let told: Vec<u64> =
            (0..=7300).filter(|seconds| reminder.is_due(begin.plus(Duration::from_secs(*seconds)))).collect();

        assert_eq!(told, [0, 3600, 7200]);
        assert!(reminder.is_due(begin), "the clock was set back");
        assert!(!reminder.is_due(begin.plus(Duration::from_secs(3599))));
    }
}
