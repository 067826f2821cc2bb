//! Compaction in slices: rows of the recent generation below the compact revision either settle or are let go.
//!
//! F is the compact revision, in the log. Revisions are walked up to F - 1 (a watch may still start at F itself). A row that is its
//! key's newest at F moves to the settled generation, a tombstone in that place takes the key out of it, and everything else is
//! garbage. Rows leave the recent generation as whole tables, once a sync covers the move (`Retire`).

use super::index::KeyRecord;
use super::row::Row;
use super::store::{Store, after};
use crate::storage::{Direction, ReadFailed, StateReader, Table, WriteBatch, parse_recent_key, recent_key};
use crate::types::{Revision, RevisionId};
use alloc::{format, vec::Vec};
use bytes::Bytes;
use core::ops::ControlFlow;

/// Goes on from `compacted_to` through at most `limit` rows with revisions up to `through`, which the store's reader must have whole.
/// Says how far it came.
pub(crate) fn compact_some<R: StateReader>(
    store: &mut Store<R>,
    compacted_to: RevisionId,
    through: Revision,
    limit: usize,
    batch: &mut WriteBatch,
) -> Result<RevisionId, ReadFailed> {
    let mut slice: Vec<(RevisionId, Row)> = Vec::new();
    let mut failed = None;
    let (from, to) = (recent_key(after(compacted_to)), recent_key(RevisionId { main: through.next(), sub: 0 }));
    store.reader.scan(Table::Recent, &from, &to, Direction::Forward, &mut |key, stored| {
        let Some(found) = parse_recent_key(key).zip(Row::parse(stored)) else {
            failed = Some(ReadFailed(format!("recent row {key:?} is malformed")));
            return ControlFlow::Break(());
        };
        slice.push(found);
        if slice.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    assert!(through < store.compact_revision, "revision {through} can still be read: the compact revision is {}", store.compact_revision);
    for (id, row) in &slice {
        assert!(*id > compacted_to && id.main <= through, "row {id} came for ({compacted_to}, {through}]");
        compact_row(store, *id, row, batch);
    }
    let whole = slice.len() < limit;
    let last = slice.last().map(|(id, _)| *id).filter(|_| !whole);
    Ok(last.unwrap_or(RevisionId { main: through, sub: u32::MAX }))
}

fn compact_row<R: StateReader>(store: &mut Store<R>, id: RevisionId, row: &Row, batch: &mut WriteBatch) {
    let compacted = store.compact_revision;
    let key = row.fields().key;
    let settled_key = || Bytes::copy_from_slice(key);
    let Some(record) = store.index.get(key) else { return };
    if record.at(compacted).is_none_or(|newest| newest.id != id) {
        // Superseded at the compact revision. Its settled predecessor, if any, goes when the successor is reached.
        forget(store, key, id);
    } else if !row.is_delete() {
        // In an allocation of its own: what was read back is part of a whole block of the store.
        batch.put(Table::Settled, settled_key(), Bytes::copy_from_slice(row.stored()));
        if record.has_before(id) {
            store.index.update(key, |record| record.forget_before(id));
        }
    } else {
        // Everything older that the index still has is settled: what was garbage has been forgotten on the way here.
        if record.has_before(id) {
            batch.delete(Table::Settled, settled_key());
            store.index.update(key, |record| record.forget_before(id));
        }
        forget(store, key, id);
    }
}

fn forget<R: StateReader>(store: &mut Store<R>, key: &[u8], id: RevisionId) {
    let left: Option<bool> = store.index.update(key, |record: &mut KeyRecord| record.forget(id));
    if left == Some(false) {
        store.index.remove(key);
    }
}
