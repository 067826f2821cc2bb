//! A follower serves linearizable reads: it asks the leader for an index, and answers from its own state from there on.

use crate::world::World;

#[test]
fn a_follower_asks_the_leader_for_a_read_index() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(3);
    world.clear();
    world.read(2);
    world.settle();
    assert_eq!(world.reads_answered, 1);
    insta::assert_snapshot!(world.trace(), @r"
    165ms n2 read 2:1:1
            n2 → n1 ReadIndex@2 [2:1:1]
    166ms n2 → n1 ReadIndex@2 [2:1:1]
            n1 → n2 Heartbeat@2 commit=4 round=1
            n1 → n3 Heartbeat@2 commit=4 round=1
    167ms n1 → n2 Heartbeat@2 commit=4 round=1
            n2 → n1 HeartbeatReply@2 round=1
    168ms n2 → n1 HeartbeatReply@2 round=1
            n1 → n2 ReadIndexReply@2 [2:1:1] index=4
    169ms n1 → n2 ReadIndexReply@2 [2:1:1] index=4
            read 2:1:1 ready at 4
    ");
}
