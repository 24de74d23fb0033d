//! Something that is on its way and could still turn a refusal into something else: an issuer's keys, or what an issuer
//! says of a token. A request waits for it once, for [`PATIENCE`] at most, and is decided again.

use std::time::Duration;

use tokio::sync::watch;

/// Waits for what is on its way.
#[derive(Clone, Debug)]
pub struct Awaited(watch::Receiver<u64>);

impl Awaited {
    /// Ready when the value changes or its sender is gone.
    pub(super) const fn new(change: watch::Receiver<u64>) -> Self {
        Self(change)
    }

    /// Ends when it has come, whatever it brought; after [`PATIENCE`] in any case.
    pub async fn wait(mut self) {
        // An error says that nobody fetches any more, which is an end too.
        let _ = tokio::time::timeout(PATIENCE, self.0.changed()).await;
    }
}

/// How long a request waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
