//! A read joins only a round that starts after it arrived: a quorum that answers an older question says nothing about it.

use crate::world::World;

#[test]
fn a_read_that_arrives_after_its_round_was_sent_waits_for_the_next() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(3);
    world.clear();
    world.read(1);
    world.note("round 1 is on its way");
    world.read(1);
    world.read(1);
    world.settle();
    assert_eq!(world.reads_answered, 3);
    insta::assert_snapshot!(world.trace(), @r"
      165ms n1 read 1:1:1
              n1 → n2 Heartbeat@2 commit=4 round=1
              n1 → n3 Heartbeat@2 commit=4 round=1
    -- round 1 is on its way
      165ms n1 read 1:1:2
      165ms n1 read 1:1:3
      166ms n1 → n2 Heartbeat@2 commit=4 round=1
              n2 → n1 HeartbeatReply@2 round=1
      167ms n2 → n1 HeartbeatReply@2 round=1
              read 1:1:1 ready at 4
              n1 → n2 Heartbeat@2 commit=4 round=2
              n1 → n3 Heartbeat@2 commit=4 round=2
      168ms n1 → n2 Heartbeat@2 commit=4 round=2
              n2 → n1 HeartbeatReply@2 round=2
      169ms n2 → n1 HeartbeatReply@2 round=2
              read 1:1:2 ready at 4
              read 1:1:3 ready at 4
    ");
}
