//! A new leader does not know what is committed before an entry of its own term is (Raft §8): its reads wait for that.

use crate::world::World;
use quorate_core::consensus::{Envelope, Message, RaftMessage};

fn is_appended(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Raft(RaftMessage::Appended { .. }))
}

#[test]
fn a_new_leader_serves_no_read_before_it_commits_in_its_own_term() {
    let mut world = World::new(3);
    world.elect(1);
    world.propose(1);
    world.settle();
    world.crash(1);
    world.hold(is_appended);
    world.elect(2);
    world.clear();
    world.read(2);
    world.settle();
    assert_eq!(world.reads_answered, 0);
    world.note("its first entry is acknowledged");
    let held = world.unhold();
    world.send(held);
    world.settle();
    assert_eq!(world.reads_answered, 1);
    insta::assert_snapshot!(world.trace(), @r"
      303ms n2 read 2:1:2
    -- its first entry is acknowledged
      304ms n3 → n2 Appended@3 matched=6 round=0
              n2 → n1 Heartbeat@3 commit=0 round=1
              n2 → n3 Heartbeat@3 commit=6 round=1
              n2 → n3 Append@3 after=3/6 [] commit=6 round=1
              committed [3/6]
      305ms n2 → n3 Heartbeat@3 commit=6 round=1
              n3 → n2 HeartbeatReply@3 round=1
              committed [3/6]
      305ms n2 → n3 Append@3 after=3/6 [] commit=6 round=1
              n3 → n2 Appended@3 matched=6 round=1
      306ms n3 → n2 HeartbeatReply@3 round=1
              read 2:1:2 ready at 6
      306ms n3 → n2 Appended@3 matched=6 round=1
    ");
}
