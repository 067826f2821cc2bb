//! A forwarded proposal that nobody answers for is given up as unknown, so that it does not take up its place for ever.

use crate::world::{ELECTION_TIMEOUT, World};
use quorate_core::command::Refusal;
use quorate_core::consensus::ConsensusEffect;

#[test]
fn a_lost_forward_ends_as_unknown() {
    let mut world = World::new(3);
    world.elect(1);
    world.cut(2, 1);
    let request = world.propose(2);
    world.settle();
    world.heal();
    world.run(4 * ELECTION_TIMEOUT);
    let refused = (2, ConsensusEffect::Refuse(request, Refusal::OutcomeUnknown));
    assert!(!world.effects.contains(&refused));
    assert_eq!(world.consensus(2).status().proposals_pending, 1);
    world.run(2 * ELECTION_TIMEOUT);
    assert!(world.effects.contains(&refused));
    assert_eq!(world.consensus(2).status().proposals_pending, 0);
    assert_eq!(world.occurrences(request), 0);
}
