//! What a deposed leader had appended may yet be committed by its successor, or not: its client is told so, never "failed".

use crate::world::World;
use quorate_core::command::Refusal;
use quorate_core::consensus::ConsensusEffect;

#[test]
fn a_proposal_pending_at_step_down_ends_as_unknown() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(1);
    let request = world.propose(1);
    world.settle();
    world.elect(2);
    world.clear();
    world.heal();
    world.wake(2);
    world.settle();
    assert!(world.effects.contains(&(1, ConsensusEffect::Refuse(request, Refusal::OutcomeUnknown))));
    assert_eq!(world.occurrences(request), 0);
    insta::assert_snapshot!(world.trace(), @r"
    288ms n2 wake
            n2 → n1 Heartbeat@3 commit=0 round=0
            n2 → n3 Heartbeat@3 commit=5 round=0
            write 6
    289ms n2 → n1 Heartbeat@3 commit=0 round=0
            refuse 1:1:1: OutcomeUnknown
            became follower(n2)@3
            write 5, then
            | n1 → n2 HeartbeatReply@3 round=0
    289ms n2 → n3 Heartbeat@3 commit=5 round=0
            n3 → n2 HeartbeatReply@3 round=0
            write 6
    290ms n3 → n2 HeartbeatReply@3 round=0
    291ms n2 durable 6
    292ms n1 durable 5
    292ms n3 durable 6
    293ms n1 → n2 HeartbeatReply@3 round=0
            n2 → n1 Append@3 after=2/4 [3/5] commit=5 round=0
    294ms n2 → n1 Append@3 after=2/4 [3/5] commit=5 round=0
            write 6, then
            | n1 → n2 Appended@3 matched=5 round=0
            committed [3/5]
    297ms n1 durable 6
    298ms n1 → n2 Appended@3 matched=5 round=0
    ");
}
