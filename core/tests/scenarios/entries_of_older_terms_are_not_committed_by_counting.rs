//! Figure 8: an entry of an older term is not committed because a majority has it, but by an entry of the leader's own term
//! above it (Raft §5.4.2).

use crate::world::{Options, World};
use quorate_core::consensus::{Envelope, Limits, Message};

fn is_append(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Append { .. })
}

fn is_append_of_own_term(envelope: &Envelope) -> bool {
    matches!(&envelope.message, Message::Append { entries, .. } if entries.iter().any(|entry| entry.id.term == envelope.term))
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
    world.hold(is_append_of_own_term);
    let before = world.committed(1);
    world.elect(1);
    world.clear();
    world.wake(1);
    world.settle();
    assert_eq!(world.committed(1), before, "{}", world.trace());
    // (e) Only its own entry commits both.
    let held = world.unhold();
    world.send(held.into_iter().filter(|envelope| envelope.term.0 == 4).collect());
    world.note("the entries of term 4 arrive");
    world.settle();
    assert!(world.committed(1) > before + 1);
    insta::assert_snapshot!(world.trace(), @r"
      698ms n1 wake
              n1 → n2 Heartbeat@4 commit=0 round=0
              n1 → n3 Heartbeat@4 commit=0 round=0
              n1 → n4 Heartbeat@4 commit=0 round=0
              n1 → n5 Heartbeat@4 commit=0 round=0
              write 8
      699ms n1 → n2 Heartbeat@4 commit=0 round=0
              n2 → n1 HeartbeatReply@4 round=0
              became follower(n1)@4
              write 6
      699ms n1 → n3 Heartbeat@4 commit=0 round=0
              n3 → n1 HeartbeatReply@4 round=0
              became follower(n1)@4
              write 6
      699ms n1 → n4 Heartbeat@4 commit=0 round=0
              n4 → n1 HeartbeatReply@4 round=0
              became follower(n1)@4
              write 6
      700ms n2 → n1 HeartbeatReply@4 round=0
              n1 → n2 Append@4 after=2/7 [4/8] commit=6 round=0
      700ms n3 → n1 HeartbeatReply@4 round=0
              n1 → n3 Append@4 after=2/7 [4/8] commit=6 round=0
      700ms n4 → n1 HeartbeatReply@4 round=0
              n1 → n4 Append@4 after=2/7 [4/8] commit=6 round=0
      701ms n1 durable 8
      702ms n2 durable 6
      702ms n3 durable 6
      702ms n4 durable 6
    -- the entries of term 4 arrive
      703ms n1 → n2 Append@4 after=2/7 [4/8] commit=6 round=0
              write 7, then
              | n2 → n1 Appended@4 matched=8 round=0
      703ms n1 → n3 Append@4 after=2/7 [4/8] commit=6 round=0
              n3 → n1 AppendRejected@4 after=2/7 hint=2/6
      703ms n1 → n4 Append@4 after=2/7 [4/8] commit=6 round=0
              n4 → n1 AppendRejected@4 after=2/7 hint=2/6
      703ms n1 → n2 Append@4 after=2/7 [4/8] commit=6 round=0
      703ms n1 → n3 Append@4 after=2/7 [4/8] commit=6 round=0
              n3 → n1 AppendRejected@4 after=2/7 hint=2/6
      703ms n1 → n4 Append@4 after=2/7 [4/8] commit=6 round=0
              n4 → n1 AppendRejected@4 after=2/7 hint=2/6
      704ms n3 → n1 AppendRejected@4 after=2/7 hint=2/6
              n1 → n3 Append@4 after=2/6 [2/7:n1#1] commit=6 round=0
      704ms n4 → n1 AppendRejected@4 after=2/7 hint=2/6
              n1 → n4 Append@4 after=2/6 [2/7:n1#1] commit=6 round=0
      704ms n3 → n1 AppendRejected@4 after=2/7 hint=2/6
      704ms n4 → n1 AppendRejected@4 after=2/7 hint=2/6
      705ms n1 → n3 Append@4 after=2/6 [2/7:n1#1] commit=6 round=0
              write 7, then
              | n3 → n1 Appended@4 matched=7 round=0
      705ms n1 → n4 Append@4 after=2/6 [2/7:n1#1] commit=6 round=0
              write 7, then
              | n4 → n1 Appended@4 matched=7 round=0
      706ms n2 durable 7
              n2 → n1 Appended@4 matched=8 round=0
      707ms n2 → n1 Appended@4 matched=8 round=0
      707ms n2 → n1 Appended@4 matched=8 round=0
      708ms n3 durable 7
      708ms n4 durable 7
      709ms n3 → n1 Appended@4 matched=7 round=0
              n1 → n3 Append@4 after=2/7 [4/8] commit=6 round=0
      709ms n4 → n1 Appended@4 matched=7 round=0
              n1 → n4 Append@4 after=2/7 [4/8] commit=6 round=0
      710ms n1 → n3 Append@4 after=2/7 [4/8] commit=6 round=0
              write 8, then
              | n3 → n1 Appended@4 matched=8 round=0
      710ms n1 → n4 Append@4 after=2/7 [4/8] commit=6 round=0
              write 8, then
              | n4 → n1 Appended@4 matched=8 round=0
      713ms n3 durable 8
      713ms n4 durable 8
      714ms n3 → n1 Appended@4 matched=8 round=0
              n1 → n2 Append@4 after=4/8 [] commit=8 round=0
              n1 → n3 Append@4 after=4/8 [] commit=8 round=0
              n1 → n4 Append@4 after=4/8 [] commit=8 round=0
              committed [2/7:n1#1]
              committed [4/8]
      714ms n4 → n1 Appended@4 matched=8 round=0
      715ms n1 → n2 Append@4 after=4/8 [] commit=8 round=0
              n2 → n1 Appended@4 matched=8 round=0
              committed [2/7:n1#1]
              committed [4/8]
      715ms n1 → n3 Append@4 after=4/8 [] commit=8 round=0
              n3 → n1 Appended@4 matched=8 round=0
              committed [2/7:n1#1]
              committed [4/8]
      715ms n1 → n4 Append@4 after=4/8 [] commit=8 round=0
              n4 → n1 Appended@4 matched=8 round=0
              committed [2/7:n1#1]
              committed [4/8]
      716ms n2 → n1 Appended@4 matched=8 round=0
      716ms n3 → n1 Appended@4 matched=8 round=0
      716ms n4 → n1 Appended@4 matched=8 round=0
    ");
}
