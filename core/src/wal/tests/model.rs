//! The log against a slow obvious model, over random lives.

use super::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// What the log must say: the whole of it as lists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Model {
    boot: Boot,
    term: Term,
    vote: Option<MemberId>,
    commit: LogIndex,
    state: StateNumber,
    /// The entry before the first of `entries`: where the newest installed state ends.
    before: LogId,
    entries: Vec<Entry>,
}

impl Model {
    fn note(&mut self, record: &Record) {
        match record {
            Record::Boot(boot) => self.boot = *boot,
            Record::Ballot { term, vote } => (self.term, self.vote) = (*term, *vote),
            Record::Commit(index) => self.commit = self.commit.max(*index),
            Record::Entry(entry) => self.entries.push(entry.clone()),
            Record::Truncate { from } => self.entries.retain(|entry| entry.id.index < *from),
            Record::Install { last, state } => {
                (self.before, self.state, self.commit) = (*last, *state, self.commit.max(last.index));
                self.entries.clear();
            }
            Record::SegmentHeader(_) | Record::TornTail { .. } | Record::Idle | Record::State(_) => {}
        }
    }

    fn end(&self) -> u64 {
        self.before.index.0 + self.entries.len() as u64
    }

    /// How many of `entries` are at or below an index.
    fn through(&self, index: LogIndex) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.before.index.0)?).ok().filter(|held| *held <= self.entries.len())
    }

    fn matches(&self, recovered: &Recovered) -> bool {
        let Some(held) = self.through(recovered.base.index) else { return false };
        (self.boot.next(), self.term, self.vote, self.commit) == (recovered.boot, recovered.term, recovered.vote, recovered.commit)
            && self.state == recovered.state
            && self.entries[held..] == recovered.entries
            && held.checked_sub(1).map_or(self.before, |last| self.entries[last].id) == recovered.base
    }
}

/// A disk that may crash: each operation since the last write that was reported durable, in order.
struct Life {
    chance: ChaCha8Rng,
    disk: Disk,
    planner: Planner,
    /// What is durable, and each record after it.
    durable: Model,
    pending: Vec<Record>,
    released: LogIndex,
    installed: u64,
}

impl Life {
    fn below(&mut self, bound: u64) -> u64 {
        self.chance.next_u64() % bound
    }

    fn append(&mut self, record: Record) {
        self.planner.append(&record);
        self.pending.push(record);
    }

    fn now(&self) -> Model {
        let mut model = self.durable.clone();
        self.pending.iter().for_each(|record| model.note(record));
        model
    }

    fn something(&mut self) {
        let model = self.now();
        match self.below(20) {
            0 => self.append(Record::Ballot { term: model.term.next(), vote: None }),
            1 => self.append(Record::Ballot { term: model.term, vote: Some(MemberId(0xb)) }),
            2 => {
                let commit = model.commit.0 + self.below(model.end() - model.commit.0 + 1);
                self.append(Record::Commit(LogIndex(commit)));
            }
            3 if model.end() > model.commit.0 => {
                let from = model.commit.0 + 1 + self.below(model.end() - model.commit.0);
                self.append(Record::Truncate { from: LogIndex(from) });
            }
            4 => {
                // Only what is committed durably may go.
                self.released = self.released.max(LogIndex(self.durable.commit.0.saturating_sub(self.chance.next_u64() % 8)));
                self.planner.release(self.released);
            }
            5 => self.planner.idle(),
            7 if self.below(6) == 0 => {
                let last = LogId { term: model.term, index: LogIndex(model.commit.0 + 1 + self.below(20)) };
                let state = model.state.next();
                self.planner.install(last, state);
                self.planner.release(last.index);
                self.released = last.index;
                self.pending.push(Record::Install { last, state });
                self.installed += 1;
            }
            6 => {
                let size = self.below(12_000);
                self.append(Record::Entry(entry(model.term.0, model.end() + 1, usize::try_from(size).unwrap())));
            }
            _ => {
                let size = self.below(700);
                self.append(Record::Entry(entry(model.term.0, model.end() + 1, usize::try_from(size).unwrap())));
            }
        }
    }

    fn write(&mut self) {
        if let Some((number, ops)) = self.planner.seal() {
            self.disk.apply(&ops);
            self.planner.durable(number);
            self.durable = self.now();
            self.pending.clear();
        }
    }

    fn check_locations(&mut self) {
        let first = self.planner.first().0;
        let end = self.durable.end();
        // What an installation voids is nobody's any more, durable or not.
        if first > end || self.now().before != self.durable.before {
            return;
        }
        let index = first + self.below(end - first + 1);
        let bytes = u32::try_from(self.below(3_000)).unwrap();
        let location = self.planner.locate(LogIndex(index), bytes).expect("a durable entry is located");
        let found = self.disk.read(location);
        let at = self.durable.through(LogIndex(index)).unwrap() - 1;
        assert!(!found.is_empty());
        assert_eq!(found, self.durable.entries[at..at + found.len()]);
    }

    fn check_terms(&self) {
        let model = self.now();
        let held = model.through(self.planner.first().previous()).unwrap();
        for entry in &model.entries[held.saturating_sub(1)..] {
            assert_eq!(self.planner.term(entry.id.index), Some(entry.id.term), "of entry {}", entry.id);
        }
        assert_eq!(self.planner.end().index.0, model.end());
    }

    /// The write in the making, torn: a prefix of its operations, the last of them by sectors. Then recovery.
    fn crash(&mut self, seed: u8) {
        if let Some((_, ops)) = self.planner.seal() {
            let done = usize::try_from(self.below(ops.len() as u64 + 1)).unwrap();
            self.disk.apply(&ops[..done]);
            if let Some(WalOp::WriteAt { segment, offset, bytes }) = ops.get(done) {
                let mut whole = self.disk.clone();
                whole.apply(&ops[done..=done]);
                let (from, to) = (usize::try_from(*offset).unwrap(), usize::try_from(*offset).unwrap() + bytes.len());
                for sector in from / 512..to.div_ceil(512) {
                    let range = sector * 512..((sector + 1) * 512).min(whole.files[segment].len());
                    if !self.chance.next_u64().is_multiple_of(3) {
                        let file = self.disk.files.get_mut(segment).unwrap();
                        file[range.clone()].copy_from_slice(&whole.files[segment][range]);
                    }
                }
            }
        }
        let recovered = self.disk.recover_from(LogIndex(0), seed).unwrap_or_else(|damage| panic!("{damage}"));
        assert_eq!(summary(&recovered), summary(&self.disk.recover_from(LogIndex(0), seed).unwrap()));
        // Some prefix of the records since the last durable write.
        let mut model = self.durable.clone();
        let mut records = core::mem::take(&mut self.pending).into_iter();
        while !model.matches(&recovered) {
            let Some(record) = records.next() else { panic!("recovered {recovered:#?}\nis not a prefix of what was written") };
            model.note(&record);
        }
        self.planner = recovered.planner;
        self.released = self.released.min(model.commit);
        self.durable = model;
        self.pending.push(Record::Boot(recovered.boot));
        if self.below(4) > 0 {
            self.write();
        }
    }
}

fn live(seed: u64) -> (u64, SegmentId, u64) {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let (planner, disk) = started();
    let durable = Model { boot: Boot(1), term: Term(1), commit: LogIndex(2), entries: founders(), ..Model::default() };
    let mut crashes = 0;
    let steps = 50 + chance.next_u64() % 300;
    let mut life = Life { chance, disk, planner, durable, pending: Vec::new(), released: LogIndex(0), installed: 0 };
    for step in 0..steps {
        match life.below(40) {
            0 => {
                life.crash(u8::try_from(step % 251).unwrap());
                crashes += 1;
            }
            1..12 => {
                life.write();
                life.check_locations();
            }
            _ => life.something(),
        }
        life.check_terms();
        let ids: Vec<u64> = life.disk.files.keys().map(|segment| segment.0).collect();
        assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ids:?}");
    }
    life.crash(1);
    (crashes, *life.disk.files.keys().last().unwrap(), life.installed)
}

#[test]
fn the_log_says_what_a_list_of_records_says() {
    let mut crashes = 0;
    let mut segments = 0;
    let mut installed = 0;
    for seed in 0..400 {
        let (crashed, last, states) = live(seed);
        crashes += crashed;
        segments += last.0;
        installed += states;
    }
    assert!(crashes > 1_000 && segments > 4_000, "{crashes} crashes, {segments} segments: too tame");
    assert!(installed > 300, "{installed} states were installed: too tame");
}
