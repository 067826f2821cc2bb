//! Draws a schedule from a seed. Each seed allows a random part of the fault classes only (swarm), so that averages do not hide
//! what only a few together can do.

use crate::chance::{Chance, Concern};
use crate::schedule::{Fault, Item, Schedule};
use crate::snapshot::RECEIVER_PHASES;

const CHAOS_BEGIN_MS: u64 = 2_000;
const CHAOS_END_MS: u64 = 46_000;
/// Of a seed at least so many faults.
const FAULTS_MIN: u64 = 12;
const FAULTS_MAX: u64 = 26;
/// A tenth of the seeds end in a cut that is not healed at first.
const STANDING_CUT_PERMILLE: u64 = 100;
/// Kinds drawn from: see [`draw`].
const KINDS: u64 = 24;
/// Of a thousand seeds, how many let leaders die one after the other while entries travel one by one.
const STORMY_PERMILLE: u64 = 80;

/// Of a thousand seeds, how many leave members so far behind that they need snapshots, and strike those on their way.
const LAGGING_PERMILLE: u64 = 250;

#[must_use]
pub fn schedule(seed: u64) -> Schedule {
    let mut chance = Chance::new(seed, Concern::Schedule, 0);
    let members = if chance.permille(600) { 3 } else { 5 };
    let allowed: Vec<u64> = (0..KINDS).filter(|_| chance.permille(650)).collect();
    let allowed = if allowed.is_empty() { vec![0] } else { allowed };
    let mut items: Vec<Item> = Vec::new();
    // Whose disk may be beyond repair: a minority, chosen once.
    let mut doomed: Vec<usize> = (0..members).collect();
    for at in 0..members {
        doomed.swap(at, at + chance.below((members - at) as u64) as usize);
    }
    doomed.truncate((members - 1) / 2);
    let stormy = chance.permille(STORMY_PERMILLE);
    if stormy || chance.permille(300) {
        items.push(Item { at_ms: 0, fault: Fault::Tiny });
    }
    if stormy {
        for at_ms in [4_000, 18_000, 32_000] {
            items.push(Item { at_ms, fault: storm(&mut chance) });
        }
    }
    if chance.permille(LAGGING_PERMILLE) {
        for at_ms in [5_000, 16_000, 27_000, 38_000] {
            items.extend(lag(&mut chance, at_ms, members));
        }
    }
    for _ in 0..chance.between(FAULTS_MIN, FAULTS_MAX) {
        let at_ms = chance.between(CHAOS_BEGIN_MS, CHAOS_END_MS - 1_000);
        let fault = draw(&mut chance, &allowed, members, &doomed);
        items.push(Item { at_ms, fault });
    }
    items.sort_by_key(|item| item.at_ms);
    let standing_cut = chance.permille(STANDING_CUT_PERMILLE).then(|| standing_cut(&mut chance, members));
    Schedule { seed, members, chaos_end_ms: CHAOS_END_MS, standing_cut, without_leases: false, items }
}

fn standing_cut(chance: &mut Chance, members: usize) -> Fault {
    let middle = chance.below(members as u64) as usize;
    match chance.below(3) {
        0 => Fault::Bridge { middle, ms: 0 },
        1 => Fault::Star { middle, ms: 0 },
        _ => Fault::Chain { first: middle, ms: 0 },
    }
}

fn draw(chance: &mut Chance, allowed: &[u64], members: usize, doomed: &[usize]) -> Fault {
    let member = chance.below(members as u64) as usize;
    let ms = chance.tailed(500, 9_000);
    let down_ms = chance.tailed(50, 6_000);
    let kind = *chance.pick(allowed);
    match kind {
        0 | 1 => Fault::Kill { member, down_ms, at_write: chance.permille(600) },
        2 => Fault::KillAll { down_ms },
        3 => Fault::Pause { member, ms },
        4 => Fault::OneWay { member, inbound: chance.permille(500), ms },
        5 => Fault::Symmetric { side: chance.between(1, (1 << members) - 2), ms },
        6 => Fault::Bridge { middle: member, ms },
        7 => match chance.below(2) {
            0 => Fault::Star { middle: member, ms },
            _ => Fault::Chain { first: member, ms },
        },
        8 => Fault::Loss { permille: chance.between(10, 300), ms },
        9 => Fault::Duplicate { permille: chance.between(20, 400), ms },
        10 => Fault::Reorder { permille: chance.between(20, 400), spread_ms: chance.tailed(2, 400), ms },
        11 => Fault::DelayTail { permille: chance.between(10, 300), most_ms: chance.tailed(150, 3_000), ms },
        12 => Fault::SlowDisk { member, sync_ms: chance.tailed(20, 2_500), ms },
        13 => Fault::FsyncError { member, down_ms },
        14 => Fault::DiskFull { member, ms },
        15 => rot(chance, doomed, down_ms),
        16 => Fault::ClockDrift { member, ppm: drift(chance), ms: 3 * ms },
        17 => Fault::ClockOffset { member, wall_ms: chance.between(0, 7_200_000).cast_signed() - 3_600_000 },
        18 => Fault::ClockStep { member, wall_ms: chance.between(0, 7_200_000).cast_signed() - 3_600_000 },
        19 => Fault::Compaction { times: chance.between(1, 4) },
        20 => Fault::Transfer { target: member, deaf_ms: if chance.permille(500) { chance.between(300, 2_500) } else { 0 } },
        21 => Fault::ReadError { member, reads: chance.tailed(0, 500) },
        22 => snapshot(chance, ms, down_ms),
        _ => storm(chance),
    }
}

/// What rots may take a member for good, and with it much of what else could happen: so all of it is one kind.
fn rot(chance: &mut Chance, doomed: &[usize], down_ms: u64) -> Fault {
    let member = *chance.pick(doomed);
    match chance.below(3) {
        0 => Fault::BitRot { member, down_ms },
        1 => Fault::RowRot { member },
        _ => Fault::JournalRot { member, down_ms },
    }
}

fn snapshot(chance: &mut Chance, ms: u64, down_ms: u64) -> Fault {
    match chance.below(6) {
        0 => Fault::SnapshotCut { ms },
        1 => Fault::SnapshotFlip,
        2 => Fault::SenderKill { down_ms },
        _ => Fault::ReceiverKill { phase: chance.below(RECEIVER_PHASES), down_ms },
    }
}

/// A member is away for long, and what brings it back may be struck.
fn lag(chance: &mut Chance, at_ms: u64, members: usize) -> [Item; 2] {
    let (member, down_ms) = (chance.below(members as u64) as usize, chance.between(3_000, 8_000));
    let (ms, again_ms) = (chance.tailed(200, 4_000), chance.tailed(50, 2_000));
    let away = Item { at_ms, fault: Fault::Kill { member, down_ms, at_write: false } };
    [away, Item { at_ms: at_ms + 1, fault: snapshot(chance, ms, again_ms) }]
}

/// Mostly as bad as a broken oscillator, sometimes far worse: no answer may depend on clocks.
fn drift(chance: &mut Chance) -> i64 {
    let most: u64 = if chance.permille(500) { 100_000 } else { 500_000 };
    chance.between(0, 2 * most).cast_signed() - most.cast_signed()
}

fn storm(chance: &mut Chance) -> Fault {
    Fault::Storm { times: chance.between(3, 12), most_ms: chance.tailed(3, 250) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_schedule_survives_being_saved_as_text() {
        for seed in 0..200 {
            let schedule = schedule(seed);
            let read = Schedule::from_text(&schedule.to_text()).expect("our own text");
            assert_eq!(read, schedule);
        }
    }

    #[test]
    fn a_text_that_is_no_schedule_is_refused_with_its_line() {
        let mut text = schedule(1).to_text();
        text.push_str("{\"at_ms\":1,\"fault\":\"Nonsense\"}\n");
        let lines = text.lines().count();
        let error = Schedule::from_text(&text).expect_err("not a fault").to_string();
        assert!(error.starts_with(&format!("line {lines}: unknown variant")), "{error}");
    }

    #[test]
    fn disks_rot_on_a_minority_only_and_every_seed_has_ten_faults() {
        for seed in 0..2_000 {
            let schedule = schedule(seed);
            assert!(schedule.items.len() >= 10);
            let rotten: BTreeSet<_> = schedule.items.iter().filter_map(|item| item.fault.dooms()).collect();
            assert!(rotten.len() <= (schedule.members - 1) / 2, "seed {seed}: {rotten:?}");
        }
    }
}
