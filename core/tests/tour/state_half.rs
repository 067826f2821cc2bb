//! What the state half of a member tells its log half.

use crate::member::consensus_settings;
use bytes::Bytes;
use quorate_core::command::{Command, Compact, Put};
use quorate_core::consensus::{Configuration, Entry, Payload};
use quorate_core::machine::{Machine, MachineLimits, MachineSettings, encode_command};
use quorate_core::member::{self, BatchLimits, MemberSettings, Order, Report, StateEffect, StateHalf, StateInput, StoreDone, StoreWork};
use quorate_core::storage::MemoryStore;
use quorate_core::types::{BatchNumber, Boot, ClusterId, LogId, LogIndex, MemberId, Now, RequestId, Revision, Term, WriteNumber};
use quorate_core::wal::{Identity, Planner, WalSettings, bootstrap_entries};
use std::time::Duration;

/// The state half of member 1, with its state store.
struct State {
    half: StateHalf<MemoryStore>,
    store: MemoryStore,
    applied: u64,
    persisted: BatchNumber,
    /// Everything the log half was told.
    reports: Vec<Report>,
}

impl State {
    fn new() -> Self {
        let settings = MachineSettings { member: MemberId(1), boot: Boot(1), limits: MachineLimits::default() };
        let store = MemoryStore::default();
        let machine = Machine::open(settings, store.clone()).unwrap();
        let recovered = Planner::bootstrap(
            Identity { cluster: ClusterId(1), member: MemberId(1) },
            bootstrap_entries(&[(MemberId(1), Vec::new())]).0,
            WalSettings { segment_bytes: 64 << 10, spare_segments: 0 },
            [1; 32],
        );
        let consensus = consensus_settings(MemberId(1), recovered.boot);
        let batch = BatchLimits { persist_delay: Duration::ZERO, ..BatchLimits::default() };
        let member_settings = MemberSettings { batch, ..MemberSettings::default() };
        let (_, half) = member::open(consensus, member_settings, recovered, Configuration::default(), machine, 0, Now::default());
        let mut state = Self { half, store, applied: 0, persisted: BatchNumber::default(), reports: Vec::new() };
        state.step(StateInput::Log(Order::Durable { log: LogIndex(1_000), write: WriteNumber(1) }));
        state
    }

    fn apply(&mut self, command: &Command) {
        self.applied += 1;
        let request = RequestId { member: MemberId(2), boot: Boot(1), sequence: self.applied };
        let payload = Payload::Command { request, command: encode_command(command) };
        let entry = Entry { id: LogId { term: Term(1), index: LogIndex(self.applied) }, payload };
        self.step(StateInput::Log(Order::Apply { entries: [entry].into(), owed: Vec::new() }));
        while self.half.has_background_work() {
            self.step(StateInput::Work);
        }
    }

    fn step(&mut self, input: StateInput<MemoryStore>) {
        let mut effects = Vec::new();
        self.half.step(Now::default(), input, &mut effects);
        self.half.flush(Now::default(), &mut effects);
        for effect in effects {
            let done = match effect {
                StateEffect::Store(StoreWork::Persist { number, batch, .. }) => {
                    self.store.write(&batch);
                    self.persisted = number;
                    StoreDone::Persisted { number, reader: self.store.clone(), stored_bytes: self.store.bytes() }
                }
                StateEffect::Store(StoreWork::Sync) => StoreDone::Synced(self.persisted),
                StateEffect::Store(StoreWork::Retire { table, below }) => {
                    self.store.retire(table, below);
                    StoreDone::Retired { reader: self.store.clone(), stored_bytes: self.store.bytes() }
                }
                StateEffect::Log(report) => {
                    self.reports.push(report);
                    continue;
                }
                _ => continue,
            };
            self.step(StateInput::Store(done));
        }
    }
}

/// Else a member whose store was full refuses the first write after a compaction, and raises its alarm again.
#[test]
fn the_log_half_is_told_at_once_what_a_compaction_gave_back() {
    let mut state = State::new();
    let value = Bytes::from(vec![b'v'; 1_000]);
    (0..10).for_each(|_| state.apply(&Command::Put(Put { key: "k".into(), value: value.clone(), ..Put::default() })));
    let told = |state: &State| match state.reports.last() {
        Some(Report::Applied { stored_bytes, .. }) => *stored_bytes,
        other => panic!("{other:?}"),
    };
    state.apply(&Command::Compact(Compact { revision: Revision(11), physical: false }));
    assert!(told(&state) < 4_000, "{} bytes are stored, {} told", state.store.bytes(), told(&state));
}
