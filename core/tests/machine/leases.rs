//! One claim about leases in the machine per test.

use crate::claims::{Effect, Member, delete, get, limits, put, reply, settings, then};
use quorate_core::command::{
    Alarm, AlarmChange, AlarmKind, Checkpointed, Command, Compact, LEASE_TTL_MAX_S, LeaseCheckpoint, LeaseExpire, LeaseGrant, LeaseRevoke,
    Op, Put, Refusal, Reply,
};
use quorate_core::lease::{Lease, LeaseChange};
use quorate_core::machine::{Machine, MachineEffect, validate};
use quorate_core::mvcc::{Event, EventKind};
use quorate_core::storage::{StateReader, Table, WriteBatch};
use quorate_core::types::{Boot, LeaseId, LogIndex, MemberId, RequestId, Revision, Term};

const SHORT: LeaseId = LeaseId(7);
const OTHER: LeaseId = LeaseId(-3);

fn grant(lease: LeaseId, ttl_s: i64) -> Command {
    Command::LeaseGrant(LeaseGrant { lease, ttl_s })
}

fn revoke(lease: LeaseId) -> Command {
    Command::LeaseRevoke(LeaseRevoke { lease })
}

fn attached(name: &str, lease: LeaseId) -> Put {
    Put { lease, ..put(name, "v") }
}

/// A member with two leases.
fn granted() -> Member {
    let mut member = Member::new(10);
    member.apply(&grant(SHORT, 5)).unwrap();
    member.apply(&grant(OTHER, 600)).unwrap();
    member
}

fn keys(member: &Member, lease: LeaseId) -> Vec<String> {
    member.machine.view().lease_keys(lease).map(|key| String::from_utf8(key.to_vec()).unwrap()).collect()
}

fn exists(member: &Member, key: &str) -> bool {
    member.machine.view().range(&get(key)).unwrap().count > 0
}

fn changes(effects: &[Effect]) -> Vec<LeaseChange> {
    effects
        .iter()
        .find_map(|effect| if let MachineEffect::Leases(changes) = effect { Some(changes.clone()) } else { None })
        .unwrap_or_default()
}

fn events(member: &Member, after: i64) -> Vec<(Revision, EventKind, String)> {
    let of = |event: Event| (event.id.main, event.kind, String::from_utf8(event.key.to_vec()).unwrap());
    member.machine.view().events(Revision(after), 100, usize::MAX).unwrap().into_iter().map(of).collect()
}

#[test]
fn a_lease_is_granted_once_and_changes_no_revision() {
    let mut member = Member::new(10);
    let first = member.apply(&grant(SHORT, 5));
    assert_eq!(first, Ok(Reply::LeaseGranted { revision: Revision(1), lease: SHORT, ttl_s: 5 }));
    assert_eq!(member.apply(&grant(SHORT, 9)), Err(Refusal::LeaseExists));
    assert_eq!(member.machine.view().lease(SHORT), Some(Lease { ttl_s: 5, granted: LogIndex(1), remaining_s: None }));
}

#[test]
fn only_a_ttl_above_the_largest_is_refused_before_the_log() {
    assert_eq!(validate(&grant(SHORT, LEASE_TTL_MAX_S), 1), Ok(()));
    assert_eq!(validate(&grant(SHORT, LEASE_TTL_MAX_S + 1), 1), Err(Refusal::LeaseTtlTooLarge));
    assert_eq!(validate(&grant(SHORT, i64::MAX), 1), Err(Refusal::LeaseTtlTooLarge));
}

#[test]
fn the_keys_of_a_revoked_lease_go_in_one_revision_in_their_order() {
    let mut member = granted();
    for name in ["c", "a", "b"] {
        member.apply(&Command::Put(attached(name, SHORT))).unwrap();
    }
    member.apply(&Command::Put(put("d", "1"))).unwrap();
    let before = member.machine.view().revision();
    assert_eq!(member.apply(&revoke(SHORT)), Ok(Reply::LeaseRevoked { revision: before.next() }));
    let gone = ["a", "b", "c"].map(|name| (before.next(), EventKind::Delete, name.to_owned()));
    assert_eq!(events(&member, before.0), gone);
    assert!(exists(&member, "d"));
    assert_eq!(member.apply(&revoke(SHORT)), Err(Refusal::LeaseNotFound));
    assert_eq!(member.apply(&Command::Put(attached("a", SHORT))), Err(Refusal::LeaseNotFound));
    assert_eq!(member.apply(&revoke(OTHER)), Ok(Reply::LeaseRevoked { revision: before.next() }), "it has no keys, so nothing changes");
}

#[test]
fn a_key_belongs_to_the_lease_of_its_last_put() {
    let mut member = granted();
    member.apply(&Command::Put(attached("moved", SHORT))).unwrap();
    member.apply(&Command::Put(attached("moved", OTHER))).unwrap();
    member.apply(&Command::Put(attached("kept", SHORT))).unwrap();
    member.apply(&Command::Put(Put { ignore_lease: true, ..put("kept", "2") })).unwrap();
    member.apply(&Command::Put(attached("freed", SHORT))).unwrap();
    member.apply(&Command::Put(put("freed", "2"))).unwrap();
    member.apply(&Command::Put(attached("deleted", SHORT))).unwrap();
    member.apply(&Command::DeleteRange(delete("deleted"))).unwrap();
    let within = then(vec![Op::Put(attached("within", SHORT))]);
    member.apply(&Command::Txn(within)).unwrap();
    assert_eq!((keys(&member, SHORT), keys(&member, OTHER)), (vec!["kept".into(), "within".into()], vec!["moved".into()]));
    assert_eq!(member.machine.view().lease_key_bytes(SHORT), 10);
    member.apply(&revoke(SHORT)).unwrap();
    assert_eq!(["moved", "kept", "freed", "within"].map(|key| exists(&member, key)), [true, false, true, false]);
}

#[test]
fn leases_and_their_keys_are_there_after_a_restart_wherever_the_rows_lie() {
    let mut member = granted();
    member.apply(&Command::Put(attached("settled", SHORT))).unwrap();
    member.apply(&Command::Put(put("plain", "1"))).unwrap();
    member.apply(&Command::Compact(Compact { revision: Revision(3), physical: false })).unwrap();
    member.persist();
    member.compact_all();
    member.apply(&Command::Put(attached("recent", SHORT))).unwrap();
    member.apply(&grant(LeaseId(i64::MIN), 5)).unwrap();
    member.apply(&grant(LeaseId(i64::MAX), 5)).unwrap();
    member.apply(&revoke(OTHER)).unwrap();
    member.persist();
    let leases: Vec<_> = member.machine.leases().collect();
    assert_eq!(leases.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [i64::MIN, 7, i64::MAX]);
    let digest = member.machine.view().digest();
    member.machine = Machine::open(settings(limits(10)), member.store.clone()).unwrap();
    member.machine.check();
    assert_eq!(member.machine.leases().collect::<Vec<_>>(), leases);
    assert_eq!(keys(&member, SHORT), ["recent", "settled"]);
    assert_eq!(member.machine.view().digest(), digest);
    member.apply(&revoke(SHORT)).unwrap();
    assert!(!exists(&member, "settled") && !exists(&member, "recent") && exists(&member, "plain"));
}

#[test]
fn an_expiry_counts_in_its_own_term_and_for_the_grant_that_it_names() {
    let mut member = granted();
    member.apply(&Command::Put(attached("a", SHORT))).unwrap();
    let expire = |granted, term| Command::LeaseExpire(LeaseExpire { lease: SHORT, granted: LogIndex(granted), term: Term(term) });
    for (granted, term) in [(1, 2), (9, 1)] {
        assert_eq!(changes(&member.effects(&expire(granted, term))), []);
        assert!(exists(&member, "a"));
    }
    assert_eq!(changes(&member.effects(&expire(1, 1))), [LeaseChange::Ended(SHORT)]);
    assert!(!exists(&member, "a"));
    member.apply(&grant(SHORT, 5)).unwrap();
    assert_eq!(changes(&member.effects(&expire(1, 1))), [], "it was meant for the one before");
    assert!(member.machine.view().lease(SHORT).is_some());
}

#[test]
fn a_checkpoint_changes_what_a_new_leader_begins_with_and_nothing_else() {
    let mut member = granted();
    let checkpoint = |term, remaining_s| {
        let leases = vec![
            Checkpointed { lease: OTHER, granted: LogIndex(2), remaining_s },
            Checkpointed { lease: SHORT, granted: LogIndex(2), remaining_s },
        ];
        Command::LeaseCheckpoint(LeaseCheckpoint { term: Term(term), leases })
    };
    let is = |remaining_s| LeaseChange::Is(OTHER, Lease { ttl_s: 600, granted: LogIndex(2), remaining_s });
    assert_eq!(changes(&member.effects(&checkpoint(1, Some(200)))), [is(Some(200))]);
    assert_eq!(changes(&member.effects(&checkpoint(2, Some(100)))), [], "of another term");
    member.persist();
    let reopened = Machine::open(settings(limits(10)), member.store.clone()).unwrap();
    assert_eq!(reopened.view().lease(OTHER).and_then(|lease| lease.remaining_s), Some(200));
    assert_eq!(changes(&member.effects(&checkpoint(1, None))), [is(None)]);
    assert_eq!(member.machine.view().revision(), Revision(1));
}

#[test]
fn alarms_forbid_leases_what_they_forbid_keys() {
    let mut member = granted();
    member.apply(&Command::Put(attached("a", SHORT))).unwrap();
    let raise = |kind| Command::Alarm(AlarmChange { alarm: Alarm { member: MemberId(1), kind }, active: true });
    member.apply(&raise(AlarmKind::NoSpace)).unwrap();
    assert_eq!(member.apply(&grant(LeaseId(1), 5)), Err(Refusal::NoSpace));
    assert!(member.apply(&revoke(OTHER)).is_ok(), "what gives space is let through");
    member.apply(&raise(AlarmKind::Corrupt)).unwrap();
    assert_eq!(member.apply(&grant(LeaseId(1), 5)), Err(Refusal::Corrupt));
    assert_eq!(member.apply(&revoke(SHORT)), Err(Refusal::Corrupt));
    let expire = Command::LeaseExpire(LeaseExpire { lease: SHORT, granted: LogIndex(1), term: Term(1) });
    let effects = member.effects(&expire);
    assert_eq!(reply(&effects), Some(Err(Refusal::Corrupt)));
    let kept = Lease { ttl_s: 5, granted: LogIndex(1), remaining_s: None };
    assert_eq!(changes(&effects), [LeaseChange::Is(SHORT, kept)], "the clock hears that it is still there");
    assert!(exists(&member, "a"));
}

#[test]
fn a_key_whose_lease_is_lost_is_no_state_to_open() {
    let mut member = granted();
    member.apply(&Command::Put(attached("a", SHORT))).unwrap();
    member.persist();
    let mut batch = WriteBatch::default();
    batch.delete(Table::Meta, row_key(SHORT).into());
    member.store.write(&batch);
    let error = Machine::open(settings(limits(10)), member.store.clone()).unwrap_err().to_string();
    assert!(error.contains("the lease of key"), "{error}");
}

#[test]
fn another_member_s_grant_is_applied_and_not_answered() {
    let mut member = Member::new(10);
    let request = RequestId { member: MemberId(2), boot: Boot(1), sequence: 1 };
    let effects = member.apply_from(request, &grant(SHORT, 5));
    assert_eq!(reply(&effects), None);
    assert!(member.machine.view().lease(SHORT).is_some());
}

#[test]
fn the_row_of_a_lease_never_changes() {
    let mut member = granted();
    let leases = vec![Checkpointed { lease: OTHER, granted: LogIndex(2), remaining_s: Some(200) }];
    member.apply(&Command::LeaseCheckpoint(LeaseCheckpoint { term: Term(1), leases })).unwrap();
    member.persist();
    let row = |lease: LeaseId| {
        let key = row_key(lease);
        let row = member.store.get(Table::Meta, &key).unwrap().expect("a row");
        row.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    insta::assert_snapshot!(row(SHORT), @"04000000c015bef1010a0100");
    insta::assert_snapshot!(row(OTHER), @"070000008efacbba01b00902019003");
    assert!(row_key(OTHER) < row_key(SHORT), "rows are in the order of ids");
}

fn row_key(lease: LeaseId) -> Vec<u8> {
    let mut key = b"lease/".to_vec();
    key.extend_from_slice(&(lease.0 ^ i64::MIN).to_be_bytes());
    key
}
