//! While a member's disk stands still, what waits for it is bounded: writes under way, and messages that promise what they contain.

use crate::world::{Options, World};
use quorate_core::consensus::ConsensusEffect;
use quorate_core::consensus::{Entry, Message, Payload, RaftMessage};
use quorate_core::types::{LogId, LogIndex, Term};

/// As `OUTSTANDING_WRITES_MAX` has it.
const WRITES_MAX: usize = 128;
/// As `WAITING_MESSAGES_MAX` has it.
const MESSAGES_MAX: usize = 4_096;

#[test]
fn a_stalled_disk_is_handed_only_so_many_writes() {
    let mut world = World::with(3, Options::default());
    world.elect(1);
    world.stall_disk(1);
    world.clear();
    for _ in 0..2 * WRITES_MAX {
        world.propose(1);
    }
    let writes = world.effects.iter().filter(|(id, effect)| *id == 1 && matches!(effect, ConsensusEffect::Write { .. })).count();
    assert_eq!(writes, WRITES_MAX);
    world.resume_disk(1);
    world.settle();
    assert_eq!(world.committed(1) as usize, 4 + 2 * WRITES_MAX, "what gathered meanwhile follows");
}

#[test]
fn only_so_many_messages_wait_for_a_stalled_disk() {
    let mut world = World::with(3, Options::default());
    world.elect(1);
    world.stall_disk(2);
    world.clear();
    let last = LogId { term: Term(2), index: LogIndex(4) };
    let entries = vec![Entry { id: LogId { term: Term(2), index: LogIndex(5) }, payload: Payload::Empty }];
    for round in 0..MESSAGES_MAX as u64 + 100 {
        let append = Message::Raft(RaftMessage::Append { previous: last, entries: entries.clone(), commit: last.index, round });
        world.receive(1, 2, 2, append);
    }
    let sent = |world: &World| {
        let answers = |effect: &ConsensusEffect| match effect {
            ConsensusEffect::Send(envelope) => usize::from(matches!(envelope.message, Message::Raft(RaftMessage::Appended { .. }))),
            _ => 0,
        };
        world.effects.iter().filter(|(id, _)| *id == 2).map(|(_, effect)| answers(effect)).sum::<usize>()
    };
    assert_eq!(sent(&world), 0);
    world.resume_disk(2);
    world.settle();
    assert_eq!(sent(&world), MESSAGES_MAX, "the first one is in its write");
}
