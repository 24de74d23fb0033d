//! What a route changes of a request and its answer: `strip_prefix`, `rewrite`, `redirect` with parameters,
//! `request_headers`, `response_headers`. A prefix that some path does not have, a parameter that some path lacks and a
//! header that protects are refused here, with the reason.

use http::{HeaderName, HeaderValue};

use super::Build;
use crate::{
    config::{
        decode::{At, Text},
        file::{self, File},
        place::Place,
        scalar::{PathTemplate, RoutePath},
    },
    headers::{
        self,
        edit::{self, Edit},
    },
    policy::HeaderEdits,
    route::{
        Redirect,
        rewrite::{PathRewrite, Template, Unsuited},
    },
};

impl Build<'_> {
    /// `strip_prefix`, `rewrite`, or the path of a `redirect` with parameters.
    pub(super) fn path_rewrite(&mut self, route: &file::Route) -> Option<Box<PathRewrite>> {
        let paths = &route.r#match.value.path.0;
        let elsewhere = route.respond.is_some() || route.redirect.is_some();
        let written = [
            route.strip_prefix.as_ref().map(|at| ("strip_prefix", &at.place)),
            route.rewrite.as_ref().map(|at| ("rewrite", &at.place)),
        ];
        for (key, place) in written.into_iter().flatten().filter(|_| elsewhere) {
            self.findings.problem(place, format!("`{key}` on a route without an upstream"), "a route to an upstream");
        }
        if let (Some(_), Some(rewrite)) = (&route.strip_prefix, &route.rewrite) {
            self.findings
                .problem(&rewrite.place, "`rewrite` beside `strip_prefix`", "one of the two")
                .help("`rewrite = \"/v2/{*rest}\"` says the whole path");
        }
        if let Some(At { value, place }) = &route.strip_prefix {
            for path in paths.iter().filter(|path| !value.0.covers(&path.value.pattern)) {
                let found = format!("a prefix that {:?} does not begin with", path.value.text);
                let expected = "the first segments of every path of the route, as they are written there";
                self.findings.problem(place, found, expected);
            }
            return Some(Box::new(PathRewrite::Strip(value.0.clone())));
        }
        if let Some(At { value: PathTemplate(template), place }) = &route.rewrite {
            return self.fitted(template, place, paths).map(|template| Box::new(PathRewrite::Replace(template)));
        }
        let At { value: redirect, place } = route.redirect.as_ref()?;
        let template = redirect.to.template.as_ref()?;
        self.fitted(template, place, paths).map(|template| Box::new(PathRewrite::Replace(template)))
    }

    /// `redirect`, but for the path that its parameters make.
    pub(super) fn redirect(&mut self, At { value, place }: &At<file::Redirect>) -> Redirect {
        let text = value.to.text.as_bytes();
        if value.keep_query && text.iter().any(|byte| matches!(byte, b'?' | b'#')) {
            self.findings.problem(place, "`keep_query` beside a query in `to`", "one of the two");
        }
        Redirect { status: value.status, to: value.to.text.clone(), keep_query: value.keep_query }
    }

    fn fitted(&mut self, template: &Template, place: &Place, paths: &[At<RoutePath>]) -> Option<Template> {
        let patterns = paths.iter().map(|path| &path.value.pattern);
        let template = template.clone().for_patterns(patterns);
        let mut clean = true;
        for path in paths {
            let text = &path.value.text;
            let Err(unsuited) = template.suits(&path.value.pattern) else { continue };
            clean = false;
            match unsuited {
                Unsuited::Missing(name) => {
                    let found = format!("`{{{name}}}`, which {text:?} does not have");
                    self.findings.problem(place, found, "parameters of every path of the route");
                }
                Unsuited::OtherKind(name) => {
                    let found = format!("`{name}` as something else than in {text:?}");
                    let expected = "`{name}` where the path has `{name}`; at the end, `{*name}` where it has that";
                    self.findings.problem(place, found, expected);
                }
            }
        }
        clean.then_some(template)
    }

    /// `request_headers` or `response_headers`, unjudged.
    pub(super) fn header_edits(&mut self, written: Option<&At<file::HeaderEdits>>) -> Option<Box<HeaderEdits>> {
        let At { value: written, .. } = written?;
        let set: Vec<(HeaderName, HeaderValue)> = written
            .set
            .0
            .iter()
            .filter_map(|(name, value)| Some((<HeaderName as Text>::parse(&name.value).ok()?, value.value.clone())))
            .collect();
        let removed = written.remove.iter().map(|at| at.value.clone());
        let replaced = removed.chain(set.iter().map(|(name, _)| name.clone())).collect();
        Some(Box::new(HeaderEdits { set: set.into(), replaced }))
    }

    /// Refuses edits of headers that protect. `settings` name those that carry something here.
    pub(super) fn judge_edits(&mut self, file: &File, settings: &headers::Settings) {
        let defaults = file.route_defaults.0.iter().map(|section| &section.table);
        let routes = file.route.0.iter().flat_map(|list| &list.0).map(|at| &*at.value.options);
        for options in defaults.chain(routes) {
            let of_request = |name: &HeaderName, _: Edit| edit::refused_of_request(name, settings);
            self.judge(options.request_headers.as_ref(), of_request);
            self.judge(options.response_headers.as_ref(), edit::refused_of_answer);
            for At { value: name, place } in options.response_headers.iter().flat_map(|at| &at.value.remove) {
                if edit::protects_browsers(name) {
                    self.findings.warn(place, format!("without {name} browsers protect this upstream's pages less"));
                }
            }
        }
    }

    fn judge(
        &mut self,
        written: Option<&At<file::HeaderEdits>>,
        refused: impl Fn(&HeaderName, Edit) -> Option<&'static str>,
    ) {
        let Some(At { value: written, place }) = written else { return };
        if written.set.0.is_empty() && written.remove.is_empty() {
            self.findings.problem(place, "nothing to set or remove", "`set`, `remove` or both");
        }
        let mut seen: Vec<HeaderName> = Vec::new();
        let mut names: Vec<(HeaderName, &Place, Edit)> = Vec::new();
        for (At { value, place }, _) in &written.set.0 {
            match <HeaderName as Text>::parse(value) {
                Ok(name) => names.push((name, place, Edit::Set)),
                Err(_) => drop(self.findings.problem(place, "no header name", <HeaderName as Text>::expected())),
            }
        }
        names.extend(written.remove.iter().map(|At { value, place }| (value.clone(), place, Edit::Remove)));
        for (name, place, edit) in names {
            if let Some(why) = refused(&name, edit) {
                self.findings.problem(place, format!("the header {name}"), "another one").help(why);
            } else if seen.contains(&name) {
                self.findings.problem(place, format!("{name} a second time"), "each name once");
            }
            seen.push(name);
        }
    }
}
