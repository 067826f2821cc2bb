//! Reading keys as of a revision (etcd API, Range).

use super::index::Version;
use super::row::KeyValueRef;
use super::stop::Stop;
use super::store::{Found, Interval, Store};
use super::tree::Sum;
use crate::command::{Range, RangeReply, Rejection, SortOrder, SortTarget};
use crate::storage::{Direction, StateReader};
use crate::types::Revision;
use alloc::vec::Vec;
use core::cmp::Reverse;

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

/// Refuses a compacted or future revision.
pub(crate) fn range<R: StateReader>(store: &Store<R>, request: &Range) -> Result<RangeReply, Stop> {
    let revision = store.readable(request.revision)?;
    if request.range.key.is_empty() {
        return Err(Rejection::EmptyKey.into());
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
        (SortTarget::Value, true) => values.iter().map(|kv| KeyValueRef { value: &[], ..kv.fields() }.encode()).collect(),
        (SortTarget::Value, false) => values,
        (_, true) => found.iter().map(|(key, version)| key_only(key, version).encode()).collect(),
        (_, false) => store.rows(&found, plan.sort.is_none() && plan.direction == Direction::Forward)?,
    };
    Ok(reply)
}

/// Keys that [`range`] may visit. Of an older revision it is not known how many keys it had: `older` says for an interval what to
/// take for it.
pub(super) fn visits<R: StateReader>(store: &Store<R>, request: &Range, older: impl Fn(Sum) -> u64) -> u64 {
    let interval = Interval::of(&request.range);
    if interval.single().is_some() {
        return 1;
    }
    let sum = store.measure(&interval);
    if request.revision.0 > 0 && request.revision < store.revision {
        return older(sum);
    }
    if request.count_only {
        return 1;
    }
    let walk = if has_filter(request) { u64::MAX } else { Plan::of(request).walk as u64 };
    sum.count.min(walk)
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
fn key_only<'a>(key: &'a [u8], version: &Version) -> KeyValueRef<'a> {
    KeyValueRef { key, create: version.create, modified: version.id.main, version: version.number, ..KeyValueRef::default() }
}

fn sort_by<T, K: Ord>(items: &mut [T], order: SortOrder, key: impl Fn(&T) -> K) {
    match order {
        SortOrder::Descend => items.sort_by_key(|item| Reverse(key(item))),
        SortOrder::None | SortOrder::Ascend => items.sort_by_key(key),
    }
}

/// Bytes that [`range`] would return, from the index alone.
pub(crate) fn range_bytes<R: StateReader>(store: &Store<R>, request: &Range) -> u64 {
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
