//! Key-values as etcd's documents tell it, and no faster than need be: every version of every key, for ever, in plain lists.

use bytes::Bytes;
use quorate_core::command::{
    Compare, CompareResult, CompareTarget, DeleteRange, DeleteRangeReply, KeyRange, Op, OpReply, Put, PutReply, Range, RangeReply, Refusal,
    Reply, SortOrder, SortTarget, Txn, TxnReply,
};
use quorate_core::mvcc::KeyValue;
use quorate_core::types::{LeaseId, Revision};
use std::collections::{BTreeMap, BTreeSet};

/// A change: revision, then the key-value, or none for a delete.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: i64,
    pub key: Bytes,
    pub kv: Option<KeyValue>,
}

/// The model. What it was at any time is found by leaving out what came later.
#[derive(Clone, Debug)]
pub struct Model {
    pub revision: i64,
    pub floor: i64,
    /// Indices into `changes`, by key.
    keys: BTreeMap<Bytes, Vec<usize>>,
    pub changes: Vec<Change>,
}

/// An instant of the model: its newest revision and its floor.
#[derive(Clone, Copy, Debug)]
pub struct Instant {
    pub revision: i64,
    pub floor: i64,
}

impl Default for Model {
    fn default() -> Self {
        Self { revision: 1, floor: -1, keys: BTreeMap::new(), changes: Vec::new() }
    }
}

fn contains(range: &KeyRange, key: &[u8]) -> bool {
    match range.end.as_ref() {
        b"" => key == range.key,
        b"\0" => key >= range.key.as_ref(),
        end => key >= range.key.as_ref() && key < end,
    }
}

impl Model {
    pub fn now(&self) -> Instant {
        Instant { revision: self.revision, floor: self.floor }
    }

    pub fn at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let history = self.keys.get(key)?;
        let seen = history.partition_point(|change| self.changes[*change].revision <= revision);
        self.changes[*history[..seen].last()?].kv.as_ref()
    }

    fn live(&self, range: &KeyRange, revision: i64) -> Vec<KeyValue> {
        self.keys
            .range(range.key.clone()..)
            .take_while(|(key, _)| !range.end.is_empty() || **key == range.key)
            .take_while(|(key, _)| range.end.len() < 2 || **key < range.end)
            .filter(|(key, _)| contains(range, key))
            .filter_map(|(key, _)| self.at(key, revision).cloned())
            .collect()
    }

    pub fn live_count(&self) -> usize {
        self.keys.keys().filter(|key| self.at(key, self.revision).is_some()).count()
    }

    pub fn events_from(&self, start: i64) -> &[Change] {
        &self.changes[self.changes.partition_point(|change| change.revision < start)..]
    }

    pub fn range(&self, request: &Range, now: Instant) -> Result<RangeReply, Refusal> {
        let asked = request.revision.0;
        if asked > now.revision {
            return Err(Refusal::FutureRevision);
        }
        if asked > 0 && asked < now.floor {
            return Err(Refusal::Compacted);
        }
        let mut kvs = self.live(&request.range, if asked > 0 { asked } else { now.revision });
        let mut reply = RangeReply { revision: Revision(now.revision), kvs: vec![], more: false, count: kvs.len() as i64 };
        if request.count_only {
            return Ok(reply);
        }
        let filters =
            [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision].map(|r| r.0);
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        if request.sort_order == SortOrder::None && filters == [0; 4] {
            kvs.truncate(limit.saturating_add(1));
        }
        let bounds = |number: i64, min: i64, max: i64| (min == 0 || number >= min) && (max == 0 || number <= max);
        kvs.retain(|kv| bounds(kv.mod_revision.0, filters[0], filters[1]) && bounds(kv.create_revision.0, filters[2], filters[3]));
        let compare = |a: &KeyValue, b: &KeyValue| match request.sort_target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        kvs.sort_by(|a, b| if request.sort_order == SortOrder::Descend { compare(b, a) } else { compare(a, b) });
        reply.more = kvs.len() > limit;
        kvs.truncate(limit);
        for mut kv in kvs {
            if request.keys_only {
                kv.value = Bytes::new();
                if request.sort_target != SortTarget::Value {
                    kv.lease = LeaseId(0);
                }
            }
            reply.kvs.push(kv.encode());
        }
        Ok(reply)
    }

    /// The shape rules of a txn.
    pub fn validate(txn: &Txn, budget: usize) -> Result<(), Refusal> {
        fn limits(txn: &Txn, budget: usize) -> Result<(), Refusal> {
            let most = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
            let left = budget.checked_sub(most).ok_or(Refusal::TooManyOps)?;
            for op in txn.success.iter().chain(&txn.failure) {
                if let Op::Txn(nested) = op {
                    limits(nested, left)?;
                }
            }
            Ok(())
        }
        type Touched = (BTreeSet<Bytes>, Vec<KeyRange>);
        fn duplicates(ops: &[Op]) -> Result<Touched, Refusal> {
            let (mut puts, mut deletes): Touched = Default::default();
            // A range that ends in the byte 0 is taken as the empty interval it would be if that were a key.
            let deleted = |deletes: &[KeyRange], key: &Bytes| deletes.iter().any(|range| range.end != "\0" && contains(range, key));
            deletes.extend(ops.iter().filter_map(|op| if let Op::DeleteRange(delete) = op { Some(delete.range.clone()) } else { None }));
            for op in ops {
                let Op::Txn(nested) = op else { continue };
                let (left, right) = (duplicates(&nested.success)?, duplicates(&nested.failure)?);
                let below: BTreeSet<Bytes> = left.0.union(&right.0).cloned().collect();
                if below.iter().any(|key| puts.contains(key) || deleted(&deletes, key)) {
                    return Err(Refusal::DuplicateKey);
                }
                puts.extend(below);
                deletes.extend(left.1.into_iter().chain(right.1));
            }
            for op in ops {
                let Op::Put(put) = op else { continue };
                if deleted(&deletes, &put.key) || !puts.insert(put.key.clone()) {
                    return Err(Refusal::DuplicateKey);
                }
            }
            Ok((puts, deletes))
        }
        limits(txn, budget)?;
        duplicates(&txn.success)?;
        duplicates(&txn.failure)?;
        Ok(())
    }

    fn holds(&self, compare: &Compare) -> bool {
        let kvs = self.live(&compare.range, self.revision);
        let one = |kv: &KeyValue| {
            let order = match &compare.target {
                CompareTarget::Version(n) => kv.version.cmp(n),
                CompareTarget::Create(n) => kv.create_revision.cmp(n),
                CompareTarget::Mod(n) => kv.mod_revision.cmp(n),
                CompareTarget::Value(v) => kv.value.cmp(v),
                CompareTarget::Lease(l) => kv.lease.cmp(l),
            };
            match compare.result {
                CompareResult::Equal => order.is_eq(),
                CompareResult::NotEqual => order.is_ne(),
                CompareResult::Greater => order.is_gt(),
                CompareResult::Less => order.is_lt(),
            }
        };
        if kvs.is_empty() {
            return !matches!(compare.target, CompareTarget::Value(_)) && one(&KeyValue::default());
        }
        kvs.iter().all(one)
    }

    pub fn put(&mut self, put: &Put) -> Result<Reply, Refusal> {
        self.check_put(put)?;
        let at = self.revision + 1;
        Ok(Reply::Put(self.put_at(put, at)))
    }

    pub fn delete(&mut self, delete: &DeleteRange) -> Reply {
        let at = self.revision + 1;
        Reply::DeleteRange(self.delete_at(delete, at))
    }

    pub fn compact(&mut self, revision: i64) -> Result<Reply, Refusal> {
        if revision <= self.floor {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision {
            return Err(Refusal::FutureRevision);
        }
        self.floor = revision;
        Ok(Reply::Compact { revision: Revision(self.revision) })
    }

    pub fn txn(&mut self, txn: &Txn) -> Result<Reply, Refusal> {
        // First all decisions, on the state before; then the checks, on the state before; then the writes.
        let plan = self.decide(txn);
        self.check(&plan)?;
        let at = self.revision + 1;
        let mut reply = self.run(&plan, at);
        reply.revision = Revision(self.revision);
        Ok(Reply::Txn(reply))
    }

    fn decide<'a>(&self, txn: &'a Txn) -> Plan<'a> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let step = |op: &'a Op| if let Op::Txn(nested) = op { Step::Txn(self.decide(nested)) } else { Step::Op(op) };
        Plan { succeeded, steps: ops.iter().map(step).collect() }
    }

    fn check(&self, plan: &Plan<'_>) -> Result<(), Refusal> {
        for step in &plan.steps {
            match step {
                Step::Txn(nested) => self.check(nested)?,
                Step::Op(Op::Put(put)) => self.check_put(put)?,
                Step::Op(Op::Range(range)) if range.revision.0 > self.revision => return Err(Refusal::FutureRevision),
                Step::Op(Op::Range(range)) if range.revision.0 != 0 && range.revision.0 < self.floor => return Err(Refusal::Compacted),
                Step::Op(_) => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, plan: &Plan<'_>, at: i64) -> TxnReply {
        let mut responses = vec![];
        for step in &plan.steps {
            responses.push(match step {
                Step::Txn(nested) => OpReply::Txn(self.run(nested, at)),
                Step::Op(Op::Put(put)) => OpReply::Put(self.put_at(put, at)),
                Step::Op(Op::DeleteRange(delete)) => OpReply::DeleteRange(self.delete_at(delete, at)),
                Step::Op(Op::Range(range)) => OpReply::Range(self.range(range, self.now()).unwrap()),
                Step::Op(Op::Txn(_)) => unreachable!("made a step of its own"),
            });
        }
        TxnReply { revision: Revision(0), succeeded: plan.succeeded, responses }
    }

    fn check_put(&self, put: &Put) -> Result<(), Refusal> {
        let missing = self.at(&put.key, self.revision).is_none();
        match put {
            Put { lease, .. } if lease.0 != 0 => Err(Refusal::LeaseNotFound),
            Put { ignore_value, ignore_lease, .. } if (*ignore_value || *ignore_lease) && missing => Err(Refusal::KeyNotFound),
            _ => Ok(()),
        }
    }

    fn put_at(&mut self, put: &Put, at: i64) -> PutReply {
        let old = self.at(&put.key, at).cloned();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: old.as_ref().map_or(Revision(at), |old| old.create_revision),
            mod_revision: Revision(at),
            version: old.as_ref().map_or(1, |old| old.version + 1),
            // The key may be gone since the check, by a delete in the same txn up to the end of all keys: then nothing is kept.
            value: if put.ignore_value { old.as_ref().map(|old| old.value.clone()).unwrap_or_default() } else { put.value.clone() },
            lease: put.lease,
        };
        self.add(at, put.key.clone(), Some(kv));
        PutReply { revision: Revision(at), prev_kv: old.filter(|_| put.prev_kv).map(|old| old.encode()) }
    }

    fn delete_at(&mut self, delete: &DeleteRange, at: i64) -> DeleteRangeReply {
        let found = self.live(&delete.range, at);
        for kv in &found {
            self.add(at, kv.key.clone(), None);
        }
        let prev_kvs = if delete.prev_kv { found.iter().map(KeyValue::encode).collect() } else { vec![] };
        DeleteRangeReply { revision: Revision(self.revision), deleted: found.len() as i64, prev_kvs }
    }

    fn add(&mut self, at: i64, key: Bytes, kv: Option<KeyValue>) {
        self.revision = at;
        self.keys.entry(key.clone()).or_default().push(self.changes.len());
        self.changes.push(Change { revision: at, key, kv });
    }
}

struct Plan<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Op(&'a Op),
    Txn(Plan<'a>),
}
