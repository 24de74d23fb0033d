//! Who is calling, end to end: R1 to R6 and R21 to R25.

/// R1: nothing is forwarded that was not allowed.
mod default_deny;

/// R3 and R4: what counts as no credential, and where that is enough.
mod optional;

/// R2: which of several credentials counts.
mod precedence;

/// R2, R14 and R31: tokens in a cookie or a header.
mod carriers;

/// What a bearer is told when it is refused (RFC 6750).
mod challenges;

/// R6: what requirements compare.
mod requirements;

/// R5: authority belongs to its source.
mod sources;

/// R23: verified once, judged every time.
mod token_cache;

/// R21, R22 and R25: which tokens are good.
mod tokens;
