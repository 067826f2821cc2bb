//! A leader that can make nothing durable any more writes nothing, and hands leadership to the best follower.

use crate::world::World;
use quorate_core::consensus::Role;
use quorate_core::effect::ConsensusInput;

#[test]
fn a_leader_whose_disk_fails_hands_leadership_away() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(3);
    world.propose(1);
    world.settle();
    world.clear();
    world.step(1, ConsensusInput::DiskFailed);
    world.settle();
    assert_eq!(world.role(2), Role::Leader);
    insta::assert_snapshot!(world.trace(), @"");
}
