//! A quorum of one needs no special case: its own vote and its own entries count once they are durable.

use crate::world::World;

#[test]
fn a_single_member_commits_at_durable() {
    let mut world = World::new(1);
    world.wake(1);
    world.settle();
    world.propose(1);
    world.settle();
    world.read(1);
    insta::assert_snapshot!(world.trace(), @"");
}
