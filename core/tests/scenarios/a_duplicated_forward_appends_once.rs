//! The network may deliver a forwarded proposal twice; the leader of its term appends it once.

use crate::world::World;
use quorate_core::consensus::{Envelope, ForwardMessage, Message};

fn is_forward(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Forward(ForwardMessage::Request(_)))
}

#[test]
fn a_duplicated_forward_appends_once() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(3);
    world.clear();
    world.hold(is_forward);
    let request = world.propose(2);
    let held = world.unhold();
    world.send(held.clone());
    world.settle();
    world.note("the copy arrives");
    world.send(held);
    world.settle();
    assert_eq!(world.occurrences(request), 1);
    insta::assert_snapshot!(world.trace(), @r"
      165ms n2 propose [2:1:1]
              n2 → n1 Forward@2 [2:1:1]
      166ms n2 → n1 Forward@2 [2:1:1]
              n1 → n2 Append@2 after=2/4 [2/5:n2#1] commit=4 round=0
              n1 → n3 Append@2 after=2/4 [2/5:n2#1] commit=4 round=0
              write 4
      167ms n1 → n2 Append@2 after=2/4 [2/5:n2#1] commit=4 round=0
              write 4, then
              | n2 → n1 Appended@2 matched=5 round=0
      169ms n1 durable 4
      170ms n2 durable 4
      171ms n2 → n1 Appended@2 matched=5 round=0
              n1 → n2 Append@2 after=2/5 [] commit=5 round=0
              n1 → n3 Append@2 after=2/5 [] commit=5 round=0
              committed [2/5:n2#1]
      172ms n1 → n2 Append@2 after=2/5 [] commit=5 round=0
              committed [2/5:n2#1]
    -- the copy arrives
      173ms n2 → n1 Forward@2 [2:1:1]
    ");
}
