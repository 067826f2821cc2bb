//! Figure 8: an entry of an older term is not committed because a majority has it, but by an entry of the leader's own term
//! above it (Raft §5.4.2).

use crate::world::{Options, World};
use quorate_core::consensus::{Envelope, Limits, Message, RaftMessage};

fn is_append(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Raft(RaftMessage::Append { .. }))
}

/// An acknowledgement of the entry of term 4, which stands at index 8.
fn acknowledges_own_term(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Raft(RaftMessage::Appended { matched, .. }) if matched.0 >= 8)
}

#[test]
fn entries_of_older_terms_are_not_committed_by_counting() {
    let limits = Limits { append_entries: 1, ..Limits::default() };
    let mut world = World::with(5, Options { limits, ..Options::default() });
    // (a) n1 leads term 2; an entry of it reaches n2 only.
    world.elect(1);
    [3, 4, 5].into_iter().for_each(|other| world.cut(1, other));
    world.propose(1);
    world.settle();
    // (b) n5 leads term 3 with the votes of n3 and n4; its own entry reaches nobody.
    [1, 2].into_iter().for_each(|id| world.isolate(id));
    world.hold(is_append);
    world.elect(5);
    world.crash(5);
    // (c) n1 leads again, in term 4, and the old entry spreads to a majority.
    world.heal();
    world.hold(acknowledges_own_term);
    let before = world.committed(1);
    world.elect(1);
    world.clear();
    world.wake(1);
    world.settle();
    assert_eq!(world.committed(1), before, "{}", world.trace());
    // (e) Only its own entry commits both.
    let held = world.unhold();
    world.send(held);
    world.note("the acknowledgements of the entry of term 4 arrive");
    world.settle();
    assert_eq!(world.committed(1), before + 2);
    insta::assert_snapshot!(world.trace(), @r"
      699ms n1 wake
              n1 → n2 Heartbeat@4 commit=0 round=0
              n1 → n3 Heartbeat@4 commit=6 round=0
              n1 → n4 Heartbeat@4 commit=6 round=0
              n1 → n5 Heartbeat@4 commit=0 round=0
              write 8
      700ms n1 → n2 Heartbeat@4 commit=0 round=0
              n2 → n1 HeartbeatReply@4 round=0
              write 7
      700ms n1 → n3 Heartbeat@4 commit=6 round=0
              n3 → n1 HeartbeatReply@4 round=0
      700ms n1 → n4 Heartbeat@4 commit=6 round=0
              n4 → n1 HeartbeatReply@4 round=0
      701ms n2 → n1 HeartbeatReply@4 round=0
              n1 → n2 Append@4 after=2/7 [4/8] commit=6 round=0
      701ms n3 → n1 HeartbeatReply@4 round=0
              n1 → n3 Append@4 after=4/8 [] commit=6 round=0
      701ms n4 → n1 HeartbeatReply@4 round=0
              n1 → n4 Append@4 after=4/8 [] commit=6 round=0
      702ms n1 durable 8
      702ms n1 → n2 Append@4 after=2/7 [4/8] commit=6 round=0
              n2 → n1 Appended@4 matched=8 round=0
      702ms n1 → n3 Append@4 after=4/8 [] commit=6 round=0
              n3 → n1 Appended@4 matched=8 round=0
      702ms n1 → n4 Append@4 after=4/8 [] commit=6 round=0
              n4 → n1 Appended@4 matched=8 round=0
      703ms n2 durable 7
    -- the acknowledgements of the entry of term 4 arrive
      704ms n5 → n1 Append@3 after=2/6 [3/7] commit=6 round=0
              n1 → n5 HeartbeatReply@4 round=0
      704ms n5 → n2 Append@3 after=2/6 [3/7] commit=6 round=0
              n2 → n5 HeartbeatReply@4 round=0
      704ms n5 → n3 Append@3 after=2/6 [3/7] commit=6 round=0
              n3 → n5 HeartbeatReply@4 round=0
      704ms n5 → n4 Append@3 after=2/6 [3/7] commit=6 round=0
              n4 → n5 HeartbeatReply@4 round=0
      704ms n2 → n1 Appended@4 matched=8 round=0
      704ms n3 → n1 Appended@4 matched=8 round=0
              n1 → n2 Append@4 after=4/8 [] commit=8 round=0
              n1 → n3 Append@4 after=4/8 [] commit=8 round=0
              n1 → n4 Append@4 after=4/8 [] commit=8 round=0
              committed [2/7:n1#1]
              committed [4/8]
      704ms n4 → n1 Appended@4 matched=8 round=0
      704ms n2 → n1 Appended@4 matched=8 round=0
      704ms n3 → n1 Appended@4 matched=8 round=0
      704ms n4 → n1 Appended@4 matched=8 round=0
      705ms n1 → n2 Append@4 after=4/8 [] commit=8 round=0
              committed [2/7:n1#1]
              committed [4/8]
      705ms n1 → n3 Append@4 after=4/8 [] commit=8 round=0
              committed [2/7:n1#1]
              committed [4/8]
      705ms n1 → n4 Append@4 after=4/8 [] commit=8 round=0
              committed [2/7:n1#1]
              committed [4/8]
    ");
}
