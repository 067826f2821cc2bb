//! Who may have made a revision that nobody was told of: operations of unknown outcome, held against what was seen of that revision.

use crate::budget::Meter;
use crate::history::{Delivery, Event, KeyValue, OpId, Request, Response, Value, Watch};
use crate::linearizability::slot;
use crate::model::{Change, Model};
use crate::operation::{History, Operation, Place, short};
use crate::violation::{Property, Violation};
use crate::witness::{Step, Witness};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;

/// Everything seen of the revisions without an acknowledged writer.
#[derive(Debug, Default)]
pub(crate) struct Evidence<'a> {
    operations: &'a [Operation<'a>],
    /// Operations of unknown outcome that can change something.
    unknown: Vec<usize>,
    gaps: Vec<bool>,
    /// Keys seen as of a gap, and whether the value was shown.
    kvs: HashMap<i64, Vec<(&'a KeyValue, bool)>>,
    /// Keys that a gap must have created, for so it was seen later.
    created: HashMap<i64, HashSet<&'a [u8]>>,
    /// Until when a key was seen as a revision had left it: no other changed it in between.
    unchanged: HashMap<&'a [u8], BTreeMap<i64, i64>>,
    watches: Vec<Coverage<'a>>,
    /// An operation whose value was seen as of some gap belongs there; one that is in the log belongs between its neighbours.
    reserved: HashMap<usize, RangeInclusive<i64>>,
    /// The same, by gap: where a value was seen, nobody else comes into question.
    pointed_at: HashMap<i64, Vec<usize>>,
}

/// What a watch must have delivered, and of that what came from gaps.
#[derive(Debug)]
struct Coverage<'a> {
    request: &'a Watch,
    from: i64,
    through: i64,
    events: HashMap<i64, Vec<&'a Event>>,
}

impl<'a> Evidence<'a> {
    pub(crate) fn new(history: &'a History<'a>, gaps: Vec<bool>) -> Self {
        let operations = &history.operations;
        let mut evidence = Self { operations, gaps, ..Self::default() };
        if !evidence.gaps.contains(&true) {
            return evidence;
        }
        evidence.unknown = (0..operations.len()).filter(|&i| operations[i].is_unknown() && can_write(operations[i].request)).collect();
        for operation in operations {
            if let Some(response) = operation.response() {
                evidence.take_response(operation.request, response, response.revision());
            }
        }
        for watch in &history.watches {
            let Some((_, created)) = watch.created else { continue };
            let from = if watch.request.start_revision > 0 { watch.request.start_revision } else { created + 1 };
            let mut coverage = Coverage { request: watch.request, from, through: from - 1, events: HashMap::new() };
            for (_, delivery) in &watch.deliveries {
                match delivery {
                    Delivery::Events { events, .. } => {
                        for event in events {
                            coverage.through = coverage.through.max(event.kv.mod_revision);
                            if evidence.is_gap(event.kv.mod_revision) {
                                coverage.events.entry(event.kv.mod_revision).or_default().push(event);
                            }
                            if let Some(kv) = &event.prev_kv {
                                evidence.take(kv, true, event.kv.mod_revision - 1);
                            }
                            if !event.deleted {
                                evidence.take(&event.kv, true, event.kv.mod_revision);
                            }
                        }
                    }
                    Delivery::Progress { revision } => coverage.through = coverage.through.max(*revision),
                    Delivery::Compacted { .. } | Delivery::Closed => {}
                }
            }
            evidence.watches.push(coverage);
        }
        evidence.reserve();
        evidence
    }

    /// Who may have made the revision after the model's, in the order of their calls.
    pub(crate) fn candidates(&self, model: &Model, floor: i64, seen: Place, used: impl Fn(usize) -> bool, meter: &mut Meter) -> Vec<usize> {
        let revision = model.revision() + 1;
        let mut found: Vec<usize> = Vec::new();
        for &index in self.pointed_at(revision).unwrap_or(&self.unknown) {
            let operation = &self.operations[index];
            let open = operation.called < seen && !used(index) && self.reserved.get(&index).is_none_or(|at| at.contains(&revision));
            // Who may stand here may stand later too, so among equal requests the choice is free.
            if !open || found.iter().any(|&other| self.operations[other].request == operation.request) {
                continue;
            }
            meter.spend(1);
            let evaluation = model.evaluate(operation.request, model.revision(), floor);
            if evaluation.is_ok_and(|evaluation| self.fits(revision, &evaluation.changes)) {
                found.push(index);
            }
        }
        found
    }

    /// The only operations that can have made a revision, if values were seen of it.
    pub(crate) fn pointed_at(&self, revision: i64) -> Option<&Vec<usize>> {
        self.pointed_at.get(&revision)
    }

    /// Whom the sightings of a revision point at, and what they are, for people.
    pub(crate) fn describe(&self, revision: i64, used: &[bool]) -> (Vec<OpId>, String) {
        let mut text = String::new();
        let mut ids = Vec::new();
        for (kv, _) in self.kvs.get(&revision).into_iter().flatten().take(1) {
            text.push_str(&format!("; seen of it: {}", short(*kv)));
            let writer = |index: &usize| writes(self.operations[*index].request, &kv.value);
            if let Some(index) = (0..self.operations.len()).find(writer) {
                let operation = &self.operations[index];
                ids.push(operation.id);
                let already = if used[index] { ", which had taken effect before" } else { "" };
                text.push_str(&format!("; the value is that of {operation}{already}"));
            }
        }
        if let Some(events) = self.watches.iter().find_map(|watch| watch.events.get(&revision)) {
            text.push_str(&format!("; a watch delivered {}", short(events)));
        }
        (ids, text)
    }

    fn is_gap(&self, revision: i64) -> bool {
        revision > crate::model::FIRST_REVISION && self.gaps.get(slot(revision)).copied().unwrap_or(false)
    }

    /// `at`: the revision that the answer as a whole is of.
    fn take_response(&mut self, request: &'a Request, response: &'a Response, at: i64) {
        match (request, response) {
            (Request::Range(range), Response::Range { kvs, .. }) => {
                let at = if range.revision > 0 { range.revision } else { at };
                kvs.iter().for_each(|kv| self.take(kv, !range.keys_only, at));
            }
            (_, Response::Put { prev_kv: Some(kv), .. }) => self.take(kv, true, at),
            (_, Response::DeleteRange { prev_kvs, .. }) => prev_kvs.iter().for_each(|kv| self.take(kv, true, at)),
            (Request::Txn(txn), Response::Txn { succeeded, responses, .. }) => {
                let branch = if *succeeded { &txn.success } else { &txn.failure };
                branch.iter().zip(responses).for_each(|(request, response)| self.take_response(request, response, at));
            }
            _ => {}
        }
    }

    /// A key as it was at revision `at`, or, before a change that revision made, at the one before: no gap lies between the two.
    fn take(&mut self, kv: &'a KeyValue, value_shown: bool, at: i64) {
        let until = self.unchanged.entry(&kv.key).or_default().entry(kv.mod_revision).or_default();
        *until = at.max(*until);
        if self.is_gap(kv.mod_revision) {
            self.kvs.entry(kv.mod_revision).or_default().push((kv, value_shown));
        }
        if self.is_gap(kv.create_revision) {
            self.created.entry(kv.create_revision).or_default().insert(&kv.key);
        }
    }

    /// Binds operations to gaps by the values seen there. A put that keeps the value makes values prove nothing.
    fn reserve(&mut self) {
        if self.operations.iter().any(|operation| keeps_a_value(operation.request)) {
            return;
        }
        let mut writers: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for &index in &self.unknown {
            each_value(self.operations[index].request, &mut |value| writers.entry(value).or_default().push(index));
        }
        for (&revision, kvs) in &self.kvs {
            for (kv, _) in kvs.iter().filter(|(_, value_shown)| *value_shown) {
                if let Some(&[writer]) = writers.get(kv.value.as_slice()).map(Vec::as_slice) {
                    self.reserved.insert(writer, revision..=revision);
                    let pointed_at = self.pointed_at.entry(revision).or_default();
                    if !pointed_at.contains(&writer) {
                        pointed_at.push(writer);
                    }
                }
            }
        }
    }

    /// Takes in the end of the log: what is unknown there made revisions only between those of its answered neighbours, and what is not
    /// there made none after them. `last` is the newest revision.
    pub(crate) fn narrow(&mut self, witness: &Witness, last: i64) -> Result<(), Violation> {
        let numbers: HashMap<OpId, usize> = self.operations.iter().enumerate().map(|(index, operation)| (operation.id, index)).collect();
        let lies = |op: OpId, text: String| Violation::new(Property::Witness, [op], None, text);
        let mut before = None;
        let mut first = None;
        // Unknown ones since the last answered one.
        let mut open: Vec<usize> = Vec::new();
        let mut in_log = HashSet::new();
        for entry in &witness.entries {
            let Step::Operation(op) = entry.step else { continue };
            let index =
                *numbers.get(&op).ok_or_else(|| lies(op, format!("entry {} is of operation {op}, which nobody called", entry.index)))?;
            if !in_log.insert(index) {
                return Err(lies(op, format!("operation {op} is in the log twice, for the second time as entry {}", entry.index)));
            }
            let operation = &self.operations[index];
            let Some(revision) = operation.response().map(Response::revision) else {
                open.push(index);
                continue;
            };
            if before.is_some_and(|before| revision < before) {
                let text = format!("{operation}, entry {}, made an older revision than an entry before it", entry.index);
                return Err(Violation::new(Property::LogOrder, [op], Some(revision), text));
            }
            let until = revision - i64::from(operation.claims_change());
            self.bind(&open, before.unwrap_or(0) + 1, until, before.is_some());
            open.clear();
            first.get_or_insert(until);
            before = Some(revision);
        }
        self.bind(&open, before.unwrap_or(0) + 1, last, before.is_some());
        if let Some(first) = first {
            for &index in self.unknown.iter().filter(|index| !in_log.contains(index)) {
                self.reserved.entry(index).or_insert(0..=first);
            }
        }
        Ok(())
    }

    /// These operations, in the order of the log, made revisions from `from` through `until` only; if `alone`, nobody else made one there.
    fn bind(&mut self, operations: &[usize], from: i64, until: i64, alone: bool) {
        for &index in operations {
            self.reserved.entry(index).or_insert(from..=until);
        }
        for revision in (from..=until).filter(|_| alone) {
            self.pointed_at.entry(revision).or_insert_with(|| operations.to_vec());
        }
    }

    /// Whether a revision with these changes could have been seen as it was.
    fn fits(&self, revision: i64, changes: &[Change]) -> bool {
        let shows = |kv: &KeyValue, value_shown: bool| {
            changes.iter().filter_map(|change| change.kv.as_ref()).any(|made| {
                made.key == kv.key
                    && made.version == kv.version
                    && made.create_revision == kv.create_revision
                    && (!value_shown || made.value == kv.value)
            })
        };
        let creates = |key: &[u8]| {
            changes.iter().filter_map(|change| change.kv.as_ref()).any(|made| made.key == key && made.create_revision == revision)
        };
        let unchanged = |key: &[u8]| {
            let before = self.unchanged.get(key).and_then(|seen| seen.range(..revision).next_back());
            before.is_some_and(|(_, until)| revision <= *until)
        };
        !changes.is_empty()
            && !changes.iter().any(|change| unchanged(&change.key))
            && self.created.get(&revision).into_iter().flatten().all(|key| creates(key))
            && self.kvs.get(&revision).into_iter().flatten().all(|(kv, value_shown)| shows(kv, *value_shown))
            && self.watches.iter().filter(|watch| (watch.from..=watch.through).contains(&revision)).all(|watch| {
                let due = changes.iter().filter(|change| wants(watch.request, &change.key, change.kv.is_none()));
                let delivered = watch.events.get(&revision).into_iter().flatten();
                due.map(|change| (&change.key, change.kv.as_ref()))
                    .eq(delivered.map(|event| (&event.kv.key, (!event.deleted).then_some(&event.kv))))
            })
    }
}

/// Whether a watch is for changes like this.
pub(crate) fn wants(watch: &Watch, key: &[u8], deleted: bool) -> bool {
    !(if deleted { watch.no_delete } else { watch.no_put }) && watch.keys.contains(key)
}

fn can_write(request: &Request) -> bool {
    match request {
        Request::Put(_) | Request::DeleteRange(_) => true,
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(can_write),
        _ => false,
    }
}

fn keeps_a_value(request: &Request) -> bool {
    match request {
        Request::Put(put) => put.ignore_value,
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(keeps_a_value),
        _ => false,
    }
}

fn each_value<'a>(request: &'a Request, visit: &mut impl FnMut(&'a [u8])) {
    match request {
        Request::Put(put) => visit(&put.value),
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).for_each(|op| each_value(op, visit)),
        _ => {}
    }
}

fn writes(request: &Request, wanted: &Value) -> bool {
    let mut found = false;
    each_value(request, &mut |value| found |= value == wanted.as_slice());
    found
}
