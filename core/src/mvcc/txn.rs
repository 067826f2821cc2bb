//! Transactions: compares choose a path on the state before, the path is checked, then its ops run in order as one revision.

use super::store::{Interval, Store};
use super::view::range;
use super::{EncodedKeyValue, row::Row};
use crate::command::{
    Compare, CompareResult, CompareTarget, DeleteRange, DeleteRangeReply, Op, OpReply, Put, PutReply, Range, Refusal, Txn, TxnReply,
};
use crate::storage::{Direction, ReadFailed, StateReader};
use crate::types::{LeaseId, Revision, RevisionId};
use alloc::vec::Vec;
use core::cmp::Ordering;

/// Whether the compares held, of a txn and then of each txn nested in the branch taken, in order.
pub(crate) type Path = Vec<bool>;

/// Evaluates all compares on one state. Depth is bounded by [`crate::machine::validate`].
pub(crate) fn path<R: StateReader>(store: &Store<R>, txn: &Txn) -> Result<Path, ReadFailed> {
    let mut path = Vec::with_capacity(1);
    find_path(store, txn, &mut path)?;
    Ok(path)
}

fn find_path<R: StateReader>(store: &Store<R>, txn: &Txn, path: &mut Path) -> Result<(), ReadFailed> {
    let mut holds = true;
    for compare in &txn.compare {
        holds = holds && compare_holds(store, compare)?;
    }
    path.push(holds);
    for op in branch(txn, holds) {
        if let Op::Txn(nested) = op {
            find_path(store, nested, path)?;
        }
    }
    Ok(())
}

fn branch(txn: &Txn, success: bool) -> &[Op] {
    if success { &txn.success } else { &txn.failure }
}

fn compare_holds<R: StateReader>(store: &Store<R>, compare: &Compare) -> Result<bool, ReadFailed> {
    let interval = Interval::of(&compare.range);
    let mut empty = true;
    for (key, version) in store.find(&interval, store.revision, Direction::Forward) {
        empty = false;
        let order = match &compare.target {
            CompareTarget::Version(number) => version.number.cmp(number),
            CompareTarget::Create(revision) => version.create.cmp(revision),
            CompareTarget::Mod(revision) => version.id.main.cmp(revision),
            CompareTarget::Lease(lease) => version.lease.cmp(lease),
            CompareTarget::Value(value) => store.row(key, version)?.parts().value.cmp(value),
        };
        if !satisfies(order, compare.result) {
            return Ok(false);
        }
    }
    // No key: every number of it is 0, and no value compares with anything.
    Ok(!empty
        || match &compare.target {
            CompareTarget::Version(number) => satisfies(0.cmp(number), compare.result),
            CompareTarget::Create(revision) | CompareTarget::Mod(revision) => satisfies(0.cmp(&revision.0), compare.result),
            CompareTarget::Lease(lease) => satisfies(0.cmp(&lease.0), compare.result),
            CompareTarget::Value(_) => false,
        })
}

fn satisfies(order: Ordering, result: CompareResult) -> bool {
    match result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::NotEqual => order != Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
    }
}

/// Why applying stopped: an answer, the same on every member, or a member that cannot go on.
#[derive(Debug)]
pub(crate) enum Stop {
    Refused(Refusal),
    Failed(ReadFailed),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
impl From<ReadFailed> for Stop {
    fn from(failed: ReadFailed) -> Self {
        Self::Failed(failed)
    }
}

/// Checks the ops of the path taken on the state before the txn: what fails here leaves no trace.
pub(crate) fn check<R: StateReader>(store: &Store<R>, txn: &Txn, path: &[bool]) -> Result<(), Refusal> {
    check_branch(store, txn, &mut path.iter().copied())
}

fn check_branch<R: StateReader>(store: &Store<R>, txn: &Txn, path: &mut impl Iterator<Item = bool>) -> Result<(), Refusal> {
    let success = path.next().unwrap_or(false);
    for op in branch(txn, success) {
        match op {
            Op::Range(request) => check_range(store, request)?,
            Op::Put(put) => {
                check_lease(put)?;
                check_previous(store, put)?;
            }
            Op::DeleteRange(_) => {}
            Op::Txn(nested) => check_branch(store, nested, path)?,
        }
    }
    Ok(())
}

/// A revision inside a txn: 0 is the newest, any other must be readable before the txn, and a negative one is below every floor
/// but the first, which is -1.
fn check_range<R: StateReader>(store: &Store<R>, request: &Range) -> Result<(), Refusal> {
    match request.revision {
        Revision(0) => Ok(()),
        revision if revision > store.revision => Err(Refusal::FutureRevision),
        revision if revision < store.floor => Err(Refusal::Compacted),
        _ => Ok(()),
    }
}

pub(crate) fn check_previous<R: StateReader>(store: &Store<R>, put: &Put) -> Result<(), Refusal> {
    let needed = put.ignore_value || put.ignore_lease;
    let exists = || store.index.get(put.key.as_ref()).is_some_and(|record| record.live().is_some());
    if needed && !exists() { Err(Refusal::KeyNotFound) } else { Ok(()) }
}

/// No lease is granted yet, so none but "no lease" exists.
pub(crate) fn check_lease(put: &Put) -> Result<(), Refusal> {
    if put.lease == LeaseId(0) { Ok(()) } else { Err(Refusal::LeaseNotFound) }
}

/// Evaluates a txn of ranges only.
pub(super) fn read<R: StateReader>(store: &Store<R>, txn: &Txn) -> Result<TxnReply, Refusal> {
    let path = path(store, txn)?;
    check(store, txn, &path)?;
    let succeeded = path[0];
    let mut responses = Vec::new();
    for op in branch(txn, succeeded) {
        let Op::Range(request) = op else { return Err(Refusal::KeyNotFound) };
        responses.push(OpReply::Range(range(store, request)?));
    }
    Ok(TxnReply { revision: store.revision, succeeded, responses })
}

/// Writes one command's changes as one revision.
#[derive(Debug)]
pub(crate) struct Writer<'a, R: StateReader> {
    pub store: &'a mut Store<R>,
    /// The rows written, by change.
    pub rows: &'a mut Vec<(RevisionId, Row)>,
    next: RevisionId,
    /// Whether this member answers the request: only then are ranges read and previous values fetched.
    answers: bool,
}

impl<'a, R: StateReader> Writer<'a, R> {
    pub fn new(store: &'a mut Store<R>, rows: &'a mut Vec<(RevisionId, Row)>, answers: bool) -> Self {
        let next = RevisionId { main: store.revision.next(), sub: 0 };
        Self { store, rows, next, answers }
    }

    pub fn put(&mut self, put: &Put) -> Result<PutReply, ReadFailed> {
        let needs_previous = (put.prev_kv && self.answers) || put.ignore_value;
        let previous = if needs_previous { self.current(&put.key)? } else { None };
        let kept = previous.as_ref().filter(|_| put.ignore_value).map(EncodedKeyValue::value);
        let lease = if put.ignore_lease { self.current_lease(&put.key) } else { put.lease };
        let id = self.take_id();
        let row = self.store.put(id, &put.key, kept.as_ref().unwrap_or(&put.value), lease);
        self.rows.push((id, row));
        Ok(PutReply { revision: self.store.revision, prev_kv: previous.filter(|_| put.prev_kv) })
    }

    pub fn delete_range(&mut self, request: &DeleteRange) -> Result<DeleteRangeReply, ReadFailed> {
        let interval = Interval::of(&request.range);
        let store = &*self.store;
        let found: Vec<_> = store.find(&interval, store.revision, Direction::Forward).map(|(key, v)| (key.clone(), *v)).collect();
        let mut prev_kvs = Vec::new();
        if request.prev_kv && self.answers {
            let found: Vec<_> = found.iter().map(|(key, version)| (key, version)).collect();
            prev_kvs = store.rows(&found, true)?;
        }
        for (key, _) in &found {
            let id = self.take_id();
            let row = self.store.delete(id, key);
            self.rows.push((id, row));
        }
        Ok(DeleteRangeReply { revision: self.store.revision, deleted: i64::try_from(found.len()).unwrap_or(i64::MAX), prev_kvs })
    }

    /// Runs a txn whose path was found and checked. A nested txn's reply carries no revision of its own, as in etcd.
    pub fn txn(&mut self, txn: &Txn, path: &[bool]) -> Result<TxnReply, Stop> {
        let mut reply = self.run(txn, &mut path.iter().copied())?;
        reply.revision = self.store.revision;
        Ok(reply)
    }

    fn run(&mut self, txn: &Txn, path: &mut impl Iterator<Item = bool>) -> Result<TxnReply, Stop> {
        let succeeded = path.next().unwrap_or(false);
        let mut responses = Vec::new();
        for op in branch(txn, succeeded) {
            responses.push(match op {
                Op::Range(request) if self.answers => OpReply::Range(range(self.store, request)?),
                Op::Range(_) => continue,
                Op::Put(put) => OpReply::Put(self.put(put)?),
                Op::DeleteRange(request) => OpReply::DeleteRange(self.delete_range(request)?),
                Op::Txn(nested) => OpReply::Txn(self.run(nested, path)?),
            });
        }
        Ok(TxnReply { revision: Revision(0), succeeded, responses })
    }

    fn take_id(&mut self) -> RevisionId {
        let id = self.next;
        self.next.sub = id.sub.checked_add(1).expect("a revision of 4 billion changes");
        id
    }

    fn current(&self, key: &[u8]) -> Result<Option<EncodedKeyValue>, ReadFailed> {
        let Some(version) = self.store.index.get(key).and_then(|record| record.live()) else { return Ok(None) };
        self.store.row(key, version).map(|row| Some(row.into_kv()))
    }

    fn current_lease(&self, key: &[u8]) -> LeaseId {
        self.store.index.get(key).and_then(|record| record.live()).map_or(LeaseId(0), |version| version.lease)
    }
}
