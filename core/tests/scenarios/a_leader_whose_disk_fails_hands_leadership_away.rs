//! A leader that can make nothing durable any more writes nothing, and hands leadership to the best follower.

use crate::world::World;
use quorate_core::consensus::ConsensusInput;
use quorate_core::consensus::Role;

#[test]
fn a_leader_whose_disk_fails_hands_leadership_away() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(3);
    world.propose(1);
    world.settle();
    world.heal();
    world.clear();
    world.step(1, ConsensusInput::DiskFailed);
    world.settle();
    assert_eq!(world.role(2), Role::Leader);
    insta::assert_snapshot!(world.trace(), @r"
    171ms n1 disk failed
            n1 → n2 TimeoutNow@2
    172ms n1 → n2 TimeoutNow@2
            became candidate@3
            write 5, then
            | n2 → n1 RequestVote@3 end=2/5 transfer
            | n2 → n3 RequestVote@3 end=2/5 transfer
    175ms n2 durable 5
    176ms n2 → n1 RequestVote@3 end=2/5 transfer
            became follower@3
    176ms n2 → n3 RequestVote@3 end=2/5 transfer
            became follower@3
            write 4, then
            | n3 → n2 Vote@3 granted=true
    179ms n3 durable 4
    180ms n3 → n2 Vote@3 granted=true
            became leader@3
            n2 → n1 Append@3 after=2/5 [3/6] commit=5 round=0
            n2 → n3 Append@3 after=2/5 [3/6] commit=5 round=0
            write 6
    181ms n2 → n1 Append@3 after=2/5 [3/6] commit=5 round=0
            became follower(n2)@3
    181ms n2 → n3 Append@3 after=2/5 [3/6] commit=5 round=0
            n3 → n2 AppendRejected@3 after=2/5 hint=2/4
            became follower(n2)@3
    182ms n3 → n2 AppendRejected@3 after=2/5 hint=2/4
            n2 → n3 Append@3 after=2/4 [2/5:n1#1 3/6] commit=5 round=0
    183ms n2 durable 6
    183ms n2 → n3 Append@3 after=2/4 [2/5:n1#1 3/6] commit=5 round=0
            write 5, then
            | n3 → n2 Appended@3 matched=6 round=0
            committed [2/5:n1#1]
    186ms n3 durable 5
    187ms n3 → n2 Appended@3 matched=6 round=0
            n2 → n3 Append@3 after=3/6 [] commit=6 round=0
            committed [3/6]
    188ms n2 → n3 Append@3 after=3/6 [] commit=6 round=0
            committed [3/6]
    ");
}
