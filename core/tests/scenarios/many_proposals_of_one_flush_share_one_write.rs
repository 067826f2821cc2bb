//! What a host steps before it flushes becomes one write and one append per follower.

use crate::world::World;

#[test]
fn many_proposals_of_one_flush_share_one_write() {
    let mut world = World::new(3);
    world.elect(1);
    world.clear();
    let inputs = (0..12).map(|_| world.proposal(1).1).collect();
    world.step_all(1, inputs);
    insta::assert_snapshot!(world.trace(), @"");
}
