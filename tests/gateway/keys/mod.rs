//! Keys that an issuer publishes (R24).

/// Where they come from: URLs, discovery, authorities, proxies.
mod sources;

/// They change: refresh, rotation, and what becomes of tokens.
mod rotation;

/// The issuer is down, broken or hostile.
mod hostile;
