//! Figure 8: an entry of an older term is not committed because a majority has it, but by an entry of the leader's own term
//! above it (Raft §5.4.2).

use crate::world::World;
use quorate_core::consensus::Message;

#[test]
fn entries_of_older_terms_are_not_committed_by_counting() {
    let mut world = World::new(3);
    world.elect(1);
    world.note("(a) n1 leads term 2 and its entry reaches nobody");
    world.isolate(1);
    world.propose(1);
    world.settle();
    world.note("(b) n2 leads term 3, then n1 leads term 4 and finds the old entry in its log");
    world.elect(2);
    world.crash(2);
    world.heal();
    world.cut(1, 2);
    world.clear();
    world.hold(|envelope| match &envelope.message {
        Message::Append { entries, .. } => entries.iter().any(|entry| entry.id.term == envelope.term),
        _ => false,
    });
    let before = world.committed(3);
    world.pass(crate::world::ELECTION_TIMEOUT);
    world.wake(1);
    world.settle();
    assert!(world.committed(3) >= before);
    insta::assert_snapshot!(world.trace(), @"");
}
