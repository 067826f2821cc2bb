//! A follower's proposal belongs to the term it was forwarded in. When that ends it is unknown, and is never sent again.

use crate::world::World;
use quorate_core::command::Refusal;
use quorate_core::consensus::ConsensusEffect;

#[test]
fn a_forwarded_proposal_is_unknown_when_its_term_ends() {
    let mut world = World::new(3);
    world.elect(1);
    world.isolate(1);
    let request = world.propose(2);
    world.settle();
    world.clear();
    world.elect(3);
    assert!(world.effects.contains(&(2, ConsensusEffect::Refuse(request, Refusal::OutcomeUnknown))));
    assert_eq!(world.occurrences(request), 0);
    insta::assert_snapshot!(world.trace(), @r"
    266ms n3 wake
            n3 → n1 PreVote@3 end=2/4
            n3 → n2 PreVote@3 end=2/4
            became pre-candidate@2
    267ms n3 → n2 PreVote@3 end=2/4
            n2 → n3 PreVoteReply@3 granted=true
    268ms n2 → n3 PreVoteReply@3 granted=true
            became candidate@3
            write 4, then
            | n3 → n1 RequestVote@3 end=2/4
            | n3 → n2 RequestVote@3 end=2/4
    271ms n3 durable 4
    272ms n3 → n2 RequestVote@3 end=2/4
            refuse 2:1:1: OutcomeUnknown
            became follower@3
            write 4, then
            | n2 → n3 Vote@3 granted=true
    275ms n2 durable 4
    276ms n2 → n3 Vote@3 granted=true
            became leader@3
            n3 → n1 Append@3 after=2/4 [3/5] commit=4 round=0
            n3 → n2 Append@3 after=2/4 [3/5] commit=4 round=0
            write 5
    277ms n3 → n2 Append@3 after=2/4 [3/5] commit=4 round=0
            became follower(n3)@3
            write 5, then
            | n2 → n3 Appended@3 matched=5 round=0
    279ms n3 durable 5
    280ms n2 durable 5
    281ms n2 → n3 Appended@3 matched=5 round=0
            n3 → n2 Append@3 after=3/5 [] commit=5 round=0
            committed [3/5]
    282ms n3 → n2 Append@3 after=3/5 [] commit=5 round=0
            committed [3/5]
    ");
}
