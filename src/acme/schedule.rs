//! When a certificate is ordered or renewed, and how long is waited after a failure.
//!
//! Pure: dates and counts in, moments and waits out. Waits grow, are bounded, and spread by a random part, so that many
//! gateways that failed together do not come back together.

use std::time::Duration;

use super::{Failure, Settings, Why};
use crate::clock::Timestamp;

/// When to renew a certificate that is valid from `from` until `until`: `before` its end, or in the last third of its
/// life; up to a fiftieth of its life earlier, by `chance` (0 to 255).
pub(super) fn renewal(from: Timestamp, until: Timestamp, before: Option<Duration>, chance: u8) -> Timestamp {
    let life = until.since(from);
    // A wish that is longer than the certificate lives would have it renewed without end.
    let before = before.filter(|before| *before < life / 4 * 3).unwrap_or(life / 3);
    until.minus(before + life / 50 * u32::from(chance) / 256)
}

/// How long to wait after a failure, the `failures`th in a row, up to a quarter more by `chance`.
pub(super) fn wait(failure: &Failure, failures: u32, settings: &Settings, chance: u8) -> Duration {
    let steps = failures.saturating_sub(1);
    let grown = |factor: u32, most: Duration| {
        let wait = settings.retry.saturating_mul(factor.saturating_pow(steps.min(16)));
        wait.min(most.max(settings.retry))
    };
    let own = match failure.why {
        // Costs the authority nothing, and may be over at any moment.
        Why::Away | Why::State => grown(2, LONGEST_AWAY),
        Why::Account | Why::NotProved | Why::Refused => grown(4, LONGEST),
        Why::RateLimited => match failure.retry_after {
            Some(_) => grown(4, LONGEST),
            None => grown(4, LONGEST).max(RATE_LIMIT),
        },
    };
    let wait = own.max(failure.retry_after.unwrap_or_default().min(LONGEST_ASKED));
    wait + wait / 4 * u32::from(chance) / 256
}

/// No wait is longer than this, whatever an authority asks or a clock that was wrong has written down.
pub(super) const LONGEST_ASKED: Duration = Duration::from_secs(7 * 86_400);

const LONGEST: Duration = Duration::from_secs(6 * 3600);
const LONGEST_AWAY: Duration = Duration::from_secs(30 * 60);
/// Where the authority does not say when its limit ends.
const RATE_LIMIT: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::{ChallengeKind, Directory, KeyType};

    const DAY: Duration = Duration::from_secs(86_400);
    const MINUTE: Duration = Duration::from_secs(60);

    fn settings() -> Settings {
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let trust = crate::fetch::Trust::from_pem(authority.pem().as_bytes()).unwrap();
        Settings {
            directory: Directory::new("letsencrypt").unwrap(),
            contact: [].into(),
            hosts: [].into(),
            challenges: [ChallengeKind::TlsAlpn01].into(),
            client: crate::fetch::Client::new(trust, None),
            external_account: None,
            key_type: KeyType::default(),
            renew_before: None,
            retry: Settings::RETRY,
        }
    }

    fn failed(why: Why, retry_after: Option<Duration>) -> Failure {
        Failure { retry_after, ..Failure::new(why, "") }
    }

    #[test]
    fn a_certificate_is_renewed_in_its_last_third_or_as_long_before_its_end_as_wished() {
        let from = Timestamp::from_unix_seconds(1_900_000_000);
        let until = from.plus(DAY * 90);
        let after = |before, chance| renewal(from, until, before, chance).since(from);

        assert_eq!(after(None, 0), DAY * 60);
        assert_eq!(after(Some(DAY * 10), 0), DAY * 80);
        assert!(after(None, 255) < DAY * 60 && after(None, 255) > DAY * 58);
        assert_eq!(after(Some(DAY * 90), 0), DAY * 60, "it would be renewed without end");
        assert_eq!(renewal(until, from, None, 9), from, "dates the wrong way round");
    }

    #[test]
    fn waits_grow_and_let_no_more_than_five_orders_for_a_host_fail_in_an_hour() {
        let settings = settings();
        let waits: Vec<u64> =
            (1..8).map(|failures| wait(&failed(Why::NotProved, None), failures, &settings, 0).as_secs() / 60).collect();

        assert_eq!(waits, [1, 4, 16, 64, 256, 360, 360]);
        assert!(wait(&failed(Why::Away, None), 40, &settings, 0) == MINUTE * 30);
        assert!(wait(&failed(Why::NotProved, None), u32::MAX, &settings, 255) < MINUTE * 360 * 5 / 4);
    }

    #[test]
    fn what_an_authority_asks_us_to_wait_is_waited_within_a_week() {
        let settings = settings();
        let waits = |why, asked| wait(&failed(why, asked), 1, &settings, 0);

        assert_eq!(waits(Why::RateLimited, Some(DAY)), DAY);
        assert_eq!(waits(Why::RateLimited, Some(Duration::from_secs(1))), MINUTE, "never sooner than without");
        assert_eq!(waits(Why::RateLimited, None), MINUTE * 60);
        assert_eq!(waits(Why::Away, Some(MINUTE * 5)), MINUTE * 5);
        assert_eq!(waits(Why::RateLimited, Some(DAY * 365)), DAY * 7);
    }
}
