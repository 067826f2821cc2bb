//! Every queue of the actor has a bound: what is above it is refused at once, and certainly in no log.

use crate::world::{Options, World};
use quorate_core::command::Refusal;
use quorate_core::consensus::{ConsensusEffect, ConsensusInput};
use quorate_core::consensus::{Limits, Message, ReadMessage};
use quorate_core::types::{Boot, MemberId, ReadId};

/// As `READS_PER_MESSAGE` has it.
const READS_PER_MESSAGE: usize = 4_096;

#[test]
fn proposals_above_a_limit_are_refused() {
    let limits = Limits { pending_proposals: 3, pending_reads: 3, ..Limits::default() };
    let mut world = World::with(3, Options { limits, ..Options::default() });
    world.elect(1);
    world.isolate(1);
    world.clear();
    let requests: Vec<_> = (0..5).map(|_| world.propose(1)).collect();
    let refused: Vec<_> = requests
        .iter()
        .filter(|request| world.effects.contains(&(1, ConsensusEffect::Refuse(**request, Refusal::TooManyRequests))))
        .collect();
    assert_eq!(refused, [&requests[3], &requests[4]]);
}

#[test]
fn proposals_beyond_what_is_applied_are_refused() {
    let limits = Limits { unapplied_entries: 4, ..Limits::default() };
    let mut world = World::with(3, Options { limits, ..Options::default() });
    world.elect(1);
    world.isolate(1);
    world.clear();
    let requests: Vec<_> = (0..6).map(|_| world.propose(1)).collect();
    let refusals = world.effects.iter().filter(|(_, effect)| matches!(effect, ConsensusEffect::Refuse(_, Refusal::TooManyRequests)));
    assert_eq!(refusals.count(), requests.len() - 4);
}

#[test]
fn proposals_beyond_the_bytes_that_are_not_applied_are_refused() {
    // An entry of these counts for 164 bytes, and the fourth is the first to find more than 400.
    let limits = Limits { unapplied_bytes: 400, ..Limits::default() };
    let mut world = World::with(3, Options { limits, ..Options::default() });
    world.elect(1);
    world.isolate(1);
    world.clear();
    let requests: Vec<_> = (0..6).map(|_| world.propose(1)).collect();
    let refused: Vec<_> = requests
        .iter()
        .filter(|request| world.effects.contains(&(1, ConsensusEffect::Refuse(**request, Refusal::TooManyRequests))))
        .collect();
    assert_eq!(refused, requests[3..].iter().collect::<Vec<_>>());
}

#[test]
fn reads_that_wait_for_a_quorum_are_bounded_too() {
    let limits = Limits { pending_reads: 3, ..Limits::default() };
    let mut world = World::with(3, Options { limits, ..Options::default() });
    world.elect(1);
    world.isolate(1);
    for sequence in 1..=5 {
        let read = ConsensusInput::Read(ReadId { member: MemberId(1), boot: Boot(1), sequence });
        world.expect_reads(std::slice::from_ref(&read));
        world.step(1, read);
    }
    let refused = |sequence| {
        let read = ReadId { member: MemberId(1), boot: Boot(1), sequence };
        world.effects.contains(&(1, ConsensusEffect::RefuseRead(read, Refusal::TooManyRequests)))
    };
    assert_eq!([1, 2, 3, 4, 5].map(refused), [false, false, false, true, true]);
}

#[test]
fn reads_above_a_limit_are_refused() {
    let limits = Limits { pending_reads: 2, ..Limits::default() };
    let mut world = World::with(3, Options { limits, ..Options::default() });
    let inputs: Vec<_> = (1..=3).map(|sequence| ConsensusInput::Read(ReadId { member: MemberId(1), boot: Boot(1), sequence })).collect();
    let last = ReadId { member: MemberId(1), boot: Boot(1), sequence: 3 };
    world.expect_reads(&inputs);
    world.step_all(1, inputs);
    assert!(world.effects.contains(&(1, ConsensusEffect::RefuseRead(last, Refusal::TooManyRequests))));
}

#[test]
fn a_message_asks_for_only_so_many_reads() {
    let mut world = World::with(3, Options::default());
    world.elect(1);
    world.clear();
    let read = |sequence| ConsensusInput::Read(ReadId { member: MemberId(2), boot: Boot(1), sequence });
    let inputs: Vec<_> = (1..=READS_PER_MESSAGE as u64 + 1).map(read).collect();
    world.expect_reads(&inputs);
    world.step_all(2, inputs);
    let asked = |effect: &ConsensusEffect| match effect {
        ConsensusEffect::Send(envelope) => match &envelope.message {
            Message::Read(ReadMessage::Request(reads)) => Some(reads.len()),
            _ => None,
        },
        _ => None,
    };
    let asked: Vec<_> = world.effects.iter().filter(|(id, _)| *id == 2).filter_map(|(_, effect)| asked(effect)).collect();
    assert_eq!(asked, [READS_PER_MESSAGE, 1]);
    world.settle();
    assert_eq!(world.reads_answered, READS_PER_MESSAGE + 1);
}
