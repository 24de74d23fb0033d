//! What the RFCs of HTTP, TLS, WebSocket and JWT ask of a gateway, both ways.

mod access_tokens;
mod answers;
mod claims;
mod http2;
mod jws;
mod requests;
mod tls;
mod websocket;
