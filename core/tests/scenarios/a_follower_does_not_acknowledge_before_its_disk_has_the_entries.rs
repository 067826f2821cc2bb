//! An acknowledgement says "durable": it waits inside the write of the entries, and so does the commit.

use crate::world::World;

#[test]
fn a_follower_does_not_acknowledge_before_its_disk_has_the_entries() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(3);
    world.stall_disk(2);
    world.clear();
    let request = world.propose(1);
    world.settle();
    assert_eq!(world.occurrences(request), 0);
    world.note("the disk of n2 answers");
    world.resume_disk(2);
    world.settle();
    assert_eq!(world.occurrences(request), 1);
    insta::assert_snapshot!(world.trace(), @r"
      165ms n1 propose [1:1:1]
              n1 → n2 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
              n1 → n3 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
              write 4
      166ms n1 → n2 Append@2 after=2/4 [2/5:n1#1] commit=4 round=0
              write 4, then
              | n2 → n1 Appended@2 matched=5 round=0
      168ms n1 durable 4
    -- the disk of n2 answers
      171ms n2 durable 4
      172ms n2 → n1 Appended@2 matched=5 round=0
              n1 → n2 Append@2 after=2/5 [] commit=5 round=0
              n1 → n3 Append@2 after=2/5 [] commit=5 round=0
              committed [2/5:n1#1]
      173ms n1 → n2 Append@2 after=2/5 [] commit=5 round=0
              committed [2/5:n1#1]
    ");
}
