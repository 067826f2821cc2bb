//! Transactions: compares choose a path on the state before, the path is checked, then its ops run in order as one revision.

use super::read::range;
use super::stop::Stop;
use super::store::{Interval, Store};
use super::{EncodedKeyValue, row::Row};
use crate::command::walk::{Branches, Visitor, walk};
use crate::command::{
    Compare, CompareResult, CompareTarget, DeleteRange, DeleteRangeReply, Op, OpReply, Put, PutReply, Range, Rejection, Txn, TxnReply,
};
use crate::storage::{Direction, ReadFailed, StateReader};
use crate::types::{LeaseId, Revision, RevisionId};
use alloc::vec::Vec;
use core::cmp::Ordering;

/// Whether the compares held, of a txn and then of each txn nested in the branch taken, in order.
pub(crate) type Path = Vec<bool>;

/// Evaluates all compares on one state.
pub(crate) fn path<R: StateReader>(store: &Store<R>, txn: &Txn) -> Result<Path, ReadFailed> {
    struct Decide<'s, R: StateReader> {
        store: &'s Store<R>,
        path: Path,
    }
    impl<R: StateReader> Visitor<'_> for Decide<'_, R> {
        type Error = ReadFailed;
        fn enter(&mut self, txn: &Txn) -> Result<Branches, ReadFailed> {
            let mut holds = true;
            for compare in &txn.compare {
                holds = holds && compare_holds(self.store, compare)?;
            }
            self.path.push(holds);
            Ok(Branches::One(holds))
        }
        fn op(&mut self, _: &Op) -> Result<(), ReadFailed> {
            Ok(())
        }
    }
    let mut decide = Decide { store, path: Vec::with_capacity(1) };
    walk(txn, &mut decide)?;
    Ok(decide.path)
}

/// The next step of a path. One that was found on this very txn has one for each txn met.
fn follow(path: &mut core::slice::Iter<'_, bool>) -> bool {
    *path.next().expect("a path is as long as the walk it was found on")
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
            CompareTarget::Value(value) => store.row(key, version)?.fields().value.cmp(value),
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

/// Checks the ops of the path taken on the state before the txn: what fails here leaves no trace.
pub(crate) fn check<R: StateReader>(store: &Store<R>, txn: &Txn, path: &[bool]) -> Result<(), Rejection> {
    struct Check<'s, R: StateReader> {
        store: &'s Store<R>,
        path: core::slice::Iter<'s, bool>,
    }
    impl<R: StateReader> Visitor<'_> for Check<'_, R> {
        type Error = Rejection;
        fn enter(&mut self, _: &Txn) -> Result<Branches, Rejection> {
            Ok(Branches::One(follow(&mut self.path)))
        }
        fn op(&mut self, op: &Op) -> Result<(), Rejection> {
            match op {
                Op::Range(request) => check_range(self.store, request),
                Op::Put(put) => check_put(self.store, put),
                Op::DeleteRange(_) | Op::Txn(_) => Ok(()),
            }
        }
    }
    walk(txn, &mut Check { store, path: path.iter() })
}

/// Whether a put may be carried out on this state.
pub(crate) fn check_put<R: StateReader>(store: &Store<R>, put: &Put) -> Result<(), Rejection> {
    if put.lease != LeaseId(0) && !store.leases.contains(put.lease) {
        return Err(Rejection::LeaseNotFound);
    }
    check_previous(store, put)
}

/// A revision inside a txn: 0 is the newest, any other must be readable before the txn, and a negative one is below every compact revision
/// but the first, which is -1.
fn check_range<R: StateReader>(store: &Store<R>, request: &Range) -> Result<(), Rejection> {
    match request.revision {
        Revision(0) => Ok(()),
        revision if revision > store.revision => Err(Rejection::FutureRevision),
        revision if revision < store.compact_revision => Err(Rejection::Compacted),
        _ => Ok(()),
    }
}

fn check_previous<R: StateReader>(store: &Store<R>, put: &Put) -> Result<(), Rejection> {
    let needed = put.ignore_value || put.ignore_lease;
    let exists = || store.index.get(put.key.as_ref()).is_some_and(|record| record.live().is_some());
    if needed && !exists() { Err(Rejection::KeyNotFound) } else { Ok(()) }
}

/// Evaluates a txn of ranges only; any other op is rejected with `KeyNotFound`, as an op of no kind is.
pub(crate) fn read<R: StateReader>(store: &Store<R>, txn: &Txn) -> Result<TxnReply, Stop> {
    let path = path(store, txn)?;
    check(store, txn, &path)?;
    let succeeded = path[0];
    let mut responses = Vec::new();
    for op in txn.branch(succeeded) {
        let Op::Range(request) = op else { return Err(Rejection::KeyNotFound.into()) };
        responses.push(OpReply::Range(range(store, request)?));
    }
    Ok(TxnReply { revision: store.revision, succeeded, responses })
}

/// Writes one command's changes as one revision.
#[derive(Debug)]
pub(crate) struct TxnWriter<'a, R: StateReader> {
    pub store: &'a mut Store<R>,
    /// The rows written, by change.
    pub rows: &'a mut Vec<(RevisionId, Row)>,
    next: RevisionId,
    /// Whether this member answers the request: only then are ranges read and previous values fetched.
    answers: bool,
}

impl<'a, R: StateReader> TxnWriter<'a, R> {
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

    /// Ends a lease that is there: its keys go in ascending order.
    pub fn end_lease(&mut self, lease: LeaseId) {
        let keys: Vec<_> = self.store.leases.keys(lease).cloned().collect();
        for key in keys {
            let id = self.take_id();
            let row = self.store.delete(id, &key);
            self.rows.push((id, row));
        }
        self.store.leases.remove(lease);
    }

    /// Runs a txn whose path was found and checked. A nested txn's reply carries no revision of its own, as in etcd.
    pub fn txn(&mut self, txn: &Txn, path: &[bool]) -> Result<TxnReply, Stop> {
        let mut run = Run { writer: self, path: path.iter(), open: Vec::new(), done: TxnReply::default() };
        walk(txn, &mut run)?;
        let mut reply = run.done;
        reply.revision = self.store.revision;
        Ok(reply)
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

/// A txn on its way through a [`TxnWriter`].
struct Run<'w, 'a, R: StateReader> {
    writer: &'w mut TxnWriter<'a, R>,
    path: core::slice::Iter<'w, bool>,
    /// The replies of the open txns, outermost first.
    open: Vec<TxnReply>,
    /// That of the whole, once it has ended.
    done: TxnReply,
}

impl<R: StateReader> Run<'_, '_, R> {
    fn answer(&mut self, reply: OpReply) {
        self.open.last_mut().expect("an op stands in a txn").responses.push(reply);
    }
}

impl<R: StateReader> Visitor<'_> for Run<'_, '_, R> {
    type Error = Stop;

    fn enter(&mut self, _: &Txn) -> Result<Branches, Stop> {
        let succeeded = follow(&mut self.path);
        self.open.push(TxnReply { succeeded, ..TxnReply::default() });
        Ok(Branches::One(succeeded))
    }

    fn op(&mut self, op: &Op) -> Result<(), Stop> {
        let reply = match op {
            Op::Range(request) if self.writer.answers => OpReply::Range(range(self.writer.store, request)?),
            Op::Range(_) | Op::Txn(_) => return Ok(()),
            Op::Put(put) => OpReply::Put(self.writer.put(put)?),
            Op::DeleteRange(request) => OpReply::DeleteRange(self.writer.delete_range(request)?),
        };
        self.answer(reply);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Stop> {
        let reply = self.open.pop().expect("what ends has begun");
        if self.open.is_empty() {
            self.done = reply;
        } else {
            self.answer(OpReply::Txn(reply));
        }
        Ok(())
    }
}
