//! Compaction: neither the leader nor its followers let go of entries that some member still lacks.

use crate::world::{Options, World};
use quorate_core::consensus::{KeptForOthers, Limits};
use quorate_core::types::MemberId;

#[test]
fn the_log_is_kept_for_the_slowest_member() {
    let limits = Limits { retained_entries: 2, tail_bytes: 400, append_bytes: 700, ..Limits::default() };
    let mut world = World::with(3, Options { limits, segment_bytes: 2 << 10, ..Options::default() });
    world.elect(1);
    let round = |world: &mut World, ids: &[u64]| {
        for _ in 0..20 {
            world.propose(1);
            world.settle();
        }
        world.wake(1);
        world.settle();
        world.wake(1);
        world.settle();
        ids.iter().for_each(|&id| world.sync_state(id));
        world.propose(1);
        world.settle();
    };
    round(&mut world, &[1, 2, 3]);
    let first = [1, 2, 3].map(|id| world.consensus(id).status().first.0);
    assert!(first.iter().all(|&first| first > 10), "nothing was released: {first:?}");
    let lacks = world.committed(3);
    world.isolate(3);
    for _ in 0..3 {
        round(&mut world, &[1, 2]);
    }
    for id in [1, 2] {
        let first = world.consensus(id).status().first.0;
        assert!(first <= lacks, "n{id} begins at {first}, n3 ends at {lacks}");
    }
    let KeptForOthers { entries, bytes, slowest } = world.consensus(1).kept_for_others();
    assert!(entries > 40 && bytes > 8 << 10 && bytes % (2 << 10) == 0, "{entries} entries, {bytes} bytes");
    assert_eq!(slowest, Some(MemberId(3)));
    let follower = world.consensus(2).kept_for_others();
    assert!(follower.entries > 40 && follower.slowest.is_none(), "{follower:?}");
    world.heal();
    for _ in 0..20 {
        world.wake(1);
        world.settle();
    }
    assert_eq!(world.committed(3), world.committed(1));
    round(&mut world, &[1, 2, 3]);
    world.wake(1);
    assert_eq!(world.consensus(1).kept_for_others(), KeptForOthers::default(), "nobody needs more than is retained anyway");
}
