//! How our pages look and what they say: `[login]`'s title, logo, colours, language and texts, and `[pages]`.

use std::path::Path;

use super::Build;
use crate::{
    config::{
        decode::At,
        file::{self, File},
        place::Place,
        report::{did_you_mean, one_of},
    },
    page::{
        Blank, Colors, Language, Logo, LogoError, Look, LookParts, Parsed, Template, TemplateError, Templates,
        TextError,
    },
};

impl Build<'_> {
    /// The look of every page.
    pub(super) fn look(&mut self, file: &File) -> Option<Look> {
        let login = &file.login.0.as_ref()?.table;
        let languages = self.languages(login);
        let logo = match &login.logo {
            None => Some(None),
            Some(written) => self.logo(written).map(Some),
        };
        let colors = login.colors.as_ref().map(|written| self.colors(written, false)).unwrap_or_default();
        let dark_colors = login.dark_colors.as_ref().map(|written| self.colors(written, true));
        let templates = self.templates(file);
        Some(Look::new(LookParts {
            title: login.title.as_ref().map(|title| title.0.as_str().into()),
            logo: logo?,
            colors,
            dark_colors,
            languages: languages?,
            templates: templates?,
        }))
    }

    fn logo(&mut self, written: &At<crate::config::scalar::FilePath>) -> Option<Logo> {
        let path = written.place.resolve(&written.value.0);
        let expected = "a PNG or SVG of at most 64 KiB";
        let bytes = self.file(&path, &written.place, expected)?;
        match Logo::new(&bytes) {
            Ok(logo) => Some(logo),
            Err(LogoError::TooLarge) => {
                self.findings.problem(&written.place, format!("{} bytes", bytes.len()), expected);
                None
            }
            Err(LogoError::UnknownKind) => {
                self.findings.problem(&written.place, "a file that is neither", expected);
                None
            }
        }
    }

    fn colors(&mut self, written: &At<file::Colors>, dark: bool) -> Colors {
        let At { value, place } = written;
        let colors = Colors {
            accent: value.accent.map(|color| color.0),
            background: value.background.map(|color| color.0),
            card: value.card.map(|color| color.0),
            text: value.text.map(|color| color.0),
        };
        for poor in colors.poor_contrasts(dark) {
            let (what, ratio, readable) = (poor.what, poor.ratio, Colors::READABLE);
            self.findings
                .warn(place, format!("hard to read: {what} has a contrast of {ratio:.1}, {readable} is readable"));
        }
        colors
    }

    /// Error pages of the operator's own.
    fn templates(&mut self, file: &File) -> Option<Templates> {
        let mut templates = Templates::default();
        let mut clean = true;
        for (scope, written) in &file.pages.0.as_ref()?.0 {
            match self.template(written) {
                Some(template) => templates.add(*scope, template),
                None => clean = false,
            }
        }
        clean.then_some(templates)
    }

    fn template(&mut self, written: &At<crate::config::scalar::FilePath>) -> Option<Template> {
        let path = written.place.resolve(&written.value.0);
        let expected = "an HTML page of at most 256 KiB, in UTF-8";
        let bytes = self.file(&path, &written.place, expected)?;
        if bytes.len() > Template::MAX_BYTES {
            self.findings.problem(&written.place, format!("{} bytes", bytes.len()), expected);
            return None;
        }
        let Ok(text) = String::from_utf8(bytes) else {
            self.findings.problem(&written.place, "a file in another encoding", expected);
            return None;
        };
        let folder = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
        let whole = Place::file(self.files, &path, &folder);
        self.files += 1;
        match Template::parse(&text) {
            Ok(Parsed { template, blocked }) => {
                for ((line, column), what) in blocked {
                    self.findings.warn(&whole.at(line, column, ""), format!("browsers will block {what}"));
                }
                Some(template)
            }
            Err(errors) => {
                for ((line, column), error) in errors {
                    let names = Blank::ALL.map(Blank::name);
                    let expected = match error {
                        TemplateError::Unclosed => String::from("`}}` behind a name; braces as text are `&#123;{`"),
                        TemplateError::Unknown(_) => one_of(names),
                        TemplateError::Misplaced(..) => {
                            String::from("blanks between tags and in quoted attributes that run nothing")
                        }
                    };
                    let problem = self.findings.problem(&whole.at(line, column, ""), error.to_string(), expected);
                    if let TemplateError::Unknown(name) = &error
                        && let Some(meant) = did_you_mean(name, names)
                    {
                        problem.help(format!("did you mean `{{{{{meant}}}}}`?"));
                    }
                }
                None
            }
        }
    }

    /// The default first. English is always there.
    fn languages(&mut self, login: &file::Login) -> Option<Vec<Language>> {
        let mut languages = vec![Language::english()];
        for (tag, texts) in &login.texts.0 {
            if !is_tag(&tag.value) {
                self.findings.problem(
                    &tag.place,
                    format!("`{}`", tag.value),
                    "a language tag such as `de` or `pt-BR`, as browsers send it in Accept-Language",
                );
                continue;
            }
            let known = languages.iter().position(|language| language.tag().eq_ignore_ascii_case(&tag.value));
            let index = known.unwrap_or_else(|| {
                languages.push(Language::new(&tag.value));
                languages.len() - 1
            });
            for (text, At { value, place }) in &texts.value.0 {
                match languages.get_mut(index).map(|language| language.set(*text, value)) {
                    Some(Ok(())) | None => {}
                    Some(Err(error)) => {
                        let expected = match error {
                            TextError::UnknownBlank(Some(blank)) => format!("no blank but {{{blank}}}"),
                            TextError::UnknownBlank(None) => String::from("no blank in braces: this text has none"),
                            TextError::TooLong => format!("at most {} bytes", Language::MAX_BYTES),
                            TextError::Control => String::from("one line without control characters"),
                        };
                        self.findings.problem(place, format!("{value:?}"), expected);
                    }
                }
            }
        }
        let Some(At { value: wanted, place }) = &login.language else {
            return Some(languages);
        };
        let default = languages.iter().position(|language| language.tag().eq_ignore_ascii_case(&wanted.0));
        let Some(default) = default else {
            let problem =
                self.findings.problem(place, format!("`{}`", wanted.0), "`en`, or a language with [login.texts.…]");
            if let Some(meant) = did_you_mean(&wanted.0, languages.iter().map(Language::tag)) {
                problem.help(format!("did you mean `{meant}`?"));
            }
            return None;
        };
        languages.swap(0, default);
        Some(languages)
    }
}

/// RFC 5646 in outline: subtags of one to eight letters or digits, the first of two or three letters.
fn is_tag(tag: &str) -> bool {
    let mut subtags = tag.split('-');
    let first = subtags.next().unwrap_or_default();
    (2..=3).contains(&first.len())
        && first.bytes().all(|byte| byte.is_ascii_alphabetic())
        && subtags.all(|tag| (1..=8).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}
