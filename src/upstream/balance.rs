//! Which server takes a request.
//!
//! In: what all workers know of the servers, the servers tried already, and who asks where that counts. Out: an index,
//! or none when all were tried. Requests are spread by weight: `least_requests` takes the server with the fewest under
//! way for its weight, `round_robin` goes round smoothly (of weights 5, 1, 1: a a b a c a a, never five at once), each
//! worker by itself. A caller that sticks gets the server that ranks highest for it (weighted rendezvous hashing): the
//! same on every worker, after a restart and in every process with the same servers; when a server goes, only its own
//! callers move, when it comes back, they come back. Servers that are out get nothing, unless too few are in: then all
//! are asked alike (`panic_threshold`). A server that rests is the last resort.

use std::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering::Relaxed,
};

use aws_lc_rs::digest;
use smallvec::SmallVec;

use super::{Balance, Caller, Place, Rules, Settings, UpstreamState};

/// How one worker spreads the requests to one upstream.
pub(super) struct Balancer {
    how: Balance,
    members: Box<[Member]>,
    rules: Rules,
    /// There is one server, and it is asked in whatever state.
    is_only: bool,
    /// Where the next look begins: ties go round.
    turn: Cell<usize>,
    /// `round_robin`: what each server is owed.
    owed: RefCell<Box<[i64]>>,
}

/// Servers by their index, in their order, each with its weight times its share.
type Among = SmallVec<[(usize, u32); 8]>;

struct Member {
    weight: u32,
    /// What callers are ranked by.
    hash: u64,
}

impl Balancer {
    /// `round` is where the first request of this worker goes on, so that all workers do not begin with the same
    /// server.
    pub(super) fn new(settings: &Settings, state: &UpstreamState, round: usize) -> Self {
        let members: Box<[Member]> = settings
            .servers
            .iter()
            .zip(&state.servers)
            .map(|(member, server)| Member { weight: member.weight.get(), hash: hash(&[server.label.as_bytes()]) })
            .collect();
        let owed = RefCell::new(vec![0; members.len()].into());
        let is_only = members.len() == 1 && settings.rules.panic_below > 0;
        let (how, rules, turn) = (settings.balance, settings.rules.clone(), Cell::new(round));
        let balancer = Self { how, members, rules, is_only, turn, owed };
        if settings.balance == Balance::RoundRobin {
            let whole: usize = balancer.members.iter().map(|member| member.weight as usize).sum();
            let all: Among = balancer.members.iter().map(|member| member.weight).enumerate().collect();
            for _ in 0..round.checked_rem(whole).unwrap_or(0).min(ROUNDS_AHEAD_MAX) {
                balancer.next_in_round(&all);
            }
        }
        balancer
    }

    /// Whether servers are compared by how many requests all workers have under way there.
    pub(super) fn compares(&self) -> bool {
        self.how == Balance::LeastRequests && self.members.len() > 1
    }

    /// The server for the next request among those not in `tried`; a resting one only if no other is left. `None`: all
    /// that may be asked were tried.
    #[inline]
    pub(super) fn pick(
        &self,
        state: &UpstreamState,
        tried: &[usize],
        caller: Option<Caller>,
        now: impl Fn() -> u64,
    ) -> Option<usize> {
        if self.is_only {
            return tried.is_empty().then_some(0);
        }
        self.pick_of_several(state, tried, caller, now)
    }

    fn pick_of_several(
        &self,
        state: &UpstreamState,
        tried: &[usize],
        caller: Option<Caller>,
        now: impl Fn() -> u64,
    ) -> Option<usize> {
        let (mut fit, mut resting, mut out) = (Among::new(), Among::new(), Among::new());
        let mut all_in = 0;
        for ((index, server), member) in state.servers.iter().enumerate().zip(&self.members) {
            let (list, share, is_in) = match server.standing.place(&self.rules, &now) {
                Place::In(share) => (&mut fit, share, true),
                Place::Rests => (&mut resting, FULL_SHARE, true),
                Place::Out(_) => (&mut out, FULL_SHARE, false),
            };
            all_in += usize::from(is_in);
            if !tried.contains(&index) {
                list.push((index, member.weight.saturating_mul(share)));
            }
        }
        if all_in * 100 < self.members.len() * self.rules.panic_below as usize {
            fit.extend(out);
            fit.sort_unstable();
        }
        let among = if fit.is_empty() { resting } else { fit };
        match (caller, self.how) {
            (Some(caller), _) => self.highest(&among, caller),
            (None, Balance::LeastRequests) => self.least_busy(state, &among),
            (None, Balance::RoundRobin) => self.next_in_round(&among),
        }
    }

    fn least_busy(&self, state: &UpstreamState, among: &Among) -> Option<usize> {
        let count = self.members.len();
        let turn = self.turn.replace(self.turn.get().wrapping_add(1)) % count;
        let least = among.iter().min_by_key(|(index, weight)| {
            let under_way = state.servers.get(*index).map_or(0, |server| server.counters.busy.load(Relaxed));
            // With the one that it would get: an idle server of weight 3 comes before an idle one of weight 1.
            let load = under_way.saturating_add(1).saturating_mul(WEIGHT_SCALE) / u64::from(*weight).max(1);
            (load, (index + count - turn) % count)
        });
        least.map(|(index, _)| *index)
    }

    /// Smooth weighted round robin, as nginx has it.
    fn next_in_round(&self, among: &Among) -> Option<usize> {
        let mut owed = self.owed.borrow_mut();
        let mut whole = 0;
        let mut best: Option<(i64, usize)> = None;
        for (index, weight) in among {
            let weight = i64::from(*weight);
            let Some(owed) = owed.get_mut(*index) else { continue };
            *owed += weight;
            whole += weight;
            if best.is_none_or(|(most, _)| *owed > most) {
                best = Some((*owed, *index));
            }
        }
        let (_, index) = best?;
        if let Some(owed) = owed.get_mut(index) {
            *owed -= whole;
        }
        Some(index)
    }

    /// Rendezvous hashing with weights: the server with the greatest `weight / -ln(u)`, where `u` between 0 and 1 is
    /// drawn by caller and server.
    fn highest(&self, among: &Among, Caller(caller): Caller) -> Option<usize> {
        let rank = |(index, weight): (usize, u32)| {
            let drawn = self.members.get(index).map_or(0, |member| mix(caller ^ member.hash));
            let unit = ((drawn >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            f64::from(weight) / -unit.ln()
        };
        let highest = among.iter().max_by(|one, other| rank(**one).total_cmp(&rank(**other)));
        highest.map(|(index, _)| *index)
    }
}

impl Caller {
    /// Whoever `parts` name together: they are told apart, whatever bytes are in them.
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(hash(parts))
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// The same in every process, and evenly spread whatever callers may choose of it.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// The finalizer of splitmix64: every bit of the sum counts in every bit of the result.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Fractions of requests for each unit of weight that are told apart.
const WEIGHT_SCALE: u64 = 1 << 27;
/// See [`Place::In`].
const FULL_SHARE: u32 = 100;
/// Enough to tell the workers of a large machine apart.
const ROUNDS_AHEAD_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

    use proptest::prelude::*;

    use super::{
        super::{Member as Written, Server, servers::ServerState, tests::settings},
        *,
    };

    struct Some3 {
        balancer: Balancer,
        state: UpstreamState,
    }

    impl Some3 {
        /// Servers a, b, c … of these weights.
        fn new(how: Balance, weights: &[u32]) -> Self {
            let servers: Vec<Server> =
                ('a'..).zip(weights).map(|(name, _)| Server::Unix(format!("/{name}").into())).collect();
            let state = UpstreamState {
                name: "u".into(),
                servers: servers.iter().map(|server| ServerState::new(server, &"u".into()).into()).collect(),
                budget: Arc::default(),
                queue: Arc::default(),
            };
            let members = servers
                .into_iter()
                .zip(weights)
                .map(|(server, weight)| Written { weight: NonZeroU32::new(*weight).unwrap(), ..server.into() });
            let settings = Settings { balance: how, servers: members.collect(), ..settings(Vec::new()) };
            Self { balancer: Balancer::new(&settings, &state, 0), state }
        }

        fn pick(&self, tried: &[usize]) -> Option<usize> {
            self.balancer.pick(&self.state, tried, None, || 0)
        }

        fn of_caller(&self, caller: u32, tried: &[usize]) -> usize {
            let caller = Caller::of(&[&caller.to_be_bytes()]);
            self.balancer.pick(&self.state, tried, Some(caller), || 0).unwrap()
        }

        fn refuses(&self, index: usize) {
            self.state.servers[index].failed(&Rules::default(), 0);
        }

        fn is_ejected(&self, index: usize) {
            (0..5).for_each(|_| self.state.servers[index].standing.failed(&Rules::default(), 0));
        }

        fn under_way(&self, index: usize, requests: u64) {
            self.state.servers[index].counters.busy.store(requests, Relaxed);
        }
    }

    #[test]
    fn the_least_busy_server_is_taken_and_ties_go_round() {
        let three = Some3::new(Balance::LeastRequests, &[1, 1, 1]);

        assert_eq!([three.pick(&[]), three.pick(&[]), three.pick(&[])], [Some(0), Some(1), Some(2)]);
        three.under_way(0, 1);
        assert_eq!([three.pick(&[]), three.pick(&[]), three.pick(&[])], [Some(1), Some(1), Some(2)]);
        assert_eq!(three.pick(&[1, 2]), Some(0));
        assert_eq!(three.pick(&[0, 1, 2]), None);
    }

    #[test]
    fn a_heavier_server_takes_more_requests_at_once() {
        let two = Some3::new(Balance::LeastRequests, &[3, 1]);
        let mut taken = [0, 0];

        for _ in 0..40 {
            let index = two.pick(&[]).unwrap();
            taken[index] += 1;
            two.under_way(index, taken[index]);
        }

        assert_eq!(taken, [30, 10]);
    }

    #[test]
    fn a_round_is_smooth_and_by_weight() {
        let three = Some3::new(Balance::RoundRobin, &[5, 1, 1]);

        let round: Vec<usize> = (0..7).map(|_| three.pick(&[]).unwrap()).collect();

        assert_eq!(round, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn workers_begin_their_rounds_at_different_servers() {
        let plain = Some3::new(Balance::RoundRobin, &[1, 1, 1]);
        let settings = Settings {
            servers: ["/a", "/b", "/c"].map(|path| Server::Unix(path.into()).into()).into(),
            ..settings(Vec::new())
        };

        let first = |round| Balancer::new(&settings, &plain.state, round).pick(&plain.state, &[], None, || 0);

        assert_eq!([first(0), first(1), first(2), first(3)], [Some(0), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn a_resting_server_is_the_last_resort() {
        let three = Some3::new(Balance::RoundRobin, &[1, 1, 1]);
        three.refuses(0);

        assert_eq!([three.pick(&[]), three.pick(&[])], [Some(1), Some(2)]);
        assert_eq!(three.pick(&[1, 2]), Some(0));
    }

    #[test]
    fn who_is_out_gets_nothing_until_too_few_are_in() {
        let five = Some3::new(Balance::RoundRobin, &[1; 5]);
        (0..3).for_each(|index| five.is_ejected(index));

        assert_eq!([five.pick(&[]), five.pick(&[]), five.pick(&[])], [Some(3), Some(4), Some(3)]);
        assert_eq!(five.pick(&[3, 4]), None);
        five.is_ejected(3);
        // One of five is less than a quarter.
        let mut round: Vec<_> = (0..5).map(|_| five.pick(&[]).unwrap()).collect();
        round.sort_unstable();
        assert_eq!(round, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn without_panic_nobody_is_asked_when_all_are_out() {
        for count in [1, 3] {
            let mut some = Some3::new(Balance::LeastRequests, &vec![1; count]);
            (some.balancer.rules.panic_below, some.balancer.is_only) = (0, false);

            assert!(some.pick(&[]).is_some());
            (0..count).for_each(|index| some.is_ejected(index));
            assert_eq!(some.pick(&[]), None);
        }
    }

    #[test]
    fn who_has_just_come_back_gets_little() {
        let two = Some3::new(Balance::RoundRobin, &[1, 1]);
        two.is_ejected(0);

        let first = (0..110).filter(|_| two.balancer.pick(&two.state, &[], None, || 10_000) == Some(0)).count();

        assert_eq!(first, 10);
    }

    #[test]
    fn a_caller_stays_moves_when_its_server_is_out_and_comes_back() {
        let three = Some3::new(Balance::LeastRequests, &[1, 1, 1]);
        let home: Vec<usize> = (0..1000).map(|caller| three.of_caller(caller, &[])).collect();
        three.under_way(0, 1_000_000);

        let again: Vec<usize> = (0..1000).map(|caller| three.of_caller(caller, &[])).collect();
        three.refuses(0);
        let without: Vec<usize> = (0..1000).map(|caller| three.of_caller(caller, &[])).collect();
        three.state.servers[0].succeeded();
        let back: Vec<usize> = (0..1000).map(|caller| three.of_caller(caller, &[])).collect();

        assert_eq!(home, again);
        assert_eq!(home, back);
        assert!(home.iter().zip(&without).all(|(home, now)| if *home == 0 { *now != 0 } else { home == now }));
        let moved: HashMap<usize, usize> =
            home.iter().zip(&without).filter(|(home, _)| **home == 0).fold(HashMap::new(), |mut counts, (_, now)| {
                *counts.entry(*now).or_default() += 1;
                counts
            });
        assert!(moved.values().all(|count| *count > 100), "they are spread over all others: {moved:?}");
    }

    #[test]
    fn callers_are_spread_by_weight() {
        let two = Some3::new(Balance::LeastRequests, &[3, 1]);

        let first = (0..10_000).filter(|caller| two.of_caller(*caller, &[]) == 0).count();

        assert!((7_200..7_800).contains(&first), "{first}");
    }

    #[test]
    fn where_a_caller_goes_is_the_same_in_every_process() {
        let three = Some3::new(Balance::LeastRequests, &[1, 1, 1]);

        let places: Vec<usize> = (0..12).map(|caller| three.of_caller(caller, &[])).collect();

        // Written down once: another hash would move everybody at an upgrade.
        assert_eq!(places, PLACES);
    }

    const PLACES: [usize; 12] = [2, 1, 2, 0, 1, 1, 1, 0, 2, 2, 2, 2];

    #[test]
    fn callers_of_several_parts_are_told_apart() {
        assert_ne!(Caller::of(&[b"a", b"bc"]), Caller::of(&[b"ab", b"c"]));
        assert_eq!(Caller::of(&[b"a", b"bc"]), Caller::of(&[b"a", b"bc"]));
    }

    proptest! {
        #[test]
        fn in_each_whole_round_every_server_has_its_weight(weights in prop::collection::vec(1_u32..20, 2..6)) {
            let some = Some3::new(Balance::RoundRobin, &weights);
            let whole: u32 = weights.iter().sum();
            for _ in 0..3 {
                let mut taken = vec![0; weights.len()];
                for _ in 0..whole {
                    taken[some.pick(&[]).unwrap()] += 1;
                }
                prop_assert_eq!(&taken, &weights);
            }
        }

        #[test]
        fn a_server_is_picked_exactly_if_one_is_left(
            weights in prop::collection::vec(1_u32..9, 1..6),
            tried in prop::collection::vec(0_usize..6, 0..6),
            failed in prop::collection::vec(0_usize..6, 0..6),
            how in prop_oneof![Just(Balance::LeastRequests), Just(Balance::RoundRobin)],
            caller in prop::option::of(any::<u64>().prop_map(Caller)),
        ) {
            let some = Some3::new(how, &weights);
            failed.iter().filter_map(|index| some.state.servers.get(*index)).for_each(|server| {
                server.failed(&Rules::default(), 0);
            });
            // One server is tried once, whichever it is.
            let tried: Vec<usize> = tried.into_iter().filter(|index| *index < weights.len()).collect();

            let picked = some.balancer.pick(&some.state, &tried, caller, || 0);

            let left = (0..weights.len()).any(|index| !tried.contains(&index));
            prop_assert_eq!(picked.is_some(), left);
            prop_assert!(picked.is_none_or(|index| index < weights.len() && !tried.contains(&index)));
        }
    }
}
