//! A write under way for longer than an election timeout: another member should lead.

use crate::world::World;
use quorate_core::consensus::Role;

#[test]
fn a_leader_whose_disk_stalls_hands_leadership_away() {
    let mut world = World::new(3);
    world.elect(1);
    world.stall_disk(1);
    world.propose(1);
    world.settle();
    for _ in 0..12 {
        if world.role(1) == Role::Leader {
            world.clear();
            world.wake(1);
            world.settle();
        }
    }
    assert_eq!(world.role(1), Role::Follower);
    insta::assert_snapshot!(world.trace(), @r"
    271ms n1 wake
            n1 → n2 Heartbeat@2 commit=5 round=0
            n1 → n3 Heartbeat@2 commit=5 round=0
            n1 → n2 TimeoutNow@2
    272ms n1 → n2 Heartbeat@2 commit=5 round=0
            n2 → n1 HeartbeatReply@2 round=0
    272ms n1 → n3 Heartbeat@2 commit=5 round=0
            n3 → n1 HeartbeatReply@2 round=0
    272ms n1 → n2 TimeoutNow@2
            became candidate@3
            write 6, then
            | n2 → n1 RequestVote@3 end=2/5 transfer
            | n2 → n3 RequestVote@3 end=2/5 transfer
    273ms n2 → n1 HeartbeatReply@2 round=0
    273ms n3 → n1 HeartbeatReply@2 round=0
    275ms n2 durable 6
    276ms n2 → n1 RequestVote@3 end=2/5 transfer
            became follower@3
            write 5, then
            | n1 → n2 Vote@3 granted=true
    276ms n2 → n3 RequestVote@3 end=2/5 transfer
            became follower@3
            write 6, then
            | n3 → n2 Vote@3 granted=true
    279ms n3 durable 6
    280ms n3 → n2 Vote@3 granted=true
            became leader@3
            n2 → n1 Append@3 after=2/5 [3/6] commit=5 round=0
            n2 → n3 Append@3 after=2/5 [3/6] commit=5 round=0
            write 7
    281ms n2 → n1 Append@3 after=2/5 [3/6] commit=5 round=0
            became follower(n2)@3
            write 6, then
            | n1 → n2 Appended@3 matched=6 round=0
    281ms n2 → n3 Append@3 after=2/5 [3/6] commit=5 round=0
            became follower(n2)@3
            write 7, then
            | n3 → n2 Appended@3 matched=6 round=0
    283ms n2 durable 7
    284ms n3 durable 7
    285ms n3 → n2 Appended@3 matched=6 round=0
            n2 → n3 Append@3 after=3/6 [] commit=6 round=0
            committed [3/6]
    286ms n2 → n3 Append@3 after=3/6 [] commit=6 round=0
            committed [3/6]
    ");
}
