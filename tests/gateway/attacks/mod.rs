//! Somebody wants in, or wants us down: framing, floods, slowness. For every case the upstream gets nothing, or whole
//! requests that were meant.

mod bodies;
mod floods;
mod heads;
mod http2;
mod http2_floods;
mod slow;
mod smuggling;
