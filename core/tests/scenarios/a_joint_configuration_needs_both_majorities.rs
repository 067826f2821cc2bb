//! In a joint configuration the old majority and the new must both agree, on leaders and on entries (Raft §6).

use crate::world::{Options, World};
use quorate_core::consensus::{Configuration, Role};
use quorate_core::types::MemberId;

#[test]
fn a_joint_configuration_needs_both_majorities() {
    let ids = |ids: [u64; 3]| ids.map(MemberId).into_iter().collect();
    let configuration = Configuration { voters: ids([1, 4, 5]), outgoing: ids([1, 2, 3]), ..Configuration::default() };
    let mut world = World::with(5, Options { configuration: Some(configuration), ..Options::default() });
    world.elect(1);
    [4, 5].into_iter().for_each(|id| world.isolate(id));
    world.clear();
    let request = world.propose(1);
    world.settle();
    assert_eq!(world.occurrences(request), 0, "committed by the old majority alone");
    world.note("n4 of the new majority is back");
    world.heal();
    world.isolate(5);
    world.wake(1);
    world.settle();
    assert_eq!(world.occurrences(request), 1);
    world.crash(1);
    [4, 5].into_iter().for_each(|id| world.isolate(id));
    world.pass(2 * crate::world::ELECTION_TIMEOUT);
    world.wake(2);
    world.settle();
    assert_eq!(world.role(2), Role::Follower, "elected by the old majority alone");
    insta::assert_snapshot!(world.trace(), @r"
      165ms n1 propose [1:1:1]
              n1 → n2 Append@2 after=2/2 [2/3:n1#1] commit=2 round=0
              n1 → n3 Append@2 after=2/2 [2/3:n1#1] commit=2 round=0
              n1 → n4 Append@2 after=2/2 [2/3:n1#1] commit=2 round=0
              n1 → n5 Append@2 after=2/2 [2/3:n1#1] commit=2 round=0
              write 4
      166ms n1 → n2 Append@2 after=2/2 [2/3:n1#1] commit=2 round=0
              write 4, then
              | n2 → n1 Appended@2 matched=3 round=0
      166ms n1 → n3 Append@2 after=2/2 [2/3:n1#1] commit=2 round=0
              write 4, then
              | n3 → n1 Appended@2 matched=3 round=0
      168ms n1 durable 4
      169ms n2 durable 4
      169ms n3 durable 4
      170ms n2 → n1 Appended@2 matched=3 round=0
      170ms n3 → n1 Appended@2 matched=3 round=0
    -- n4 of the new majority is back
      170ms n1 wake
              n1 → n2 Heartbeat@2 commit=2 round=0
              n1 → n3 Heartbeat@2 commit=2 round=0
              n1 → n4 Heartbeat@2 commit=2 round=0
              n1 → n5 Heartbeat@2 commit=2 round=0
      171ms n1 → n2 Heartbeat@2 commit=2 round=0
              n2 → n1 HeartbeatReply@2 round=0
      171ms n1 → n3 Heartbeat@2 commit=2 round=0
              n3 → n1 HeartbeatReply@2 round=0
      171ms n1 → n4 Heartbeat@2 commit=2 round=0
              n4 → n1 HeartbeatReply@2 round=0
              write 4
      172ms n2 → n1 HeartbeatReply@2 round=0
      172ms n3 → n1 HeartbeatReply@2 round=0
      172ms n4 → n1 HeartbeatReply@2 round=0
              n1 → n4 Append@2 after=2/3 [] commit=2 round=0
      173ms n1 → n4 Append@2 after=2/3 [] commit=2 round=0
              n4 → n1 AppendRejected@2 after=2/3 hint=2/2
      174ms n4 durable 4
      174ms n4 → n1 AppendRejected@2 after=2/3 hint=2/2
              n1 → n4 Append@2 after=2/2 [2/3:n1#1] commit=2 round=0
      175ms n1 → n4 Append@2 after=2/2 [2/3:n1#1] commit=2 round=0
              write 5, then
              | n4 → n1 Appended@2 matched=3 round=0
      178ms n4 durable 5
      179ms n4 → n1 Appended@2 matched=3 round=0
              n1 → n2 Append@2 after=2/3 [] commit=3 round=0
              n1 → n3 Append@2 after=2/3 [] commit=3 round=0
              n1 → n4 Append@2 after=2/3 [] commit=3 round=0
              n1 → n5 Append@2 after=2/3 [] commit=3 round=0
              committed [2/3:n1#1]
      180ms n1 → n2 Append@2 after=2/3 [] commit=3 round=0
              committed [2/3:n1#1]
      180ms n1 → n3 Append@2 after=2/3 [] commit=3 round=0
              committed [2/3:n1#1]
      180ms n1 → n4 Append@2 after=2/3 [] commit=3 round=0
              committed [2/3:n1#1]
      180ms n1 crashes
      380ms n2 wake
              n2 → n1 PreVote@3 end=2/3
              n2 → n3 PreVote@3 end=2/3
              n2 → n4 PreVote@3 end=2/3
              n2 → n5 PreVote@3 end=2/3
              became pre-candidate@2
      381ms n2 → n3 PreVote@3 end=2/3
              n3 → n2 PreVoteReply@3 granted=true
      382ms n3 → n2 PreVoteReply@3 granted=true
    ");
}
