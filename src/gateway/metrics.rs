//! What the parts count, under the names that Prometheus gets. Read only when somebody scrapes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    acme,
    certificate::{CertificateResolver, Expiry},
    durable::Durable,
    edge::Counters,
    rate_limit::Limiter,
    state::Live,
    telemetry::metrics::Exposition,
    upstream,
};

/// Adds a collector for everything that counts outside of `telemetry`.
pub(super) fn register(
    live: &Arc<Live>,
    edge: &Arc<Counters>,
    certificates: &Arc<CertificateResolver>,
    orders: &Arc<acme::Counts>,
) {
    let registry = live.shared.telemetry.registry();
    let edge = Arc::clone(edge);
    registry.register(Box::new(move |exposition| connections(exposition, &edge)));
    let certificates = Arc::clone(certificates);
    let (orders, challenges) = (Arc::clone(orders), Arc::clone(&live.shared.challenges));
    registry.register(Box::new(move |exposition| {
        expiries(exposition, &certificates);
        ordered(exposition, &orders, &challenges);
    }));
    // Weak: the registry lives in what `Live` holds.
    let live = Arc::downgrade(live);
    registry.register(Box::new(move |exposition| {
        if let Some(live) = live.upgrade() {
            sessions_and_tokens(exposition, &live);
            keys(exposition, &live);
            introspection(exposition, &live);
            own_tokens(exposition, &live);
            own_keys(exposition, &live);
            client_certificates(exposition, &live);
            if let Some(durable) = &live.shared.durable {
                state(exposition, durable);
            }
            upstreams(exposition, &live);
            reports(exposition, &live);
            rate_limits(exposition, &live.shared.rate_limiter);
        }
    }));
}

fn connections(exposition: &mut Exposition, edge: &Counters) {
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    exposition.gauge("portcullis_connections", "Client connections open now.").value(&[], read(&edge.open));
    exposition
        .counter("portcullis_connections_accepted_total", "Client connections accepted.")
        .value(&[], read(&edge.accepted));
    let mut refused = exposition.counter("portcullis_connections_refused_total", "Connections closed unheard.");
    for (reason, counter) in [
        ("max_connections", &edge.refused_full),
        ("per_address", &edge.refused_address),
        ("peer", &edge.refused_peer),
        ("proxy_protocol", &edge.refused_proxied),
    ] {
        refused.value(&[("reason", reason)], read(counter));
    }
    exposition
        .counter("portcullis_accept_pauses_total", "Pauses of accepting for want of descriptors or memory.")
        .value(&[], read(&edge.accept_pauses));
    exposition
        .counter("portcullis_tls_handshakes_failed_total", "TLS handshakes that failed.")
        .value(&[], read(&edge.handshakes_failed));
    let mut timeouts = exposition
        .counter("portcullis_timeouts_total", "Connections and HTTP/2 streams ended by a deadline, by phase.");
    for (phase, counter) in [
        ("handshake", &edge.timeout_handshake),
        ("head", &edge.timeout_head),
        ("idle", &edge.timeout_idle),
        ("body", &edge.timeout_body),
        ("write", &edge.timeout_write),
    ] {
        timeouts.value(&[("phase", phase)], read(counter));
    }
    let mut floods =
        exposition.counter("portcullis_http2_floods_total", "HTTP/2 connections cut for a flood of frames.");
    for (kind, counter) in [("resets", &edge.flood_resets), ("control_frames", &edge.flood_control)] {
        floods.value(&[("kind", kind)], read(counter));
    }
    for (name, help, counters) in [
        ("portcullis_http2_resets_total", "HTTP/2 streams reset by the gateway, by error code.", &edge.http2_resets),
        (
            "portcullis_http2_goaways_total",
            "HTTP/2 connections ended by the gateway, by error code.",
            &edge.http2_goaways,
        ),
    ] {
        let mut by_code = exposition.counter(name, help);
        for (code, counter) in Counters::HTTP2_CODES.iter().zip(counters) {
            by_code.value(&[("code", *code)], read(counter));
        }
    }
    exposition.counter("portcullis_panics_total", "Requests whose handling panicked.").value(&[], read(&edge.panics));
    let mut malformed = exposition.counter("portcullis_malformed_total", "Requests with bad framing, by reason.");
    for ((_, label), counter) in Counters::MALFORMED.iter().zip(&edge.malformed) {
        malformed.value(&[("reason", *label)], read(counter));
    }
}

fn expiries(exposition: &mut Exposition, certificates: &CertificateResolver) {
    let mut expiry =
        exposition.gauge("portcullis_certificate_expiry_seconds", "When each certificate ends, Unix time.");
    for Expiry { name, ordered, until } in certificates.expiries() {
        expiry.value(&[("name", &name), ("source", if ordered { "acme" } else { "file" })], until);
    }
}

fn ordered(exposition: &mut Exposition, orders: &acme::Counts, challenges: &acme::Challenges) {
    let mut results = exposition.counter("portcullis_acme_orders_total", "Orders of certificates, by result.");
    for (result, count) in orders.by_result() {
        results.value(&[("result", result)], count);
    }
    let mut shown = exposition.counter("portcullis_acme_challenges_total", "Proofs that were looked for, by kind.");
    for (kind, count) in challenges.shown() {
        shown.value(&[("challenge", kind)], count);
    }
}

fn rate_limits(exposition: &mut Exposition, limiter: &Limiter) {
    let mut refused =
        exposition.counter("portcullis_rate_limited_total", "Requests beyond `rate_limit` or `max_concurrent`.");
    for (reason, count) in limiter.exceeded_by_reason() {
        refused.value(&[("reason", reason)], count);
    }
    let (buckets, shared) = limiter.buckets();
    exposition.gauge("portcullis_rate_buckets", "Callers whose rates are counted now.").value(&[], buckets);
    exposition
        .counter(
            "portcullis_rate_buckets_shared_total",
            "Requests counted together with others' for want of room: raise limits.max_rate_buckets.",
        )
        .value(&[], shared);
    exposition
        .gauge("portcullis_rate_in_flight", "Callers with requests under way that are counted.")
        .value(&[], limiter.in_flight());
}

fn reports(exposition: &mut Exposition, live: &Live) {
    let now = live.shared.clock.now();
    let count = live.snapshot().routes.routes().iter().filter(|route| route.only_reports(now)).count();
    exposition.gauge("portcullis_report_only_routes", "Routes whose rules are only reported yet.").value(&[], count);
}

fn sessions_and_tokens(exposition: &mut Exposition, live: &Live) {
    let shared = &live.shared;
    exposition.gauge("portcullis_sessions", "Sessions in the store.").value(&[], shared.sessions.len());
    exposition
        .counter("portcullis_sessions_evicted_total", "Sessions of whoever had the most, ended in a full store.")
        .value(&[], shared.sessions.evictions());
    exposition.gauge("portcullis_revocations", "Revocations in force.").value(&[], shared.revocations.len());
    exposition.gauge("portcullis_api_keys", "API keys that the admin API has made.").value(&[], shared.made_keys.len());
    exposition.gauge("portcullis_config_generation", "Counts reloads, from 1.").value(&[], live.snapshot().generation);
    reloads(exposition, live);
    let counts = &shared.login_counts;
    let mut logins = exposition.counter("portcullis_logins_total", "Attempts to log in, by result.");
    for (result, counter) in
        [("succeeded", &counts.succeeded), ("failed", &counts.failed), ("throttled", &counts.throttled)]
    {
        logins.value(&[("result", result)], counter.load(Relaxed));
    }
    let (kept, sent) = shared.stash.counts();
    let mut forms = exposition.counter(
        "portcullis_late_forms_total",
        "Forms that met a session that had run out: kept, and of these sent after the login.",
    );
    forms.value(&[("result", "kept")], kept);
    forms.value(&[("result", "sent")], sent);
    exposition
        .counter("portcullis_logouts_total", "Sessions ended by a logout.")
        .value(&[], counts.logouts.load(Relaxed));
    exposition
        .counter(
            "portcullis_exchanges_cut_total",
            "Tunnels and answers under way that were cut because their session or token had ended.",
        )
        .value(&[], shared.exchanges_cut.load(Relaxed));
    let tokens = shared.tokens.statistics();
    let mut lookups = exposition.counter("portcullis_token_cache_lookups_total", "Look-ups of bearer tokens.");
    lookups.value(&[("result", "hit")], tokens.hits);
    lookups.value(&[("result", "miss")], tokens.misses);
    lookups.value(&[("result", "wrong_signature")], tokens.wrong_signature_hits);
    exposition
        .counter("portcullis_token_cache_evictions_total", "Verified tokens pushed out by others.")
        .value(&[], tokens.evictions);
    exposition.gauge("portcullis_token_cache_entries", "Verified tokens remembered.").value(&[], tokens.entries);
    exposition.gauge("portcullis_token_cache_bytes", "Their size, estimated.").value(&[], tokens.bytes);
    proofs(exposition, live);
    exposition
        .counter("portcullis_grants_dropped_total", "Roles and groups that a source claimed and may not grant.")
        .value(&[], tokens.dropped_grants);
}

fn introspection(exposition: &mut Exposition, live: &Live) {
    let snapshot = live.snapshot();
    let asked = snapshot.issuers.iter().filter_map(|issuer| Some((&*issuer.name, issuer.introspection.as_ref()?)));
    let asked: Vec<_> = asked.collect();
    if asked.is_empty() {
        return;
    }
    let mut questions =
        exposition.counter("portcullis_introspections_total", "Questions what an opaque token is, by what came of it.");
    for (issuer, endpoint) in &asked {
        let counts = endpoint.counts();
        for (result, count) in
            [("good", &counts.good), ("void", &counts.void), ("failed", &counts.failed), ("withheld", &counts.withheld)]
        {
            questions.value(&[("issuer", issuer), ("result", result)], count.load(Relaxed));
        }
    }
    let mut remembered = exposition.gauge("portcullis_introspections_remembered", "Opaque tokens remembered.");
    for (issuer, endpoint) in &asked {
        remembered.value(&[("issuer", issuer)], endpoint.remembered());
    }
}

fn proofs(exposition: &mut Exposition, live: &Live) {
    let shared = &live.shared;
    let proofs = shared.proofs.statistics(shared.clock.now());
    exposition
        .gauge("portcullis_dpop_proofs", "DPoP proofs that were used and are still good.")
        .value(&[], proofs.remembered);
    exposition
        .counter("portcullis_dpop_replays_total", "DPoP proofs that came a second time.")
        .value(&[], proofs.replayed);
    exposition
        .counter("portcullis_dpop_refused_total", "Good DPoP proofs refused for want of room (limits.max_proofs).")
        .value(&[], proofs.refused);
    exposition
        .counter(
            "portcullis_verifications_refused_total",
            "Tokens and proofs of clients with too many wrong signatures, refused unchecked (limits.verify_rate).",
        )
        .value(&[], shared.wrong_signatures.refused());
}

fn keys(exposition: &mut Exposition, live: &Live) {
    let (snapshot, now) = (live.snapshot(), live.shared.clock.now());
    let issuers = snapshot.issuers.iter();
    let fetched: Vec<_> = issuers.filter_map(|issuer| Some((&*issuer.name, issuer.keys.statistics(now)?))).collect();
    if fetched.is_empty() {
        return;
    }
    let mut ages = exposition
        .gauge("portcullis_jwks_age_seconds", "Since an issuer's keys were last known to be its present ones.");
    for (issuer, statistics) in &fetched {
        // Absent until there are keys: an age of zero would look like good ones.
        if let Some(age) = statistics.age {
            ages.value(&[("issuer", issuer)], age.as_secs());
        }
    }
    let mut keys = exposition.gauge("portcullis_jwks_keys", "Keys of an issuer.");
    for (issuer, statistics) in &fetched {
        keys.value(&[("issuer", issuer)], statistics.keys);
    }
    let mut fetches = exposition.counter("portcullis_jwks_fetches_total", "Fetches of an issuer's keys, by result.");
    for (issuer, statistics) in &fetched {
        fetches.value(&[("issuer", issuer), ("result", "ok")], statistics.fetches);
        fetches.value(&[("issuer", issuer), ("result", "failed")], statistics.failures);
    }
}

fn own_keys(exposition: &mut Exposition, live: &Live) {
    let (signing, now) = (&live.shared.signing, live.shared.clock.now());
    let mut ages = exposition
        .gauge("portcullis_signing_key_age_seconds", "For how long the key that signs has signed, by purpose.");
    for keys in [&signing.access, &signing.assertion] {
        ages.value(&[("purpose", keys.purpose().label())], keys.age(now).as_secs());
    }
    let mut rotations =
        exposition.counter("portcullis_signing_key_rotations_total", "Keys that began to sign, by purpose.");
    for keys in [&signing.access, &signing.assertion] {
        rotations.value(&[("purpose", keys.purpose().label())], keys.rotations());
    }
}

fn client_certificates(exposition: &mut Exposition, live: &Live) {
    let snapshot = live.snapshot();
    let authorities = &snapshot.mtls.authorities;
    if authorities.is_empty() {
        return;
    }
    let mut judged = exposition.counter(
        "portcullis_client_certificates_total",
        "Client certificates judged, once for each connection and authority, by result.",
    );
    for authority in authorities {
        let counts = authority.counts();
        for (result, counter) in
            [("valid", &counts.valid), ("void", &counts.void), ("unavailable", &counts.unavailable)]
        {
            judged.value(&[("ca", authority.name()), ("result", result)], counter.load(Relaxed));
        }
    }
    let mut ends = exposition.gauge(
        "portcullis_crl_expiry_seconds",
        "When the first of an authority's revocation lists ends, Unix time; then its certificates count no more.",
    );
    for authority in authorities {
        if let Some(end) = authority.list_ends().last() {
            ends.value(&[("ca", authority.name())], *end);
        }
    }
    let mut ends = exposition
        .gauge("portcullis_client_ca_expiry_seconds", "When the last certificate of a client CA ends, Unix time.");
    for authority in authorities {
        ends.value(&[("ca", authority.name())], authority.ends());
    }
}

fn own_tokens(exposition: &mut Exposition, live: &Live) {
    if live.snapshot().token.is_none() {
        return;
    }
    let (families, counts) = (&live.shared.families, &live.shared.token_counts);
    let mut issued = exposition.counter("portcullis_tokens_issued_total", "Access tokens made, by grant.");
    for (grant, counter) in [
        ("api_key", &counts.by_api_key),
        ("password", &counts.by_password),
        ("refresh_token", &counts.refreshed),
        ("session", &counts.by_session),
    ] {
        issued.value(&[("grant", grant)], counter.load(Relaxed));
    }
    for (name, help, counter) in [
        ("portcullis_token_requests_refused_total", "Requests for a token that were refused.", &counts.refused),
        ("portcullis_token_requests_revoked_total", "Requests to revoke a token.", &counts.revoked),
        ("portcullis_refresh_tokens_reused_total", "Spent refresh tokens that ended their family.", &counts.reused),
    ] {
        exposition.counter(name, help).value(&[], counter.load(Relaxed));
    }
    exposition.gauge("portcullis_refresh_families", "Families of refresh tokens.").value(&[], families.len());
}

fn state(exposition: &mut Exposition, durable: &Durable) {
    let counts = durable.counts();
    exposition
        .gauge("portcullis_state_writable", "1 while server.state_dir can be written, 0 while it cannot.")
        .value(&[], u64::from(durable.healthy()));
    exposition
        .gauge("portcullis_state_needs_older_keys", "1 while state may be sealed with other keys than the first.")
        .value(&[], u64::from(durable.needs_older_keys()));
    for (name, help, counter) in [
        ("portcullis_state_syncs_total", "Times the disk was asked to keep what was written.", &*counts.syncs),
        ("portcullis_state_commits_total", "Transactions written.", &counts.commits),
        ("portcullis_state_changes_total", "Changes written that somebody waited for.", &counts.batches),
        ("portcullis_state_failures_total", "Changes refused because they could not be written.", &counts.failures),
        ("portcullis_state_timeouts_total", "Of these, changes that waited too long for the disk.", &counts.timeouts),
    ] {
        exposition.counter(name, help).value(&[], counter.load(Relaxed));
    }
}

fn reloads(exposition: &mut Exposition, live: &Live) {
    let (reloads, counts) = (&live.shared.reloads, live.shared.reloads.counts());
    let mut results = exposition.counter("portcullis_reloads_total", "Reloads, by result.");
    for (result, counter) in [
        ("applied", &counts.applied),
        ("refused", &counts.refused),
        ("restart_needed", &counts.restart_needed),
        ("unchanged", &counts.unchanged),
    ] {
        results.value(&[("result", result)], counter.load(Relaxed));
    }
    let good = reloads.last().is_none_or(|(_, outcome)| outcome.is_success());
    exposition
        .gauge("portcullis_config_last_reload_successful", "1 if the last reload was applied, else 0.")
        .value(&[], u64::from(good));
    exposition
        .gauge("portcullis_config_last_success_seconds", "When the files were last taken into use, Unix time.")
        .value(&[], reloads.last_success());
    let mut sessions =
        exposition.counter("portcullis_sessions_revised_total", "Sessions that followed a change of their source.");
    sessions.value(&[("result", "ended")], counts.sessions_ended.load(Relaxed));
    sessions.value(&[("result", "updated")], counts.sessions_updated.load(Relaxed));
}

fn upstreams(exposition: &mut Exposition, live: &Live) {
    const FAMILIES: [(&str, &str); 8] = [
        ("portcullis_upstream_connects_total", "Connections made."),
        ("portcullis_upstream_connect_failures_total", "Attempts to connect that failed."),
        ("portcullis_upstream_reused_total", "Requests on a connection that had served before."),
        ("portcullis_upstream_retries_total", "Requests sent again that a server was sent before."),
        ("portcullis_upstream_floods_total", "HTTP/2 connections cut for a flood of frames."),
        ("portcullis_upstream_connections", "Connections open now."),
        ("portcullis_upstream_requests_under_way", "Requests under way now."),
        ("portcullis_upstream_tunnels", "Tunnels open now."),
    ];
    for settings in &live.snapshot().upstreams {
        let state = live.shared.upstreams.state(settings);
        exposition
            .counter("portcullis_upstream_retries_over_budget_total", "Requests not sent again for want of budget.")
            .value(&[("upstream", &*settings.name)], state.budget.exhausted.load(Relaxed));
        exposition
            .gauge("portcullis_upstream_pending", "Requests that wait for their turn.")
            .value(&[("upstream", &*settings.name)], state.queue.pending());
        let mut refused =
            exposition.counter("portcullis_upstream_queue_refused_total", "Requests that got no turn, by reason.");
        for (reason, count) in [("full", &state.queue.full), ("timeout", &state.queue.timed_out)] {
            refused.value(&[("upstream", &*settings.name), ("reason", reason)], count.load(Relaxed));
        }
        for server in &state.servers {
            let place = live.shared.upstreams.place(server, settings);
            exposition
                .gauge("portcullis_upstream_server_in", "Whether a server may get requests: 1, or 0 and why not.")
                .value(
                    &[("upstream", &*settings.name), ("server", &*server.label), ("state", place.label())],
                    u64::from(!matches!(place, upstream::health::Place::Out(_))),
                );
        }
    }
    for upstream in live.shared.upstreams.upstreams() {
        for server in &upstream.servers {
            let counters = &server.counters;
            let values = [
                counters.connects.load(Relaxed),
                counters.connect_failures.load(Relaxed),
                counters.tallies.reused(),
                counters.retries.load(Relaxed),
                counters.floods.load(Relaxed),
                counters.open.load(Relaxed),
                counters.tallies.under_way(),
                counters.tunnels.load(Relaxed),
            ];
            for ((name, help), value) in FAMILIES.into_iter().zip(values) {
                let mut samples = if name.ends_with("_total") {
                    exposition.counter(name, help)
                } else {
                    exposition.gauge(name, help)
                };
                samples.value(&[("upstream", &*upstream.name), ("server", &*server.label)], value);
            }
            let (passed, failed, ejections) = server.standing.counts();
            let labels = [("upstream", &*upstream.name), ("server", &*server.label)];
            let mut checks = exposition.counter("portcullis_upstream_checks_total", "Health checks, by result.");
            for (result, count) in [("passed", passed), ("failed", failed)] {
                checks.value(&[labels[0], labels[1], ("result", result)], count);
            }
            exposition
                .counter("portcullis_upstream_ejections_total", "Times that failing requests took a server out.")
                .value(&labels, ejections);
        }
    }
}
