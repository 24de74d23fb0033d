//! `portcullis keys make`: a fresh API key for its owner, and the `[[api_key]]` entry that knows it.

use std::time::Duration;

use ipnet::IpNet;

use super::Failure;
use crate::{api_key::KeyText, clock::Clock};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print a fresh key, once, and the entry for gateway.toml, which holds only its hash.
    Make(Make),
}

#[derive(Debug, clap::Args)]
struct Make {
    /// What the key is called in gateway.toml.
    name: String,

    /// Who acts with it; left out, the name.
    #[arg(long)]
    subject: Option<String>,

    /// The realm that subject and roles mean something in.
    #[arg(long)]
    realm: Option<String>,

    /// Roles, separated by commas.
    #[arg(long, value_delimiter = ',')]
    roles: Vec<String>,

    /// Groups, separated by commas.
    #[arg(long, value_delimiter = ',')]
    groups: Vec<String>,

    /// Scopes, separated by commas.
    #[arg(long, value_delimiter = ',')]
    scopes: Vec<String>,

    /// How long it counts, such as 90d; left out, until it is revoked.
    #[arg(long, value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,

    /// Networks from which it counts, separated by commas; left out, from everywhere.
    #[arg(long, value_delimiter = ',')]
    from: Vec<IpNet>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let What::Make(make) = &arguments.what;
    let text = KeyText::generate();
    let key = KeyText::parse(text.expose().as_bytes());
    let key = key.ok_or_else(|| Failure::new("no key could be made".into()))?;
    // The entry alone goes to standard output: `>> gateway.toml` takes no secret along.
    eprintln!("The key, for its owner. It is told this once:\n\n  {}\n", text.expose());
    print!("{}", entry(make, &key));
    Ok(())
}

fn entry(make: &Make, key: &KeyText<'_>) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
    let mut lines = vec![
        ("name", quoted(&make.name)),
        ("id", quoted(key.id().as_str())),
        ("sha256", quoted(&hex(&key.digest()))),
        ("subject", quoted(make.subject.as_deref().unwrap_or(&make.name))),
    ];
    lines.extend(make.realm.as_deref().map(|realm| ("realm", quoted(realm))));
    for (name, texts) in [("roles", &make.roles), ("groups", &make.groups), ("scopes", &make.scopes)] {
        if !texts.is_empty() {
            lines.push((name, format!("[{}]", list(texts))));
        }
    }
    if let Some(ttl) = make.ttl {
        let end = Clock::system().now().plus(ttl).to_system_time();
        lines.push(("expires", quoted(&humantime::format_rfc3339_seconds(end).to_string())));
    }
    if !make.from.is_empty() {
        let networks: Vec<String> = make.from.iter().map(ToString::to_string).collect();
        lines.push(("from", format!("[{}]", list(&networks))));
    }
    let lines = lines.iter().map(|(name, value)| format!("{name} = {value}\n"));
    format!("\n[[api_key]]\n{}", lines.collect::<String>())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
