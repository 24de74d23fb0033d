//! The addresses of a host name, and for how long they are good.
//!
//! In: a name, and whom to ask: this system, or servers of the configuration. Out: addresses in the order in which they
//! are worth trying, with the shortest TTL of what told them, or that there are none. The hosts file comes first.
//! Then DNS is asked by ourselves, for the system does not tell a TTL; where this system would ask something else
//! (nsswitch.conf), or DNS has nothing, the system is asked after all. With servers of the configuration nobody else
//! ever is. One name is never exchanged for another because a server does not answer: a search ends there.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{join, net::lookup_host, task::spawn_blocking};

mod exchange;
pub mod message;
mod order;
mod system;

use self::{
    exchange::{Answer, Servers},
    message::{Family, Reply},
    system::{Files, Rules},
};

/// Who is asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Resolver {
    servers: Option<Servers>,
}

/// What a name leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    /// The best first; at least one.
    pub addresses: Vec<IpAddr>,
    /// As its source says, not bounded.
    pub good_for: Duration,
    /// Nobody could tell whether there are others of this kind.
    pub without: Option<Family>,
}

/// Why a name leads nowhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotFound {
    /// It has no address, for so long if somebody says so.
    NoAddress(Option<Duration>),
    /// Nobody could tell.
    NoAnswer,
}

impl Resolver {
    /// Asks these servers, and no others, in this order; without any, whomever this system asks.
    pub fn asking(servers: &[SocketAddr]) -> Self {
        let asked = Servers::new(servers, Duration::from_secs(5), 2);
        Self { servers: (!servers.is_empty()).then_some(asked) }
    }

    /// Addresses of `host`, which is none itself. Takes as long as the servers need; the caller bounds it.
    ///
    /// # Errors
    /// If there are none.
    pub async fn find(&self, host: &str) -> Result<Found, NotFound> {
        // RFC 6761 section 6.4: nobody has to be asked.
        if is_below(host, "invalid") {
            return Err(NotFound::NoAddress(None));
        }
        let files = spawn_blocking(Files::read).await.map_err(|_| NotFound::NoAnswer)?;
        let listed = files.hosts(host);
        if !listed.is_empty() {
            return of_this_machine(listed);
        }
        // RFC 6761 section 6.3.
        if is_below(host, "localhost") {
            return of_this_machine(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]);
        }
        match &self.servers {
            Some(servers) => ask(servers, [host.to_owned()]).await,
            None if files.asks_dns(host) => {
                let rules = Rules::read(&files.resolver);
                match ask(&rules.servers, rules.names(host)).await {
                    Ok(found) => Ok(found),
                    Err(why) => ask_system(host).await.map_err(|_| why),
                }
            }
            None => ask_system(host).await,
        }
    }
}

/// The first of these names that has an address.
async fn ask(servers: &Servers, names: impl IntoIterator<Item = String>) -> Result<Found, NotFound> {
    let mut good_for = None;
    for name in names {
        match join(join!(servers.ask(&name, Family::V4), servers.ask(&name, Family::V6))) {
            Err(NotFound::NoAddress(until)) => good_for = good_for.into_iter().chain(until).min(),
            decided @ (Ok(_) | Err(NotFound::NoAnswer)) => return decided,
        }
    }
    Err(NotFound::NoAddress(good_for))
}

fn join((v4, v6): (Answer, Answer)) -> Result<Found, NotFound> {
    let (mut addresses, mut good_for, mut nothing_for, mut without) = (Vec::new(), Duration::MAX, None, None);
    for (answer, family) in [(v4, Family::V4), (v6, Family::V6)] {
        match answer {
            Answer::Known(Reply::Addresses(found, until)) => {
                good_for = good_for.min(until);
                // Where it is not one host's, it is this machine's or nobody's: what filters names answers so.
                addresses.extend(found.into_iter().filter(|ip| !ip.is_unspecified() && !ip.is_multicast()));
            }
            Answer::Known(Reply::None(until)) => nothing_for = nothing_for.into_iter().chain(until).min(),
            Answer::Known(Reply::Truncated | Reply::NotUnderstood | Reply::Failed) | Answer::Unknown => {
                without = Some(family);
            }
        }
    }
    match (addresses.is_empty(), without) {
        (true, None) => Err(NotFound::NoAddress(nothing_for)),
        (true, Some(_)) => Err(NotFound::NoAnswer),
        (false, _) => {
            order::sort(&mut addresses);
            Ok(Found { addresses, good_for, without })
        }
    }
}

async fn ask_system(host: &str) -> Result<Found, NotFound> {
    // The port is no part of the question.
    let found = lookup_host((host, 0)).await.map_err(|_| NotFound::NoAddress(None))?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|found| found.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    of_this_machine(addresses)
}

/// What comes without a TTL.
fn of_this_machine(addresses: Vec<IpAddr>) -> Result<Found, NotFound> {
    if addresses.is_empty() {
        return Err(NotFound::NoAddress(None));
    }
    Ok(Found { addresses, good_for: WITHOUT_TTL, without: None })
}

fn is_below(host: &str, top: &str) -> bool {
    host.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case(top))
}

/// How long counts what files or the system say.
const WITHOUT_TTL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::{
        exchange::tests::{run, server, servers, told},
        message::tests::answer,
        *,
    };

    fn addresses(list: &[&str], seconds: u64) -> Answer {
        let list = list.iter().map(|text| text.parse().unwrap()).collect();
        Answer::Known(Reply::Addresses(list, Duration::from_secs(seconds)))
    }

    const fn nothing(seconds: u64) -> Answer {
        Answer::Known(Reply::None(Some(Duration::from_secs(seconds))))
    }

    #[test]
    fn of_both_kinds_the_shorter_time_counts() {
        let both = join((addresses(&["127.0.0.1"], 60), addresses(&["::1"], 5))).unwrap();
        assert_eq!((both.addresses.len(), both.good_for, both.without), (2, Duration::from_secs(5), None));
        let one = join((addresses(&["127.0.0.1"], 60), nothing(5))).unwrap();
        assert_eq!((one.addresses.len(), one.good_for, one.without), (1, Duration::from_secs(60), None));
        assert_eq!(join((nothing(9), nothing(5))), Err(NotFound::NoAddress(Some(Duration::from_secs(5)))));
    }

    #[test]
    fn a_kind_that_nobody_could_tell_of_is_not_taken_for_none() {
        let one = join((Answer::Unknown, addresses(&["::1"], 60))).unwrap();
        assert_eq!(one.without, Some(Family::V4));
        assert_eq!(join((Answer::Unknown, nothing(5))), Err(NotFound::NoAnswer));
        assert_eq!(join((Answer::Unknown, Answer::Unknown)), Err(NotFound::NoAnswer));
    }

    #[test]
    fn an_address_of_nobody_is_none() {
        assert_eq!(join((addresses(&["0.0.0.0"], 60), addresses(&["::"], 60))), Err(NotFound::NoAddress(None)));
        assert_eq!(join((addresses(&["0.0.0.0", "127.0.0.1"], 60), nothing(5))).unwrap().addresses.len(), 1);
    }

    #[test]
    fn a_server_that_does_not_answer_leads_to_no_other_name() {
        run(async {
            // What it says of the first name: that there is none, or that it cannot tell.
            for (code, is_found) in [(3, true), (2, false)] {
                let (address, _) = server(move |asked, _| {
                    let is_first = asked[13..].starts_with(b"app\x05local");
                    vec![if is_first { answer(asked, code, [0, 0]) } else { told(asked, 66) }]
                })
                .await;

                let found = ask(&servers([address]), ["app.local.test", "app.test"].map(str::to_owned)).await;

                match is_found {
                    true => assert_eq!(found.unwrap().addresses, ["10.0.0.66".parse::<IpAddr>().unwrap()]),
                    false => assert_eq!(found, Err(NotFound::NoAnswer)),
                }
            }
        });
    }

    #[test]
    fn nobody_is_asked_for_names_that_are_known_everywhere() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Whoever asked this one would wait.
        let nobody = Resolver::asking(&["192.0.2.1:53".parse().unwrap()]);
        let find = |host| runtime.block_on(nobody.find(host));

        assert_eq!(find("a.invalid"), Err(NotFound::NoAddress(None)));
        let found = find("a.localhost").unwrap();
        assert!(found.addresses.iter().all(IpAddr::is_loopback), "{found:?}");
    }
}
