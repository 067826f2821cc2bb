//! An older append that arrives late says nothing about what follows it: entries that agree are kept (Raft §5.3).

use crate::world::World;
use quorate_core::consensus::{Envelope, Message, RaftMessage};

fn is_append(envelope: &Envelope) -> bool {
    matches!(&envelope.message, Message::Raft(RaftMessage::Append { entries, .. }) if !entries.is_empty())
}

#[test]
fn a_reordered_append_does_not_truncate() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(3);
    world.clear();
    world.hold(is_append);
    world.propose(1);
    let first = world.unhold();
    world.send(first.clone());
    world.propose(1);
    world.settle();
    let committed = world.committed(1);
    world.note("the first append arrives once more");
    world.send(first);
    world.settle();
    world.crash(1);
    world.heal();
    world.elect(2);
    assert!(world.committed(2) > committed);
    insta::assert_snapshot!(world.trace(), @r"
      165ms n1 propose [1:1:1]
              n1 → n2 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
              n1 → n3 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
              write 4
      165ms n1 propose [1:1:2]
              n1 → n2 Append@2 after=2/5 [2/6:n1#2] commit=4 round=0
              n1 → n3 Append@2 after=2/5 [2/6:n1#2] commit=4 round=0
              write 5
      166ms n1 → n2 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
              write 4, then
              | n2 → n1 Appended@2 matched=5 round=0
      166ms n1 → n2 Append@2 after=2/5 [2/6:n1#2] commit=4 round=0
              write 5, then
              | n2 → n1 Appended@2 matched=6 round=0
      168ms n1 durable 4
      168ms n1 durable 5
      169ms n2 durable 4
      169ms n2 durable 5
      170ms n2 → n1 Appended@2 matched=5 round=0
              n1 → n2 Append@2 after=2/6 [] commit=5 round=0
              n1 → n3 Append@2 after=2/6 [] commit=5 round=0
              committed [2/5:n1#1]
      170ms n2 → n1 Appended@2 matched=6 round=0
              n1 → n2 Append@2 after=2/6 [] commit=6 round=0
              n1 → n3 Append@2 after=2/6 [] commit=6 round=0
              committed [2/6:n1#2]
      171ms n1 → n2 Append@2 after=2/6 [] commit=5 round=0
              committed [2/5:n1#1]
      171ms n1 → n2 Append@2 after=2/6 [] commit=6 round=0
              committed [2/6:n1#2]
    -- the first append arrives once more
      172ms n1 → n2 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
              n2 → n1 Appended@2 matched=6 round=0
      173ms n2 → n1 Appended@2 matched=6 round=0
      173ms n1 crashes
      288ms n2 wake
              n2 → n1 PreVote@3 end=2/6
              n2 → n3 PreVote@3 end=2/6
              became pre-candidate@2
      289ms n2 → n3 PreVote@3 end=2/6
              n3 → n2 PreVoteReply@3 granted=true
      290ms n3 → n2 PreVoteReply@3 granted=true
              became candidate@3
              write 6, then
              | n2 → n1 RequestVote@3 end=2/6
              | n2 → n3 RequestVote@3 end=2/6
      293ms n2 durable 6
      294ms n2 → n3 RequestVote@3 end=2/6
              became follower@3
              write 4, then
              | n3 → n2 Vote@3 granted=true
      297ms n3 durable 4
      298ms n3 → n2 Vote@3 granted=true
              became leader@3
              n2 → n1 Append@3 after=2/6 [3/7] commit=6 round=0
              n2 → n3 Append@3 after=2/6 [3/7] commit=6 round=0
              write 7
      299ms n2 → n3 Append@3 after=2/6 [3/7] commit=6 round=0
              n3 → n2 AppendRejected@3 after=2/6 hint=2/4
              became follower(n2)@3
      300ms n3 → n2 AppendRejected@3 after=2/6 hint=2/4
              n2 → n3 Append@3 after=2/4 [2/5:n1#1 2/6:n1#2 3/7] commit=6 round=0
      301ms n2 durable 7
      301ms n2 → n3 Append@3 after=2/4 [2/5:n1#1 2/6:n1#2 3/7] commit=6 round=0
              write 5, then
              | n3 → n2 Appended@3 matched=7 round=0
              committed [2/5:n1#1 2/6:n1#2]
      304ms n3 durable 5
      305ms n3 → n2 Appended@3 matched=7 round=0
              n2 → n3 Append@3 after=3/7 [] commit=7 round=0
              committed [3/7]
      306ms n2 → n3 Append@3 after=3/7 [] commit=7 round=0
              committed [3/7]
    ");
}
