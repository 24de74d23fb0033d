//! Has the linker put together what every start and every request executes.
//!
//! The kernel maps a program's code in pieces of 64 KiB around whatever is executed, so functions in use that lie
//! scattered keep nearly all of it in memory. `.build/layout.ld` lists those that are used; `benches/layout` writes it.
//! In: that list, and the linker that this build has. Out: an argument for it, if a program that it links so runs;
//! otherwise nothing, and the program is the same but larger in memory.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const LAYOUT: &str = ".build/layout.ld";

fn main() {
    println!("cargo::rerun-if-changed={LAYOUT}");
    println!("cargo::rerun-if-changed=.build/main.rs");
    let optimized = env::var_os("OPT_LEVEL").is_some_and(|level| level != "0");
    let (Some(root), Some(out)) = (env::var_os("CARGO_MANIFEST_DIR"), env::var_os("OUT_DIR")) else { return };
    if !optimized {
        return;
    }
    let (out, Ok(layout)) = (PathBuf::from(out), fs::read_to_string(Path::new(&root).join(LAYOUT))) else { return };
    let script = out.join("layout.ld");
    let Some(argument) = script.to_str().map(|path| format!("-T{path}")) else { return };
    if fs::write(&script, with_prefixes(&layout)).is_ok() && links(&argument, &out) {
        println!("cargo::rustc-link-arg-bin=portcullis={argument}");
    }
}

/// A compiler that is told how often a function runs (`.build/pgo`), or that it hardly does, says so in its section's
/// name.
fn with_prefixes(layout: &str) -> String {
    let mut script = String::with_capacity(3 * layout.len());
    for line in layout.lines() {
        script.extend([line, "\n"]);
        // Names stand indented below their section.
        if let Some(function) = line.strip_prefix("      .text.") {
            for prefix in ["hot", "unlikely"] {
                script.extend([".text.", prefix, ".", function, "\n"]);
            }
        }
    }
    script
}

/// Whether the linker of this build takes `argument`, and what comes of it runs.
fn links(argument: &str, out: &Path) -> bool {
    let (source, program) = (out.join("probe.rs"), out.join("probe"));
    if fs::write(&source, "fn main() { println!(\"{:?}\", std::env::args()); }\n").is_err() {
        return false;
    }
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let mut rustc = Command::new(variable("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .args(["--crate-name=probe", "--edition=2024", &format!("-Clink-arg={argument}"), "-o"])
        .args([&program, &source]);
    let (target, host) = (variable("TARGET"), variable("HOST"));
    for (option, value) in [("--target=", &target), ("-Clinker=", &variable("RUSTC_LINKER"))] {
        if let Some(value) = value {
            rustc.arg(OsString::from_iter([OsStr::new(option), value]));
        }
    }
    // What the person who builds has written, such as another linker.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    succeeds(&mut rustc) && (target != host || succeeds(&mut Command::new(&program)))
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
