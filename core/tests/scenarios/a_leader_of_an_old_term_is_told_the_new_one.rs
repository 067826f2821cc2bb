//! A member that is in a later term answers an old leader with it, or neither could ever serve the other (Raft §5.1).

use crate::world::World;
use quorate_core::consensus::{Message, RaftMessage, Role};
use quorate_core::types::{LogId, LogIndex, Term};

#[test]
fn a_leader_of_an_old_term_is_told_the_new_one() {
    let mut world = World::new(3);
    world.elect(1);
    let end = LogId { term: Term(1), index: LogIndex(1) };
    world.receive(2, 3, 7, Message::Raft(RaftMessage::RequestVote { end, transfer: true }));
    world.settle();
    world.clear();
    world.propose(1);
    world.settle();
    assert_eq!((world.term(1), world.role(1)), (7, Role::Follower));
    insta::assert_snapshot!(world.trace(), @r"
    172ms n1 propose [1:1:1]
            n1 → n2 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
            n1 → n3 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
            write 4
    173ms n1 → n2 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
            n2 → n1 HeartbeatReply@7 round=0
    173ms n1 → n3 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
            n3 → n1 HeartbeatReply@7 round=0
    174ms n2 → n1 HeartbeatReply@7 round=0
            refuse 1:1:1: OutcomeUnknown
            became follower@7
            write 5
    174ms n3 → n1 HeartbeatReply@7 round=0
    175ms n1 durable 4
    177ms n1 durable 5
    ");
}
