//! What a host steps before it flushes becomes one write and one append per follower.

use crate::world::World;

#[test]
fn many_proposals_of_one_flush_share_one_write() {
    let mut world = World::new(3);
    world.elect(1);
    world.clear();
    let inputs = (0..12).map(|_| world.proposal(1).1).collect();
    world.step_all(1, inputs);
    insta::assert_snapshot!(world.trace(), @r"
    165ms n1 propose [1:1:1]
    165ms n1 propose [1:1:2]
    165ms n1 propose [1:1:3]
    165ms n1 propose [1:1:4]
    165ms n1 propose [1:1:5]
    165ms n1 propose [1:1:6]
    165ms n1 propose [1:1:7]
    165ms n1 propose [1:1:8]
    165ms n1 propose [1:1:9]
    165ms n1 propose [1:1:10]
    165ms n1 propose [1:1:11]
    165ms n1 propose [1:1:12]
            n1 → n2 Append@2 after=2/4 [2/5:n1#1 .. 2/16:n1#12 (12)] commit=4 round=0
            n1 → n3 Append@2 after=2/4 [2/5:n1#1 .. 2/16:n1#12 (12)] commit=4 round=0
            write 4
    ");
}
