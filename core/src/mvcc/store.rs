//! ⑦ The key-values of one instant: index, recent rows, and the state store for what left memory.

use super::builder::IndexBuilder;
use super::index::{Index, Key, KeyRecord, Version};
use super::row::{KeyValueRef, Row};
use super::tree::{Measure, Sum, Tree};
use super::{EncodedKeyValue, Event, EventKind};
use crate::command::{KeyRange, Rejection};
use crate::lease::table::LeaseTable;
use crate::mutant::{Mutant, planted};
use crate::storage::{Direction, ReadFailed, StateReader, Table, parse_recent_key, recent_key};
use crate::types::{LeaseId, Revision, RevisionId};
use alloc::{format, vec::Vec};
use bytes::Bytes;
use core::ops::ControlFlow;

/// Above so many rows of neighbouring keys, scanning the settled generation is cheaper than asking for each.
const SCAN_FROM_ROWS: usize = 8;

/// Rows by revision are read in one scan as long as the next wanted one is not further away than this.
const SCAN_GAP_REVISIONS: i64 = 4;

impl Measure for Row {
    fn measure(&self) -> Sum {
        Sum { count: 1, entries: 1, bytes: self.len() as u64 }
    }
}

/// How far compaction has come in a fresh store: through revision 1, which has no changes.
pub(crate) const UNCOMPACTED: RevisionId = RevisionId { main: Revision(1), sub: u32::MAX };

/// All of it is immutable once cloned: the machine goes on with its own, readers keep theirs.
#[derive(Clone, Debug)]
pub(crate) struct Store<R: StateReader> {
    pub index: Index,
    /// With the keys that the index attaches to them.
    pub leases: LeaseTable,
    /// Every row from `recent_from` on, persisted or not: the values in memory, and the log of events.
    recent: Tree<RevisionId, Row>,
    recent_from: RevisionId,
    pub reader: R,
    /// How far compaction has come as `reader` has it: versions through here are asked for in the settled generation.
    pub compacted_to: RevisionId,
    /// The newest revision.
    pub revision: Revision,
    /// F: the compact revision; -1 before the first compaction.
    pub compact_revision: Revision,
}

/// What is owed for a key that was found: where its row is.
pub(crate) type Found<'a> = (&'a Key, &'a Version);

impl<R: StateReader> Store<R> {
    pub fn new(reader: R) -> Self {
        Self {
            index: Index::default(),
            leases: LeaseTable::default(),
            recent: Tree::default(),
            recent_from: RevisionId::default(),
            reader,
            compacted_to: UNCOMPACTED,
            revision: Revision(1),
            compact_revision: Revision(-1),
        }
    }

    /// Fills the index: settled rows in key order, then recent ones in revision order. Their values stay where they are.
    ///
    /// The two generations must join: rows settled are of revisions through `compacted_to`, and behind it no change through `revision` may
    /// be missing. A store where they do not has lost rows, and no answer from it could be trusted.
    pub fn load(&mut self) -> Result<(), ReadFailed> {
        let mut failed = None;
        let mut builder = IndexBuilder::default();
        let compacted_to = self.compacted_to;
        self.reader.scan(Table::Settled, &[], &[], Direction::Forward, &mut |key, stored| {
            let Some(row) = Row::parse(stored).filter(|row| !row.is_delete() && row.fields().key == key) else {
                failed = Some(ReadFailed(format!("settled row {key:?} is malformed")));
                return ControlFlow::Break(());
            };
            if row.fields().modified > compacted_to.main {
                failed = Some(ReadFailed(format!(
                    "a settled row is of revision {}, but only those through {compacted_to} were settled",
                    row.fields().modified
                )));
                return ControlFlow::Break(());
            }
            builder.push(key, version_of(&row, 0));
            ControlFlow::Continue(())
        })?;
        if let Some(failed) = failed {
            return Err(failed);
        }
        let from = recent_key(after(self.compacted_to));
        let revision = self.revision;
        let mut last = compacted_to;
        self.reader.scan(Table::Recent, &from, &[], Direction::Forward, &mut |key, stored| {
            let parsed = parse_recent_key(key).zip(Row::parse(stored)).filter(|(id, _)| id.main <= revision);
            let Some((id, row)) = parsed.filter(|(id, row)| row.fields().modified == id.main) else {
                failed = Some(ReadFailed(format!("recent row {key:?} is malformed")));
                return ControlFlow::Break(());
            };
            if id != after(last) && id != first_of(last.main.next()) {
                failed = Some(ReadFailed(format!("changes between revisions {last} and {id} are missing")));
                return ControlFlow::Break(());
            }
            last = id;
            builder.push(row.fields().key, version_of(&row, id.sub));
            ControlFlow::Continue(())
        })?;
        if let Some(failed) = failed {
            return Err(failed);
        }
        if last.main < revision {
            return Err(ReadFailed(format!("changes behind revision {last} are missing, the newest revision is {revision}")));
        }
        self.index = builder.build();
        self.recent_from = first_of(self.revision.next());
        if planted(Mutant::S7) {
            return Ok(());
        }
        self.leases.attach_all(&self.index).map_err(|key| ReadFailed(format!("the lease of key {key:?} is missing")))
    }

    /// Adds a version of `key`, attached to `lease` and to no other. Returns its row for the state store.
    pub fn put(&mut self, id: RevisionId, key: &[u8], value: &[u8], lease: LeaseId) -> Row {
        let previous = self.index.get(key).and_then(KeyRecord::live);
        let (create, number) = previous.map_or((id.main, 1), |version| (version.create, version.number + 1));
        let before = previous.map_or(LeaseId(0), |version| version.lease);
        let row = Row::put(&KeyValueRef { key, create, modified: id.main, version: number, value, lease });
        self.add(id, key, Version { id, length: kv_len(&row), create, number, lease }, &row);
        self.attach(key, before, lease);
        row
    }

    /// Adds a tombstone to an existing key. Returns its row for the state store.
    pub fn delete(&mut self, id: RevisionId, key: &[u8]) -> Row {
        let before = self.index.get(key).and_then(KeyRecord::live).map_or(LeaseId(0), |version| version.lease);
        let row = Row::delete(key, id.main);
        self.add(id, key, version_of(&row, id.sub), &row);
        self.attach(key, before, LeaseId(0));
        row
    }

    /// Moves a key that was just written from one lease to another; 0 is none.
    fn attach(&mut self, key: &[u8], from: LeaseId, to: LeaseId) {
        if from == to {
            return;
        }
        let (key, _) = self.index.get_entry(key).expect("it was written");
        if from != LeaseId(0) {
            self.leases.detach(from, key);
        }
        if to != LeaseId(0) {
            self.leases.attach(to, key.clone());
        }
    }

    fn add(&mut self, id: RevisionId, key: &[u8], version: Version, row: &Row) {
        let follows = id.main == self.revision.next() || (id.main == self.revision && id.sub > 0);
        assert!(follows && id >= self.recent_from, "change {id} after revision {}", self.revision);
        let replaced = self.recent.insert(id, row.clone());
        assert!(replaced.is_none(), "change {id} was made twice");
        add_version(&mut self.index, key, version);
        self.revision = id.main;
    }

    /// Lets go of the oldest rows in memory beyond `bytes`, but of none after `persisted`, which `reader` may not have. Says whether
    /// there were any.
    pub fn evict(&mut self, bytes: usize, persisted: Revision) -> bool {
        let mut over = self.recent.sum().bytes.saturating_sub(bytes as u64);
        let mut from = None;
        for (id, row) in self.recent.range::<RevisionId>(None, None) {
            if over == 0 || id.main > persisted {
                break;
            }
            over = over.saturating_sub(row.len() as u64);
            from = Some(after(*id));
        }
        if let Some(from) = from {
            assert!(from > self.recent_from, "rows below {} were in memory", self.recent_from);
            self.recent.trim_below(&from);
            self.recent_from = from;
        }
        from.is_some()
    }

    /// The revision that a request for `asked` reads at.
    pub fn readable(&self, asked: Revision) -> Result<Revision, Rejection> {
        if asked > self.revision {
            Err(Rejection::FutureRevision)
        } else if asked.0 <= 0 {
            Ok(self.revision)
        } else if asked < self.compact_revision {
            Err(Rejection::Compacted)
        } else {
            Ok(asked)
        }
    }

    /// Keys of an interval that exist at `revision`, ascending or descending.
    pub fn find<'a>(&'a self, interval: &'a Interval<'a>, revision: Revision, direction: Direction) -> impl Iterator<Item = Found<'a>> {
        let newest = revision >= self.revision;
        let (start, end) = (Some(interval.start()), interval.end());
        // Keys that are gone have no place at the newest revision: whole nodes of them are passed over.
        let (forward, backward) = match direction {
            Direction::Forward => (Some(self.index.range(start, end).passing_over_uncounted(newest)), None),
            Direction::Backward => (None, Some(self.index.range_back(start, end).passing_over_uncounted(newest))),
        };
        let seen = move |(key, record): (&'a Key, &'a KeyRecord)| {
            let version = if newest { record.live() } else { record.live_at(revision) };
            version.map(|version| (key, version))
        };
        forward.into_iter().flatten().chain(backward.into_iter().flatten()).filter_map(seen)
    }

    /// How many keys of an interval exist at `revision`.
    pub fn count(&self, interval: &Interval<'_>, revision: Revision) -> u64 {
        if revision >= self.revision {
            return self.measure(interval).count;
        }
        self.find(interval, revision, Direction::Forward).count() as u64
    }

    /// Count and encoded bytes of the keys of an interval at the newest revision.
    pub fn measure(&self, interval: &Interval<'_>) -> Sum {
        match interval.single() {
            Some(key) => self.index.get(key).map_or_else(Sum::default, Measure::measure),
            None => self.index.measure(Some(interval.start()), interval.end()),
        }
    }

    /// The row of a version.
    pub fn row(&self, key: &[u8], version: &Version) -> Result<Row, ReadFailed> {
        if let Some(row) = self.recent.get(&version.id) {
            return Ok(row.clone());
        }
        let stored = if version.id > self.compacted_to {
            self.reader.get(Table::Recent, &recent_key(version.id))?
        } else {
            self.reader.get(Table::Settled, key)?
        };
        stored
            .and_then(Row::parse)
            .filter(|row| row.fields().modified == version.id.main)
            .ok_or_else(|| ReadFailed(format!("the row of revision {} is missing", version.id)))
    }

    /// The key-values of versions found. `neighbours`: they are all those of one interval in ascending key order.
    pub fn rows(&self, found: &[Found<'_>], neighbours: bool) -> Result<Vec<EncodedKeyValue>, ReadFailed> {
        let settled = |version: &Version| version.id <= self.compacted_to && self.recent.get(&version.id).is_none();
        if neighbours && found.len() >= SCAN_FROM_ROWS {
            let far = found.iter().filter(|(_, version)| settled(version)).count();
            if far >= SCAN_FROM_ROWS && far * 4 >= found.len() {
                return self.rows_by_scan(found);
            }
        }
        let scanned = self.recent_by_scan(found)?;
        let mut scanned = scanned.into_iter();
        let row = |(key, version): &Found<'_>| match scanned.next().flatten() {
            Some(row) => Ok(row.into_kv()),
            None => self.row(key, version).map(Row::into_kv),
        };
        found.iter().map(row).collect()
    }

    /// Rows that have left memory and lie close together in [`Table::Recent`]: one scan instead of a search for each. Those found
    /// stand where their versions stand in `found`; nothing at all if there are none.
    fn recent_by_scan(&self, found: &[Found<'_>]) -> Result<Vec<Option<Row>>, ReadFailed> {
        let mut rows = Vec::new();
        if found.len() < SCAN_FROM_ROWS {
            return Ok(rows);
        }
        let is_cold = |id: &RevisionId| *id > self.compacted_to && *id < self.recent_from;
        let mut cold: Vec<(RevisionId, usize)> =
            found.iter().enumerate().map(|(at, (_, version))| (version.id, at)).filter(|(id, _)| is_cold(id)).collect();
        cold.sort_unstable();
        for run in cold.chunk_by(|(a, _), (b, _)| b.main.0 - a.main.0 <= SCAN_GAP_REVISIONS) {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { continue };
            if run.len() < SCAN_FROM_ROWS {
                continue;
            }
            rows.resize(found.len(), None);
            let mut wanted = run.iter().peekable();
            self.reader.scan(Table::Recent, &recent_key(*first), &recent_key(after(*last)), Direction::Forward, &mut |key, stored| {
                let Some(id) = parse_recent_key(key) else { return ControlFlow::Continue(()) };
                while wanted.next_if(|(next, _)| *next < id).is_some() {}
                if let Some((_, at)) = wanted.next_if(|(next, _)| *next == id) {
                    rows[*at] = Row::parse(stored);
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(rows)
    }

    fn rows_by_scan(&self, found: &[Found<'_>]) -> Result<Vec<EncodedKeyValue>, ReadFailed> {
        let (Some((first, _)), Some((last, _))) = (found.first(), found.last()) else { return Ok(Vec::new()) };
        let end = successor(last);
        let mut rows = Vec::with_capacity(found.len());
        let mut next = 0;
        let mut failed = None;
        self.reader.scan(Table::Settled, first, &end, Direction::Forward, &mut |key, stored| {
            // What lies between settled keys is in the other generation; a settled row nobody asked for is passed over.
            while let Some((wanted, version)) = found.get(next) {
                match wanted.as_ref().cmp(key) {
                    core::cmp::Ordering::Greater => return ControlFlow::Continue(()),
                    core::cmp::Ordering::Equal if version.id <= self.compacted_to => {
                        next += 1;
                        match Row::parse(stored).filter(|row| row.fields().modified == version.id.main) {
                            Some(row) => rows.push(row.into_kv()),
                            None => failed = Some(ReadFailed(format!("the settled row of revision {} is missing", version.id))),
                        }
                        return if failed.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
                    }
                    _ => match self.row(wanted, version) {
                        Ok(row) => {
                            next += 1;
                            rows.push(row.into_kv());
                        }
                        Err(error) => {
                            failed = Some(error);
                            return ControlFlow::Break(());
                        }
                    },
                }
            }
            ControlFlow::Break(())
        })?;
        if let Some(failed) = failed {
            return Err(failed);
        }
        for (key, version) in &found[next..] {
            rows.push(self.row(key, version)?.into_kv());
        }
        Ok(rows)
    }

    /// Changes from `start` on in order, ended only between revisions once there are `limit`, or `bytes` of their key-values.
    pub fn events(&self, start: Revision, limit: usize, bytes: usize) -> Result<Vec<Event>, ReadFailed> {
        let mut events: Vec<Event> = Vec::new();
        let mut sum = 0;
        let mut take = |id: RevisionId, row: Row| {
            if (events.len() >= limit || sum >= bytes) && events.last().is_some_and(|last| last.id.main != id.main) {
                return ControlFlow::Break(());
            }
            let kind = if row.is_delete() { EventKind::Delete } else { EventKind::Put };
            let kv = row.into_kv();
            sum += kv.0.len();
            events.push(Event { id, kind, key: kv.key(), kv });
            ControlFlow::Continue(())
        };
        let start = RevisionId { main: start, sub: 0 };
        let mut full = false;
        if start < self.recent_from {
            let mut failed = None;
            let (from, to) = (recent_key(start), recent_key(self.recent_from));
            self.reader.scan(Table::Recent, &from, &to, Direction::Forward, &mut |key, stored| {
                let Some((id, row)) = parse_recent_key(key).zip(Row::parse(stored)) else {
                    failed = Some(ReadFailed(format!("recent row {key:?} is malformed")));
                    return ControlFlow::Break(());
                };
                let flow = take(id, row);
                full = flow.is_break();
                flow
            })?;
            if let Some(failed) = failed {
                return Err(failed);
            }
        }
        if !full {
            for (id, row) in self.recent.range(Some(&start), None) {
                if take(*id, row.clone()).is_break() {
                    break;
                }
            }
        }
        Ok(events)
    }

    /// Panics if the index contradicts itself, or the rows in memory the index. Visits everything.
    pub fn check_invariants(&self) {
        self.index.check_invariants();
        self.recent.check_invariants();
        if !planted(Mutant::S7) {
            self.leases.check_invariants(&self.index);
        }
        for (key, record) in self.index.range::<[u8]>(None, None) {
            record.check_invariants(key, self.compact_revision);
            assert!(record.newest().id.main <= self.revision, "{key:?} has a version of the future");
        }
        for (id, row) in self.recent.range::<RevisionId>(None, None) {
            assert!(*id >= self.recent_from && id.main <= self.revision, "a row in memory of revision {id}");
            let fields = row.fields();
            assert!(fields.modified == id.main, "the row of revision {id} says {}", fields.modified);
            // What compaction has come past may be forgotten; the index has all the others.
            let known = self.index.get(fields.key).is_some_and(|record| record.versions().any(|version| version.id == *id));
            assert!(known || id.main < self.compact_revision, "the index does not know revision {id}");
        }
    }

    /// Bytes of rows in memory.
    pub fn recent_bytes(&self) -> u64 {
        self.recent.sum().bytes
    }
}

pub(super) fn add_version(index: &mut Index, key: &[u8], version: Version) {
    if index.update(key, |record| record.push(version)).is_none() {
        index.insert(key.into(), KeyRecord::new(version));
    }
}

fn kv_len(row: &Row) -> u32 {
    u32::try_from(row.len() - 1).expect("a key-value of 4 GiB")
}

fn version_of(row: &Row, sub: u32) -> Version {
    let fields = row.fields();
    let id = RevisionId { main: fields.modified, sub };
    Version { id, length: kv_len(row), create: fields.create, number: fields.version, lease: fields.lease }
}

/// The first change of a revision.
const fn first_of(main: Revision) -> RevisionId {
    RevisionId { main, sub: 0 }
}

/// The next possible change after `id`.
pub(crate) const fn after(id: RevisionId) -> RevisionId {
    match id.sub.checked_add(1) {
        Some(sub) => RevisionId { main: id.main, sub },
        None => RevisionId { main: id.main.next(), sub: 0 },
    }
}

/// The smallest key above `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The keys a [`KeyRange`] means, as bounds (etcd API, KV: key ranges).
#[derive(Debug)]
pub(crate) struct Interval<'a> {
    range: &'a KeyRange,
    /// Of a single key.
    end: Bytes,
}

impl<'a> Interval<'a> {
    pub fn of(range: &'a KeyRange) -> Self {
        let end = if range.end.is_empty() { successor(&range.key) } else { range.end.clone() };
        Self { range, end }
    }

    pub fn start(&self) -> &[u8] {
        &self.range.key
    }

    /// `None`: every key from `start` on.
    pub fn end(&self) -> Option<&[u8]> {
        (self.end.as_ref() != b"\0").then_some(&self.end)
    }

    pub fn single(&self) -> Option<&[u8]> {
        self.range.end.is_empty().then_some(&self.range.key)
    }
}
