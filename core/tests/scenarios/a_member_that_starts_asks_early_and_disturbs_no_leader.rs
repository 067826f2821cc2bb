//! An advanced first election (etcd's `--initial-election-tick-advance`) shortens an outage of all members; a leader that lives stays.

use crate::world::{ELECTION_TIMEOUT, Options, World};
use quorate_core::consensus::Role;

#[test]
fn a_member_that_starts_asks_early_and_disturbs_no_leader() {
    let mut world = World::with(3, Options { advance_first_election: true, ..Options::default() });
    for id in 1..=3 {
        let waits = world.consensus(id).deadline().0;
        assert!((ELECTION_TIMEOUT / 2..ELECTION_TIMEOUT).contains(&waits), "n{id}: {waits:?}");
    }
    world.elect(1);
    world.crash(3);
    world.restart(3);
    world.settle();
    world.clear();
    world.cut(1, 3);
    world.wake(3);
    world.settle();
    assert_eq!(world.role(1), Role::Leader);
    insta::assert_snapshot!(world.trace(), @r"
    212ms n3 wake
            n3 → n1 PreVote@3 end=2/4
            n3 → n2 PreVote@3 end=2/4
            became pre-candidate@2
    213ms n3 → n1 PreVote@3 end=2/4
            n1 → n3 PreVoteReply@2 granted=false
    213ms n3 → n2 PreVote@3 end=2/4
            n2 → n3 PreVoteReply@2 granted=false
    214ms n2 → n3 PreVoteReply@2 granted=false
    ");
}
