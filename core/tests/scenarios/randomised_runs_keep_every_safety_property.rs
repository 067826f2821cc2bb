//! Election safety, log matching, leader completeness and state-machine safety (Raft Figure 3) over many seeds of a network that
//! loses, repeats and reorders, disks of any pace, crashes, partitions and transfers; then calm, in which the cluster must serve.
//!
//! The world checks each step: one leader per term, one entry per index whoever applies it, no read that misses what was
//! committed anywhere when it was asked for.

use crate::world::{Chaos, ELECTION_TIMEOUT, Options, World, chance};
use quorate_core::command::Refusal;
use quorate_core::consensus::{ConsensusEffect, ConsensusInput};
use quorate_core::consensus::{Limits, Role};
use quorate_core::types::{MemberId, RequestId};
use rand_core::RngCore;
use std::time::Duration;

const ROUNDS: u32 = 60;

/// What a seed did, so that a run in which nothing happened is noticed.
#[derive(Default)]
struct Tally {
    elections: usize,
    committed: usize,
    reads: usize,
    crashes: usize,
    installed: usize,
}

fn run(seed: u64, tally: &mut Tally) {
    let mut rng = chance(seed);
    let count = [1, 3, 3, 5][rng.next_u64() as usize % 4];
    let limits = Limits {
        append_entries: 1 + rng.next_u64() as usize % 4,
        inflight_appends: 1 + rng.next_u64() as usize % 4,
        tail_bytes: 500,
        retained_entries: 3,
        kept_bytes: if rng.next_u64().is_multiple_of(2) { 8 << 10 } else { Limits::default().kept_bytes },
        absent_after: Duration::from_millis(50 + rng.next_u64() % 300),
        unapplied_bytes: if rng.next_u64().is_multiple_of(4) { 1_000 } else { Limits::default().unapplied_bytes },
        ..Limits::default()
    };
    let (pre_vote, advance_first_election) = (!rng.next_u64().is_multiple_of(4), rng.next_u64().is_multiple_of(2));
    let options = Options { limits, pre_vote, advance_first_election, segment_bytes: 4 << 10, seed, configuration: None };
    let mut world = World::with(count, options);
    world.traced = false;
    world.chaos = Some(Chaos {
        rng: chance(seed + 1_000_000),
        loss_percent: rng.next_u64() % 20,
        duplicate_percent: rng.next_u64() % 20,
        delay_ms_max: 1 + rng.next_u64() % 30,
        fsync_ms_max: 1 + rng.next_u64() % 40,
    });
    let mut requests: Vec<RequestId> = Vec::new();
    for _ in 0..ROUNDS {
        let id = 1 + rng.next_u64() % count;
        match rng.next_u64() % 16 {
            0 if world.is_up(id) => {
                world.crash(id);
                tally.crashes += 1;
            }
            1 => world.isolate(id),
            2 => world.cut(id, 1 + rng.next_u64() % count),
            3 | 4 => world.heal(),
            5 => world.stall_disk(id),
            6 | 7 => (1..=count).for_each(|id| world.resume_disk(id)),
            8 | 9 => (1..=count).filter(|&id| !world.is_up(id)).collect::<Vec<_>>().into_iter().for_each(|id| world.restart(id)),
            10 if world.is_up(id) => world.step(id, ConsensusInput::Transfer(MemberId(1 + rng.next_u64() % count))),
            11 if world.is_up(id) => world.step(id, ConsensusInput::PeerClosed(MemberId(1 + rng.next_u64() % count))),
            12 | 15 if world.is_up(id) => world.sync_state(id),
            13 => world.stall_machine(id),
            14 => resume_machines(&mut world, count),
            _ => {}
        }
        for _ in 0..rng.next_u64() % 6 {
            let id = 1 + rng.next_u64() % count;
            if world.is_up(id) {
                requests.push(world.propose(id));
                world.read(id);
            }
        }
        world.run(Duration::from_millis(rng.next_u64() % 80));
    }
    calm(&mut world, count, seed);
    for (id, effect) in &world.effects {
        match effect {
            ConsensusEffect::Refuse(request, refusal) if *refusal != Refusal::OutcomeUnknown => {
                assert_eq!(world.occurrences(*request), 0, "seed {seed}: n{id} refused {request} with {refusal:?}, yet it is committed");
            }
            ConsensusEffect::Distrust { peer, reason } => panic!("seed {seed}: n{id} distrusts n{peer}: {reason}"),
            ConsensusEffect::RoleChanged { role: Role::Leader, .. } => tally.elections += 1,
            ConsensusEffect::Install(_) => tally.installed += 1,
            _ => {}
        }
    }
    for request in requests {
        assert!(world.occurrences(request) <= 1, "seed {seed}: {request} is in the log twice");
    }
    tally.committed += world.ledger.len();
    tally.reads += world.reads_answered;
}

fn resume_machines(world: &mut World, count: u64) {
    (1..=count).filter(|&id| world.is_up(id)).collect::<Vec<_>>().into_iter().for_each(|id| world.resume_machine(id));
}

/// After the chaos everyone is up and connected: within a few election timeouts each member serves writes and reads.
fn calm(world: &mut World, count: u64, seed: u64) {
    world.heal();
    world.chaos = None;
    (1..=count).for_each(|id| world.resume_disk(id));
    (1..=count).filter(|&id| !world.is_up(id)).collect::<Vec<_>>().into_iter().for_each(|id| world.restart(id));
    resume_machines(world, count);
    world.run(8 * ELECTION_TIMEOUT);
    let answered = world.reads_answered;
    let requests: Vec<_> = (1..=count).map(|id| world.propose(id)).collect();
    (1..=count).for_each(|id| {
        world.read(id);
    });
    world.run(ELECTION_TIMEOUT);
    for request in requests {
        assert_eq!(world.occurrences(request), 1, "seed {seed}: {request} was not committed in calm");
    }
    assert_eq!(world.reads_answered, answered + count as usize, "seed {seed}: reads were not answered in calm");
    for id in 1..=count {
        assert_eq!(world.committed(id), world.ledger.len() as u64, "seed {seed}: n{id} lags in calm");
    }
}

#[test]
fn randomised_runs_keep_every_safety_property() {
    let mut tally = Tally::default();
    for seed in 0..400 {
        run(seed, &mut tally);
    }
    let Tally { elections, committed, reads, crashes, installed } = tally;
    assert!(installed > 100, "{installed} snapshots were installed: too tame");
    assert!(elections > 1_000 && committed > 20_000 && reads > 10_000 && crashes > 500, "{elections} {committed} {reads} {crashes}");
}

#[test]
fn the_same_seed_runs_the_same_way() {
    let trace = |seed: u64| {
        let mut world = World::with(3, Options { seed, ..Options::default() });
        world.chaos = Some(Chaos { rng: chance(seed), loss_percent: 10, duplicate_percent: 10, delay_ms_max: 20, fsync_ms_max: 20 });
        world.run(5 * ELECTION_TIMEOUT);
        world.trace().to_string()
    };
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
    assert_ne!(trace(1), trace(2));
}
