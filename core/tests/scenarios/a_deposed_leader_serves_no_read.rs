//! A leader that was deposed without knowing it asks a quorum before it serves a read, and gets no answer.

use crate::world::World;
use quorate_core::command::Refusal;
use quorate_core::consensus::ConsensusEffect;

#[test]
fn a_deposed_leader_serves_no_read() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(1);
    world.elect(2);
    world.propose(2);
    world.settle();
    world.clear();
    let read = world.read(1);
    world.settle();
    world.note("the partition heals");
    world.heal();
    world.wake(2);
    world.settle();
    assert!(world.effects.contains(&(1, ConsensusEffect::RefuseRead(read, Refusal::LeaderChanged))));
    insta::assert_snapshot!(world.trace(), @r"
      288ms n1 read 1:1:2
              n1 → n2 Heartbeat@2 commit=4 round=1
              n1 → n3 Heartbeat@2 commit=4 round=1
    -- the partition heals
      289ms n2 wake
              n2 → n1 Heartbeat@3 commit=0 round=0
              n2 → n3 Heartbeat@3 commit=6 round=0
      290ms n2 → n1 Heartbeat@3 commit=0 round=0
              refuse read 1:1:2: LeaderChanged
              became follower(n2)@3
              write 4, then
              | n1 → n2 HeartbeatReply@3 round=0
      290ms n2 → n3 Heartbeat@3 commit=6 round=0
              n3 → n2 HeartbeatReply@3 round=0
      291ms n3 → n2 HeartbeatReply@3 round=0
      293ms n1 durable 4
      294ms n1 → n2 HeartbeatReply@3 round=0
              n2 → n1 Append@3 after=2/4 [3/5 3/6:n2#1] commit=6 round=0
      295ms n2 → n1 Append@3 after=2/4 [3/5 3/6:n2#1] commit=6 round=0
              write 5, then
              | n1 → n2 Appended@3 matched=6 round=0
              committed [3/5 3/6:n2#1]
      298ms n1 durable 5
      299ms n1 → n2 Appended@3 matched=6 round=0
    ");
}
