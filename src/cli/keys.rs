//! `portcullis keys`: API keys for programs. `make` prints a fresh one and the `[[api_key]]` entry that knows it;
//! `add`, `list` and `revoke` ask the admin API of a running gateway.

use std::{path::Path, time::Duration};

use http::Method;
use ipnet::IpNet;
use serde_json::json;

use super::{
    Failure,
    admin_client::{AdminArguments, AdminClient},
    table::{PAGE, Table},
};
use crate::{
    api_key::{KeyId, KeyText},
    clock::Clock,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,

    #[command(flatten)]
    admin: AdminArguments,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Let a running gateway make a key; standard output has the key alone, told this once.
    Add {
        #[command(flatten)]
        key: Key,

        /// What it is for, as `list` tells it.
        #[arg(long)]
        note: Option<String>,
    },
    /// Say which keys there are, who acts with them, and when they were last used.
    List {
        /// The keys of one subject; left out, all.
        #[arg(long)]
        subject: Option<String>,

        /// The realm of the subjects; left out, that of the admin token.
        #[arg(long)]
        realm: Option<String>,

        /// One JSON object a line, with everything that the API tells.
        #[arg(long)]
        json: bool,
    },
    /// Print a fresh key, once, and the entry for gateway.toml, which holds only its hash.
    Make {
        #[command(flatten)]
        key: Key,

        /// The realm that subject and roles mean something in.
        #[arg(long)]
        realm: Option<String>,
    },
    /// End a key, for good: tunnels that it has opened are cut.
    Revoke {
        /// Its id, as `list` tells it: what stands between the first two `_` of its text.
        id: String,
    },
}

#[derive(Debug, clap::Args)]
struct Key {
    /// What the key is called.
    name: String,

    /// Who acts with it; left out, the name.
    #[arg(long)]
    subject: Option<String>,

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

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let client = || AdminClient::new(path, &arguments.admin);
    match &arguments.what {
        What::Add { key, note } => add(&client()?, key, note.as_deref()),
        What::List { subject, realm, json } => {
            let parameters = [("subject", subject.as_deref()), ("realm", realm.as_deref()), ("limit", Some(PAGE))];
            KEYS.print(&client()?, &parameters, *json)
        }
        What::Make { key, realm } => make(key, realm.as_deref()),
        What::Revoke { id } => {
            let id = KeyId::parse(id).ok_or_else(|| {
                Failure::new("an id has 16 characters of a-z and 2-7; `portcullis keys list` tells it".into())
            })?;
            client()?.ask(Method::DELETE, &format!("keys/{id}"), None)?;
            println!("the API key {id} is void");
            Ok(())
        }
    }
}

fn add(client: &AdminClient, key: &Key, note: Option<&str>) -> Result<(), Failure> {
    let networks: Vec<String> = key.from.iter().map(ToString::to_string).collect();
    let entry = json!({
        "name": key.name,
        "subject": key.subject.as_ref().unwrap_or(&key.name),
        "roles": key.roles,
        "groups": key.groups,
        "scopes": key.scopes,
        "expires_at": key.ttl.map(|ttl| Clock::system().now().plus(ttl).unix_seconds()),
        "from": networks,
        "note": note,
    });
    let made = client.ask(Method::POST, "keys", Some(&entry))?;
    let text = |name: &str| made[name].as_str().unwrap_or_default();
    let until = made["expires_at"].as_str().map_or_else(String::new, |until| format!(" until {until}"));
    eprintln!("The key {} of {}{until}, told this once:", text("id"), text("subject"));
    if let Some(dropped) = made["dropped_grants"].as_u64() {
        eprintln!("{dropped} roles, groups or scopes were left out: the admin token may not grant them");
    }
    if made["durable"] == false {
        eprintln!("A restart forgets it: there is no server.state_dir");
    }
    println!("{}", text("key"));
    Ok(())
}

fn make(make: &Key, realm: Option<&str>) -> Result<(), Failure> {
    let text = KeyText::generate();
    let key = KeyText::parse(text.expose().as_bytes());
    let key = key.ok_or_else(|| Failure::new("no key could be made".into()))?;
    // The entry alone goes to standard output: `>> gateway.toml` takes no secret along.
    eprintln!("The key, for its owner. It is told this once:\n\n  {}\n", text.expose());
    print!("{}", entry(make, realm, &key));
    Ok(())
}

fn entry(make: &Key, realm: Option<&str>, key: &KeyText<'_>) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
    let mut lines = vec![
        ("name", quoted(&make.name)),
        ("id", quoted(key.id().as_str())),
        ("sha256", quoted(&hex(&key.digest()))),
        ("subject", quoted(make.subject.as_deref().unwrap_or(&make.name))),
    ];
    lines.extend(realm.map(|realm| ("realm", quoted(realm))));
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

const KEYS: Table = Table {
    name: "keys",
    columns: [
        ("ID", "id", 16),
        ("NAME", "name", 20),
        ("SUBJECT", "subject", 20),
        ("REALM", "realm", 10),
        ("LAST USED", "last_used_at", 20),
        ("EXPIRES", "expires_at", 20),
        ("VOID", "void", 8),
    ],
};
