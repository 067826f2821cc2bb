//! The operating system tells that the leader's process is gone long before an election timeout does.

use crate::world::{ELECTION_TIMEOUT, World};
use quorate_core::consensus::ConsensusInput;
use quorate_core::types::MemberId;

#[test]
fn a_closed_connection_from_the_leader_allows_an_early_pre_vote() {
    let mut world = World::new(3);
    world.elect(1);
    world.clear();
    world.crash(1);
    let heard = world.consensus(2).deadline();
    world.step(2, ConsensusInput::PeerClosed(MemberId(1)));
    world.step(3, ConsensusInput::PeerClosed(MemberId(1)));
    let early = world.consensus(2).deadline();
    assert!(heard.since(early) > ELECTION_TIMEOUT / 2, "{early:?} against {heard:?}");
    world.wake(2);
    world.settle();
    insta::assert_snapshot!(world.trace(), @r"
    165ms n1 crashes
    165ms n2 connection from n1 closed
            became follower@2
    165ms n3 connection from n1 closed
            became follower@2
    177ms n2 wake
            n2 → n1 PreVote@3 end=2/4
            n2 → n3 PreVote@3 end=2/4
            became pre-candidate@2
    178ms n2 → n3 PreVote@3 end=2/4
            n3 → n2 PreVoteReply@3 granted=true
    179ms n3 → n2 PreVoteReply@3 granted=true
            became candidate@3
            write 4, then
            | n2 → n1 RequestVote@3 end=2/4
            | n2 → n3 RequestVote@3 end=2/4
    182ms n2 durable 4
    183ms n2 → n3 RequestVote@3 end=2/4
            became follower@3
            write 4, then
            | n3 → n2 Vote@3 granted=true
    186ms n3 durable 4
    187ms n3 → n2 Vote@3 granted=true
            became leader@3
            n2 → n1 Append@3 after=2/4 [3/5] commit=4 round=0
            n2 → n3 Append@3 after=2/4 [3/5] commit=4 round=0
            write 5
    188ms n2 → n3 Append@3 after=2/4 [3/5] commit=4 round=0
            became follower(n2)@3
            write 5, then
            | n3 → n2 Appended@3 matched=5 round=0
    190ms n2 durable 5
    191ms n3 durable 5
    192ms n3 → n2 Appended@3 matched=5 round=0
            n2 → n3 Append@3 after=3/5 [] commit=5 round=0
            committed [3/5]
    193ms n2 → n3 Append@3 after=3/5 [] commit=5 round=0
            committed [3/5]
    ");
}
