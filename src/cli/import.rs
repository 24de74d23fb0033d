//! `portcullis import openapi FILE`: routes of an OpenAPI document, on standard output.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand};

use super::Failure;
use crate::openapi::{self, Options};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Routes of an OpenAPI document (3.0 or 3.1, JSON or YAML) with its methods, paths and security, for a file that
    /// `include` names.
    Openapi(Openapi),
}

#[derive(Debug, Args)]
struct Openapi {
    /// The document; `-` reads it from standard input.
    file: PathBuf,

    /// The upstream of every route; otherwise that of `[route_defaults]`.
    #[arg(long)]
    upstream: Option<String>,

    /// A host of every route, in place of those in `servers`. May be repeated.
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,

    /// What every route's name begins with.
    #[arg(long, default_value = "")]
    prefix: String,

    /// What callers authenticate with where the document names a security scheme, such as `oauth=jwt:keycloak`. May be
    /// repeated. By default bearer tokens, OAuth and OpenID Connect are `jwt`, keys in headers `api_key`, keys in
    /// cookies `session`, and mutual TLS `mtls`.
    #[arg(long = "scheme", value_name = "NAME=AUTH")]
    schemes: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Command::Openapi(arguments) = &arguments.command;
    let options = Options {
        upstream: arguments.upstream.clone(),
        hosts: arguments.hosts.clone(),
        prefix: arguments.prefix.clone(),
        schemes: arguments.schemes.iter().map(|text| scheme(text)).collect::<Result<_, _>>()?,
    };
    let file = arguments.file.display();
    let text = read(&arguments.file).map_err(|error| Failure::new(format!("{file} cannot be read: {error}")))?;
    let import =
        openapi::import(&text, &options).map_err(|error| Failure::new(format!("{file} is not imported: {error}")))?;
    io::stdout()
        .write_all(import.fragment.as_bytes())
        .map_err(|error| Failure::new(format!("standard output: {error}")))?;
    match import.unsaid {
        0 => eprintln!("{} routes", import.routes),
        unsaid => eprintln!("{} routes, {unsaid} of them with `auth = []`: say who may call them", import.routes),
    }
    Ok(())
}

fn scheme(text: &str) -> Result<(String, String), Failure> {
    let known = |auth: &str| {
        matches!(auth, "api_key" | "jwt" | "mtls" | "session") || auth.starts_with("jwt:") || auth.starts_with("mtls:")
    };
    match text.split_once('=').filter(|(name, auth)| !name.is_empty() && known(auth)) {
        Some((name, auth)) => Ok((name.to_owned(), auth.to_owned())),
        None => Err(Failure::with_code(
            format!("--scheme {text:?}: write NAME=AUTH, where AUTH is session, jwt, jwt:<issuer>, api_key or mtls"),
            2,
        )),
    }
}

fn read(file: &PathBuf) -> io::Result<String> {
    let mut text = String::new();
    let read = match file.to_str() {
        Some("-") => io::stdin().take(LONGEST + 1).read_to_string(&mut text)?,
        _ => File::open(file)?.take(LONGEST + 1).read_to_string(&mut text)?,
    };
    if u64::try_from(read).unwrap_or(u64::MAX) > LONGEST {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    Ok(text)
}

/// Bytes of a document.
const LONGEST: u64 = 16 << 20;
