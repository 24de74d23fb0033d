//! What the RFCs of HTTP, TLS and WebSocket ask of a gateway, both ways.

mod answers;
mod requests;
mod tls;
mod websocket;
