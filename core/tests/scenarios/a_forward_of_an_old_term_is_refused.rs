//! A forwarded proposal that arrives in a later term is not appended, even by the same leader: its member was told "unknown".

use crate::world::World;
use quorate_core::consensus::{Envelope, ForwardMessage, Message};

fn is_forward(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Forward(ForwardMessage::Request(_)))
}

#[test]
fn a_forward_of_an_old_term_is_refused() {
    let mut world = World::new(3);
    world.elect(1);
    world.hold(is_forward);
    let request = world.propose(2);
    let late = world.unhold();
    world.elect(3);
    world.elect(1);
    world.clear();
    world.send(late);
    world.settle();
    assert_eq!(world.occurrences(request), 0);
    insta::assert_snapshot!(world.trace(), @r"
    435ms n2 → n1 Forward@2 [2:1:1]
            n1 → n2 ForwardRefused@4 [2:1:1] not leader
    436ms n1 → n2 ForwardRefused@4 [2:1:1] not leader
    ");
}
