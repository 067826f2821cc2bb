//! A vote does not leave before it is durable, nor does the request that reveals the candidate's own (Raft Figure 2).

use crate::world::World;

#[test]
fn a_vote_does_not_leave_before_it_is_durable() {
    let mut world = World::new(3);
    world.isolate(3);
    world.wake(1);
    world.stall_disk(2);
    world.settle();
    world.note("n2 has voted in memory only");
    world.resume_disk(2);
    world.settle();
    insta::assert_snapshot!(world.trace(), @r"
      149ms n1 wake
              n1 → n2 PreVote@2 end=1/3
              n1 → n3 PreVote@2 end=1/3
              became pre-candidate@1
      150ms n1 → n2 PreVote@2 end=1/3
              n2 → n1 PreVoteReply@2 granted=true
      151ms n2 → n1 PreVoteReply@2 granted=true
              became candidate@2
              write 2, then
              | n1 → n2 RequestVote@2 end=1/3
              | n1 → n3 RequestVote@2 end=1/3
      154ms n1 durable 2
      155ms n1 → n2 RequestVote@2 end=1/3
              became follower@2
              write 2, then
              | n2 → n1 Vote@2 granted=true
    -- n2 has voted in memory only
      158ms n2 durable 2
      159ms n2 → n1 Vote@2 granted=true
              became leader@2
              n1 → n2 Append@2 after=1/3 [2/4] commit=3 round=0
              n1 → n3 Append@2 after=1/3 [2/4] commit=3 round=0
              write 3
      160ms n1 → n2 Append@2 after=1/3 [2/4] commit=3 round=0
              became follower(n1)@2
              write 3, then
              | n2 → n1 Appended@2 matched=4 round=0
      162ms n1 durable 3
      163ms n2 durable 3
      164ms n2 → n1 Appended@2 matched=4 round=0
              n1 → n2 Append@2 after=2/4 [] commit=4 round=0
              committed [2/4]
      165ms n1 → n2 Append@2 after=2/4 [] commit=4 round=0
              committed [2/4]
    ");
}
