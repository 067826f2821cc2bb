//! A transfer to a member that does not answer ends after an election timeout; what was held meanwhile is served or refused.

use crate::world::World;
use quorate_core::consensus::ConsensusInput;
use quorate_core::consensus::Role;
use quorate_core::types::MemberId;

#[test]
fn a_transfer_that_takes_too_long_is_given_up() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(3);
    world.propose(1);
    world.settle();
    world.clear();
    world.step(1, ConsensusInput::Transfer(MemberId(3)));
    for _ in 0..10 {
        world.wake(1);
        world.settle();
    }
    world.clear();
    let request = world.propose(1);
    world.wake(1);
    world.settle();
    assert_eq!(world.role(1), Role::Leader);
    assert_eq!(world.occurrences(request), 1);
    insta::assert_snapshot!(world.trace(), @r"
    263ms n1 propose [1:1:2]
    271ms n1 wake
            n1 → n2 Heartbeat@2 commit=5 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
            n1 → n2 Append@2 after=2/5 [2/6:n1#2] commit=5 round=0
            n1 → n3 Append@2 after=2/5 [2/6:n1#2] commit=5 round=0
            write 6
    272ms n1 → n2 Heartbeat@2 commit=5 round=0
            n2 → n1 HeartbeatReply@2 round=0
    272ms n1 → n2 Append@2 after=2/5 [2/6:n1#2] commit=5 round=0
            write 6, then
            | n2 → n1 Appended@2 matched=6 round=0
    273ms n2 → n1 HeartbeatReply@2 round=0
            n1 → n2 Append@2 after=2/6 [] commit=5 round=0
    274ms n1 durable 6
    274ms n1 → n2 Append@2 after=2/6 [] commit=5 round=0
    275ms n2 durable 6
            n2 → n1 Appended@2 matched=6 round=0
    276ms n2 → n1 Appended@2 matched=6 round=0
            n1 → n2 Append@2 after=2/6 [] commit=6 round=0
            n1 → n3 Append@2 after=2/6 [] commit=6 round=0
            committed [2/6:n1#2]
    276ms n2 → n1 Appended@2 matched=6 round=0
    277ms n1 → n2 Append@2 after=2/6 [] commit=6 round=0
            committed [2/6:n1#2]
    ");
}
