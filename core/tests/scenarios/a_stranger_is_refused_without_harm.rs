//! Who is not in the configuration is dropped and shown to the operator; the healthy members go on in their term.

use crate::world::World;
use quorate_core::consensus::{Message, RaftMessage, ReadMessage, Role};
use quorate_core::types::{LogId, LogIndex, Term};

#[test]
fn a_stranger_is_refused_without_harm() {
    let mut world = World::new(3);
    world.elect(1);
    world.clear();
    world.pass(crate::world::ELECTION_TIMEOUT);
    let end = LogId { term: Term(2), index: LogIndex(4) };
    world.receive(9, 2, 50, Message::Raft(RaftMessage::RequestVote { end, transfer: false }));
    world.receive(9, 1, 50, Message::Raft(RaftMessage::Appended { matched: LogIndex(1), round: 0 }));
    world.receive(9, 1, 2, Message::Read(ReadMessage::Request(vec![])));
    assert_eq!((world.term(1), world.term(2), world.role(1)), (2, 2, Role::Leader));
    insta::assert_snapshot!(world.trace(), @r"
    265ms n9 → n2 RequestVote@50 end=2/4
            distrust n9: not in the configuration
    265ms n9 → n1 Appended@50 matched=1 round=0
            distrust n9: not in the configuration
    265ms n9 → n1 ReadIndex@2 []
            distrust n9: not in the configuration
    ");
}
