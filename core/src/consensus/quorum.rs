//! ⑤ What a quorum has reached: the commit index, a read round, the last sign of life, the result of a vote.
//!
//! A simple configuration needs a majority of its voters; a joint one needs a majority of both halves (Raft §6).

use crate::entry::Configuration;
use crate::types::MemberId;
use alloc::collections::{BTreeMap, BTreeSet};

/// How a vote stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum VoteResult {
    Won,
    /// So many said no that the rest cannot turn it.
    Lost,
    Open,
}

/// The greatest value that a quorum has reached: each voter's matched index gives the commit index (Raft §5.3).
/// With no voters at all, nothing is ever reached.
pub(super) fn reached<T: Ord + Default>(configuration: &Configuration, value: impl Fn(MemberId) -> T) -> T {
    let incoming = majority_reached(&configuration.voters, &value);
    if configuration.outgoing.is_empty() { incoming } else { incoming.min(majority_reached(&configuration.outgoing, &value)) }
}

/// Quadratic in a handful of voters, and without memory of its own.
fn majority_reached<T: Ord + Default>(voters: &BTreeSet<MemberId>, value: &impl Fn(MemberId) -> T) -> T {
    let majority = voters.len() / 2 + 1;
    let has_majority = |least: &T| voters.iter().filter(|&&voter| value(voter) >= *least).count() >= majority;
    voters.iter().map(|&voter| value(voter)).filter(has_majority).max().unwrap_or_default()
}

/// The result so far; voters that are not in `votes` have not answered, and votes of others do not count.
pub(super) fn vote_result(configuration: &Configuration, votes: &BTreeMap<MemberId, bool>) -> VoteResult {
    let incoming = majority_vote(&configuration.voters, votes);
    let outgoing = if configuration.outgoing.is_empty() { incoming } else { majority_vote(&configuration.outgoing, votes) };
    match (incoming, outgoing) {
        (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
        (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
        _ => VoteResult::Open,
    }
}

fn majority_vote(voters: &BTreeSet<MemberId>, votes: &BTreeMap<MemberId, bool>) -> VoteResult {
    let majority = voters.len() / 2 + 1;
    let count = |answer: bool| voters.iter().filter(|voter| votes.get(voter) == Some(&answer)).count();
    if count(true) >= majority {
        VoteResult::Won
    } else if voters.len() - count(false) < majority {
        VoteResult::Lost
    } else {
        VoteResult::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// Slow and obvious: a value is reached if some subset of the voters that is a majority has it.
    fn model_reached(sides: &[&BTreeSet<MemberId>], values: &BTreeMap<MemberId, u64>) -> u64 {
        let all = |least: u64| sides.iter().all(|side| some_majority(side, |member| values[&member] >= least));
        (0..=16).filter(|&least| all(least)).max().unwrap_or(0)
    }

    fn some_majority(side: &BTreeSet<MemberId>, has: impl Fn(MemberId) -> bool) -> bool {
        let members: Vec<_> = side.iter().copied().collect();
        (0_u32..1 << members.len()).any(|subset| {
            let chosen: Vec<_> = members.iter().enumerate().filter(|(bit, _)| subset >> bit & 1 == 1).map(|(_, m)| *m).collect();
            chosen.len() * 2 > members.len() && chosen.into_iter().all(&has)
        })
    }

    fn set(ids: &[u64]) -> BTreeSet<MemberId> {
        ids.iter().copied().map(MemberId).collect()
    }

    proptest! {
        #[test]
        fn a_quorum_is_what_its_slow_model_says(
            voters in prop::collection::btree_set(0_u64..7, 1..6),
            outgoing in prop::collection::btree_set(0_u64..7, 0..6),
            values in prop::collection::vec(0_u64..16, 7),
            answers in prop::collection::vec(prop::option::of(any::<bool>()), 7),
        ) {
            let configuration = Configuration {
                voters: voters.into_iter().map(MemberId).collect(),
                outgoing: outgoing.into_iter().map(MemberId).collect(),
                ..Configuration::default()
            };
            let mut sides = alloc::vec![&configuration.voters];
            if !configuration.outgoing.is_empty() {
                sides.push(&configuration.outgoing);
            }
            let values: BTreeMap<_, _> = values.into_iter().enumerate().map(|(id, v)| (MemberId(id as u64), v)).collect();
            prop_assert_eq!(reached(&configuration, |member| values[&member]), model_reached(&sides, &values));

            let votes: BTreeMap<_, _> =
                answers.into_iter().enumerate().filter_map(|(id, answer)| Some((MemberId(id as u64), answer?))).collect();
            let won = sides.iter().all(|side| some_majority(side, |m| votes.get(&m) == Some(&true)));
            let winnable = sides.iter().all(|side| some_majority(side, |m| votes.get(&m) != Some(&false)));
            let expected = if won { VoteResult::Won } else if winnable { VoteResult::Open } else { VoteResult::Lost };
            prop_assert_eq!(vote_result(&configuration, &votes), expected);
        }
    }

    #[test]
    fn nothing_is_reached_without_voters() {
        assert_eq!(reached(&Configuration::default(), |_| 7_u64), 0);
        assert_eq!(vote_result(&Configuration::default(), &BTreeMap::new()), VoteResult::Lost);
    }

    #[test]
    fn a_joint_quorum_is_the_weaker_half() {
        let joint = Configuration { voters: set(&[1, 2, 3]), outgoing: set(&[3, 4, 5]), ..Configuration::default() };
        assert_eq!(reached(&joint, |member| if member.0 <= 3 { 9_u64 } else { 4 }), 4);
    }
}
