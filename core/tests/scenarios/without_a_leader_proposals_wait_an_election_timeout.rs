//! A proposal that finds no leader waits for one, for an election timeout; then it is refused, and certainly in no log.

use crate::world::World;
use quorate_core::command::Refusal;
use quorate_core::consensus::ConsensusEffect;

#[test]
fn without_a_leader_proposals_wait_an_election_timeout() {
    let mut world = World::new(3);
    world.pass(crate::world::ELECTION_TIMEOUT);
    let waits = world.propose(1);
    world.wake(2);
    world.settle();
    assert_eq!(world.occurrences(waits), 1);
    world.isolate(1);
    world.pass(2 * crate::world::ELECTION_TIMEOUT);
    world.wake(1);
    world.settle();
    world.clear();
    let request = world.propose(1);
    let read = world.read(1);
    world.pass(crate::world::ELECTION_TIMEOUT);
    world.wake(1);
    assert!(world.effects.contains(&(1, ConsensusEffect::Refuse(request, Refusal::NoLeader))));
    assert!(world.effects.contains(&(1, ConsensusEffect::RefuseRead(read, Refusal::NoLeader))));
    insta::assert_snapshot!(world.trace(), @r"
    369ms n1 propose [1:1:2]
    369ms n1 read 1:1:3
    469ms n1 wake
            refuse 1:1:2: NoLeader
            refuse read 1:1:3: NoLeader
    ");
}
