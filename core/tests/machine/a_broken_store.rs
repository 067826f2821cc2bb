//! A state store that stops answering: the member ends, and nothing of what it was doing is seen or kept.

use bytes::Bytes;
use quorate_core::command::{Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, Op, Put, Range, Refusal, Txn};
use quorate_core::consensus::{Entry, Payload};
use quorate_core::machine::{Machine, MachineLimits, MachineSettings, encode_command};
use quorate_core::machine::{MachineEffect, MachineInput};
use quorate_core::storage::MemoryStore;
use quorate_core::types::{BatchNumber, Boot, LogId, LogIndex, MemberId, RequestId, Revision, Term};
use std::sync::Arc;

struct Member {
    machine: Machine<MemoryStore>,
    store: MemoryStore,
}

impl Member {
    /// With `a` in the state store and not in memory.
    fn new() -> Self {
        let store = MemoryStore::default();
        let limits = MachineLimits { recent_bytes: 0, ..MachineLimits::default() };
        let settings = MachineSettings { member: MemberId(1), boot: Boot(1), limits };
        let machine = Machine::open(settings, store.clone()).unwrap();
        let mut member = Self { machine, store };
        let mut persisted = BatchNumber(0);
        for effect in member.apply(&[Command::Put(put("a", "1"))]) {
            if let MachineEffect::Persist { number, batch, .. } = effect {
                member.store.write(&batch);
                persisted = number;
            }
        }
        let mut out = vec![];
        member.machine.step(MachineInput::Persisted(persisted, member.store.clone()), &mut out);
        member.machine.flush(&mut out);
        member
    }

    /// One step with them all, and its flush.
    fn apply(&mut self, commands: &[Command]) -> Vec<MachineEffect<MemoryStore>> {
        let applied = self.machine.applied().index;
        let entry = |(command, index): (&Command, u64)| {
            let request = RequestId { member: MemberId(1), boot: Boot(1), sequence: index };
            let payload = Payload::Command { request, command: encode_command(command) };
            Entry { id: LogId { term: Term(1), index: LogIndex(index) }, payload }
        };
        let entries: Vec<Entry> = commands.iter().zip(applied.0 + 1..).map(entry).collect();
        let mut out = vec![];
        self.machine.step(MachineInput::Apply(entries.into()), &mut out);
        self.machine.flush(&mut out);
        out
    }
}

fn put(key: &'static str, value: &'static str) -> Put {
    Put { key: key.into(), value: value.into(), ..Put::default() }
}

fn key(key: &'static str) -> KeyRange {
    KeyRange { key: key.into(), end: Bytes::new() }
}

/// Each has to read the value of `a`, after it has changed `b` where it can.
fn commands_that_read() -> Vec<Command> {
    let b = || Op::Put(put("b", "1"));
    let get = Op::Range(Range { range: key("a"), ..Range::default() });
    let delete = DeleteRange { range: key("a"), prev_kv: true };
    let value = Compare { range: key("a"), result: CompareResult::Equal, target: CompareTarget::Value("1".into()) };
    let nested = Op::Txn(Txn { success: vec![get.clone()], ..Txn::default() });
    let then = |success| Command::Txn(Txn { success, ..Txn::default() });
    vec![
        then(vec![b(), get]),
        then(vec![b(), nested]),
        then(vec![b(), Op::DeleteRange(delete.clone())]),
        then(vec![b(), Op::Put(Put { ignore_value: true, ..put("a", "") })]),
        Command::Txn(Txn { compare: vec![value], success: vec![b()], ..Txn::default() }),
        Command::Put(Put { prev_kv: true, ..put("a", "2") }),
        Command::DeleteRange(delete),
    ]
}

#[test]
fn a_failed_read_while_applying_stops_the_member_and_nothing_of_it_is_seen_or_kept() {
    for command in commands_that_read() {
        let mut member = Member::new();
        let view = member.machine.view();
        member.store.break_off();
        let effects = member.apply(&[Command::Put(put("c", "1")), command.clone(), Command::Put(put("d", "1"))]);
        let [MachineEffect::Fatal(reason)] = effects.as_slice() else { panic!("{command:?}: {effects:?}") };
        assert_eq!(reason, "entry 1/3: state store: the device fails a read");
        assert!(Arc::ptr_eq(&view, &member.machine.view()), "{command:?}: the state before is what is seen");
        member.store.mend();
        assert!(member.apply(&[Command::Put(put("e", "1"))]).is_empty(), "{command:?}: it does not go on");
    }
}

/// The client may ask another member; this one finds out when it applies.
#[test]
fn a_failed_read_for_a_client_is_a_refusal_to_that_client_alone() {
    let member = Member::new();
    let view = member.machine.view();
    member.store.break_off();
    let get = Range { range: key("a"), ..Range::default() };
    assert_eq!(view.range(&get), Err(Refusal::StorageFailed));
    assert_eq!(view.at(b"a", Revision(2)), Err(Refusal::StorageFailed));
    assert_eq!(view.events(Revision(1), 10, 1_000), Err(Refusal::StorageFailed));
    assert_eq!(view.hash_kv(Revision(0)), Err(Refusal::StorageFailed));
    assert_eq!(view.read_txn(&Txn { success: vec![Op::Range(get.clone())], ..Txn::default() }), Err(Refusal::StorageFailed));
    member.store.mend();
    assert_eq!(view.range(&get).map(|reply| reply.count), Ok(1));
}
