//! To a follower that does not answer, no more is sent than its window holds, in messages and in bytes.

use crate::world::{Options, World};
use quorate_core::consensus::ConsensusEffect;
use quorate_core::consensus::{Limits, Message, RaftMessage};

fn sent_entries(limits: Limits) -> usize {
    let mut world = World::with(3, Options { limits, ..Options::default() });
    world.elect(1);
    world.cut(2, 1);
    world.clear();
    for _ in 0..20 {
        world.propose(1);
    }
    let to_2 = |effect: &ConsensusEffect| match effect {
        ConsensusEffect::Send(envelope) if envelope.to.0 == 2 => match &envelope.message {
            Message::Raft(RaftMessage::Append { entries, .. }) => entries.len(),
            _ => 0,
        },
        _ => 0,
    };
    world.effects.iter().map(|(_, effect)| to_2(effect)).sum()
}

#[test]
fn windows_bound_what_is_in_flight() {
    assert_eq!(sent_entries(Limits::default()), 20);
    assert_eq!(sent_entries(Limits { inflight_appends: 3, ..Limits::default() }), 3);
    // An entry of these counts for 164 bytes; the window is closed once it is full.
    assert_eq!(sent_entries(Limits { inflight_bytes: 300, ..Limits::default() }), 2);
    assert_eq!(sent_entries(Limits { append_bytes: 1, inflight_appends: 5, ..Limits::default() }), 5);
}
