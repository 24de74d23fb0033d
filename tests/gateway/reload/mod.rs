//! Reloading: what it changes, when it changes nothing, who asks for it, and what happens meanwhile.

/// What opens and what closes.
mod diff;

/// What a reload can change, one kind after the other.
mod kinds;

/// Requests and connections while it happens, and what must not grow.
mod load;

/// When nothing changes, and who is told why.
mod refused;

/// What becomes of sessions.
mod sessions;

/// Changes of files.
mod watched;
