//! What goes upstream and what comes back: R12 to R16.

/// R16: answers of the upstream.
mod answers;

/// R14: our credentials stop here.
mod credentials;

/// R15: who the client is when proxies stand between.
mod forwarding;

/// R12: nothing of a client's survives under our names.
mod identity;
mod proxy_protocol;

/// R13: what identity values look like.
mod values;
