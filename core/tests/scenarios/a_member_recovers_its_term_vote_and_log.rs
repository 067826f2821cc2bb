//! After a crash a member knows its term, its vote and its log from the WAL, and applies again what its state store had not
//! synced.

use crate::world::World;

#[test]
fn a_member_recovers_its_term_vote_and_log() {
    let mut world = World::new(3);
    world.elect(1);
    world.propose(1);
    world.settle();
    world.sync_state(2);
    world.propose(1);
    world.settle();
    let committed = world.committed(1);
    (1..=3).for_each(|id| world.crash(id));
    (1..=3).for_each(|id| world.restart(id));
    world.settle();
    assert_eq!(world.term(1), 2);
    world.clear();
    world.elect(2);
    assert!(world.committed(2) > committed);
    insta::assert_snapshot!(world.trace(), @r"
    326ms n2 wake
            n2 → n1 PreVote@3 end=2/6
            n2 → n3 PreVote@3 end=2/6
            became pre-candidate@2
    327ms n2 → n1 PreVote@3 end=2/6
            n1 → n2 PreVoteReply@3 granted=true
    327ms n2 → n3 PreVote@3 end=2/6
            n3 → n2 PreVoteReply@3 granted=true
    328ms n1 → n2 PreVoteReply@3 granted=true
            became candidate@3
            write 2, then
            | n2 → n1 RequestVote@3 end=2/6
            | n2 → n3 RequestVote@3 end=2/6
    328ms n3 → n2 PreVoteReply@3 granted=true
    331ms n2 durable 2
    332ms n2 → n1 RequestVote@3 end=2/6
            became follower@3
            write 2, then
            | n1 → n2 Vote@3 granted=true
    332ms n2 → n3 RequestVote@3 end=2/6
            became follower@3
            write 2, then
            | n3 → n2 Vote@3 granted=true
    335ms n1 durable 2
    335ms n3 durable 2
    336ms n1 → n2 Vote@3 granted=true
            became leader@3
            n2 → n1 Append@3 after=2/6 [3/7] commit=5 round=0
            n2 → n3 Append@3 after=2/6 [3/7] commit=5 round=0
            write 3
    336ms n3 → n2 Vote@3 granted=true
    337ms n2 → n1 Append@3 after=2/6 [3/7] commit=5 round=0
            became follower(n2)@3
            write 3, then
            | n1 → n2 Appended@3 matched=7 round=0
    337ms n2 → n3 Append@3 after=2/6 [3/7] commit=5 round=0
            became follower(n2)@3
            write 3, then
            | n3 → n2 Appended@3 matched=7 round=0
    339ms n2 durable 3
    340ms n1 durable 3
    340ms n3 durable 3
    341ms n1 → n2 Appended@3 matched=7 round=0
            n2 → n1 Append@3 after=3/7 [] commit=7 round=0
            committed [2/6:n1#2 3/7]
    341ms n3 → n2 Appended@3 matched=7 round=0
            n2 → n3 Append@3 after=3/7 [] commit=7 round=0
    342ms n2 → n1 Append@3 after=3/7 [] commit=7 round=0
            committed [2/6:n1#2 3/7]
    342ms n2 → n3 Append@3 after=3/7 [] commit=7 round=0
            committed [2/6:n1#2 3/7]
    ");
}
