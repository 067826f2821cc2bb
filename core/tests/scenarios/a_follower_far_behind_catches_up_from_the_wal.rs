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
    250ms n1 wake
            n1 → n2 Heartbeat@2 commit=16 round=0
            n1 → n3 Heartbeat@2 commit=4 round=0
            write 16
    251ms n1 → n2 Heartbeat@2 commit=16 round=0
            n2 → n1 HeartbeatReply@2 round=0
            write 16
    251ms n1 → n3 Heartbeat@2 commit=4 round=0
            n3 → n1 HeartbeatReply@2 round=0
            write 4
    252ms n2 → n1 HeartbeatReply@2 round=0
    252ms n3 → n1 HeartbeatReply@2 round=0
            n1 → n3 Append@2 after=2/16 [] commit=16 round=0
    253ms n1 durable 16
    253ms n1 → n3 Append@2 after=2/16 [] commit=16 round=0
            n3 → n1 AppendRejected@2 after=2/16 hint=2/4
    254ms n2 durable 16
    254ms n3 durable 4
    254ms n3 → n1 AppendRejected@2 after=2/16 hint=2/4
            read log in segment 1
    255ms n1 log read from segment 1, 648 bytes
            n1 → n3 Append@2 after=2/4 [2/5:n1#1 2/6:n1#2 2/7:n1#3] commit=16 round=0
    256ms n1 → n3 Append@2 after=2/4 [2/5:n1#1 2/6:n1#2 2/7:n1#3] commit=16 round=0
            write 5, then
            | n3 → n1 Appended@2 matched=7 round=0
            committed [2/5:n1#1 2/6:n1#2 2/7:n1#3]
    259ms n3 durable 5
    260ms n3 → n1 Appended@2 matched=7 round=0
            read log in segment 1
    261ms n1 log read from segment 1, 648 bytes
            n1 → n3 Append@2 after=2/7 [2/8:n1#4 2/9:n1#5 2/10:n1#6] commit=16 round=0
            read log in segment 1
    262ms n1 → n3 Append@2 after=2/7 [2/8:n1#4 2/9:n1#5 2/10:n1#6] commit=16 round=0
            write 6, then
            | n3 → n1 Appended@2 matched=10 round=0
            committed [2/8:n1#4 2/9:n1#5 2/10:n1#6]
    262ms n1 log read from segment 1, 648 bytes
            n1 → n3 Append@2 after=2/10 [2/11:n1#7 2/12:n1#8 2/13:n1#9] commit=16 round=0
            read log in segment 1
    263ms n1 → n3 Append@2 after=2/10 [2/11:n1#7 2/12:n1#8 2/13:n1#9] commit=16 round=0
            write 7, then
            | n3 → n1 Appended@2 matched=13 round=0
            committed [2/11:n1#7 2/12:n1#8 2/13:n1#9]
    263ms n1 log read from segment 1, 592 bytes
            n1 → n3 Append@2 after=2/13 [2/14:n1#10 2/15:n1#11 2/16:n1#12] commit=16 round=0
    264ms n1 → n3 Append@2 after=2/13 [2/14:n1#10 2/15:n1#11 2/16:n1#12] commit=16 round=0
            write 8, then
            | n3 → n1 Appended@2 matched=16 round=0
            committed [2/14:n1#10 2/15:n1#11 2/16:n1#12]
    265ms n3 durable 6
    266ms n3 durable 7
    266ms n3 → n1 Appended@2 matched=10 round=0
    267ms n3 durable 8
    267ms n3 → n1 Appended@2 matched=13 round=0
    268ms n3 → n1 Appended@2 matched=16 round=0
    268ms n1 wake
            n1 → n2 Heartbeat@2 commit=16 round=0
            n1 → n3 Heartbeat@2 commit=16 round=0
    269ms n1 → n2 Heartbeat@2 commit=16 round=0
            n2 → n1 HeartbeatReply@2 round=0
    269ms n1 → n3 Heartbeat@2 commit=16 round=0
            n3 → n1 HeartbeatReply@2 round=0
            write 9
    270ms n2 → n1 HeartbeatReply@2 round=0
    270ms n3 → n1 HeartbeatReply@2 round=0
    272ms n3 durable 9
    278ms n1 wake
            n1 → n2 Heartbeat@2 commit=16 round=0
            n1 → n3 Heartbeat@2 commit=16 round=0
    279ms n1 → n2 Heartbeat@2 commit=16 round=0
            n2 → n1 HeartbeatReply@2 round=0
    279ms n1 → n3 Heartbeat@2 commit=16 round=0
            n3 → n1 HeartbeatReply@2 round=0
    280ms n2 → n1 HeartbeatReply@2 round=0
    280ms n3 → n1 HeartbeatReply@2 round=0
    288ms n1 wake
            n1 → n2 Heartbeat@2 commit=16 round=0
            n1 → n3 Heartbeat@2 commit=16 round=0
    289ms n1 → n2 Heartbeat@2 commit=16 round=0
            n2 → n1 HeartbeatReply@2 round=0
    289ms n1 → n3 Heartbeat@2 commit=16 round=0
            n3 → n1 HeartbeatReply@2 round=0
    290ms n2 → n1 HeartbeatReply@2 round=0
    290ms n3 → n1 HeartbeatReply@2 round=0
    ");
}
