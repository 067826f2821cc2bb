//! A follower holds its leader back only while it has committed entries to apply, because only those drain. What fills its log
//! otherwise waits for a leader to commit or to overrule it, so that leader's appends are taken.

use crate::world::{Options, World};
use quorate_core::consensus::{Limits, Role};
use quorate_core::types::LogIndex;

/// An entry of these scenarios counts for 164 bytes: the third one exceeds this.
const UNAPPLIED_BYTES: usize = 400;

fn world(count: u64) -> World {
    let limits = Limits { unapplied_bytes: UNAPPLIED_BYTES, ..Limits::default() };
    World::with(count, Options { limits, ..Options::default() })
}

/// Proposes until the leader refuses more, and lets the entries arrive.
fn fill(world: &mut World, id: u64) {
    (0..5).for_each(|_| {
        world.propose(id);
    });
    world.settle();
}

#[test]
fn entries_that_nobody_committed_do_not_stop_the_next_leader() {
    let mut world = world(5);
    world.elect(1);
    (2..=5).for_each(|id| world.stall_disk(id));
    let committed = world.committed(1);
    fill(&mut world, 1);
    assert_eq!(world.committed(1), committed, "no quorum has them durably");
    (2..=5).for_each(|id| assert!(world.consensus(id).last().index.0 >= committed + 3, "they fill n{id}"));
    world.crash(1);
    (2..=5).for_each(|id| world.resume_disk(id));
    world.settle();
    world.elect(2);
    world.run(crate::world::ELECTION_TIMEOUT);
    let last = world.consensus(2).last().index.0;
    (2..=5).for_each(|id| assert_eq!(world.committed(id), last, "n{id}"));
}

#[test]
fn a_member_that_restarts_with_a_full_log_follows() {
    let mut world = world(3);
    world.elect(1);
    world.cut(2, 1);
    world.cut(3, 1);
    fill(&mut world, 1);
    world.crash(1);
    (2..=3).for_each(|id| {
        world.crash(id);
        world.restart(id);
    });
    world.heal();
    world.settle();
    world.elect(2);
    world.run(crate::world::ELECTION_TIMEOUT);
    let last = world.consensus(2).last().index.0;
    (2..=3).for_each(|id| assert_eq!(world.committed(id), last, "n{id}"));
}

#[test]
fn a_full_log_is_truncated_when_another_leader_overrules_it() {
    let mut world = world(3);
    world.elect(1);
    world.isolate(1);
    fill(&mut world, 1);
    world.elect(2);
    world.propose(2);
    world.settle();
    world.heal();
    world.run(crate::world::ELECTION_TIMEOUT);
    assert_eq!((world.role(1), world.role(2)), (Role::Follower, Role::Leader));
    assert_eq!(world.consensus(1).last(), world.consensus(2).last());
    assert_eq!(world.committed(1), world.committed(2));
}

#[test]
fn a_member_takes_no_more_while_it_has_too_much_to_apply_and_all_of_it_afterwards() {
    let mut world = world(3);
    world.elect(1);
    world.stall_machine(3);
    let begun = world.consensus(3).last().index.0;
    for _ in 0..8 {
        world.propose(1);
        world.settle();
        world.run(crate::world::ELECTION_TIMEOUT / 4);
    }
    assert_eq!(world.committed(1), begun + 8, "the others go on");
    let taken = world.consensus(3).last().index.0 - begun;
    assert!((3..8).contains(&taken), "it took {taken} of 8 entries");
    assert!(world.consensus(3).status().applied <= LogIndex(begun));
    world.resume_machine(3);
    world.run(crate::world::ELECTION_TIMEOUT);
    assert_eq!(world.committed(3), begun + 8);
    assert_eq!(world.consensus(3).status().applied, LogIndex(begun + 8));
}
