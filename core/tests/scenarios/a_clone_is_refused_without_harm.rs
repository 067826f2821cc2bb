//! A copied data directory makes a second member of one id: whatever it says is dropped, and nobody stops.

use crate::world::World;
use quorate_core::consensus::{Message, RaftMessage, Role};
use quorate_core::types::{LogId, LogIndex};

#[test]
fn a_clone_is_refused_without_harm() {
    let mut world = World::new(3);
    world.elect(1);
    world.clear();
    world.note("in the leader's own name, for somebody else, a second leader of the term");
    world.receive(1, 1, 7, Message::Raft(RaftMessage::HeartbeatReply { round: 0 }));
    world.receive(2, 3, 7, Message::Raft(RaftMessage::HeartbeatReply { round: 0 }));
    let append = Message::Raft(RaftMessage::Append { previous: LogId::default(), entries: vec![], commit: LogIndex(0), round: 0 });
    world.receive(2, 1, 2, append.clone());
    world.receive(2, 3, 2, append);
    world.note("an acknowledgement of what was never sent, a commit of what was never acknowledged");
    world.receive(2, 1, 2, Message::Raft(RaftMessage::Appended { matched: LogIndex(99), round: 0 }));
    world.receive(1, 2, 2, Message::Raft(RaftMessage::Heartbeat { commit: LogIndex(99), round: 0, replicated: LogIndex(0) }));
    assert_eq!((world.term(1), world.role(1)), (2, Role::Leader));
    insta::assert_snapshot!(world.trace(), @r"
    -- in the leader's own name, for somebody else, a second leader of the term
      165ms n1 → n1 HeartbeatReply@7 round=0
              distrust n1: speaks in this member's name
      165ms n2 → n3 HeartbeatReply@7 round=0
              became follower@7
              write 4
      165ms n2 → n1 Append@2 after=0/0 [] commit=0 round=0
              distrust n2: a second leader in one term
      165ms n2 → n3 Append@2 after=0/0 [] commit=0 round=0
    -- an acknowledgement of what was never sent, a commit of what was never acknowledged
      165ms n2 → n1 Appended@2 matched=99 round=0
              distrust n2: acknowledges entries that were never sent
      165ms n1 → n2 Heartbeat@2 commit=99 round=0
              distrust n1: commits entries that were never acknowledged
    ");
}
