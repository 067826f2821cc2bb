//! A learner is sent everything and decides nothing: it never campaigns, and its copy is no part of a quorum.

use crate::world::{ELECTION_TIMEOUT, Options, World};
use quorate_core::consensus::{Configuration, Role};
use quorate_core::types::MemberId;

#[test]
fn a_learner_neither_votes_nor_counts() {
    let ids = |ids: &[u64]| ids.iter().copied().map(MemberId).collect();
    let configuration = Configuration { voters: ids(&[1, 2]), learners: ids(&[3]), ..Configuration::default() };
    let mut world = World::with(3, Options { configuration: Some(configuration), ..Options::default() });
    world.elect(1);
    world.isolate(2);
    world.clear();
    let request = world.propose(1);
    world.settle();
    assert_eq!(world.occurrences(request), 0, "committed with a learner's copy");
    world.crash(1);
    world.pass(2 * ELECTION_TIMEOUT);
    world.wake(3);
    world.settle();
    assert_eq!((world.role(3), world.term(3)), (Role::Follower, 2));
    assert!(world.consensus(3).status().is_learner);
    insta::assert_snapshot!(world.trace(), @r"
    165ms n1 propose [1:1:1]
            n1 → n2 Append@2 after=2/2 [2/3:n1#1] commit=2 round=0
            n1 → n3 Append@2 after=2/2 [2/3:n1#1] commit=2 round=0
            write 4
    166ms n1 → n3 Append@2 after=2/2 [2/3:n1#1] commit=2 round=0
            write 3, then
            | n3 → n1 Appended@2 matched=3 round=0
    168ms n1 durable 4
    169ms n3 durable 3
    170ms n3 → n1 Appended@2 matched=3 round=0
    170ms n1 crashes
    370ms n3 wake
            became follower@2
    ");
}
