//! Stickiness: as long as it heard a leader within an election timeout, a member neither grants a pre-vote nor follows a
//! campaign into a higher term (Raft §6).

use crate::world::World;
use quorate_core::consensus::{Message, RaftMessage};
use quorate_core::types::{LogId, LogIndex, Term};

#[test]
fn a_follower_that_hears_its_leader_ignores_campaigns() {
    let mut world = World::new(3);
    world.elect(1);
    world.clear();
    let end = LogId { term: Term(2), index: LogIndex(100) };
    world.receive(3, 2, 3, Message::Raft(RaftMessage::PreVote { end }));
    world.receive(3, 2, 9, Message::Raft(RaftMessage::RequestVote { end, transfer: false }));
    world.receive(3, 1, 9, Message::Raft(RaftMessage::RequestVote { end, transfer: false }));
    assert_eq!((world.term(1), world.term(2)), (2, 2));
    insta::assert_snapshot!(world.trace(), @r"
    165ms n3 → n2 PreVote@3 end=2/100
            n2 → n3 PreVoteReply@2 granted=false
    165ms n3 → n2 RequestVote@9 end=2/100
    165ms n3 → n1 RequestVote@9 end=2/100
    ");
}
