//! A new process follows a running one, and nobody notices (zero-downtime upgrade).
//!
//! ```text
//! new: connects ── Hello ─▶ old        both prove to be of one user, over a 0600 socket in a 0700 directory
//!      ◀─ Sockets ──                   the listening sockets themselves: their queue is shared, no client is refused
//!      builds everything that can fail
//!      ── Release ─▶                   changes wait from here on
//!      ◀─ Released ─                   ticket keys; the database is closed, or comes as a file in memory
//!      opens it, restores sessions
//!      ── Take ─▶                      from here on there is no way back
//!      ◀─ Taken ──                     the old one accepts no more, finishes what it has begun, and leaves
//!      serves
//!      ◀─ Ask ── ── Done ─▶            what is to be changed in the old one is changed in the new one first
//!      ── Changed ─▶ ◀─ Heard ──       what the new one changes holds in the old one before anybody hears of it
//! ```
//! Invariants: until `Take` the old process can go on as if nothing had happened, and does when anything fails; only
//! one of the two has the database open. From `Taken` on nobody is told that something has ended or changed while it
//! goes on in the other process: the old one closes its end only by ending, it ends where it cannot hear or follow, the
//! new one ends it where it does not answer, and a change that neither helps is refused. What the old one cannot leave
//! to the new one it refuses (503).

mod giving;
mod taking;
mod wire;

pub use giving::{Handle, Offer};
pub use taking::{Link, Predecessor, Refused, Taking};
pub use wire::check_directory;

use crate::{
    durable::{Table, handover::Passed},
    state::Live,
};

/// Makes memory hold what another process has changed; `false`: it does not hold, since it cannot be read.
fn apply(live: &Live, passed: &[Passed]) -> bool {
    let (snapshot, shared) = (live.snapshot(), &live.shared);
    let now = shared.clock.now();
    passed.iter().all(|change| {
        let (key, value) = change.record();
        let applied = match change.table() {
            Table::Sessions => shared.sessions.follow(key, value, change.replaces(), &snapshot.session, now),
            Table::Revocations => shared.revocations.follow(value, now),
            Table::Keys => shared.made_keys.follow_record(key, value),
            Table::Refresh => shared.families.follow(key, value, change.replaces()),
            // Read once, at the start, and never changed by what a draining process still serves; or of no weight.
            Table::Acme
            | Table::Devices
            | Table::Factors
            | Table::Meta
            | Table::Seen
            | Table::Signing
            | Table::Users => Ok(()),
        };
        applied
            .inspect_err(|why| {
                tracing::error!(
                    why,
                    "a change of the other process cannot be read; is it of a version that differs too much?"
                );
            })
            .is_ok()
    })
}

/// Whether the process that follows can be asked for this; what it cannot is refused (503) and holds nowhere. What
/// takes the place of something was thought of when that was as it is here: it may be otherwise there, and a refresh
/// token has one successor only.
fn can_be_passed(passed: &[Passed]) -> bool {
    passed.iter().all(|change| match change.table() {
        Table::Sessions | Table::Revocations | Table::Keys | Table::Refresh => !change.replaces(),
        Table::Acme | Table::Devices | Table::Factors | Table::Meta | Table::Seen | Table::Signing | Table::Users => {
            false
        }
    })
}

/// Of what is said between the two.
const VERSION: u32 = 1;
