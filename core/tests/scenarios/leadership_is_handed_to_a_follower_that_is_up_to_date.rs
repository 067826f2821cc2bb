//! Leadership transfer: no new proposals, the target's log first, then `TimeoutNow`, which overrides stickiness
//! (Raft thesis §3.10).

use crate::world::World;
use quorate_core::consensus::ConsensusInput;
use quorate_core::consensus::Role;
use quorate_core::types::MemberId;

#[test]
fn leadership_is_handed_to_a_follower_that_is_up_to_date() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(3);
    world.clear();
    world.propose(1);
    world.step(1, ConsensusInput::Transfer(MemberId(2)));
    let during = world.propose(1);
    world.settle();
    assert_eq!(world.role(2), Role::Leader);
    assert_eq!(world.occurrences(during), 1, "held, then forwarded to the new leader");
    insta::assert_snapshot!(world.trace(), @r"
    165ms n1 propose [1:1:1]
            n1 → n2 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
            n1 → n3 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
            write 4
    165ms n1 transfer to n2
    165ms n1 propose [1:1:2]
    166ms n1 → n2 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
            write 4, then
            | n2 → n1 Appended@2 matched=5 round=0
    168ms n1 durable 4
    169ms n2 durable 4
    170ms n2 → n1 Appended@2 matched=5 round=0
            n1 → n2 Append@2 after=2/5 [] commit=5 round=0
            n1 → n3 Append@2 after=2/5 [] commit=5 round=0
            n1 → n2 TimeoutNow@2
            committed [2/5:n1#1]
    171ms n1 → n2 Append@2 after=2/5 [] commit=5 round=0
            committed [2/5:n1#1]
    171ms n1 → n2 TimeoutNow@2
            became candidate@3
            write 5, then
            | n2 → n1 RequestVote@3 end=2/5 transfer
            | n2 → n3 RequestVote@3 end=2/5 transfer
    174ms n2 durable 5
    175ms n2 → n1 RequestVote@3 end=2/5 transfer
            became follower@3
            write 5, then
            | n1 → n2 Vote@3 granted=true
    178ms n1 durable 5
    179ms n1 → n2 Vote@3 granted=true
            became leader@3
            n2 → n1 Append@3 after=2/5 [3/6] commit=5 round=0
            n2 → n3 Append@3 after=2/5 [3/6] commit=5 round=0
            write 6
    180ms n2 → n1 Append@3 after=2/5 [3/6] commit=5 round=0
            became follower(n2)@3
            n1 → n2 Forward@3 [1:1:2]
            write 6, then
            | n1 → n2 Appended@3 matched=6 round=0
    181ms n1 → n2 Forward@3 [1:1:2]
            write 7
    182ms n2 durable 6
    183ms n1 durable 6
    184ms n2 durable 7
    184ms n1 → n2 Appended@3 matched=6 round=0
            n2 → n1 Append@3 after=3/6 [3/7:n1#2] commit=6 round=0
            committed [3/6]
    185ms n2 → n1 Append@3 after=3/6 [3/7:n1#2] commit=6 round=0
            write 7, then
            | n1 → n2 Appended@3 matched=7 round=0
            committed [3/6]
    188ms n1 durable 7
    189ms n1 → n2 Appended@3 matched=7 round=0
            n2 → n1 Append@3 after=3/7 [] commit=7 round=0
            committed [3/7:n1#2]
    190ms n2 → n1 Append@3 after=3/7 [] commit=7 round=0
            committed [3/7:n1#2]
    ");
}
