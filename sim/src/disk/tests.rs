use super::*;
use quorate_core::consensus::{Entry, Payload};
use quorate_core::types::{Boot, ClusterId, LogId, LogIndex, MemberId, RequestId, Term, WriteNumber};
use quorate_core::wal::{Identity, Planner, Record, Recovered, Recovery, WalDamage, WalSettings, bootstrap_entries};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

const SETTINGS: WalSettings = WalSettings { segment_bytes: 16 << 10, spare_segments: 2 };
const SEEDS: u64 = 3_000;

fn create(segment: u64, length: u64) -> WalOp {
    WalOp::Create { segment: SegmentId(segment), length }
}

fn write(segment: u64, offset: u64, bytes: Vec<u8>) -> WalOp {
    WalOp::WriteAt { segment: SegmentId(segment), offset, bytes: bytes.into() }
}

fn sync(segment: u64) -> WalOp {
    WalOp::Sync { segment: SegmentId(segment) }
}

fn disk(ops: &[WalOp]) -> SimDisk {
    let mut disk = SimDisk::default();
    ops.iter().try_for_each(|op| disk.apply(op)).unwrap();
    disk
}

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

#[test]
fn what_was_synced_survives_every_crash() {
    let ops = [create(1, 4_096), write(1, 100, vec![7; 1_000]), sync(1), WalOp::SyncDirectory];
    for seed in 0..100 {
        let mut disk = disk(&ops);
        disk.crash(&mut rng(seed));
        assert_eq!(disk.read(SegmentId(1), 100, 1_000), vec![7; 1_000]);
        assert_eq!(disk.counters, DiskCounters { crashes: 1, ..DiskCounters::default() });
    }
}

#[test]
fn unsynced_sectors_land_in_every_combination() {
    let ops = [create(1, 4_096), sync(1), WalOp::SyncDirectory, write(1, 500, vec![7; 1_000])];
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..500 {
        let mut disk = disk(&ops);
        disk.crash(&mut rng(seed));
        let bytes = disk.read(SegmentId(1), 0, 4_096);
        let landed = [500..512, 512..1_024, 1_024..1_500].map(|range: Range<usize>| {
            assert!(bytes[range.clone()].iter().all(|byte| *byte == bytes[range.start]), "a sector was torn");
            bytes[range.start] == 7
        });
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count() > 0, landed.contains(&true));
        assert_eq!(disk.counters.crashes_that_mattered == 0, landed == [true; 3]);
        seen.insert(landed);
    }
    assert_eq!(seen.len(), 8);
}

#[test]
fn garbage_stays_within_what_was_being_written() {
    let ops = [create(1, 4_096), write(1, 0, vec![1; 600]), sync(1), WalOp::SyncDirectory, write(1, 600, vec![7; 1_000])];
    let mut garbled = 0;
    for seed in 0..200 {
        let mut disk = disk(&ops);
        disk.garbage = true;
        disk.crash(&mut rng(seed));
        assert_eq!(disk.read(SegmentId(1), 0, 600), vec![1; 600]);
        assert!(disk.counters.sectors_garbled <= 1);
        garbled += disk.counters.sectors_garbled;
    }
    assert!(garbled > 20);
}

#[test]
fn names_change_one_by_one_until_the_directory_is_synced() {
    let mut ops = vec![create(1, 512), create(2, 512), sync(1), sync(2), WalOp::SyncDirectory];
    ops.push(WalOp::Recycle { from: SegmentId(1), to: SegmentId(4) });
    ops.push(create(3, 512));
    ops.push(WalOp::Remove { segment: SegmentId(2) });
    let outcomes = |ops: &[WalOp]| -> std::collections::BTreeSet<Vec<u64>> {
        (0..300)
            .map(|seed| {
                let mut disk = disk(ops);
                disk.crash(&mut rng(seed));
                disk.segments().iter().map(|(segment, _)| segment.0).collect()
            })
            .collect()
    };
    assert_eq!(outcomes(&ops).len(), 8);
    ops.push(WalOp::SyncDirectory);
    assert_eq!(outcomes(&ops), [vec![3, 4]].into());
}

#[test]
fn faults_fail_what_they_should_and_are_counted() {
    let mut disk = disk(&[create(1, 512)]);
    disk.full = true;
    assert_eq!(disk.apply(&write(1, 0, vec![1])), Err(DiskError::Full));
    assert_eq!(disk.apply(&create(2, 512)), Err(DiskError::Full));
    assert_eq!(disk.apply(&sync(1)), Ok(()));
    disk.failing_sync = true;
    assert_eq!(disk.apply(&sync(1)), Err(DiskError::SyncFailed));
    assert_eq!(disk.apply(&WalOp::SyncDirectory), Err(DiskError::SyncFailed));
    disk.kill();
    assert_eq!(disk.apply(&write(1, 512, vec![1])), Err(DiskError::BeyondEnd(SegmentId(1))));
    assert_eq!(disk.apply(&sync(9)), Err(DiskError::NoSuchSegment(SegmentId(9))));
    assert_eq!((disk.counters.failed_writes, disk.counters.failed_syncs), (2, 2));
}

#[test]
fn rot_flips_one_durable_bit() {
    let mut disk = disk(&[create(1, 4_096), write(1, 600, vec![7; 10]), sync(1), WalOp::SyncDirectory]);
    let before = disk.read(SegmentId(1), 0, 4_096);
    let (segment, offset) = disk.rot(&mut rng(1), (SegmentId(u64::MAX), 0)).unwrap();
    let after = disk.read(segment, 0, 4_096);
    let changed: Vec<usize> = (0..4_096).filter(|at| before[*at] != after[*at]).collect();
    assert_eq!(changed, [usize::try_from(offset).unwrap()]);
    assert_eq!((before[changed[0]] ^ after[changed[0]]).count_ones(), 1);
    assert_eq!(SimDisk::default().rot(&mut rng(1), (SegmentId(u64::MAX), 0)), None);
}

#[test]
fn zeros_cost_nothing() {
    let disk = disk(&[create(1, 64 << 20), sync(1), write(1, 60 << 20, vec![1])]);
    let sectors: usize = disk.files.values().map(|file| file.durable.len() + file.volatile.len()).sum();
    assert_eq!(sectors, 1);
}

fn recover(disk: &SimDisk, seed: u8) -> Result<Recovered, WalDamage> {
    let mut recovery = Recovery::new(LogIndex(0), SETTINGS, [seed; 32]);
    for (segment, bytes) in disk.segments() {
        recovery.segment(segment, &bytes)?;
    }
    recovery.finish()
}

fn bootstrap(seed: u8) -> Recovered {
    let (entries, _) = bootstrap_entries(&[(MemberId(1), vec!["http://127.0.0.1:1".into()])]);
    Planner::bootstrap(Identity { cluster: ClusterId(1), member: MemberId(1) }, entries, SETTINGS, [seed; 32])
}

fn entry(term: Term, index: u64, size: usize) -> Entry {
    let request = RequestId { member: MemberId(1), boot: Boot(1), sequence: index };
    let command = vec![index.to_le_bytes()[0]; size].into();
    Entry { id: LogId { term, index: LogIndex(index) }, payload: Payload::Command { request, command } }
}

/// A member that appends, truncates, releases and crashes. Writes are pipelined: up to four are planned before the first is
/// carried out. `history` holds what the log would be after each write: what is recovered must be one of those states, or what
/// lies between two of them, but none before the last that was reported durable.
struct Member {
    rng: ChaCha8Rng,
    disk: SimDisk,
    planner: Planner,
    entries: Vec<Entry>,
    term: Term,
    queued: Vec<(WriteNumber, Vec<WalOp>, State)>,
    durable: State,
    /// What a killed process left in the page cache: it is read after the kill, but only the next write makes it durable.
    visible: Vec<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    entries: Vec<Entry>,
    term: Term,
    boot: Boot,
}

impl Member {
    fn append(&mut self, record: &Record) {
        self.planner.append(record);
        match record {
            Record::Entry(entry) => self.entries.push(entry.clone()),
            Record::Truncate { from } => self.entries.retain(|entry| entry.id.index < *from),
            Record::Ballot { term, .. } => self.term = *term,
            _ => {}
        }
    }

    fn work(&mut self, committed: u64) {
        let end = self.entries.len() as u64;
        match below(&mut self.rng, 12) {
            0 => self.append(&Record::Ballot { term: self.term.next(), vote: None }),
            1 if end > committed => {
                // Only in a new term, as a leader's first words.
                self.append(&Record::Ballot { term: self.term.next(), vote: None });
                let from = committed + 1 + below(&mut self.rng, end - committed);
                self.append(&Record::Truncate { from: LogIndex(from) });
            }
            2 => self.planner.idle(),
            3 => self.planner.release(LogIndex(committed.saturating_sub(3))),
            _ => {
                let size = below(&mut self.rng, 1_500);
                self.append(&Record::Entry(entry(self.term, end + 1, usize::try_from(size).unwrap())));
            }
        }
    }

    fn seal(&mut self, boot: Boot) {
        if let Some((number, ops)) = self.planner.seal() {
            self.queued.push((number, ops, State { entries: self.entries.clone(), term: self.term, boot }));
        }
    }

    fn carry_out(&mut self) {
        if !self.queued.is_empty() {
            let (number, ops, state) = self.queued.remove(0);
            ops.iter().try_for_each(|op| self.disk.apply(op)).unwrap();
            self.planner.durable(number);
            self.durable = state;
            self.visible.clear();
        }
    }
}

/// How many entries two logs begin with in common.
fn common(left: &[Entry], right: &[Entry]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// One member's lives, and how often a crash mattered.
fn live(seed: u64) -> DiskCounters {
    let mut rng = rng(seed);
    let disk = SimDisk { garbage: one_in(&mut rng, 2), ..SimDisk::default() };
    let first = bootstrap(u8::try_from(seed % 256).unwrap());
    let entries = first.entries.clone();
    let (queued, durable, visible) = (Vec::new(), State::default(), Vec::new());
    let mut member = Member { rng, disk, planner: first.planner, entries, term: Term(1), queued, durable, visible };
    let mut boot = Boot(1);
    member.seal(boot);
    // Durable, and never truncated after.
    let mut committed = 0;
    for life in 0..3 + below(&mut member.rng, 4) {
        for _ in 0..below(&mut member.rng, 40) {
            member.work(committed);
            if one_in(&mut member.rng, 3) && member.queued.len() < 4 {
                member.seal(boot);
            }
            if one_in(&mut member.rng, 3) {
                member.carry_out();
                let agreed = common(&member.durable.entries, &member.entries) as u64;
                committed = committed.max(agreed.saturating_sub(4));
            }
        }
        // The host is somewhere in the next write when the power goes, or only the process.
        if member.queued.is_empty() {
            member.append(&Record::Ballot { term: member.term.next(), vote: None });
            member.seal(boot);
        }
        let mut begun = member.visible.clone();
        if let Some((_, ops, state)) = member.queued.first() {
            let mut done = usize::try_from(below(&mut member.rng, ops.len() as u64 + 1)).unwrap();
            // Mostly right before a sync: that is when there is something to lose.
            while done < ops.len() && !matches!(ops[done], WalOp::Sync { .. }) && !one_in(&mut member.rng, 4) {
                done += 1;
            }
            ops[..done].iter().try_for_each(|op| member.disk.apply(op)).unwrap();
            begun.push(state.clone());
        }
        let killed = one_in(&mut member.rng, 5);
        if killed {
            member.disk.kill();
        } else {
            member.disk.crash(&mut member.rng);
        }
        let fresh = u8::try_from((seed + 100 + life) % 256).unwrap();
        let recovered = match recover(&member.disk, fresh) {
            Ok(recovered) => recovered,
            Err(WalDamage::Empty) if member.durable.boot == Boot(0) => return member.disk.counters,
            Err(damage) => panic!("seed {seed}: {damage}"),
        };
        let again = recover(&member.disk, fresh).unwrap();
        assert_eq!(
            (&again.entries, again.boot, again.term, again.base),
            (&recovered.entries, recovered.boot, recovered.term, recovered.base)
        );

        // Nothing synced is lost: what is there begins with what both the durable state and the write under way agree on, and is
        // no shorter unless that write truncates.
        let held = usize::try_from(recovered.base.index.0).unwrap();
        assert!(recovered.term >= member.durable.term && recovered.boot > member.durable.boot, "seed {seed}: the ballot went back");
        let durable = &member.durable.entries;
        let whole = [&durable[..held.min(durable.len())], &recovered.entries[..]].concat();
        let agreed = begun.iter().map(|state: &State| common(&state.entries, durable)).min().unwrap_or(durable.len());
        assert!(common(&whole, durable) >= agreed, "seed {seed}: entries {agreed} and before were synced");
        // Nothing else appeared: each entry is of the durable state, or of the write under way.
        let known = |entry: &Entry| {
            let at = usize::try_from(entry.id.index.0).unwrap() - 1;
            let under_way = begun.iter().any(|state: &State| state.entries.get(at) == Some(entry));
            durable.get(at) == Some(entry) || under_way || !begun.is_empty() && entry.id.index.0 as usize > agreed
        };
        assert!(whole.iter().all(known), "seed {seed}: entries from nowhere");
        member.entries = whole;
        member.term = recovered.term;
        member.planner = recovered.planner;
        member.queued.clear();
        boot = recovered.boot;
        let found = State { entries: member.entries.clone(), term: member.term, boot: Boot(boot.0 - 1) };
        if killed {
            member.visible = begun;
            member.visible.push(found);
        } else {
            member.visible.clear();
            member.durable = found;
        }
        member.seal(boot);
        if one_in(&mut member.rng, 2) {
            member.carry_out();
        }
    }
    member.disk.counters
}

#[test]
fn nothing_synced_is_lost_and_nothing_unsynced_corrupts() {
    let mut total = DiskCounters::default();
    for seed in 0..SEEDS {
        let counters = live(seed);
        total.crashes += counters.crashes;
        total.crashes_that_mattered += counters.crashes_that_mattered;
        total.sectors_garbled += counters.sectors_garbled;
    }
    assert!(total.crashes_that_mattered > SEEDS && total.sectors_garbled > SEEDS / 10, "{total:?}: too tame");
}

#[test]
fn the_same_seed_crashes_the_same_way() {
    let run = || {
        let mut disk = disk(&[create(1, 65_536), sync(1), WalOp::SyncDirectory, write(1, 0, vec![9; 20_000]), create(2, 512)]);
        disk.garbage = true;
        disk.crash(&mut rng(42));
        (disk.segments(), disk.counters)
    };
    assert_eq!(run(), run());
}
