//! The leader replicates while its own fsync runs: the followers' disks are a quorum without it (Raft thesis §10.2.1).

use crate::world::World;

#[test]
fn a_slow_disk_on_the_leader_does_not_hold_up_commits() {
    let mut world = World::new(3);
    world.elect(1);
    world.clear();
    world.stall_disk(1);
    let request = world.propose(1);
    world.settle();
    assert_eq!(world.occurrences(request), 1);
    assert!(world.consensus(1).status().durable < world.consensus(1).status().committed);
    world.note("its own disk answers at last");
    world.resume_disk(1);
    world.settle();
    assert_eq!(world.consensus(1).status().durable, world.consensus(1).status().committed);
    insta::assert_snapshot!(world.trace(), @r"
      165ms n1 propose [1:1:1]
              n1 → n2 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
              n1 → n3 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
              write 4
      166ms n1 → n2 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
              write 4, then
              | n2 → n1 Appended@2 matched=5 round=0
      166ms n1 → n3 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
              write 4, then
              | n3 → n1 Appended@2 matched=5 round=0
      169ms n2 durable 4
      169ms n3 durable 4
      170ms n2 → n1 Appended@2 matched=5 round=0
      170ms n3 → n1 Appended@2 matched=5 round=0
              n1 → n2 Append@2 after=2/5 [] commit=5 round=0
              n1 → n3 Append@2 after=2/5 [] commit=5 round=0
              committed [2/5:n1#1]
      171ms n1 → n2 Append@2 after=2/5 [] commit=5 round=0
              committed [2/5:n1#1]
      171ms n1 → n3 Append@2 after=2/5 [] commit=5 round=0
              committed [2/5:n1#1]
    -- its own disk answers at last
      174ms n1 durable 4
    ");
}
