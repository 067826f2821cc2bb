//! A leader that was deposed without knowing it asks a quorum before it serves a read, and gets no answer.

use crate::world::World;
use quorate_core::command::Refusal;
use quorate_core::effect::ConsensusEffect;

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
      290ms n1 read 1:1:2
              n1 → n2 Heartbeat@2 commit=4 round=1
              n1 → n3 Heartbeat@2 commit=4 round=1
    -- the partition heals
      291ms n2 wake
              n2 → n1 Heartbeat@3 commit=0 round=0
              n2 → n3 Heartbeat@3 commit=6 round=0
              write 7
      292ms n2 → n1 Heartbeat@3 commit=0 round=0
              refuse read 1:1:2: LeaderChanged
              became follower(n2)@3
              write 4, then
              | n1 → n2 HeartbeatReply@3 round=0
      292ms n2 → n3 Heartbeat@3 commit=6 round=0
              n3 → n2 HeartbeatReply@3 round=0
              write 7
      293ms n3 → n2 HeartbeatReply@3 round=0
      294ms n2 durable 7
      295ms n1 durable 4
      295ms n3 durable 7
      296ms n1 → n2 HeartbeatReply@3 round=0
              n2 → n1 Append@3 after=2/4 [3/5 3/6:n2#1] commit=6 round=0
      297ms n2 → n1 Append@3 after=2/4 [3/5 3/6:n2#1] commit=6 round=0
              write 5, then
              | n1 → n2 Appended@3 matched=6 round=0
              committed [3/5 3/6:n2#1]
      300ms n1 durable 5
      301ms n1 → n2 Appended@3 matched=6 round=0
    ");
}
