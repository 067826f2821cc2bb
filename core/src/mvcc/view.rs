//! What readers see: one instant of the whole store.

use super::hash::Chain;
use super::index::Version;
use super::row::Parts;
use super::store::{Found, Interval, Store};
use super::{EncodedKeyValue, Event, KvHash, txn};
use crate::command::{Alarm, Member, MemberAttributes, Range, RangeReply, Refusal, SortOrder, SortTarget, Txn, TxnReply};
use crate::entry::Configuration;
use crate::storage::{Direction, ReadFailed, StateReader};
use crate::types::{LogId, MemberId, Revision};
use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::cmp::Reverse;

/// Versions whose values are fetched together for a hash.
const HASH_CHUNK: usize = 1_024;

/// An immutable state of the whole store, shared by readers. Cloning is cheap; holding one delays only memory.
#[derive(Clone, Debug)]
pub struct View<R: StateReader> {
    pub(crate) store: Store<R>,
    pub(crate) applied: LogId,
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) attributes: Arc<BTreeMap<MemberId, MemberAttributes>>,
    pub(crate) alarms: Arc<[Alarm]>,
    pub(crate) chain: Chain,
}

impl From<ReadFailed> for Refusal {
    fn from(_: ReadFailed) -> Self {
        Self::StorageFailed
    }
}

impl<R: StateReader> View<R> {
    /// The newest revision; 1 in a fresh store.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.store.revision
    }

    /// The compaction floor F: the oldest readable revision; -1 before the first compaction.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.store.floor
    }

    #[must_use]
    pub fn applied(&self) -> LogId {
        self.applied
    }

    /// A hash over everything ever applied: equal on members that applied the same entries, else one has diverged.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.chain.value()
    }

    /// Sorted by id.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let of = |id: &MemberId, peer_urls: &Vec<_>| {
            let attributes = self.attributes.get(id);
            Member {
                id: *id,
                name: attributes.map(|a| a.name.clone()).unwrap_or_default(),
                peer_urls: peer_urls.clone(),
                client_urls: attributes.map(|a| a.client_urls.clone()).unwrap_or_default(),
                is_learner: self.configuration.learners.contains(id),
            }
        };
        self.configuration.peer_urls.iter().map(|(id, urls)| of(id, urls)).collect()
    }

    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    #[must_use]
    pub fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    /// Live keys.
    #[must_use]
    pub fn key_count(&self) -> u64 {
        self.store.index.sum().count
    }

    /// Encoded bytes of all live keys with their values.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.store.index.sum().bytes
    }

    /// Bytes of rows held in memory: those not yet persisted, and recent ones kept for readers.
    #[must_use]
    pub fn recent_bytes(&self) -> u64 {
        self.store.recent_bytes()
    }

    /// Reads keys (etcd API, Range). Refuses a compacted or future revision and an unknown sort.
    pub fn range(&self, request: &Range) -> Result<RangeReply, Refusal> {
        range(&self.store, request)
    }

    /// Bytes that `range` would return for this request, from the index alone: for budgets.
    #[must_use]
    pub fn range_bytes(&self, request: &Range) -> u64 {
        range_bytes(&self.store, request)
    }

    /// Evaluates a txn whose ops are all ranges. Any other op is refused with `KeyNotFound`, as an op of no kind is.
    pub fn read_txn(&self, request: &Txn) -> Result<TxnReply, Refusal> {
        txn::read(&self.store, request)
    }

    /// Up to `limit` changes, or about `bytes` of key-values, with `after < revision`, in order, never splitting a revision (so it
    /// may return more). Refuses with `Compacted` if `after + 1` is below the floor.
    pub fn events(&self, after: Revision, limit: usize, bytes: usize) -> Result<Vec<Event>, Refusal> {
        let start = after.next();
        if start < self.store.floor {
            return Err(Refusal::Compacted);
        }
        Ok(self.store.events(start, limit, bytes)?)
    }

    /// The version of a key as of a revision; `None` if it did not exist then or is compacted away.
    pub fn at(&self, key: &[u8], revision: Revision) -> Result<Option<EncodedKeyValue>, Refusal> {
        if revision < self.store.floor {
            return Ok(None);
        }
        let Some(version) = self.store.index.get(key).and_then(|record| record.live_at(revision)) else { return Ok(None) };
        Ok(Some(self.store.row(key, version)?.into_kv()))
    }

    /// A hash over what is readable at the floor and every change after it up to `revision` (0: the newest). It is the same on
    /// every member, wherever its background work stands. Reads every value: for a worker that may take its time.
    pub fn hash_kv(&self, revision: Revision) -> Result<KvHash, Refusal> {
        let revision = self.store.readable(revision)?;
        let floor = self.store.floor;
        let mut sum = 0_u128;
        let mut chunk: Vec<Found<'_>> = Vec::with_capacity(HASH_CHUNK);
        for (key, record) in self.store.index.range::<[u8]>(None, None) {
            let at_floor = record.live_at(floor).map(|version| version.id);
            for version in record.versions() {
                let counts = if version.id.main <= floor { at_floor == Some(version.id) } else { version.id.main <= revision };
                if counts {
                    chunk.push((key, version));
                }
            }
            if chunk.len() >= HASH_CHUNK {
                sum = sum.wrapping_add(self.hash_chunk(&chunk)?);
                chunk.clear();
            }
        }
        sum = sum.wrapping_add(self.hash_chunk(&chunk)?);
        let mut chain = Chain::default();
        chain.bytes(&sum.to_le_bytes());
        let [a, b, c, d, ..] = chain.value().to_le_bytes();
        Ok(KvHash { hash: u32::from_le_bytes([a, b, c, d]), hash_revision: revision, compact_revision: floor })
    }

    fn hash_chunk(&self, found: &[Found<'_>]) -> Result<u128, Refusal> {
        let mut sum = 0_u128;
        for kv in self.store.rows(found, true)? {
            let parts = kv.parts();
            let mut chain = Chain::default();
            chain.bytes(parts.key);
            for number in [parts.create.0, parts.modified.0, parts.version, parts.lease.0] {
                chain.word(number.cast_unsigned());
            }
            chain.bytes(parts.value);
            sum = sum.wrapping_add(chain.value());
        }
        Ok(sum)
    }
}

/// How a request's answer is put together.
struct Plan {
    direction: Direction,
    /// Keys after which the walk may end.
    walk: usize,
    /// Keys in the answer.
    limit: usize,
    sort: Option<(SortTarget, SortOrder)>,
}

impl Plan {
    fn of(request: &Range) -> Self {
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let by_key = request.sort_target == SortTarget::Key;
        let sort = (!by_key).then_some((request.sort_target, request.sort_order));
        let descending = by_key && request.sort_order == SortOrder::Descend;
        // Without an order, a target other than the key sorts only what the limit lets through by key (etcd does the same);
        // but a filter comes before the limit.
        let cut_by_key = by_key || (request.sort_order == SortOrder::None && !has_filter(request));
        Self {
            direction: if descending { Direction::Backward } else { Direction::Forward },
            walk: if cut_by_key { limit.saturating_add(1) } else { usize::MAX },
            limit,
            sort,
        }
    }
}

fn has_filter(request: &Range) -> bool {
    [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision]
        .iter()
        .any(|bound| bound.0 != 0)
}

fn passes(request: &Range, version: &Version) -> bool {
    let within = |revision: Revision, min: Revision, max: Revision| (min.0 == 0 || revision >= min) && (max.0 == 0 || revision <= max);
    within(version.id.main, request.min_mod_revision, request.max_mod_revision)
        && within(version.create, request.min_create_revision, request.max_create_revision)
}

pub(super) fn range<R: StateReader>(store: &Store<R>, request: &Range) -> Result<RangeReply, Refusal> {
    let revision = store.readable(request.revision)?;
    if request.range.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    let interval = Interval::of(&request.range);
    let count = i64::try_from(store.count(&interval, revision)).unwrap_or(i64::MAX);
    let mut reply = RangeReply { revision: store.revision, kvs: Vec::new(), more: false, count };
    if request.count_only || count == 0 {
        return Ok(reply);
    }
    let plan = Plan::of(request);
    let mut found = walk(store, request, &plan, &interval, revision);
    // Values are fetched before sorting only if they decide the order.
    let mut values = Vec::new();
    match plan.sort {
        Some((SortTarget::Value, order)) => {
            values = store.rows(&found, true)?;
            sort_by(&mut values, order, |kv| kv.value());
        }
        Some((SortTarget::Version, order)) => sort_by(&mut found, order, |(_, version)| version.number),
        Some((SortTarget::Create, order)) => sort_by(&mut found, order, |(_, version)| version.create.0),
        Some((SortTarget::Mod, order)) => sort_by(&mut found, order, |(_, version)| version.id.main.0),
        Some((SortTarget::Key, _)) | None => {}
    }
    reply.more = found.len() > plan.limit;
    found.truncate(plan.limit);
    values.truncate(plan.limit);
    reply.kvs = match (request.sort_target, request.keys_only) {
        (SortTarget::Value, true) => values.iter().map(|kv| Parts { value: &[], ..kv.parts() }.encode()).collect(),
        (SortTarget::Value, false) => values,
        (_, true) => found.iter().map(|(key, version)| key_only(key, version).encode()).collect(),
        (_, false) => store.rows(&found, plan.sort.is_none() && plan.direction == Direction::Forward)?,
    };
    Ok(reply)
}

fn walk<'a, R: StateReader>(
    store: &'a Store<R>,
    request: &Range,
    plan: &Plan,
    interval: &'a Interval<'a>,
    revision: Revision,
) -> Vec<Found<'a>> {
    if let Some(key) = interval.single() {
        let found = store.index.get_entry(key).and_then(|(key, record)| Some((key, record.live_at(revision)?)));
        return found.into_iter().filter(|(_, version)| passes(request, version)).collect();
    }
    store.find(interval, revision, plan.direction).filter(|(_, version)| passes(request, version)).take(plan.walk).collect()
}

/// A key without its value, from the index alone: then its lease is left out too, as in etcd 3.7.
fn key_only<'a>(key: &'a [u8], version: &Version) -> Parts<'a> {
    Parts { key, create: version.create, modified: version.id.main, version: version.number, ..Parts::default() }
}

fn sort_by<T, K: Ord>(items: &mut [T], order: SortOrder, key: impl Fn(&T) -> K) {
    match order {
        SortOrder::Descend => items.sort_by_key(|item| Reverse(key(item))),
        SortOrder::None | SortOrder::Ascend => items.sort_by_key(key),
    }
}

fn range_bytes<R: StateReader>(store: &Store<R>, request: &Range) -> u64 {
    let Ok(revision) = store.readable(request.revision) else { return 0 };
    if request.count_only || request.range.key.is_empty() {
        return 0;
    }
    let interval = Interval::of(&request.range);
    let plan = Plan::of(request);
    if !request.keys_only && plan.limit == usize::MAX && revision == store.revision && !has_filter(request) {
        return store.measure(&interval).bytes;
    }
    let mut found = walk(store, request, &plan, &interval, revision);
    if plan.sort.is_none() {
        found.truncate(plan.limit);
    }
    let lengths = found.iter().map(|(key, version)| match request.keys_only {
        true => key_only(key, version).encoded_len() as u64,
        false => u64::from(version.length),
    });
    lengths.sum()
}
