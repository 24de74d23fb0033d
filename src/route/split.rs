//! Which upstream takes a request, where a route names more than one (`split`).
//!
//! In: who asks, as a number that is the same in every process, or a number by chance. Out: an upstream's index. Who is
//! known stays on one side for as long as the weights stay, on every route with the same `split`; when the weight of
//! the last side grows, only callers of the others come over. Where a request goes is decided after whether it may go:
//! a rule, a path and a header are the same on every side.

/// Where a route's requests go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// This upstream, by its index in the snapshot.
    One(usize),
    /// One of several.
    Split(Split),
}

/// Upstreams with their weights, at least one of which is above zero.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Split {
    sides: Box<[(usize, u32)]>,
    whole: u64,
}

impl Split {
    /// `None` if nobody would get anything.
    pub fn new(sides: Box<[(usize, u32)]>) -> Option<Self> {
        let whole = sides.iter().map(|(_, weight)| u64::from(*weight)).sum();
        (whole > 0).then_some(Self { sides, whole })
    }

    /// The sides, each an upstream's index and its weight.
    pub fn sides(&self) -> &[(usize, u32)] {
        &self.sides
    }

    fn side_of(&self, drawn: u64) -> Option<usize> {
        // The upper half of the product: as even as the numbers are.
        let mut at = ((u128::from(drawn) * u128::from(self.whole)) >> 64) as u64;
        for (index, weight) in &self.sides {
            match at.checked_sub((*weight).into()) {
                Some(rest) => at = rest,
                None => return Some(*index),
            }
        }
        None
    }
}

impl Destination {
    /// The upstream for whoever has `drawn` this number; asked for only where there is a choice.
    #[inline]
    pub fn upstream(&self, drawn: impl FnOnce() -> u64) -> usize {
        match self {
            Self::One(index) => *index,
            Self::Split(split) => split.side_of(drawn()).unwrap_or_default(),
        }
    }

    /// Every upstream that it may be.
    pub fn upstreams(&self) -> impl Iterator<Item = usize> {
        let (one, sides) = match self {
            Self::One(index) => (Some(*index), &[][..]),
            Self::Split(split) => (None, split.sides()),
        };
        one.into_iter().chain(sides.iter().map(|(index, _)| *index))
    }

    /// Whether some upstream gets requests of both.
    pub fn meets(&self, other: &Self) -> bool {
        self.upstreams().any(|one| other.upstreams().any(|another| one == another))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(weights: &[u32]) -> Split {
        Split::new(weights.iter().copied().enumerate().collect()).unwrap()
    }

    #[test]
    fn nobody_gets_nothing() {
        assert!(Split::new([(0, 0), (1, 0)].into()).is_none());
        assert!(Split::new([].into()).is_none());
        assert_eq!((split(&[0, 1]).side_of(0), split(&[0, 1]).side_of(u64::MAX)), (Some(1), Some(1)));
    }

    #[test]
    fn sides_meet_where_they_share_an_upstream() {
        let (one, both) = (Destination::One(0), Destination::Split(split(&[1, 1])));
        assert!(one.meets(&both) && both.meets(&one) && both.meets(&both));
        assert!(!Destination::One(2).meets(&both));
    }

    proptest! {
        #[test]
        fn whoever_was_on_the_last_side_stays_when_it_grows(drawn: u64, small in 0..=100_u32, more in 0..=100_u32) {
            let large = (small + more).min(100);
            let on_last = |weight: u32| split(&[100 - weight, weight]).side_of(drawn) == Some(1);
            prop_assert!(!on_last(small) || on_last(large));
        }

        #[test]
        fn every_number_has_a_side_with_a_weight(drawn: u64, weights in prop::collection::vec(0..5_u32, 1..6)) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let side = split(&weights).side_of(drawn).unwrap();
            prop_assert!(weights[side] > 0);
        }
    }
}
