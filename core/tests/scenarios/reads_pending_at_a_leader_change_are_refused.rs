//! A read sent to a leader that is gone is refused, so that its host asks again under a new id.

use crate::world::World;
use quorate_core::command::Refusal;
use quorate_core::consensus::ConsensusEffect;
use quorate_core::consensus::{Message, RaftMessage};

#[test]
fn reads_pending_at_a_leader_change_are_refused() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(1);
    let read = world.read(2);
    world.settle();
    world.clear();
    world.receive(1, 3, 2, Message::Raft(RaftMessage::TimeoutNow));
    world.settle();
    assert!(world.effects.contains(&(2, ConsensusEffect::RefuseRead(read, Refusal::LeaderChanged))));
    insta::assert_snapshot!(world.trace(), @r"
    166ms n1 → n3 TimeoutNow@2
            became candidate@3
            write 4, then
            | n3 → n1 RequestVote@3 end=2/4 transfer
            | n3 → n2 RequestVote@3 end=2/4 transfer
    169ms n3 durable 4
    170ms n3 → n2 RequestVote@3 end=2/4 transfer
            refuse read 2:1:1: LeaderChanged
            became follower@3
            write 4, then
            | n2 → n3 Vote@3 granted=true
    173ms n2 durable 4
    174ms n2 → n3 Vote@3 granted=true
            became leader@3
            n3 → n1 Append@3 after=2/4 [3/5] commit=4 round=0
            n3 → n2 Append@3 after=2/4 [3/5] commit=4 round=0
            write 5
    175ms n3 → n2 Append@3 after=2/4 [3/5] commit=4 round=0
            became follower(n3)@3
            write 5, then
            | n2 → n3 Appended@3 matched=5 round=0
    177ms n3 durable 5
    178ms n2 durable 5
    179ms n2 → n3 Appended@3 matched=5 round=0
            n3 → n2 Append@3 after=3/5 [] commit=5 round=0
            committed [3/5]
    180ms n3 → n2 Append@3 after=3/5 [] commit=5 round=0
            committed [3/5]
    ");
}
