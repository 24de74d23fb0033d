//! Which route and method: R9 and R11.

/// R9 and R11: 405 with `Allow`, HEAD by GET, methods that are never served, and those that hide in headers.
mod methods;
