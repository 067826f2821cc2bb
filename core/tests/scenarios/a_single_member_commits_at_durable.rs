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
    insta::assert_snapshot!(world.trace(), @r"
     3ms n1 wake
           became candidate@2
           write 2
     6ms n1 durable 2
           became leader@2
           write 3
     9ms n1 durable 3
           committed [2/2]
     9ms n1 propose [1:1:1]
           write 4
    12ms n1 durable 4
           committed [2/3:n1#1]
    12ms n1 read 1:1:2
           read 1:1:2 ready at 3
    ");
}
