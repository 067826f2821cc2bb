//! A leader that is too far ahead of its apply refuses forwarded proposals, and a copy of the message does not change its mind.

use crate::world::{Options, World};
use quorate_core::command::Refusal;
use quorate_core::consensus::ConsensusEffect;
use quorate_core::consensus::{Envelope, ForwardMessage, Limits, Message};

fn is_forward(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Forward(ForwardMessage::Request(_)))
}

#[test]
fn a_crowded_leader_refuses_forwards_for_good() {
    let limits = Limits { unapplied_entries: 2, ..Limits::default() };
    let mut world = World::with(3, Options { limits, ..Options::default() });
    world.elect(1);
    (1..=3).for_each(|id| world.stall_disk(id));
    world.propose(1);
    world.propose(1);
    world.settle();
    world.clear();
    world.hold(is_forward);
    let request = world.propose(2);
    let forward = world.unhold();
    world.send(forward.clone());
    world.settle();
    assert!(world.effects.contains(&(2, ConsensusEffect::Refuse(request, Refusal::TooManyRequests))));
    world.note("the crowd is gone, and a copy arrives");
    (1..=3).for_each(|id| world.resume_disk(id));
    world.settle();
    world.send(forward);
    world.settle();
    assert_eq!(world.occurrences(request), 0);
    insta::assert_snapshot!(world.trace(), @r"
      166ms n2 propose [2:1:3]
              n2 → n1 Forward@2 [2:1:3]
      167ms n2 → n1 Forward@2 [2:1:3]
              n1 → n2 ForwardRefused@2 [2:1:3] too many
      168ms n1 → n2 ForwardRefused@2 [2:1:3] too many
              refuse 2:1:3: TooManyRequests
    -- the crowd is gone, and a copy arrives
      171ms n1 durable 4
      171ms n1 durable 5
      171ms n2 durable 4
      171ms n2 durable 5
      171ms n3 durable 4
      171ms n3 durable 5
      172ms n2 → n1 Appended@2 matched=5 round=0
              n1 → n2 Append@2 after=2/6 [] commit=5 round=0
              n1 → n3 Append@2 after=2/6 [] commit=5 round=0
              committed [2/5:n1#1]
      172ms n2 → n1 Appended@2 matched=6 round=0
              n1 → n2 Append@2 after=2/6 [] commit=6 round=0
              n1 → n3 Append@2 after=2/6 [] commit=6 round=0
              committed [2/6:n1#2]
      172ms n3 → n1 Appended@2 matched=5 round=0
      172ms n3 → n1 Appended@2 matched=6 round=0
      173ms n1 → n2 Append@2 after=2/6 [] commit=5 round=0
              committed [2/5:n1#1]
      173ms n1 → n3 Append@2 after=2/6 [] commit=5 round=0
              committed [2/5:n1#1]
      173ms n1 → n2 Append@2 after=2/6 [] commit=6 round=0
              committed [2/6:n1#2]
      173ms n1 → n3 Append@2 after=2/6 [] commit=6 round=0
              committed [2/6:n1#2]
      174ms n2 → n1 Forward@2 [2:1:3]
    ");
}
