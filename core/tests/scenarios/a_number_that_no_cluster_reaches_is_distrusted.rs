//! A higher term is adopted from anyone and made durable. So a term, or an index, near the end of its numbers is no news but damage:
//! the message is dropped and its sender distrusted, and the cluster elects and writes as before.

use crate::world::World;
use quorate_core::consensus::ConsensusEffect;
use quorate_core::consensus::{Entry, Message, Payload, RaftMessage, ReadMessage, Role};
use quorate_core::types::{LogId, LogIndex, ReadId, Term};

const END: LogId = LogId { term: Term(2), index: LogIndex(u64::MAX) };

fn is_distrusted(world: &World, by: u64) -> bool {
    world.effects.iter().any(|(id, effect)| *id == by && matches!(effect, ConsensusEffect::Distrust { .. }))
}

#[test]
fn the_last_term_is_distrusted_whoever_speaks_of_it() {
    let messages = [
        Message::Raft(RaftMessage::HeartbeatReply { round: 0 }),
        Message::Raft(RaftMessage::Heartbeat { commit: LogIndex(0), round: 0, replicated: LogIndex(0) }),
        Message::Raft(RaftMessage::PreVote { end: LogId::default() }),
        Message::Raft(RaftMessage::PreVoteReply { granted: false }),
        Message::Raft(RaftMessage::PreVoteReply { granted: true }),
        Message::Raft(RaftMessage::RequestVote { end: END, transfer: true }),
        Message::Raft(RaftMessage::TimeoutNow),
    ];
    for term in [u64::MAX, u64::MAX - 1, 1 << 60] {
        for message in &messages {
            let mut world = World::new(3);
            world.elect(1);
            world.clear();
            world.receive(3, 2, term, message.clone());
            world.receive(3, 1, term, message.clone());
            assert!(is_distrusted(&world, 1) && is_distrusted(&world, 2), "{message:?} of term {term}");
            world.settle();
            assert_eq!((world.term(1), world.term(2), world.role(1)), (2, 2, Role::Leader), "{message:?} of term {term}");
            world.crash(1);
            world.elect(2);
            let committed = world.committed(2);
            world.propose(2);
            world.settle();
            assert_eq!(world.committed(2), committed + 1);
        }
    }
}

#[test]
fn a_member_that_was_away_for_many_elections_is_believed() {
    let mut world = World::new(3);
    world.elect(1);
    world.receive(3, 2, 1 << 40, Message::Raft(RaftMessage::HeartbeatReply { round: 0 }));
    assert_eq!(world.term(2), 1 << 40);
    world.run(10 * crate::world::ELECTION_TIMEOUT);
    assert!(world.term(1) >= 1 << 40, "and the others learn of it");
}

#[test]
fn an_index_beyond_any_log_is_distrusted() {
    let entries = vec![Entry { id: END, payload: Payload::Empty }];
    let from_leader = [
        Message::Raft(RaftMessage::Append { previous: END, entries, commit: LogIndex(4), round: 0 }),
        Message::Raft(RaftMessage::Append { previous: END, entries: vec![], commit: LogIndex(4), round: 0 }),
        Message::Raft(RaftMessage::Append { previous: LogId::default(), entries: vec![], commit: END.index, round: 0 }),
        Message::Raft(RaftMessage::Heartbeat { commit: END.index, round: 0, replicated: LogIndex(0) }),
        Message::Raft(RaftMessage::Heartbeat { commit: LogIndex(4), round: 0, replicated: END.index }),
    ];
    for message in from_leader {
        let mut world = World::new(3);
        world.elect(1);
        world.clear();
        world.receive(1, 2, 2, message.clone());
        assert!(is_distrusted(&world, 2), "{message:?}");
        assert_eq!(world.consensus(2).last().index, LogIndex(4));
    }
    let from_follower = [
        Message::Raft(RaftMessage::Appended { matched: END.index, round: u64::MAX }),
        Message::Raft(RaftMessage::AppendRejected { previous: END, hint: END, round: u64::MAX }),
        Message::Raft(RaftMessage::AppendRejected { previous: LogId::default(), hint: END, round: u64::MAX }),
    ];
    for message in from_follower {
        let mut world = World::new(3);
        world.elect(1);
        world.clear();
        world.receive(2, 1, 2, message.clone());
        assert!(is_distrusted(&world, 1), "{message:?}");
        world.propose(1);
        world.settle();
        assert_eq!(world.committed(1), 5, "{message:?}");
    }
}

#[test]
fn a_read_is_not_promised_at_an_index_that_no_log_reaches() {
    let mut world = World::new(3);
    world.elect(1);
    let read: ReadId = world.read(2);
    world.receive(1, 2, 2, Message::Read(ReadMessage::Reply { reads: vec![read], index: END.index }));
    assert!(is_distrusted(&world, 2));
    world.settle();
    assert_eq!(world.reads_answered, 1, "the leader's own answer counts");
}
