//! `identity.assertion`: what upstreams are told of a caller under our signature, and whom each assertion is for.

use std::time::Duration;

use http::HeaderName;

use super::{Build, upstream::is_reserved};
use crate::{
    config::{
        decode::At,
        file::{self, File},
    },
    headers::assertion::{RESERVED, Settings},
    signing::rotation::LONGEST_LIFE,
};

impl Build<'_> {
    /// `None` inside: none is sent. `taken`: the headers that carry something already.
    pub(super) fn assertion(&mut self, file: &File, taken: &[&HeaderName]) -> Option<Settings> {
        let At { value: written, place } = file.identity.0.as_ref()?.table.assertion.as_ref()?;
        let header = written.header.as_ref();
        if let Some(At { value, place }) = header.filter(|at| taken.contains(&&at.value) || is_reserved(&at.value)) {
            let found = format!("the header {value}, which has a meaning already");
            self.findings.problem(place, found, "another name, such as X-User-Assertion");
        }
        let ttl = match &written.ttl {
            Some(At { value, place }) if !(SHORTEST..=LONGEST_LIFE).contains(value) || value.subsec_nanos() != 0 => {
                self.findings
                    .problem(place, humantime::format_duration(*value).to_string(), "whole seconds, from 10s to 5m")
                    .help(
                        "an assertion is sent again for nearly half of this, and outlives the end of a session by it",
                    );
                DEFAULT
            }
            written => written.as_ref().map_or(DEFAULT, |at| at.value),
        };
        if file.server.0.as_ref().is_some_and(|server| server.table.state_dir.is_none()) {
            self.findings.warn(
                place,
                "without `server.state_dir` each start makes a new key to sign assertions with: upstreams refuse them \
                 until they have fetched the key set again",
            );
        }
        let mut claims = Vec::new();
        for (name, claim) in &written.claims.0 {
            if RESERVED.contains(&&*name.value) || name.value.is_empty() {
                let found = format!("the member {:?}, which has a meaning already", name.value);
                self.findings.problem(&name.place, found, "another name, such as \"department\"");
                continue;
            }
            claims.push((name.value.as_str().into(), claim.value.0.clone()));
        }
        let upstreams = file.upstream.0.iter().flat_map(|named| &named.0);
        let audience = |(name, upstream): &(At<String>, At<file::Upstream>)| {
            let written = upstream.value.assertion_audience.as_ref();
            written.map_or_else(|| name.value.as_str().into(), |audience| audience.value.0.as_str().into())
        };
        Some(Settings {
            header: header.map_or(X_USER_ASSERTION, |at| at.value.clone()),
            ttl,
            issuer: written.issuer.as_ref().map_or(ISSUER, |issuer| &issuer.0).into(),
            audiences: upstreams.map(audience).collect(),
            claims: claims.into(),
        })
    }

    /// An audience is for nobody while no assertion is sent.
    pub(super) fn judge_audiences(&mut self, file: &File) {
        if file.identity.0.as_ref().is_none_or(|identity| identity.table.assertion.is_some()) {
            return;
        }
        for (_, upstream) in file.upstream.0.iter().flat_map(|named| &named.0) {
            if let Some(At { place, .. }) = &upstream.value.assertion_audience {
                let why = "no assertion is sent, so none is for this audience: `identity.assertion = {}` sends one";
                self.findings.warn(place, why);
            }
        }
    }
}

const X_USER_ASSERTION: HeaderName = HeaderName::from_static("x-user-assertion");

const ISSUER: &str = "portcullis";

const DEFAULT: Duration = Duration::from_secs(60);

/// Less would mean a signature for nearly every request.
const SHORTEST: Duration = Duration::from_secs(10);
