//! Entries that left the leader's memory are read from its WAL for whoever still needs them.

use crate::world::{Options, World};
use quorate_core::consensus::Limits;

#[test]
fn a_follower_far_behind_catches_up_from_the_wal() {
    let limits = Limits { tail_bytes: 400, append_bytes: 700, ..Limits::default() };
    let mut world = World::with(3, Options { limits, segment_bytes: 4 << 10, ..Options::default() });
    world.elect(1);
    world.isolate(3);
    for _ in 0..12 {
        world.propose(1);
        world.settle();
    }
    world.heal();
    world.clear();
    for _ in 0..4 {
        world.wake(1);
        world.settle();
    }
    assert_eq!(world.committed(3), world.committed(1));
    insta::assert_snapshot!(world.trace(), @r"
    237ms n1 wake
            n1 → n2 Heartbeat@2 commit=16 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
    238ms n1 → n2 Heartbeat@2 commit=16 round=0
            n2 → n1 HeartbeatReply@2 round=0
    238ms n1 → n3 Heartbeat@2 commit=4 round=0
            n3 → n1 HeartbeatReply@2 round=0
            write 4
    239ms n2 → n1 HeartbeatReply@2 round=0
    239ms n3 → n1 HeartbeatReply@2 round=0
            n1 → n3 Append@2 after=2/16 [] commit=16 round=0
    240ms n1 → n3 Append@2 after=2/16 [] commit=16 round=0
            n3 → n1 AppendRejected@2 after=2/16 hint=2/4
    241ms n3 durable 4
    241ms n3 → n1 AppendRejected@2 after=2/16 hint=2/4
            read log in segment 1
    242ms n1 log read from segment 1, 648 bytes
            n1 → n3 Append@2 after=2/4 [2/5:n1#1 2/6:n1#2 2/7:n1#3] commit=16 round=0
    243ms n1 → n3 Append@2 after=2/4 [2/5:n1#1 2/6:n1#2 2/7:n1#3] commit=16 round=0
            write 5, then
            | n3 → n1 Appended@2 matched=7 round=0
            committed [2/5:n1#1 2/6:n1#2 2/7:n1#3]
    246ms n3 durable 5
    247ms n3 → n1 Appended@2 matched=7 round=0
            read log in segment 1
    248ms n1 log read from segment 1, 648 bytes
            n1 → n3 Append@2 after=2/7 [2/8:n1#4 2/9:n1#5 2/10:n1#6] commit=16 round=0
            read log in segment 1
    249ms n1 → n3 Append@2 after=2/7 [2/8:n1#4 2/9:n1#5 2/10:n1#6] commit=16 round=0
            write 6, then
            | n3 → n1 Appended@2 matched=10 round=0
            committed [2/8:n1#4 2/9:n1#5 2/10:n1#6]
    249ms n1 log read from segment 1, 648 bytes
            n1 → n3 Append@2 after=2/10 [2/11:n1#7 2/12:n1#8 2/13:n1#9] commit=16 round=0
            read log in segment 1
    250ms n1 → n3 Append@2 after=2/10 [2/11:n1#7 2/12:n1#8 2/13:n1#9] commit=16 round=0
            write 7, then
            | n3 → n1 Appended@2 matched=13 round=0
            committed [2/11:n1#7 2/12:n1#8 2/13:n1#9]
    250ms n1 log read from segment 1, 592 bytes
            n1 → n3 Append@2 after=2/13 [2/14:n1#10 2/15:n1#11 2/16:n1#12] commit=16 round=0
    251ms n1 → n3 Append@2 after=2/13 [2/14:n1#10 2/15:n1#11 2/16:n1#12] commit=16 round=0
            write 8, then
            | n3 → n1 Appended@2 matched=16 round=0
            committed [2/14:n1#10 2/15:n1#11 2/16:n1#12]
    252ms n3 durable 6
    253ms n3 durable 7
    253ms n3 → n1 Appended@2 matched=10 round=0
    254ms n3 durable 8
    254ms n3 → n1 Appended@2 matched=13 round=0
    255ms n3 → n1 Appended@2 matched=16 round=0
    255ms n1 wake
            n1 → n2 Heartbeat@2 commit=16 round=0
            n1 → n3 Heartbeat@2 commit=16 round=0
            write 16
    256ms n1 → n2 Heartbeat@2 commit=16 round=0
            n2 → n1 HeartbeatReply@2 round=0
            write 16
    256ms n1 → n3 Heartbeat@2 commit=16 round=0
            n3 → n1 HeartbeatReply@2 round=0
    257ms n2 → n1 HeartbeatReply@2 round=0
    257ms n3 → n1 HeartbeatReply@2 round=0
    258ms n1 durable 16
    259ms n2 durable 16
    265ms n1 wake
            n1 → n2 Heartbeat@2 commit=16 round=0
            n1 → n3 Heartbeat@2 commit=16 round=0
    266ms n1 → n2 Heartbeat@2 commit=16 round=0
            n2 → n1 HeartbeatReply@2 round=0
    266ms n1 → n3 Heartbeat@2 commit=16 round=0
            n3 → n1 HeartbeatReply@2 round=0
            write 9
    267ms n2 → n1 HeartbeatReply@2 round=0
    267ms n3 → n1 HeartbeatReply@2 round=0
    269ms n3 durable 9
    275ms n1 wake
            n1 → n2 Heartbeat@2 commit=16 round=0
            n1 → n3 Heartbeat@2 commit=16 round=0
    276ms n1 → n2 Heartbeat@2 commit=16 round=0
            n2 → n1 HeartbeatReply@2 round=0
    276ms n1 → n3 Heartbeat@2 commit=16 round=0
            n3 → n1 HeartbeatReply@2 round=0
    277ms n2 → n1 HeartbeatReply@2 round=0
    277ms n3 → n1 HeartbeatReply@2 round=0
    ");
}
