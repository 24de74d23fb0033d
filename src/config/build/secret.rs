//! Secrets, from where the configuration says they are (R34, R35). Their values go into `Secret` at once and never
//! into a report.
//!
//! A generated secret is 256 random bits as text in a file of mode 0600, made once: it is written beside its place and
//! linked there, so that no reader ever sees half of it and no existing file is overwritten.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroize;

use super::Build;
use crate::{
    config::{
        file::{SecretSource, exactly_one},
        place::Place,
    },
    secret::{self, Secret},
};

/// A secret that was read.
pub(super) struct Loaded {
    /// Without the last line end.
    pub(super) value: Secret<Vec<u8>>,
    /// The file it was generated into, if it was.
    pub(super) generated: Option<PathBuf>,
}

impl Build<'_> {
    /// Reads a secret; a problem is noted and answered with `None`.
    pub(super) fn secret(&mut self, source: &SecretSource, place: &Place) -> Option<Loaded> {
        let choices =
            [("file", source.file.is_some()), ("env", source.env.is_some()), ("generate", source.generate.is_some())];
        exactly_one(place, &choices, self.findings)?;
        if let Some(file) = &source.file {
            let path = file.place.resolve(&file.value.0);
            let value = self.read_secret_file(&path, &file.place)?;
            return Some(Loaded { value, generated: None });
        }
        if let Some(env) = &source.env {
            let name = &env.value.0;
            return match self.environment.get(name).filter(|value| !value.is_empty()) {
                Some(value) => Some(Loaded { value: Secret::new(value.clone().into_bytes()), generated: None }),
                None => {
                    let found = format!("no environment variable {name}, or an empty one");
                    self.findings.problem(&env.place, found, "a variable that holds the secret");
                    None
                }
            };
        }
        let generate = source.generate.as_ref()?;
        let path = generate.place.resolve(&generate.value.0);
        if let Err(error) = generate_once(&path) {
            let found = format!("no way to make {} ({error})", path.display());
            self.findings.problem(&generate.place, found, "a path where a secret can be made");
            return None;
        }
        let value = self.read_secret_file(&path, &generate.place)?;
        self.findings.unfit_for_production(&generate.place, "a generated secret is for trying things out (R35)");
        Some(Loaded { value, generated: Some(path) })
    }

    fn read_secret_file(&mut self, path: &Path, place: &Place) -> Option<Secret<Vec<u8>>> {
        let mut bytes = self.file(path, place, "a file that holds the secret")?;
        self.warn_if_readable_by_others(path, place);
        let end = match &bytes[..] {
            [rest @ .., b'\r', b'\n'] | [rest @ .., b'\n'] => rest.len(),
            all => all.len(),
        };
        bytes.truncate(end);
        if bytes.is_empty() {
            self.findings.problem(place, format!("an empty file {}", path.display()), "a file that holds the secret");
            return None;
        }
        Some(Secret::new(bytes))
    }

    /// Reads a file of any kind; a problem is noted and answered with `None`.
    pub(super) fn file(&mut self, path: &Path, place: &Place, expected: &str) -> Option<Vec<u8>> {
        match self.findings.inputs.read(path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.findings.problem(place, format!("no readable file {} ({error})", path.display()), expected);
                None
            }
        }
    }

    /// What only the gateway should read is worth a warning if others may.
    pub(super) fn warn_if_readable_by_others(&mut self, path: &Path, place: &Place) {
        const OTHERS_READ: u32 = 0o004;
        if fs::metadata(path).is_ok_and(|metadata| metadata.mode() & OTHERS_READ != 0) {
            let message = format!("every user of this machine may read {0}: chmod o-r {0}", path.display());
            self.findings.warn(place, message);
        }
    }
}

/// Makes a file with 256 random bits as 43 characters of base64url, unless there is one.
fn generate_once(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut draft_name = path.file_name().unwrap_or_default().to_owned();
    draft_name.push(format!(".{}", URL_SAFE_NO_PAD.encode(secret::random::<9>())));
    let draft = path.with_file_name(draft_name);
    let written = write_new(&draft);
    // Another process that was first has made it as well as we.
    let placed = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let removed = fs::remove_file(&draft);
    placed.and(removed)
}

fn write_new(path: &Path) -> io::Result<()> {
    let mut random = secret::random::<32>();
    let mut text = URL_SAFE_NO_PAD.encode(random);
    text.push('\n');
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    random.zeroize();
    text.zeroize();
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_secret_is_random_private_and_made_once() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("certs/first");
        let other = folder.path().join("certs/second");

        generate_once(&path)?;
        generate_once(&other)?;
        let made = fs::read_to_string(&path)?;
        generate_once(&path)?;

        assert_eq!(made.trim_end().len(), 43);
        assert_eq!(fs::read_to_string(&path)?, made);
        assert_ne!(fs::read_to_string(&other)?, made);
        assert_eq!(fs::metadata(&path)?.mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("certs"))?.count(), 2);
        Ok(())
    }
}
