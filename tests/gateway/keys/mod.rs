//! Keys that an issuer publishes (R24).

/// Where they come from: URLs, discovery, authorities, proxies.
mod sources;

/// They change: refresh, rotation, and what becomes of tokens.
mod rotation;

/// They come from a real provider, which rotates them.
mod real;

/// The issuer is down, broken or hostile.
mod hostile;
