//! A vote does not leave before it is durable, nor does the request that reveals the candidate's own (Raft Figure 2).

use crate::world::World;

#[test]
fn a_vote_does_not_leave_before_it_is_durable() {
    let mut world = World::new(3);
    world.isolate(3);
    world.wake(1);
    world.stall_disk(2);
    world.settle();
    world.note("n2 has voted in memory only");
    world.resume_disk(2);
    world.settle();
    insta::assert_snapshot!(world.trace(), @"");
}
