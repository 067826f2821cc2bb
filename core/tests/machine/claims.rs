//! One claim about the machine per test.

use crate::model::Model;
use crate::rows::count;
use bytes::Bytes;
use quorate_core::command::{
    Alarm, AlarmChange, AlarmKind, COMMAND_KEYS_MAX, Command, Compact, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange,
    MemberAttributes, Op, OpReply, Put, Range, Refusal, Reply, SortTarget, TXN_DEPTH_MAX, Txn,
};
use quorate_core::consensus::{Configuration, Entry, Payload};
use quorate_core::machine::{Machine, MachineLimits, MachineSettings, decode_command, encode_command, validate};
use quorate_core::machine::{MachineEffect, MachineInput};
use quorate_core::storage::{Direction, MemoryStore, RowOp, StateReader, Table};
use quorate_core::types::{BatchNumber, Boot, LeaseId, LogId, LogIndex, MemberId, RequestId, Revision, RevisionId, Term};
use std::ops::ControlFlow;

pub(crate) type Effect = MachineEffect<MemoryStore>;

/// A machine whose batches are persisted only when told.
pub(crate) struct Member {
    pub(crate) machine: Machine<MemoryStore>,
    pub(crate) store: MemoryStore,
    commits: Vec<(BatchNumber, quorate_core::storage::WriteBatch)>,
    persisted: BatchNumber,
}

pub(crate) fn settings(limits: MachineLimits) -> MachineSettings {
    MachineSettings { member: MemberId(1), boot: Boot(1), limits }
}

pub(crate) fn limits(slice_rows: usize) -> MachineLimits {
    MachineLimits { recent_bytes: 0, unpersisted_bytes: 1_000, slice_rows }
}

impl Member {
    pub(crate) fn new(slice_rows: usize) -> Self {
        let store = MemoryStore::default();
        let mut machine = Machine::open(settings(limits(slice_rows)), store.clone()).unwrap();
        let peer_urls = [(MemberId(1), vec!["http://a:2380".into()]), (MemberId(2), vec!["http://b:2380".into()])].into();
        let voters = [MemberId(1)].into();
        machine.bootstrap(Configuration { voters, learners: [MemberId(2)].into(), peer_urls, ..Configuration::default() });
        Self { machine, store, commits: vec![], persisted: BatchNumber(0) }
    }

    fn step(&mut self, input: MachineInput<MemoryStore>) -> Vec<Effect> {
        let mut out = vec![];
        self.machine.step(input, &mut out);
        self.machine.flush(&mut out);
        self.machine.check();
        for effect in &out {
            if let MachineEffect::Persist { number, batch, .. } = effect {
                self.commits.push((*number, batch.clone()));
            }
        }
        out
    }

    fn apply_payload(&mut self, payload: Payload) -> Vec<Effect> {
        let id = LogId { term: Term(1), index: self.machine.applied().index.next() };
        self.step(MachineInput::Apply([Entry { id, payload }].into()))
    }

    pub(crate) fn apply_from(&mut self, request: RequestId, command: &Command) -> Vec<Effect> {
        self.apply_payload(Payload::Command { request, command: encode_command(command) })
    }

    pub(crate) fn effects(&mut self, command: &Command) -> Vec<Effect> {
        self.apply_from(RequestId { member: MemberId(1), boot: Boot(1), sequence: 1 }, command)
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Result<Reply, Refusal> {
        reply(&self.effects(command)).expect("an answer")
    }

    pub(crate) fn persist(&mut self) -> Vec<Effect> {
        for (number, batch) in self.commits.drain(..) {
            self.store.write(&batch);
            self.persisted = number;
        }
        self.step(MachineInput::Persisted(self.persisted, self.store.clone()))
    }

    pub(crate) fn compact_all(&mut self) {
        while self.machine.has_background_work() {
            self.step(MachineInput::BackgroundWork);
        }
    }
}

pub(crate) fn reply(effects: &[Effect]) -> Option<Result<Reply, Refusal>> {
    effects.iter().find_map(|effect| if let MachineEffect::Reply(_, answer) = effect { Some(answer.clone()) } else { None })
}

fn retired(effects: &[Effect]) -> Option<RevisionId> {
    effects.iter().find_map(|effect| if let MachineEffect::Retire { below, .. } = effect { Some(*below) } else { None })
}

fn has_row(batch: &quorate_core::storage::WriteBatch, wanted: Table, name: &str) -> bool {
    batch.rows.iter().any(|row| matches!(row, RowOp::Put { table, key, .. } if *table == wanted && key == name.as_bytes()))
}

fn key(key: &str) -> KeyRange {
    KeyRange { key: Bytes::copy_from_slice(key.as_bytes()), end: Bytes::new() }
}

pub(crate) fn put(name: &str, value: &str) -> Put {
    Put { key: key(name).key, value: Bytes::copy_from_slice(value.as_bytes()), ..Put::default() }
}

pub(crate) fn get(name: &str) -> Range {
    Range { range: key(name), ..Range::default() }
}

pub(crate) fn delete(name: &str) -> DeleteRange {
    DeleteRange { range: key(name), prev_kv: false }
}

pub(crate) fn then(success: Vec<Op>) -> Txn {
    Txn { success, ..Txn::default() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One of each, and the bytes that the first release wrote for it, which had no header.
fn commands_with_their_first_bytes() -> [(Command, &'static str); 6] {
    let compare = Compare { range: key("a"), result: CompareResult::Less, target: CompareTarget::Value(Bytes::from_static(b"v")) };
    let txn = Txn {
        compare: vec![compare],
        success: vec![Op::Put(put("a", "1")), Op::Txn(then(vec![Op::DeleteRange(delete("b"))]))],
        failure: vec![Op::Range(get("a"))],
    };
    let alarm = Alarm { member: MemberId(300), kind: AlarmKind::NoSpace };
    let attributes = MemberAttributes { member: MemberId(7), name: "n".into(), client_urls: vec!["http://a".into()] };
    [
        (Command::Put(Put { lease: LeaseId(9), ..put("foo", "bar") }), "0e00000008ea1a33010003666f6f0362617212000000"),
        (Command::DeleteRange(DeleteRange { range: key("foo"), prev_kv: true }), "080000008ca4192e010103666f6f0001"),
        (
            Command::Txn(txn),
            "2f000000ac99bc990102050301016100020301760201010161013100000000030001000201620000000161000000000000000000000000",
        ),
        (Command::Compact(Compact { revision: Revision(5), physical: true }), "040000005951363701030a01"),
        (Command::Alarm(AlarmChange { alarm, active: true }), "060000008cf7b8ed0104ac020001"),
        (Command::Publish(attributes), "0f0000006ac4db5c010507016e0108687474703a2f2f61"),
    ]
}

#[test]
fn the_bytes_of_a_command_never_change() {
    let commands = commands_with_their_first_bytes().map(|(command, _)| {
        let bytes = encode_command(&command);
        assert_eq!(decode_command(&bytes).as_ref(), Ok(&command));
        hex(&bytes)
    });
    insta::assert_snapshot!(commands.join("\n"), @r"
0f000000ada6658d02000003666f6f0362617212000000
09000000e3d979bd02000103666f6f0001
30000000aa57008e020002050301016100020301760201010161013100000000030001000201620000000161000000000000000000000000
050000004b1944970200030a01
07000000e2d39a3e020004ac020001
100000009c1adfcb02000507016e0108687474703a2f2f61
");
}

#[test]
fn a_command_that_an_earlier_release_wrote_is_read() {
    for (command, first) in commands_with_their_first_bytes() {
        let byte = |at: usize| u8::from_str_radix(&first[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..first.len()).step_by(2).map(byte).collect();
        assert_eq!(decode_command(&bytes), Ok(command));
    }
}

#[test]
fn the_small_rows_never_change() {
    let mut member = Member::new(10);
    member.apply(&Command::Put(put("a", "1"))).unwrap();
    member.apply(&Command::Alarm(AlarmChange { alarm: Alarm { member: MemberId(1), kind: AlarmKind::Corrupt }, active: true })).unwrap();
    let attributes = MemberAttributes { member: MemberId(1), name: "n".into(), client_urls: vec!["http://a:2379".into()] };
    member.apply(&Command::Publish(attributes)).unwrap();
    member.persist();
    let mut rows = String::new();
    for name in ["format", "applied", "configuration", "members", "alarms"] {
        let row = member.store.get(Table::Meta, name.as_bytes()).unwrap().expect(name);
        rows += &format!("{name} {}\n", hex(&row));
    }
    insta::assert_snapshot!(rows, @r"
format 02000000529ff8030102
applied 180000002f96db6c010103049eabcdd8efe48fa4de01e1eeebf6ce8ed6ef8001
configuration 27000000e02899f10101010001020201010d687474703a2f2f613a3233383002010d687474703a2f2f623a32333830
members 150000002c5d4ab801010101016e010d687474703a2f2f613a32333739
alarms 040000007568aad101010101
");
}

/// "floor" is what the first release called the compact revision.
#[test]
fn the_marks_of_a_compaction_never_change() {
    let mut member = Member::new(10);
    member.apply(&Command::Put(put("a", "1"))).unwrap();
    member.apply(&Command::Put(put("a", "2"))).unwrap();
    member.apply(&Command::Compact(Compact { revision: Revision(3), physical: false })).unwrap();
    member.persist();
    member.compact_all();
    member.persist();
    let row = |name: &str| hex(&member.store.get(Table::Meta, name.as_bytes()).unwrap().unwrap());
    insta::assert_snapshot!(row("floor"), @"020000004d0862c40106");
    insta::assert_snapshot!(row("swept"), @"070000003cc456850104ffffffff0f");
    assert_eq!([Table::Meta as u8, Table::Recent as u8, Table::Settled as u8], [0, 1, 2]);
}

#[test]
fn only_the_member_that_took_a_request_answers_it_and_only_in_the_same_life() {
    let mut member = Member::new(10);
    let command = Command::Put(put("a", "1"));
    for (id, boot, answered) in [(1, 1, true), (2, 1, false), (1, 2, false)] {
        let effects = member.apply_from(RequestId { member: MemberId(id), boot: Boot(boot), sequence: 3 }, &command);
        assert_eq!(reply(&effects).is_some(), answered);
    }
    assert_eq!(member.machine.view().revision(), Revision(4));
}

#[test]
fn an_entry_that_cannot_be_read_stops_the_member() {
    let mut member = Member::new(10);
    let request = RequestId { member: MemberId(1), boot: Boot(1), sequence: 1 };
    let effects = member.apply_payload(Payload::Command { request, command: Bytes::from_static(b"junk") });
    assert!(matches!(effects.as_slice(), [MachineEffect::Fatal(_)]), "{effects:?}");
}

#[test]
fn a_gap_in_the_log_stops_the_member_and_an_old_entry_is_passed_over() {
    let mut member = Member::new(10);
    member.apply(&Command::Put(put("a", "1"))).unwrap();
    let at = |index| Entry { id: LogId { term: Term(1), index: LogIndex(index) }, payload: Payload::Empty };
    assert!(member.step(MachineInput::Apply([at(1)].into())).is_empty());
    assert!(matches!(member.step(MachineInput::Apply([at(3)].into())).as_slice(), [MachineEffect::Fatal(_)]));
}

#[test]
fn a_full_cluster_takes_no_puts_but_deletes_compacts_and_reads() {
    let mut member = Member::new(10);
    member.apply(&Command::Put(put("a", "1"))).unwrap();
    let alarm = Alarm { member: MemberId(9), kind: AlarmKind::NoSpace };
    let raise = Command::Alarm(AlarmChange { alarm, active: true });
    for _ in 0..2 {
        assert_eq!(member.apply(&raise), Ok(Reply::Alarm { revision: Revision(2), alarms: vec![alarm] }));
    }
    assert_eq!(member.apply(&Command::Put(put("a", "2"))), Err(Refusal::NoSpace));
    let nested = Txn { failure: vec![Op::Txn(then(vec![Op::Put(put("a", "2"))]))], ..Txn::default() };
    assert_eq!(member.apply(&Command::Txn(nested)), Err(Refusal::NoSpace));
    assert!(member.apply(&Command::Txn(then(vec![Op::Range(get("a")), Op::DeleteRange(delete("z"))]))).is_ok());
    assert!(member.apply(&Command::DeleteRange(delete("a"))).is_ok());
    assert!(member.apply(&Command::Compact(Compact { revision: Revision(2), physical: false })).is_ok());
    let lower = Command::Alarm(AlarmChange { alarm, active: false });
    assert_eq!(member.apply(&lower), Ok(Reply::Alarm { revision: Revision(3), alarms: vec![alarm] }));
    assert_eq!(member.apply(&lower), Ok(Reply::Alarm { revision: Revision(3), alarms: vec![] }));
    assert!(member.apply(&Command::Put(put("a", "2"))).is_ok());
}

#[test]
fn a_corrupt_cluster_changes_no_keys() {
    let mut member = Member::new(10);
    let alarm = Alarm { member: MemberId(9), kind: AlarmKind::Corrupt };
    member.apply(&Command::Alarm(AlarmChange { alarm, active: true })).unwrap();
    for command in [
        Command::Put(put("a", "1")),
        Command::DeleteRange(delete("a")),
        Command::Txn(Txn::default()),
        Command::Compact(Compact { revision: Revision(1), physical: false }),
    ] {
        assert_eq!(member.apply(&command), Err(Refusal::Corrupt));
    }
    assert_eq!(member.machine.view().alarms(), [alarm]);
}

#[test]
fn members_have_no_name_until_they_publish_it_and_survive_a_reopening() {
    let mut member = Member::new(10);
    let names = |member: &Member| member.machine.view().members().iter().map(|m| (m.name.clone(), m.is_learner)).collect::<Vec<_>>();
    assert_eq!(names(&member), [(String::new(), false), (String::new(), true)]);
    let attributes = |id| MemberAttributes { member: MemberId(id), name: format!("m{id}"), client_urls: vec![] };
    assert_eq!(member.apply(&Command::Publish(attributes(2))), Ok(Reply::Published));
    assert_eq!(member.apply(&Command::Publish(attributes(3))), Err(Refusal::MemberNotFound));
    let mut configuration = member.machine.configuration().unwrap().clone();
    configuration.peer_urls.insert(MemberId(3), vec![]);
    configuration.voters.insert(MemberId(3));
    member.apply_payload(Payload::Configuration { request: None, configuration: configuration.clone() });
    member.persist();
    let reopened = Machine::open(settings(limits(10)), member.store.clone()).unwrap();
    assert_eq!(reopened.view().members(), member.machine.view().members());
    assert_eq!(reopened.view().members()[1].name, "m2");
    assert_eq!(reopened.configuration(), Some(&configuration));
    configuration.peer_urls.remove(&MemberId(2));
    member.apply_payload(Payload::Configuration { request: None, configuration });
    assert_eq!(names(&member), [(String::new(), false), (String::new(), false)]);
}

#[test]
fn rows_are_retired_only_after_a_sync_that_covers_their_move() {
    let mut member = Member::new(2);
    for value in 0..6 {
        member.apply(&Command::Put(put("a", &value.to_string()))).unwrap();
    }
    member.apply(&Command::Compact(Compact { revision: Revision(6), physical: false })).unwrap();
    member.compact_all();
    assert!(
        member.commits.iter().all(|(_, batch)| !has_row(batch, Table::Meta, "swept")),
        "nothing is persisted, so nothing may be compacted"
    );
    member.persist();
    let before = member.persisted;
    member.compact_all();
    assert_eq!(retired(&member.step(MachineInput::Synced(before))), None);
    let effects = member.persist();
    assert!(effects.iter().any(|effect| matches!(effect, MachineEffect::SyncState)));
    assert_eq!(retired(&member.step(MachineInput::Synced(before))), None);
    let synced = member.persisted;
    assert_eq!(retired(&member.step(MachineInput::Synced(synced))).map(|below| below.main), Some(Revision(6)));
}

#[test]
fn compacted_to_is_in_the_batch_of_its_moves() {
    let mut member = Member::new(100);
    member.apply(&Command::Put(put("a", "1"))).unwrap();
    member.apply(&Command::Put(put("b", "1"))).unwrap();
    member.apply(&Command::Compact(Compact { revision: Revision(3), physical: false })).unwrap();
    member.persist();
    let effects = member.step(MachineInput::BackgroundWork);
    let batches: Vec<_> =
        effects.iter().filter_map(|e| if let MachineEffect::Persist { batch, .. } = e { Some(batch) } else { None }).collect();
    let [batch] = batches.as_slice() else { panic!("{effects:?}") };
    let has = |table: Table, name: &str| has_row(batch, table, name);
    assert!(has(Table::Settled, "a") && has(Table::Meta, "swept") && has(Table::Meta, "applied") && !has(Table::Settled, "b"));
}

#[test]
fn a_physical_compaction_is_answered_when_its_space_is_given_back() {
    let mut member = Member::new(10);
    for name in ["a", "b", "a"] {
        member.apply(&Command::Put(put(name, "1"))).unwrap();
    }
    let effects = member.effects(&Command::Compact(Compact { revision: Revision(4), physical: true }));
    assert_eq!(reply(&effects), None);
    member.persist();
    member.compact_all();
    member.persist();
    let synced = member.persisted;
    let effects = member.step(MachineInput::Synced(synced));
    assert_eq!(reply(&effects), Some(Ok(Reply::Compact { revision: Revision(4) })));
}

/// As `PHYSICAL_WAITERS_MAX` has it.
#[test]
fn compactions_wait_for_their_space_up_to_a_number_and_are_then_answered_at_once() {
    const WAITERS: usize = 1_024;
    let mut member = Member::new(10);
    member.apply(&Command::Put(put("a", "1"))).unwrap();
    for number in 0..=WAITERS {
        member.apply(&Command::Put(put("a", "1"))).unwrap();
        let revision = Revision(i64::try_from(number).unwrap() + 3);
        let effects = member.effects(&Command::Compact(Compact { revision, physical: true }));
        let waits = reply(&effects).is_none();
        assert_eq!(waits, number < WAITERS, "compaction {number}");
    }
    member.apply(&Command::Put(put("a", "1"))).unwrap();
    let last = Compact { revision: Revision(i64::try_from(WAITERS).unwrap() + 4), physical: true };
    assert!(matches!(reply(&member.effects(&Command::Compact(last))), Some(Ok(Reply::Compact { .. }))));
}

#[test]
fn a_delete_at_the_floor_is_still_told_to_a_watch_from_there() {
    let mut member = Member::new(10);
    member.apply(&Command::Put(put("a", "1"))).unwrap();
    member.apply(&Command::DeleteRange(delete("a"))).unwrap();
    member.apply(&Command::Put(put("b", "1"))).unwrap();
    member.apply(&Command::Compact(Compact { revision: Revision(3), physical: false })).unwrap();
    member.persist();
    member.compact_all();
    member.persist();
    let view = member.machine.view();
    let events = view.events(Revision(2), 10, usize::MAX).unwrap();
    assert_eq!(events.iter().map(|event| event.id.main.0).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(view.events(Revision(1), 10, usize::MAX), Err(Refusal::Compacted));
    assert_eq!(view.at(b"a", Revision(2)), Ok(None), "the previous value of an event at the floor is absent");
}

#[test]
fn apply_holds_back_when_too_much_is_not_persisted() {
    let mut member = Member::new(10);
    assert!(!member.machine.is_congested());
    member.apply(&Command::Put(put("a", &"x".repeat(2_000)))).unwrap();
    assert!(member.machine.is_congested());
    member.persist();
    assert!(!member.machine.is_congested());
}

#[test]
fn one_flush_publishes_then_answers_then_writes_behind() {
    let mut member = Member::new(10);
    let entry = |index, name| Entry {
        id: LogId { term: Term(1), index: LogIndex(index) },
        payload: Payload::Command {
            request: RequestId { member: MemberId(1), boot: Boot(1), sequence: index },
            command: encode_command(&Command::Put(put(name, "1"))),
        },
    };
    let mut out = vec![];
    member.machine.step(MachineInput::Apply([entry(1, "a"), entry(2, "b")].into()), &mut out);
    assert!(out.is_empty(), "nobody is told before it can be seen: {out:?}");
    member.machine.step(MachineInput::Apply([entry(3, "c")].into()), &mut out);
    member.machine.flush(&mut out);
    let trace: Vec<String> = out.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(trace.join("\n"), @r"
    publish revision 4 at 1/3
    reply 1:1:1 put@2
    reply 1:1:2 put@3
    reply 1:1:3 put@4
    persist batch 1 of 6 rows to 1/3
    applied 3
    ");
    assert!(member.step(MachineInput::BackgroundWork).is_empty());
}

/// Many keys, put by a few txns.
fn member_with_keys(count: usize) -> Member {
    let mut member = Member::new(10);
    let keys: Vec<usize> = (0..count).collect();
    for part in keys.chunks(10_000) {
        let puts = part.iter().map(|n| Op::Put(put(&format!("k{n:07}"), ""))).collect();
        member.apply(&Command::Txn(then(puts))).unwrap();
    }
    member
}

fn all() -> KeyRange {
    KeyRange { key: "\0".into(), end: "\0".into() }
}

#[test]
fn what_a_command_visits_is_known_from_the_index() {
    let mut member = member_with_keys(300);
    member
        .apply(&Command::DeleteRange(DeleteRange { range: KeyRange { key: "k0000100".into(), end: "\0".into() }, prev_kv: false }))
        .unwrap();
    let view = member.machine.view();
    let some = |end: &'static str| KeyRange { key: "k".into(), end: Bytes::from_static(end.as_bytes()) };
    let read = |range: Range| view.cost(&Command::Txn(then(vec![Op::Range(range)])));
    let compare = |range| Compare { range, result: CompareResult::Equal, target: CompareTarget::Version(1) };
    assert_eq!(view.cost(&Command::Put(put("a", "1"))), 0);
    assert_eq!(view.cost(&Command::DeleteRange(delete("a"))), 1);
    assert_eq!(view.cost(&Command::DeleteRange(DeleteRange { range: all(), prev_kv: true })), 100);
    assert_eq!(read(Range { range: all(), ..Range::default() }), 100);
    assert_eq!(read(Range { range: all(), limit: 7, ..Range::default() }), 8);
    assert_eq!(read(Range { range: all(), limit: 7, min_mod_revision: Revision(2), ..Range::default() }), 100);
    assert_eq!(read(Range { range: all(), count_only: true, ..Range::default() }), 1);
    assert_eq!(read(Range { range: some("k0000030"), ..Range::default() }), 30);
    assert_eq!(read(Range { range: all(), revision: Revision(2), count_only: true, ..Range::default() }), 300, "those deleted since too");
    let inner = Txn {
        compare: vec![compare(all())],
        success: vec![Op::Range(Range { range: some("k0000010"), ..Range::default() })],
        failure: vec![],
    };
    let delete_some = |end| Op::DeleteRange(DeleteRange { range: some(end), prev_kv: false });
    let txn = Txn {
        compare: vec![compare(key("a")), compare(all())],
        success: vec![delete_some("k0000020"), delete_some("k0000005")],
        failure: vec![Op::Txn(inner)],
    };
    assert_eq!(view.cost(&Command::Txn(txn)), 1 + 100 + 110, "the compares, and the branch that visits more");
}

#[test]
fn a_txn_that_goes_over_the_keys_again_and_again_is_refused_before_and_at_apply() {
    let mut member = member_with_keys(100_000);
    let over_all = || Op::Range(Range { range: all(), keys_only: true, sort_target: SortTarget::Mod, ..Range::default() });
    let txn = |times: usize| Command::Txn(then((0..times).map(|_| over_all()).collect()));
    let most = 1 + usize::try_from(COMMAND_KEYS_MAX).unwrap() / 100_000;
    let view = member.machine.view();
    assert_eq!(view.check_cost(&txn(most)), Ok(()));
    assert_eq!(view.check_cost(&txn(most + 1)), Err(Refusal::TooManyKeys));
    assert_eq!(member.apply(&txn(most + 1)), Err(Refusal::TooManyKeys));
    let mut other = member_with_keys(100_000);
    let (command, writes) = (txn(most + 1), Op::Put(put("w", "1")));
    let Command::Txn(Txn { mut success, .. }) = command else { panic!() };
    success.push(writes);
    let command = Command::Txn(then(success));
    assert_eq!(member.apply(&command), Err(Refusal::TooManyKeys));
    other.apply(&txn(most + 1)).unwrap_err();
    other.apply_from(RequestId { member: MemberId(2), boot: Boot(1), sequence: 9 }, &command);
    let digests = [&member, &other].map(|member| member.machine.view().digest());
    assert_eq!(digests[0], digests[1], "a member that does not answer refuses alike");
    assert!(view.check_cost(&Command::DeleteRange(DeleteRange { range: all(), prev_kv: false })).is_ok());
}

#[test]
fn a_txn_decides_on_the_state_before_it_and_its_ranges_see_its_own_writes() {
    let mut member = Member::new(10);
    let absent = Compare { range: key("a"), result: CompareResult::Equal, target: CompareTarget::Create(Revision(0)) };
    let nested = Txn { compare: vec![absent.clone()], success: vec![Op::Put(put("b", "then"))], failure: vec![Op::Put(put("b", "else"))] };
    let ops = vec![Op::Range(get("a")), Op::Put(put("a", "1")), Op::Range(get("a")), Op::Txn(nested), Op::Range(get("b"))];
    let Ok(Reply::Txn(reply)) = member.apply(&Command::Txn(Txn { compare: vec![absent], success: ops, failure: vec![] })) else { panic!() };
    assert_eq!((reply.revision, reply.succeeded), (Revision(2), true));
    let seen: Vec<_> = reply.responses.iter().filter_map(|op| if let OpReply::Range(range) = op { Some(range) } else { None }).collect();
    assert_eq!(seen.iter().map(|range| (range.revision.0, range.count)).collect::<Vec<_>>(), [(1, 0), (2, 1), (2, 1)]);
    assert_eq!(seen[2].kvs[0].value(), "then");
}

#[test]
fn a_refused_txn_leaves_no_trace() {
    let mut member = Member::new(10);
    let digest = member.machine.view().digest();
    let future = Op::Range(Range { revision: Revision(50), ..get("a") });
    assert_eq!(member.apply(&Command::Txn(then(vec![Op::Put(put("a", "1")), future.clone()]))), Err(Refusal::FutureRevision));
    let leased = Op::Put(Put { lease: LeaseId(7), ..put("a", "1") });
    assert_eq!(member.apply(&Command::Txn(then(vec![Op::Put(put("b", "1")), leased.clone()]))), Err(Refusal::LeaseNotFound));
    let kept = Op::Put(Put { ignore_value: true, ..put("a", "") });
    assert_eq!(member.apply(&Command::Txn(then(vec![kept]))), Err(Refusal::KeyNotFound));
    assert_eq!((member.machine.view().revision(), member.machine.view().key_count()), (Revision(1), 0));
    assert_ne!(member.machine.view().digest(), digest, "the entries themselves count");
    let untaken = Txn { success: vec![Op::Put(put("a", "1"))], failure: vec![leased, future], ..Txn::default() };
    assert!(member.apply(&Command::Txn(untaken)).is_ok(), "what is not taken is not checked");
}

/// An open end covers nothing when keys are checked for being named twice, so this passes in etcd too, which then panics.
#[test]
fn a_put_that_keeps_a_value_its_txn_has_deleted_keeps_nothing() {
    let mut member = Member::new(10);
    member.apply(&Command::Put(put("a", "1"))).unwrap();
    let from_a = DeleteRange { range: KeyRange { key: "a".into(), end: "\0".into() }, prev_kv: false };
    let keep = Put { ignore_value: true, ..put("a", "") };
    let ops = vec![Op::DeleteRange(from_a), Op::Put(keep), Op::Range(get("a"))];
    let Ok(Reply::Txn(reply)) = member.apply(&Command::Txn(then(ops))) else { panic!() };
    let OpReply::Range(range) = &reply.responses[2] else { panic!() };
    assert_eq!((range.count, range.kvs[0].value()), (1, Bytes::new()));
}

#[test]
fn shapes_are_refused_before_they_are_proposed() {
    let txn = |ops: Vec<Op>| validate(&Command::Txn(then(ops)), 128);
    let a = || Op::Put(put("a", "1"));
    let span = |key: &'static str, end: &'static str| {
        Op::DeleteRange(DeleteRange { range: KeyRange { key: key.into(), end: end.into() }, prev_kv: false })
    };
    let nest = |success, failure| Op::Txn(Txn { success, failure, ..Txn::default() });
    assert_eq!(validate(&Command::Put(put("", "1")), 128), Err(Refusal::EmptyKey));
    assert_eq!(validate(&Command::Put(Put { ignore_value: true, ..put("a", "1") }), 128), Err(Refusal::ValueProvided));
    assert_eq!(validate(&Command::Put(Put { ignore_lease: true, lease: LeaseId(1), ..put("a", "") }), 128), Err(Refusal::LeaseProvided));
    assert_eq!(validate(&Command::DeleteRange(delete("")), 128), Err(Refusal::EmptyKey));
    assert_eq!(txn(vec![Op::Range(get(""))]), Err(Refusal::EmptyKey));
    assert_eq!(txn((0..129).map(|n| Op::Put(put(&n.to_string(), ""))).collect()), Err(Refusal::TooManyOps));
    assert_eq!(txn((0..128).map(|n| Op::Put(put(&n.to_string(), ""))).collect()), Ok(()));
    assert_eq!(txn(vec![nest((0..128).map(|n| Op::Put(put(&n.to_string(), ""))).collect(), vec![])]), Err(Refusal::TooManyOps));
    assert_eq!(txn(vec![a(), a()]), Err(Refusal::DuplicateKey));
    assert_eq!(txn(vec![a(), span("a", "")]), Err(Refusal::DuplicateKey));
    assert_eq!(txn(vec![span("A", "b"), a()]), Err(Refusal::DuplicateKey));
    assert_eq!(txn(vec![span("A", "a"), a(), span("b", "c"), span("b", "d")]), Ok(()));
    assert_eq!(txn(vec![span("a", "\0"), a()]), Ok(()), "an open end covers nothing here, as in etcd");
    assert_eq!(txn(vec![nest(vec![a()], vec![a()])]), Ok(()));
    assert_eq!(txn(vec![nest(vec![a()], vec![]), a()]), Err(Refusal::DuplicateKey));
    assert_eq!(txn(vec![nest(vec![a()], vec![]), nest(vec![], vec![a()])]), Err(Refusal::DuplicateKey));
    assert_eq!(txn(vec![nest(vec![span("a", "c")], vec![]), a()]), Err(Refusal::DuplicateKey));
    let untaken = Txn { failure: vec![a(), a()], ..Txn::default() };
    assert_eq!(validate(&Command::Txn(untaken), 128), Err(Refusal::DuplicateKey));
}

#[test]
fn a_txn_nested_a_thousand_deep_is_refused_whatever_the_limit_on_ops() {
    let nested = |depth| (1..depth).fold(Txn::default(), |txn, _| then(vec![Op::Txn(txn)]));
    for limit in [128, 1_000_000] {
        assert_eq!(validate(&Command::Txn(nested(1_000)), limit), Err(Refusal::TooManyOps));
    }
    assert_eq!(validate(&Command::Txn(nested(TXN_DEPTH_MAX)), 1_000_000), Ok(()));
    assert!(decode_command(&encode_command(&Command::Txn(nested(1_000)))).is_err());
}

#[test]
fn members_hash_alike_wherever_their_background_work_stands() {
    let mut lazy = Member::new(10);
    let mut busy = Member::new(1);
    let mut other = Member::new(1);
    let mut compacted_hash = None;
    for n in 0..60 {
        let name = format!("k{}", n % 7);
        let command = match n {
            40 => Command::Compact(Compact { revision: Revision(30), physical: false }),
            n if n % 5 == 4 => Command::DeleteRange(delete(&name)),
            n => Command::Put(put(&name, &n.to_string())),
        };
        lazy.apply(&command).unwrap();
        busy.apply(&command).unwrap();
        let altered = if n == 50 { Command::Put(put(&name, "altered")) } else { command };
        other.apply(&altered).unwrap();
        busy.persist();
        busy.step(MachineInput::BackgroundWork);
        assert_eq!(lazy.machine.view().digest(), busy.machine.view().digest());
        for revision in [0, 31, 35] {
            let hash = lazy.machine.view().hash_kv(Revision(revision));
            assert_eq!(hash, busy.machine.view().hash_kv(Revision(revision)), "at {revision} after {n}");
            if n == 45 && revision == 35 {
                compacted_hash = hash.ok();
            }
        }
    }
    assert_eq!(lazy.machine.view().hash_kv(Revision(35)).ok(), compacted_hash, "later changes do not count");
    assert_ne!(lazy.machine.view().hash_kv(Revision(0)), other.machine.view().hash_kv(Revision(0)));
    assert_ne!(lazy.machine.view().digest(), other.machine.view().digest());
    assert_eq!(lazy.machine.view().hash_kv(Revision(29)), Err(Refusal::Compacted));
}

/// As etcd keeps them: ten.
#[test]
fn the_hashes_at_the_last_compactions_stay_what_they_were() {
    let mut member = Member::new(2);
    let mut before = vec![];
    for compaction in 0..11 {
        for n in 0..5 {
            member.apply(&Command::Put(put(&format!("k{}", n % 3), &format!("{compaction}.{n}")))).unwrap();
        }
        member.apply(&Command::DeleteRange(delete("k1"))).unwrap();
        let revision = Revision(member.machine.view().revision().0 - 2);
        before.push(member.machine.view().hash_kv(revision).unwrap());
        let compact = Command::Compact(Compact { revision, physical: true });
        assert_eq!(reply(&member.effects(&compact)), None);
        member.persist();
        member.compact_all();
        member.persist();
        let synced = member.persisted;
        let effects = member.step(MachineInput::Synced(synced));
        assert!(reply(&effects).is_some(), "compaction {compaction} is done, its hash with it");
        let view = member.machine.view();
        let from = before.len().saturating_sub(10);
        for hash in &before[from..] {
            assert_eq!(view.hash_kv(hash.hash_revision).as_ref(), Ok(hash));
        }
        assert_eq!(
            before.last().map(|hash| hash.compact_revision),
            before.iter().rev().nth(1).map_or(Some(Revision(-1)), |h| Some(h.hash_revision))
        );
    }
    let view = member.machine.view();
    assert_eq!(view.hash_kv(before[0].hash_revision), Err(Refusal::Compacted), "an eleventh is forgotten");
    let newest = before[10].hash_revision;
    let reopened = Machine::open(settings(limits(10)), member.store.clone()).unwrap();
    assert_eq!(reopened.view().hash_kv(newest).map(|hash| hash.compact_revision), Ok(newest), "they are kept in memory alone");
}

fn write_format(member: &mut Member, format: u32) {
    let mut row = vec![];
    quorate_core::codec::encode(1, &format, &mut row);
    let mut batch = quorate_core::storage::WriteBatch::default();
    batch.put(Table::Meta, Bytes::from_static(b"format"), row.into());
    member.store.write(&batch);
}

#[test]
fn a_store_of_a_newer_format_is_refused() {
    let mut member = Member::new(10);
    member.persist();
    write_format(&mut member, 3);
    let error = Machine::open(settings(limits(1)), member.store.clone()).unwrap_err();
    assert_eq!(error.to_string(), "state store: format 3 is newer than 2, the newest known here");
}

#[test]
fn a_store_of_the_first_format_is_read_and_becomes_one_of_the_newest() {
    let mut member = Member::new(10);
    member.apply(&Command::Put(put("a", "1"))).unwrap();
    member.persist();
    let newest = member.store.get(Table::Meta, b"format").unwrap();
    write_format(&mut member, 1);
    let machine = Machine::open(settings(limits(1)), member.store.clone()).unwrap();
    let mut member = Member { machine, store: member.store, commits: vec![], persisted: BatchNumber(0) };
    assert_eq!(member.machine.view().range(&get("a")).unwrap().kvs.len(), 1);
    member.apply(&Command::Put(put("a", "2"))).unwrap();
    member.persist();
    assert_eq!(member.store.get(Table::Meta, b"format").unwrap(), newest);
}

#[test]
fn a_malformed_row_is_refused_at_open() {
    let mut member = Member::new(10);
    member.apply(&Command::Put(put("a", "1"))).unwrap();
    member.persist();
    let mut batch = quorate_core::storage::WriteBatch::default();
    batch.put(Table::Settled, Bytes::from_static(b"z"), Bytes::from_static(b"\x00\x0a"));
    member.store.write(&batch);
    assert!(Machine::open(settings(limits(1)), member.store.clone()).is_err());
}

#[test]
fn a_store_whose_two_generations_do_not_join_is_refused_at_open() {
    let mut member = Member::new(1_000);
    for name in ["a", "b", "c", "d"] {
        member.apply(&Command::Put(put(name, "1"))).unwrap();
    }
    member.apply(&Command::Txn(then(vec![Op::Put(put("a", "2")), Op::Put(put("e", "2")), Op::Put(put("f", "2"))]))).unwrap();
    member.apply(&Command::Compact(Compact { revision: Revision(4), physical: false })).unwrap();
    member.persist();
    let uncompacted = member.store.clone();
    member.compact_all();
    member.persist();
    let open = |store: &MemoryStore| Machine::open(settings(limits(10)), store.clone()).map(|_| ()).map_err(|error| error.0);
    open(&uncompacted).unwrap();
    open(&member.store).unwrap();
    let without = |id: RevisionId| {
        let mut store = member.store.clone();
        let mut batch = quorate_core::storage::WriteBatch::default();
        batch.delete(Table::Recent, Bytes::copy_from_slice(&quorate_core::storage::recent_key(id)));
        store.write(&batch);
        store
    };
    // Revisions 2 and 3 are compacted, 6 is a txn of three changes.
    open(&without(RevisionId { main: Revision(3), sub: 0 })).unwrap();
    for (main, sub, what) in [(4, 0, "between"), (5, 0, "between"), (6, 0, "between"), (6, 1, "between")] {
        let error = open(&without(RevisionId { main: Revision(main), sub })).unwrap_err();
        assert!(error.contains(what) && error.contains("missing"), "{main}.{sub}: {error}");
    }
    let mut headless = member.store.clone();
    headless.retire(Table::Recent, RevisionId { main: Revision(7), sub: 0 });
    assert!(open(&headless).unwrap_err().contains("the newest revision is 6"));
    // What was moved without the mark of how far.
    let mut moved = uncompacted;
    let mut batch = quorate_core::storage::WriteBatch::default();
    member
        .store
        .scan(Table::Settled, &[], &[], Direction::Forward, &mut |key, row| {
            batch.put(Table::Settled, Bytes::copy_from_slice(key), row);
            ControlFlow::Continue(())
        })
        .unwrap();
    moved.write(&batch);
    assert!(open(&moved).unwrap_err().contains("were settled"));
}

#[test]
fn a_model_and_a_machine_start_alike() {
    let (member, model) = (Member::new(1), Model::default());
    let view = member.machine.view();
    assert_eq!((view.revision().0, view.compact_revision().0, view.key_count()), (model.revision, model.floor, model.live_count() as u64));
    assert_eq!(view.range(&get("a")), model.range(&get("a"), model.now()));
    assert!(model.events_from(0).is_empty() && model.at(b"a", 1).is_none() && model.changes.is_empty());
    assert_eq!((count(&member.store, Table::Recent), Model::validate(&Txn::default(), 0)), (0, Ok(())));
}
