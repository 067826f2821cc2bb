//! Check-quorum: a leader that hears no quorum for an election timeout makes way, in the same term.

use crate::world::World;
use quorate_core::consensus::Role;

#[test]
fn a_leader_that_hears_no_quorum_steps_down() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(1);
    world.clear();
    let term = world.term(1);
    for _ in 0..12 {
        if world.role(1) == Role::Leader {
            world.wake(1);
            world.settle();
        }
    }
    assert_eq!(world.role(1), Role::Follower);
    assert_eq!(world.term(1), term);
    insta::assert_snapshot!(world.trace(), @r"
    169ms n1 wake
            n1 → n2 Heartbeat@2 commit=4 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
            write 4
    172ms n1 durable 4
    179ms n1 wake
            n1 → n2 Heartbeat@2 commit=4 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
    189ms n1 wake
            n1 → n2 Heartbeat@2 commit=4 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
    199ms n1 wake
            n1 → n2 Heartbeat@2 commit=4 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
    209ms n1 wake
            n1 → n2 Heartbeat@2 commit=4 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
    219ms n1 wake
            n1 → n2 Heartbeat@2 commit=4 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
    229ms n1 wake
            n1 → n2 Heartbeat@2 commit=4 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
    239ms n1 wake
            n1 → n2 Heartbeat@2 commit=4 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
    249ms n1 wake
            n1 → n2 Heartbeat@2 commit=4 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
    259ms n1 wake
            n1 → n2 Heartbeat@2 commit=4 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
    269ms n1 wake
            became follower@2
    ");
}
