//! What this machine says about names: `/etc/hosts`, `/etc/resolv.conf` and `/etc/nsswitch.conf`, read each time.
//!
//! In: the files' texts, which their owner may change at any time. Out: addresses of the hosts file, which servers are
//! asked for which names (resolv.conf(5)), and whether DNS is what this machine would ask for a name (nsswitch.conf(5)).
//! A line that is not understood is passed over, as the system does it.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::exchange::Servers;

/// The texts of the three files; empty: it is not there.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) hosts: String,
    pub(super) resolver: String,
    pub(super) switch: String,
}

/// `/etc/resolv.conf`.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Rules {
    /// Whom to ask.
    pub(super) servers: Servers,
    search: Vec<String>,
    /// From how many dots on a name is tried as it is first.
    dots: usize,
}

impl Files {
    /// Not for workers.
    pub(super) fn read() -> Self {
        let text = |path| {
            let bytes = fs::read(path).or_else(|why| match why.kind() {
                io::ErrorKind::NotFound => Ok(Vec::new()),
                _ => Err(why),
            });
            // Who may not read a file is told nothing by it.
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        };
        Self { hosts: text("/etc/hosts"), resolver: text("/etc/resolv.conf"), switch: text("/etc/nsswitch.conf") }
    }

    /// What the hosts file says of a name, whatever its case.
    pub(super) fn hosts(&self, host: &str) -> Vec<IpAddr> {
        let mut found = Vec::new();
        for line in self.hosts.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let Some(address) = words.next().and_then(|address| address.parse().ok()) else { continue };
            if words.any(|name| name.eq_ignore_ascii_case(host)) && !found.contains(&address) {
                found.push(address);
            }
        }
        found
    }

    /// Whether this machine would ask DNS for it, behind nothing but files; else it has to be asked itself.
    pub(super) fn asks_dns(&self, host: &str) -> bool {
        // Multicast DNS answers for names of this form where there is any (RFC 6762 section 22.1), DNS otherwise.
        let is_local = host.rsplit_once('.').is_some_and(|(before, last)| last == "local" && !before.contains('.'));
        let line = self.switch.lines().find_map(|line| line.trim_start().strip_prefix("hosts:"));
        let Some(line) = line else { return !is_local };
        let mut in_brackets = false;
        let mut sources = line.split('#').next().unwrap_or_default().split_ascii_whitespace().filter(|word| {
            let is_action = in_brackets || word.starts_with('[');
            in_brackets = is_action && !word.ends_with(']');
            !is_action
        });
        // `resolve` is systemd's, which asks DNS; it and `myhostname` answer for this machine's own names besides, for
        // which DNS has nothing.
        let known = ["dns", "files", "myhostname", "mymachines", "resolve"];
        let has_dns = |source: &str| matches!(source, "dns" | "resolve");
        sources.next() == Some("files")
            && sources.try_fold(false, |found, source| {
                (known.contains(&source) || source.starts_with("mdns")).then(|| found || has_dns(source))
            }) == Some(true)
            && !is_local
    }
}

impl Rules {
    /// Of the text of `/etc/resolv.conf`.
    pub(super) fn read(text: &str) -> Self {
        let (mut addresses, mut search, mut dots, mut wait, mut rounds) = (Vec::new(), Vec::new(), 1, 5, 2);
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|address| address.parse().ok());
                    addresses.extend(address.map(|ip: IpAddr| SocketAddr::new(ip, PORT)));
                }
                // The last of both counts.
                Some("search" | "domain") => {
                    search = words.map(|domain| domain.trim_matches('.').to_owned()).take(MAX_SEARCH).collect();
                }
                Some("options") => {
                    for option in words {
                        let (name, value) = option.split_once(':').unwrap_or((option, ""));
                        match (name, value.parse::<u32>()) {
                            ("ndots", Ok(value)) => dots = value.min(15),
                            ("timeout", Ok(value)) => wait = value.clamp(1, 30),
                            ("attempts", Ok(value)) => rounds = value.clamp(1, 5),
                            _ => {}
                        }
                    }
                }
                Some(_) | None => {}
            }
        }
        search.retain(|domain| !domain.is_empty());
        addresses.truncate(MAX_SERVERS);
        let servers = Servers::new(addresses, Duration::from_secs(wait.into()), rounds);
        Self { servers, search, dots: dots as usize }
    }

    /// The names that are asked for one after the other, until one is known.
    pub(super) fn names(&self, host: &str) -> Vec<String> {
        let mut names: Vec<_> = self.search.iter().map(|domain| format!("{host}.{domain}")).collect();
        let is_whole = host.bytes().filter(|byte| *byte == b'.').count() >= self.dots;
        names.insert(if is_whole { 0 } else { names.len() }, host.to_owned());
        names
    }
}

const PORT: u16 = 53;
/// As many as the system's own resolver asks.
const MAX_SERVERS: usize = 3;
const MAX_SEARCH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_read_as_the_system_reads_it() {
        let hosts = "127.0.0.1\tlocalhost App # other\n::1 app\n#10.0.0.1 app\nnonsense app\n\n10.0.0.2 apps";
        let files = Files { hosts: hosts.into(), ..Files::default() };

        assert_eq!(files.hosts("app"), ["127.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        assert_eq!(files.hosts("other"), [] as [IpAddr; 0]);
    }

    #[test]
    fn dns_is_asked_where_the_system_would() {
        for (switch, host, asks) in [
            ("", "app.example", true),
            ("passwd: files\n", "app.example", true),
            ("hosts: files dns\n", "app.example", true),
            ("hosts:\tfiles myhostname mdns4_minimal [NOTFOUND=return] dns # last\n", "app.example", true),
            ("hosts: files mymachines resolve [!UNAVAIL=return] dns", "app", true),
            ("hosts: files [ NOTFOUND = continue ] dns", "app", true),
            ("hosts: files", "app.example", false),
            ("hosts: files ldap dns", "app.example", false),
            ("hosts: dns files", "app.example", false),
            ("hosts:", "app.example", false),
            ("hosts: files dns", "printer.local", false),
            ("hosts: files dns", "web.shop.svc.cluster.local", true),
        ] {
            let files = Files { switch: switch.into(), ..Files::default() };
            assert_eq!(files.asks_dns(host), asks, "{switch:?} {host}");
        }
    }

    #[test]
    fn resolv_conf_says_whom_to_ask_for_what() {
        let text = "# comment\nnameserver 10.0.0.53\nnameserver fd00::53\nnameserver nonsense\ndomain gone.example\n\
            search shop.svc.cluster.local. svc.cluster.local\noptions ndots:5 timeout:2 attempts:3 rotate ndots:x\n";
        let rules = Rules::read(text);

        let servers = ["10.0.0.53:53", "[fd00::53]:53"].map(|address| address.parse().unwrap());
        assert_eq!(rules.servers, Servers::new(servers, Duration::from_secs(2), 3));
        let whole = "a.b.c.d.e.f";
        assert_eq!(rules.names("web"), ["web.shop.svc.cluster.local", "web.svc.cluster.local", "web"]);
        assert_eq!(rules.names(whole).first().map(String::as_str), Some(whole));
        let plain = Rules::read("");
        assert_eq!(
            (plain.names("web"), plain.servers.addresses.len(), plain.servers.rounds),
            (vec!["web".into()], 0, 2)
        );
    }
}
