//! What the RFCs of HTTP, TLS, WebSocket and JWT ask of a gateway, both ways.

mod access_tokens;
mod answers;
mod autobahn;
mod claims;
mod faults;
mod faults_http2;
mod hints;
mod http2;
mod jws;
pub(crate) mod large;
mod long_run;
mod requests;
mod tls;
mod websocket;
mod websocket_http2;
