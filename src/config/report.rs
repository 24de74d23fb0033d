//! What is wrong with a configuration: every problem at once, each with its place, what was found, what is expected
//! and, where one can be given, a hint. Values of secrets never get in here (R34).
//!
//! Problems are noted in two phases. Those of the second (rules that look at several keys) are dropped where a problem
//! of the first may have caused them, so that nobody chases a consequence.

use std::{error, fmt};

use super::{inputs::Inputs, place::Place};

/// Why a configuration is refused. `Display` is meant for people: one paragraph for each problem.
#[derive(Clone, Debug)]
pub struct Report {
    problems: Vec<Problem>,
    inputs: Inputs,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    place: Place,
    found: String,
    expected: String,
    help: Option<String>,
    /// Sections whose own problems may be the cause of this one.
    depends: &'static [&'static str],
}

/// Something that is allowed and worth a second look.
#[derive(Clone, Debug)]
pub struct Warning {
    /// Where it was written.
    pub place: Place,
    /// What may go wrong.
    pub message: String,
}

impl Report {
    /// In the order of files and lines.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What was read until then.
    pub const fn inputs(&self) -> &Inputs {
        &self.inputs
    }
}

impl Problem {
    /// Where it was written.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// How it can be mended.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Sections whose own problems may be the cause of this one.
    pub(super) fn depends(&mut self, sections: &'static [&'static str]) -> &mut Self {
        self.depends = sections;
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        match self.problems.len() {
            1 => f.write_str("1 problem: the configuration is refused"),
            n => write!(f, "{n} problems: the configuration is refused"),
        }
    }
}

impl error::Error for Report {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}, expected {}", self.place, self.found, self.expected)?;
        if let Some(help) = &self.help {
            write!(f, "\n    help: {help}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Collects problems and warnings while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Of keys and values by themselves.
    decoded: Vec<Problem>,
    /// Of rules over several of them.
    built: Vec<Problem>,
    building: bool,
    warnings: Vec<Warning>,
    unfit_for_production: Vec<Warning>,
    /// What was read so far. No part of a configuration is read past it.
    pub(super) inputs: Inputs,
}

/// What is left when there was no problem.
pub(super) struct Finished {
    pub(super) warnings: Vec<Warning>,
    pub(super) unfit_for_production: Vec<Warning>,
    pub(super) inputs: Inputs,
}

impl Findings {
    /// Notes a problem; the caller may add a hint.
    pub(super) fn problem(
        &mut self,
        place: &Place,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> &mut Problem {
        let problems = if self.building { &mut self.built } else { &mut self.decoded };
        problems.push(Problem {
            place: place.clone(),
            found: found.into(),
            expected: expected.into(),
            help: None,
            depends: &[],
        });
        let last = problems.len() - 1;
        &mut problems[last]
    }

    /// Notes what is allowed and worth a second look.
    pub(super) fn warn(&mut self, place: &Place, message: impl Into<String>) {
        self.warnings.push(Warning { place: place.clone(), message: message.into() });
    }

    /// Notes what `check --production` refuses (R35).
    pub(super) fn unfit_for_production(&mut self, place: &Place, message: impl Into<String>) {
        self.unfit_for_production.push(Warning { place: place.clone(), message: message.into() });
    }

    /// From here on, problems may be consequences of earlier ones.
    pub(super) const fn begin_building(&mut self) {
        self.building = true;
    }

    /// The report of what was found so far.
    pub(super) fn into_report(self) -> Report {
        Report { problems: self.decoded, inputs: self.inputs }
    }

    /// Every warning, everything unfit for production and what was read, or the report if there was a problem.
    pub(super) fn finish(self) -> Result<Finished, Report> {
        let Self { decoded, built, mut warnings, mut unfit_for_production, inputs, .. } = self;
        let follows = |late: &Problem| {
            decoded.iter().any(|early| {
                let section = early.place.key().split(['.', '[']).next().unwrap_or_default();
                early.place.shares_unit(&late.place) || late.depends.contains(&section)
            })
        };
        let (_, independent): (Vec<_>, Vec<_>) = built.into_iter().partition(follows);
        let mut problems = decoded;
        problems.extend(independent);
        if problems.is_empty() {
            warnings.sort_by(|a, b| a.place.compare(&b.place));
            unfit_for_production.sort_by(|a, b| a.place.compare(&b.place));
            return Ok(Finished { warnings, unfit_for_production, inputs });
        }
        problems.sort_by(|a, b| a.place.compare(&b.place));
        Err(Report { problems, inputs })
    }
}

/// The candidate that was probably meant.
pub(super) fn did_you_mean<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_ascii_lowercase().replace('-', "_");
    let distance = |candidate: &str| strsim::osa_distance(&found, &candidate.to_ascii_lowercase().replace('-', "_"));
    let tolerance = (found.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A value as it is shown in a report: quoted, escaped and cut to a sensible length.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        return format!("{text:?}");
    }
    let cut: String = text.chars().take(LONGEST).collect();
    format!("{cut:?}…")
}

/// `a`, `b` or `c`, each in backticks.
pub(super) fn one_of<'a>(choices: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = choices.into_iter().map(|choice| format!("`{choice}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::from("nothing"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn guesses_are_close_or_there_are_none() {
        let keys = ["listen", "idle_timeout", "max_lifetime", "hsts"];
        for (found, expect) in [
            ("lissen", Some("listen")),
            ("Listen", Some("listen")),
            ("idle-timeout", Some("idle_timeout")),
            ("idle_time", Some("idle_timeout")),
            ("hts", Some("hsts")),
            ("state_dir", None),
            ("x", None),
        ] {
            assert_eq!(did_you_mean(found, keys), expect, "{found:?}");
        }
    }

    #[test]
    fn long_and_odd_values_are_cut_and_escaped() {
        assert_eq!(quote("a\nb\u{1b}"), r#""a\nb\u{1b}""#);
        assert_eq!(quote(&"x".repeat(200)).chars().count(), 83);
    }

    #[test]
    fn a_late_problem_is_dropped_only_beside_an_early_one() {
        let file = Place::file(0, Path::new("a.toml"), Path::new(""));
        let other = Place::file(1, Path::new("b.toml"), Path::new(""));
        let mut findings = Findings::default();
        findings.problem(&file.at(3, 1, "route[0].auth"), "early", "x");
        findings.problem(&file.at(9, 1, "upstream.a"), "early", "x");
        findings.begin_building();
        findings.problem(&file.at(1, 1, "route[0]"), "late: same route", "x");
        findings.problem(&file.at(5, 1, "route[1]"), "late: needs upstreams", "x").depends(&["upstream"]);
        findings.problem(&file.at(6, 1, "route[10]"), "late: another route", "x");
        findings.problem(&other.at(1, 1, "route[0]"), "late: another file", "x");

        let report = findings.finish().map(drop).expect_err("problems").to_string();

        let lines: Vec<&str> = report.lines().map(|line| line.split(", expected").next().unwrap_or(line)).collect();
        assert_eq!(
            lines,
            [
                "a.toml:3:1: route[0].auth: found early",
                "a.toml:6:1: route[10]: found late: another route",
                "a.toml:9:1: upstream.a: found early",
                "b.toml:1:1: route[0]: found late: another file",
                "4 problems: the configuration is refused",
            ]
        );
    }
}
