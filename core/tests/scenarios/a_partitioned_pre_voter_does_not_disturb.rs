//! A member that was cut off asks for pre-votes in vain, keeps its term, and comes back without deposing anyone
//! (Raft thesis §9.6).

use crate::world::{ELECTION_TIMEOUT, World};
use quorate_core::consensus::{Envelope, Message, RaftMessage, Role};

fn is_pre_vote(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Raft(RaftMessage::PreVote { .. }))
}

#[test]
fn a_partitioned_pre_voter_does_not_disturb() {
    let mut world = World::new(3);
    world.elect(1);
    let term = world.term(1);
    world.isolate(3);
    world.hold(is_pre_vote);
    world.run(5 * ELECTION_TIMEOUT);
    let mut asked = world.unhold();
    assert!(asked.len() >= 6 && asked.iter().all(|envelope| envelope.from.0 == 3 && envelope.term.0 == term + 1));
    world.clear();
    world.note("the partition heals as n3 asks once more");
    world.heal();
    world.send(asked.split_off(asked.len() - 2));
    world.settle();
    world.note("the leader's next heartbeat finds n3 in the same term");
    world.wake(1);
    world.settle();
    assert_eq!((world.term(1), world.term(3)), (term, term));
    assert_eq!(world.role(1), Role::Leader);
    insta::assert_snapshot!(world.trace(), @r"
    -- the partition heals as n3 asks once more
      666ms n3 → n1 PreVote@3 end=2/4
              n1 → n3 PreVoteReply@2 granted=false
      666ms n3 → n2 PreVote@3 end=2/4
              n2 → n3 PreVoteReply@2 granted=false
      667ms n1 → n3 PreVoteReply@2 granted=false
      667ms n2 → n3 PreVoteReply@2 granted=false
              became follower@2
    -- the leader's next heartbeat finds n3 in the same term
      669ms n1 wake
              n1 → n2 Heartbeat@2 commit=4 round=0
              n1 → n3 Heartbeat@2 commit=4 round=0
      670ms n1 → n2 Heartbeat@2 commit=4 round=0
              n2 → n1 HeartbeatReply@2 round=0
      670ms n1 → n3 Heartbeat@2 commit=4 round=0
              n3 → n1 HeartbeatReply@2 round=0
              became follower(n1)@2
              write 4
      671ms n2 → n1 HeartbeatReply@2 round=0
      671ms n3 → n1 HeartbeatReply@2 round=0
      673ms n3 durable 4
    ");
}
