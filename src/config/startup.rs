//! What a reload cannot change, key by key (R37).

use super::Startup;
use crate::{
    authn::token_cache::CacheLimits,
    durable,
    edge::{self, Limits},
    telemetry::LogSettings,
};

impl Startup {
    /// The keys whose values are others in `new`, by their dotted paths: what asks for a restart.
    pub fn differences(&self, new: &Self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let mut compare = |key, same: bool| {
            if !same {
                keys.push(key);
            }
        };
        // Taken apart by name, so that nobody adds a setting without saying here what a reload does with it.
        let Self { edge, state, tokens, upgrade_socket, log, telemetry, admin } = self;
        compare("server.upgrade_socket", *upgrade_socket == new.upgrade_socket);
        let edge::Settings { listeners, redirect_http, workers, drain_timeout, limits } = edge;
        compare("server.listen", *listeners == new.edge.listeners);
        compare("server.redirect_http", *redirect_http == new.edge.redirect_http);
        compare("server.workers", *workers == new.edge.workers);
        compare("server.drain_timeout", *drain_timeout == new.edge.drain_timeout);
        compare("server.state_dir", state.as_ref().map(|s| &s.dir) == new.state.as_ref().map(|s| &s.dir));
        let key_file = |state: &Option<durable::Settings>| state.as_ref().and_then(|state| state.key_file.clone());
        compare("server.state_key_file", key_file(state) == key_file(&new.state));
        let timeout = |state: &Option<durable::Settings>| state.as_ref().map(|state| state.timeout);
        compare("server.state_timeout", timeout(state) == timeout(&new.state));

        let Limits {
            handshake_timeout,
            header_timeout,
            idle_timeout,
            body_min_rate,
            body_window,
            write_timeout,
            max_header_bytes,
            max_headers,
            // No key of its own.
            rest_after: _,
            // The handler keeps it, by its snapshot.
            max_body: _,
            max_connections,
            max_connections_per_address,
            max_streams,
        } = *limits;
        let other = &new.edge.limits;
        compare("limits.handshake_timeout", handshake_timeout == other.handshake_timeout);
        compare("limits.header_timeout", header_timeout == other.header_timeout);
        compare("limits.idle_timeout", idle_timeout == other.idle_timeout);
        compare("limits.body_min_rate", body_min_rate == other.body_min_rate);
        compare("limits.body_window", body_window == other.body_window);
        compare("limits.write_timeout", write_timeout == other.write_timeout);
        compare("limits.max_header_bytes", max_header_bytes == other.max_header_bytes);
        compare("limits.max_headers", max_headers == other.max_headers);
        compare("limits.max_connections", max_connections == other.max_connections);
        compare("limits.max_connections_per_address", max_connections_per_address == other.max_connections_per_address);
        compare("limits.max_streams", max_streams == other.max_streams);
        let CacheLimits { entries, bytes, wrong_signatures: _ } = *tokens;
        compare("limits.max_cached_tokens", entries == new.tokens.entries);
        compare("limits.max_cached_token_bytes", bytes == new.tokens.bytes);

        // What of a query is logged is told to each request by its snapshot.
        let LogSettings { format, access, audit, query: _, level, queue_bytes } = log;
        compare("log.format", *format == new.log.format);
        compare("log.access", *access == new.log.access);
        compare("log.audit", *audit == new.log.audit);
        compare("log.level", *level == new.log.level);
        compare("log.queue", *queue_bytes == new.log.queue_bytes);

        compare("telemetry.listen", *telemetry == new.telemetry);
        // A listener that is not wanted any more answers with 404 until the restart.
        compare("admin.listen", *admin == new.admin || new.admin.is_none());
        keys
    }
}
