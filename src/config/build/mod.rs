//! From the mirror to ready types: defaults, references, files, and the rules that look at several keys. Whatever can
//! be judged is judged, so that one run shows everything; a configuration with a problem never leaves here.
//!
//! Order: what others refer to first: server and TLS, sources of identities, upstreams, then routes, then tests.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{
    Config, DemoInfo, Startup, TestCase, Tls,
    decode::decode_leniently,
    environment::Environment,
    file::{File, Fragment},
    place::Place,
    report::{Findings, Finished, Report},
    tree::{self, Node},
};
use crate::{policy, state::Snapshot};

mod acme;
mod assertion;
mod edits;
mod look;
mod maintenance;
mod mtls;
mod route;
mod secret;
mod server;
mod source;
mod test_case;
mod token;
mod upstream;
mod users;

/// What every part of the work needs.
pub(super) struct Build<'a> {
    findings: &'a mut Findings,
    environment: &'a Environment,
    demo: DemoInfo,
    /// Files read so far; numbers the next one.
    files: usize,
}

/// What is built.
struct Parts {
    startup: Startup,
    tls: Option<Tls>,
    watch: bool,
    snapshot: Snapshot,
    tests: Vec<TestCase>,
}

/// Builds a configuration from the tree of its main file.
pub(super) fn build(root: &Node, environment: &Environment, mut findings: Findings) -> Result<Config, Report> {
    let mut build = Build { findings: &mut findings, environment, demo: DemoInfo::default(), files: 1 };
    let parts = build.parts(root);
    let demo = std::mem::take(&mut build.demo);
    let Finished { warnings, unfit_for_production, inputs } = findings.finish()?;
    match parts {
        Some(Parts { startup, tls, watch, mut snapshot, tests }) => {
            let demo = (!demo.users.is_empty() || !demo.issuers.is_empty()).then_some(demo);
            snapshot.demo_secrets = demo.is_some();
            Ok(Config { startup, tls, watch, snapshot, tests, warnings, unfit_for_production, demo, inputs })
        }
        // Nothing is left out without a problem being noted; if it were, it must not pass.
        None => {
            let mut findings = Findings::default();
            findings.problem(&root.place, "a part that could not be built", "a complete configuration");
            Err(findings.into_report())
        }
    }
}

impl Build<'_> {
    fn parts(&mut self, root: &Node) -> Option<Parts> {
        let mut file: File = decode_leniently(root, self.findings)?;
        self.include(&mut file);
        self.findings.begin_building();

        let startup = self.startup(&file);
        let tls = self.tls(&file);
        let authorities = self.authorities(&file);
        let login = self.login(&file);
        let look = self.look(&file);
        let issuers = self.issuers(&file);
        let token_places = self.token_places(&file);
        let own_issuer = self.own_issuer(&file);
        let dpop = self.dpop(&file);
        let api_keys = self.api_keys(&file);
        let admin = self.admin(&file);
        let session = self.session(&file);
        let token = self.token(&file, session.as_ref());
        self.judge_sources(&file);
        let upstreams = self.upstreams(&file);
        let headers = self.headers(&file, session.as_ref());
        let hsts = server::hsts(&file);
        let upstream_names: Vec<&str> =
            file.upstream.0.iter().flat_map(|named| &named.0).map(|(n, _)| &*n.value).collect();
        let mut sources = source::Sources::new(&file);
        login.iter().for_each(|login| sources.note_second_factors(login));
        let (routes, known_hosts) = self.routes(&file, &upstream_names, &sources);
        let asked = mtls::asked(
            &file,
            routes.as_deref().unwrap_or_default(),
            &known_hosts,
            authorities.as_deref().unwrap_or_default(),
            issuers.as_deref().unwrap_or_default(),
            session.as_ref().map(|session| session.bind).unwrap_or_default(),
        );
        let acme = self.acme(&file, &known_hosts);
        let maintenance = self.maintenance(&file, &known_hosts);
        let tests = self.test_cases(&file, &sources);

        if let Some(headers) = &headers {
            self.judge_edits(&file, headers);
        }

        let table = match (routes, &upstreams) {
            (Some(routes), Some(upstreams)) => self.table(&file, routes, &known_hosts, upstreams),
            (None, _) | (_, None) => None,
        };

        let admin = admin?;
        let startup = Startup { admin: admin.as_ref().map(|admin| admin.listen.clone()), ..startup? };
        let table = table?;
        let (rate_limits, max_rate_buckets) = server::rate_limits(&file)?;
        let snapshot = Snapshot {
            generation: 1,
            routes: table,
            demo_secrets: false,
            issuers: issuers?.into_iter().chain(own_issuer?).collect(),
            token_places: token_places?,
            dpop: dpop?,
            verify_rate: server::verify_rate(&file)?,
            api_keys: api_keys?,
            mtls: crate::mtls::Settings { authorities: authorities?, asked: Arc::clone(&asked) },
            acme: acme?.map(Arc::new),
            session: session?,
            login: login?,
            look: look?,
            headers: headers?,
            maintenance: maintenance?,
            upstreams: upstreams?,
            admin,
            token: token?,
            hsts,
            max_revocations: server::max_revocations(&file)?,
            rate_limits,
            max_rate_buckets,
            proxy_protocol_from: server::proxy_protocol_from(&file),
            resolver: server::resolver(&file),
            max_api_keys: server::max_api_keys(&file)?,
            max_body: startup.edge.limits.max_body,
            query_log: file.log.0?.query.unwrap_or_default(),
        };
        let watch = file.server.0?.table.watch.unwrap_or(true);
        let tls = tls?.map(|tls| Tls { asked, ..tls });
        Some(Parts { startup, tls, watch, snapshot, tests: tests? })
    }

    /// Adds what `include` names, in the order of the patterns and, within one, of the file names.
    fn include(&mut self, file: &mut File) {
        for pattern in file.include.0.clone().unwrap_or_default() {
            for path in self.matching(&pattern.place, Path::new(&pattern.value.0)) {
                let folder = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
                let place = Place::file(self.files, &path, &folder);
                self.files += 1;
                let Some(root) = tree::read(&path, &place, self.findings) else {
                    continue;
                };
                let Some(fragment) = decode_leniently::<Fragment>(&root, self.findings) else {
                    continue;
                };
                append(&mut file.route.0, fragment.route.0, |all, more| all.0.extend(more.0));
                append(&mut file.test.0, fragment.test.0, |all, more| all.0.extend(more.0));
                append(&mut file.upstream.0, fragment.upstream.0, |all, more| all.0.extend(more.0));
            }
        }
    }

    /// The files of one pattern: `*` in the last component stands for any text; hidden files are left out.
    fn matching(&mut self, place: &Place, pattern: &Path) -> Vec<std::path::PathBuf> {
        let full = place.resolve(pattern);
        let expected = "a path, with at most one `*` and that in its last component";
        let (Some(folder), Some(name)) = (full.parent(), full.file_name().and_then(|name| name.to_str())) else {
            self.findings.problem(place, "no file name", expected);
            return Vec::new();
        };
        let Some((before, after)) = name.split_once('*') else {
            return vec![full];
        };
        if after.contains('*') || folder.to_string_lossy().contains('*') {
            self.findings.problem(place, "another `*`", expected);
            return Vec::new();
        }
        self.findings.inputs.note(folder);
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.findings.problem(place, format!("no folder {} ({error})", folder.display()), expected);
                return Vec::new();
            }
        };
        let fits = |name: &str| {
            !name.starts_with('.')
                && name.len() >= before.len() + after.len()
                && name.starts_with(before)
                && name.ends_with(after)
        };
        let mut paths: Vec<_> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_str().is_some_and(fits))
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        if paths.is_empty() {
            self.findings.warn(place, "no file matches");
        }
        paths
    }

    /// Notes the second and further uses of a name.
    fn unique<'n>(&mut self, kind: &str, names: impl IntoIterator<Item = (&'n str, &'n Place)>) {
        let mut seen: BTreeMap<&str, &Place> = BTreeMap::new();
        for (name, place) in names {
            if let Some(first) = seen.insert(name, place) {
                let found = format!("a second {kind} `{name}`");
                self.findings.problem(place, found, "each name once").help(format!("the first: {first}"));
            }
        }
    }
}

/// Joins lists; what could not be read spoils neither.
fn append<T>(all: &mut Option<T>, more: Option<T>, join: impl FnOnce(&mut T, T)) {
    match (all.as_mut(), more) {
        (Some(all), Some(more)) => join(all, more),
        (None, Some(more)) => *all = Some(more),
        (_, None) => {}
    }
}

/// What a source may grant; everything if it does not say.
fn grants(written: Option<&super::file::Grants>) -> policy::Grants {
    let boxed = |names: &[super::scalar::NonEmpty]| names.iter().map(|name| name.0.as_str().into()).collect();
    match written {
        None | Some(super::file::Grants::All) => policy::Grants::All,
        Some(super::file::Grants::Only(lists)) => policy::Grants::Only {
            roles: boxed(&lists.roles),
            groups: boxed(&lists.groups),
            scopes: lists.scopes.as_ref().map(|scopes| boxed(scopes)),
        },
    }
}
