//! Which resource a request is for: paths, hosts, methods (R7, R8, R10, R11). Whatever two readers could take for
//! different things never reaches the upstream.

mod canonical;
mod hosts;
mod methods;
mod quirks;
