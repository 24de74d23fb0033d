//! When a key is made, published, signed with and forgotten.
//!
//! In: the keys of one algorithm and the time. Out: the one change that is due, if any. A key is published for
//! [`LEAD`] before it signs, so that whoever keeps our key set for as long as it says knows every key by the time it
//! is used; it stays published for [`KEEP`] after its last signature, so that whatever it signed has ended.
//! Invariant: a key's way is next, current, retired, gone, and never back, whatever the clock does; one key signs at a
//! time. A clock that is set back makes a key wait longer, never for what was ahead of it.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::error::Unspecified;

use super::key::{Algorithm, SigningKey};
use crate::clock::Timestamp;

/// How long a key set may be kept by whoever fetched it: its `max-age`.
pub const MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// The longest that anything signed with these keys may live.
pub const LONGEST_LIFE: Duration = Duration::from_secs(5 * 60);

/// From being published to signing. Far above [`MAX_AGE`]: some keep a set for as long as they please.
pub const LEAD: Duration = Duration::from_secs(24 * 3600);

/// From the last signature to being forgotten: what it signed may live on for that long by the clock of its reader.
pub const KEEP: Duration = LONGEST_LIFE.saturating_add(SKEW);

/// For how long a key signs.
pub const TERM: Duration = Duration::from_secs(30 * 24 * 3600);

/// How far the clocks of readers may be behind ours.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// A key and where it is on its way.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) key: Arc<SigningKey>,
    pub(super) stage: Stage,
    /// When it came to this stage.
    pub(super) since: Timestamp,
}

/// Where a key is on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// It signs.
    Current,
    /// It is published, and will sign.
    Next,
    /// It has signed, and is still published.
    Retired,
}

/// The keys after a change that was due, and which of them are new or changed; the others are gone.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) after: Vec<Held>,
    pub(super) changed: Vec<Held>,
    pub(super) gone: Vec<Held>,
}

/// What is to be done now with the keys of one algorithm; `None`: nothing.
pub(super) fn turn(
    held: &[Held],
    algorithm: Algorithm,
    typ: &str,
    now: Timestamp,
) -> Result<Option<Turn>, Unspecified> {
    let at = |stage: Stage| held.iter().find(|held| held.stage == stage);
    let make = |stage| {
        let key = Arc::new(SigningKey::generate(algorithm, typ)?);
        Ok::<_, Unspecified>(Held { key, stage, since: now })
    };
    let passed = |held: &Held, duration| now.since(held.since) >= duration;
    let (mut changed, mut gone) = (Vec::new(), Vec::new());
    match (at(Stage::Current), at(Stage::Next)) {
        // Nobody can know a key yet, so nobody has to hear of this one first.
        (None, _) => changed.push(make(Stage::Current)?),
        (Some(current), Some(next)) if passed(next, LEAD) => {
            changed.push(Held { stage: Stage::Retired, since: now, ..current.clone() });
            changed.push(Held { stage: Stage::Current, since: now, ..next.clone() });
        }
        (Some(current), None) if passed(current, TERM.saturating_sub(LEAD)) => changed.push(make(Stage::Next)?),
        (Some(_), Some(_) | None) => {
            gone.extend(held.iter().filter(|held| held.stage == Stage::Retired && passed(held, KEEP)).cloned());
        }
    }
    if changed.is_empty() && gone.is_empty() {
        return Ok(None);
    }
    let replaced = |held: &&Held| !changed.iter().chain(&gone).any(|other| other.key.kid() == held.key.kid());
    let after = held.iter().filter(replaced).chain(&changed).cloned().collect();
    Ok(Some(Turn { after, changed, gone }))
}

/// The same keys, none of them from the future: where the clock was set back, their time begins anew.
pub(super) fn not_ahead(held: &mut [Held], now: Timestamp) {
    held.iter_mut().for_each(|held| held.since = held.since.min(now));
}

impl Stage {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Next => "next",
            Self::Retired => "retired",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Current, Self::Next, Self::Retired].into_iter().find(|stage| stage.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    /// Keys whose turns are taken at the times it is told.
    struct Ring(Vec<Held>);

    impl Ring {
        fn new() -> Self {
            let mut ring = Self(Vec::new());
            ring.at(START);
            ring
        }

        fn at(&mut self, now: Timestamp) {
            not_ahead(&mut self.0, now);
            while let Some(turn) = turn(&self.0, Algorithm::EdDsa, "JWT", now).unwrap() {
                self.0 = turn.after;
            }
        }

        fn kid(&self, stage: Stage) -> Option<String> {
            self.0.iter().find(|held| held.stage == stage).map(|held| held.key.kid().to_owned())
        }

        fn kids(&self) -> Vec<String> {
            self.0.iter().map(|held| held.key.kid().to_owned()).collect()
        }
    }

    #[test]
    fn the_first_key_signs_at_once() {
        assert_eq!(Ring::new().0.iter().map(|held| held.stage).collect::<Vec<_>>(), [Stage::Current]);
    }

    #[test]
    fn a_key_is_published_for_a_day_before_it_signs_and_until_what_it_signed_has_ended() {
        let mut ring = Ring::new();
        let first = ring.kid(Stage::Current);
        let made = START.plus(TERM - LEAD);
        ring.at(made.minus(Duration::from_millis(1)));
        assert_eq!(ring.kid(Stage::Next), None);

        ring.at(made);
        let second = ring.kid(Stage::Next);
        assert!(second.is_some());
        ring.at(made.plus(LEAD - Duration::from_millis(1)));
        assert_eq!((ring.kid(Stage::Current), ring.kid(Stage::Next)), (first.clone(), second.clone()));

        let promoted = made.plus(LEAD);
        ring.at(promoted);
        assert_eq!((ring.kid(Stage::Current), ring.kid(Stage::Retired)), (second, first.clone()));
        ring.at(promoted.plus(KEEP - Duration::from_millis(1)));
        assert_eq!(ring.kid(Stage::Retired), first);
        ring.at(promoted.plus(KEEP));
        assert_eq!(ring.kid(Stage::Retired), None);
    }

    #[test]
    fn what_was_due_while_nobody_looked_is_made_up_for_without_haste() {
        let mut ring = Ring::new();
        let first = ring.kid(Stage::Current);

        let late = START.plus(TERM * 12);
        ring.at(late);

        assert_eq!(ring.kid(Stage::Current), first);
        assert!(ring.kid(Stage::Next).is_some());
        ring.at(late.plus(LEAD));
        assert_ne!(ring.kid(Stage::Current), first);
    }

    #[test]
    fn a_clock_that_is_set_back_revives_no_key_and_stops_no_rotation() {
        let mut ring = Ring::new();
        let first = ring.kid(Stage::Current).unwrap();
        let ahead = START.plus(TERM * 100);
        ring.at(ahead);
        ring.at(ahead.plus(LEAD));
        ring.at(ahead.plus(LEAD).plus(KEEP));
        let second = ring.kid(Stage::Current);
        assert!(!ring.kids().contains(&first));

        ring.at(START);

        assert_eq!(ring.kid(Stage::Current), second);
        assert!(!ring.kids().contains(&first));
        ring.at(START.plus(TERM - LEAD));
        ring.at(START.plus(TERM));
        assert_ne!(ring.kid(Stage::Current), second);
    }

    #[test]
    fn one_key_signs_whatever_the_times_are() {
        use proptest::{prelude::*, test_runner::TestRunner};

        let steps = prop::collection::vec(-40_i64..80, 1..60);
        TestRunner::default()
            .run(&steps, |steps| {
                let mut ring = Ring::new();
                let (mut now, mut signed) = (START, Vec::new());
                for hours in steps {
                    let step = Duration::from_secs(hours.unsigned_abs() * 12 * 3600);
                    let published = ring.kids();
                    now = if hours < 0 { now.minus(step) } else { now.plus(step) };
                    ring.at(now);
                    let current: Vec<_> = ring.0.iter().filter(|held| held.stage == Stage::Current).collect();
                    prop_assert_eq!(current.len(), 1);
                    let kid = current[0].key.kid().to_owned();
                    // Nothing signs that was not published before, and nothing that signed before signs again.
                    prop_assert!(published.contains(&kid));
                    if signed.last() != Some(&kid) {
                        prop_assert!(!signed.contains(&kid));
                        signed.push(kid);
                    }
                }
                Ok(())
            })
            .unwrap();
    }
}
