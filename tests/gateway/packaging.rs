//! The README's systemd units and container file, word for word: systemd finds nothing wrong with the units and little
//! to attack, and the container file holds what this program understands.

use std::{fs, path::Path, process::Command};

use crate::support::program;

/// The code blocks in this language under the heading that says how it is started.
fn blocks(language: &str) -> Vec<String> {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the manual");
    let section = manual.split("\n## Starting and stopping\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its end");
    let begin = format!("\n```{language}\n");
    section.split(&begin).skip(1).map(|code| code.split("\n```").next().expect("its end").to_owned() + "\n").collect()
}

/// Both units in a folder, with this program's own place.
fn write_units(folder: &Path) -> [String; 2] {
    let units: Vec<_> = ["portcullis.service", "portcullis.socket"].into_iter().zip(blocks("ini")).collect();
    assert_eq!(units.len(), 2, "a service and a socket");
    let place = env!("CARGO_BIN_EXE_portcullis");
    let paths: Vec<_> = units
        .into_iter()
        .map(|(name, text)| {
            let path = folder.join(name);
            fs::write(&path, text.replace("/usr/local/bin/portcullis", place)).expect("a unit can be written");
            path.to_str().expect("a path").to_owned()
        })
        .collect();
    paths.try_into().expect("two")
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let Some(analyze) = program::found("systemd-analyze") else { return };
    let folder = tempfile::tempdir().unwrap();
    let units = write_units(folder.path());

    let output = Command::new(&analyze).args(["verify", "--man=no"]).args(&units).output().unwrap();

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("portcullis")).collect();
    assert!(ours.is_empty(), "{said}");
    // And it would have been found.
    let broken = fs::read_to_string(&units[0]).unwrap().replace("WatchdogSec=30", "WatchdogSec=often");
    fs::write(&units[0], broken).unwrap();
    let output = Command::new(analyze).args(["verify", "--man=no"]).args(&units).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("often"), "a fault is seen");
}

#[test]
fn systemd_finds_the_service_hardly_exposed() {
    let Some(analyze) = program::found("systemd-analyze") else { return };
    let folder = tempfile::tempdir().unwrap();
    let units = write_units(folder.path());

    // Tenths of the scale on which 2.0 and below is "OK" and 10 is unsafe.
    let output =
        Command::new(analyze).args(["security", "--offline=true", "--threshold=20", &units[0]]).output().unwrap();

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_container_file_runs_this_program_as_nobody_in_particular() {
    let [file] = blocks("dockerfile").try_into().expect("one container file");
    const KNOWN: [&str; 10] =
        ["FROM", "WORKDIR", "COPY", "RUN", "VOLUME", "EXPOSE", "STOPSIGNAL", "USER", "ENTRYPOINT", "CMD"];
    let lines: Vec<(&str, &str)> = file
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.split_once(' ').expect("a word and its rest"))
        .collect();
    let last =
        |word: &str| lines.iter().rev().find(|(known, _)| *known == word).map(|(_, rest)| *rest).expect("it is there");

    assert!(lines.iter().all(|(word, _)| KNOWN.contains(word)), "{lines:?}");
    assert_eq!(lines.first().map(|(word, _)| *word), Some("FROM"));
    assert_eq!(last("USER"), "nonroot");
    let stage = last("COPY").strip_prefix("--from=").and_then(|rest| rest.split_once(' ')).expect("from a stage");
    assert!(lines.iter().any(|(word, rest)| *word == "FROM" && rest.ends_with(&format!(" AS {}", stage.0))));
    let program: Vec<String> = serde_json::from_str(last("ENTRYPOINT")).expect("a JSON array");
    assert!(stage.1.ends_with(&format!(" {}", program[0])), "what is copied is what is run");
    let mut arguments: Vec<String> = serde_json::from_str(last("CMD")).expect("a JSON array");
    arguments.push("--help".to_owned());
    let help = Command::new(env!("CARGO_BIN_EXE_portcullis")).args(&arguments).output().unwrap();
    assert!(help.status.success(), "{}", String::from_utf8_lossy(&help.stderr));
}
