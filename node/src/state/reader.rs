//! Reading through one snapshot of the store.

use super::{Keyspaces, long_key};
use bytes::Bytes;
use fjall::{Guard, Keyspace, Readable, Snapshot};
use quorate_core::storage::{Direction, ReadFailed, StateReader, Table, recent_key};
use std::{
    fmt,
    ops::{Bound, ControlFlow},
    sync::{Arc, mpsc},
    thread,
};

/// An immutable instant of the whole store. It keeps what it sees alive, also parts that were deleted since.
#[derive(Clone)]
pub struct FjallReader(Arc<Inner>);

struct Inner {
    snapshot: Snapshot,
    keyspaces: Arc<Keyspaces>,
    /// Says that the directory is still read.
    _reads: Arc<()>,
}

impl fmt::Debug for FjallReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FjallReader").field(&self.0.keyspaces).finish()
    }
}

fn failed(error: impl fmt::Display) -> ReadFailed {
    ReadFailed(error.to_string())
}

/// Told here, where the place is known: whoever asked hears only that the store failed, never what a damaged block holds.
fn damaged(keyspace: &Keyspace) -> impl Fn(fjall::Error) -> ReadFailed + '_ {
    move |error| {
        let directory = keyspace.path().display();
        tracing::error!(target: "quorate", %directory, %error, "the state store cannot be read");
        ReadFailed(format!("{directory}: {error}"))
    }
}

type Visit<'a> = &'a mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>;

impl FjallReader {
    pub(super) fn new(snapshot: Snapshot, keyspaces: Arc<Keyspaces>, reads: Arc<()>) -> Self {
        Self(Arc::new(Inner { snapshot, keyspaces, _reads: reads }))
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> usize {
        self.0.keyspaces.recent.len()
    }

    fn get_from(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Bytes>, ReadFailed> {
        Ok(self.0.snapshot.get(keyspace, key).map_err(damaged(keyspace))?.map(Bytes::from))
    }

    /// Visits one keyspace as it is stored. Breaks if the visitor does.
    fn scan_one(
        &self,
        keyspace: &Keyspace,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<ControlFlow<()>, ReadFailed> {
        let end = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        if let Bound::Excluded(end) = end
            && end <= start
        {
            return Ok(ControlFlow::Continue(()));
        }
        let mut rows = self.0.snapshot.range::<&[u8], _>(keyspace, (Bound::Included(start), end));
        let mut next = || -> Option<Guard> {
            match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.next_back(),
            }
        };
        while let Some(row) = next() {
            let (key, value) = row.into_inner().map_err(damaged(keyspace))?;
            if visit(&key, value.into()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn scan_recent(&self, start: &[u8], end: &[u8], direction: Direction, visit: Visit<'_>) -> Result<(), ReadFailed> {
        let keyspaces = &self.0.keyspaces;
        let retired = recent_key(keyspaces.retired);
        let start = start.max(&retired);
        let mut parts: Vec<(i64, &Keyspace)> = keyspaces.recent.iter().map(|(first, part)| (*first, part)).collect();
        // A part holds revisions from its first to before the next part's first.
        let overlaps = |at: usize, parts: &[(i64, &Keyspace)]| {
            let begins_before_end = end.is_empty() || parts[at].0.to_be_bytes().as_slice() < end;
            let ends_after_start = parts.get(at + 1).is_none_or(|next| next.0.to_be_bytes().as_slice() > &start[..start.len().min(8)]);
            begins_before_end && ends_after_start
        };
        let chosen: Vec<bool> = (0..parts.len()).map(|at| overlaps(at, &parts)).collect();
        let mut chosen = chosen.into_iter();
        parts.retain(|_| chosen.next().unwrap_or(false));
        if direction == Direction::Backward {
            parts.reverse();
        } else if end.is_empty() && parts.len() > 1 {
            // All there is, as at start: half of the work for another processor.
            return self.scan_ahead(&parts, start, visit);
        }
        for (_, part) in parts {
            if self.scan_one(part, start, end, direction, visit)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Visits parts one after the other while a second thread fetches what comes next.
    fn scan_ahead(&self, parts: &[(i64, &Keyspace)], start: &[u8], visit: Visit<'_>) -> Result<(), ReadFailed> {
        thread::scope(|scope| {
            let (sender, chunks) = mpsc::sync_channel(CHUNKS_AHEAD);
            let fetch = move || self.fetch(parts, start, &sender);
            thread::Builder::new().name("read-ahead".into()).spawn_scoped(scope, fetch).map_err(failed)?;
            for chunk in chunks {
                let chunk: Chunk = chunk?;
                let mut from = 0;
                for (key_end, end) in chunk.rows {
                    if visit(&chunk.bytes[from..key_end], chunk.bytes.slice(key_end..end)).is_break() {
                        return Ok(());
                    }
                    from = end;
                }
            }
            Ok(())
        })
    }

    /// Ends early if nobody listens any more.
    fn fetch(&self, parts: &[(i64, &Keyspace)], start: &[u8], chunks: &mpsc::SyncSender<Result<Chunk, ReadFailed>>) {
        let (mut bytes, mut rows) = (Vec::with_capacity(CHUNK_BYTES), Vec::new());
        let send = |bytes: &mut Vec<u8>, rows: &mut Vec<(usize, usize)>| {
            let full = std::mem::replace(bytes, Vec::with_capacity(CHUNK_BYTES));
            chunks.send(Ok(Chunk { bytes: full.into(), rows: std::mem::take(rows) })).is_ok()
        };
        for (_, part) in parts {
            let mut stored = self.0.snapshot.range::<&[u8], _>(*part, start..);
            let failure = stored.try_for_each(|row| {
                let (key, value) = row.into_inner().map_err(|error| Some(damaged(part)(error)))?;
                if bytes.len() + key.len() + value.len() > CHUNK_BYTES && !rows.is_empty() && !send(&mut bytes, &mut rows) {
                    return Err(None);
                }
                bytes.extend_from_slice(&key);
                let key_end = bytes.len();
                bytes.extend_from_slice(&value);
                rows.push((key_end, bytes.len()));
                Ok(())
            });
            match failure {
                Ok(()) => {}
                Err(Some(failed)) => return drop(chunks.send(Err(failed))),
                Err(None) => return,
            }
        }
        send(&mut bytes, &mut rows);
    }

    fn scan_settled(&self, start: &[u8], end: &[u8], direction: Direction, visit: Visit<'_>) -> Result<(), ReadFailed> {
        let stored_start = long_key::group_start(start);
        let stored_end = if end.len() >= long_key::LONG { long_key::group_end(end) } else { end.to_vec() };
        let mut group = Group { prefix: Vec::new(), rows: Vec::new(), start, end, direction };
        let mut malformed = false;
        let flow = self.scan_one(&self.0.keyspaces.settled, stored_start, &stored_end, direction, &mut |key, value| {
            if !long_key::is_long(key) {
                group.visit(visit)?;
                return visit(key, value);
            }
            if group.prefix != key[..long_key::LONG] {
                group.visit(visit)?;
                group.prefix = key[..long_key::LONG].to_vec();
            }
            let Some(row) = long_key::parse(&value) else {
                malformed = true;
                return ControlFlow::Break(());
            };
            group.rows.push(row);
            ControlFlow::Continue(())
        })?;
        if malformed {
            return Err(ReadFailed("malformed row of a long key".into()));
        }
        if flow.is_continue() {
            let _ = group.visit(visit);
        }
        Ok(())
    }
}

/// Bytes of rows that one chunk of a scan with a second thread holds, unless one row has more.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks fetched before they are asked for, at most.
const CHUNKS_AHEAD: usize = 16;

/// Rows behind each other.
struct Chunk {
    bytes: Bytes,
    /// Where each row's key ends, and where its value does.
    rows: Vec<(usize, usize)>,
}

/// Long keys that share their first bytes, collected to be visited in order.
struct Group<'a> {
    prefix: Vec<u8>,
    rows: Vec<(Bytes, Bytes)>,
    start: &'a [u8],
    end: &'a [u8],
    direction: Direction,
}

impl Group<'_> {
    fn visit(&mut self, visit: Visit<'_>) -> ControlFlow<()> {
        let mut rows = std::mem::take(&mut self.rows);
        rows.retain(|(key, _)| &key[..] >= self.start && (self.end.is_empty() || &key[..] < self.end));
        rows.sort();
        if self.direction == Direction::Backward {
            rows.reverse();
        }
        rows.into_iter().try_for_each(|(key, value)| visit(&key, value))
    }
}

impl StateReader for FjallReader {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadFailed> {
        let keyspaces = &self.0.keyspaces;
        match table {
            Table::Meta => self.get_from(&keyspaces.meta, key),
            Table::Recent => {
                if key < recent_key(keyspaces.retired).as_slice() {
                    return Ok(None);
                }
                let Some(main) = key.get(..8).and_then(|main| main.try_into().ok()).map(i64::from_be_bytes) else { return Ok(None) };
                match keyspaces.recent.range(..=main).next_back() {
                    Some((_, part)) => self.get_from(part, key),
                    None => Ok(None),
                }
            }
            Table::Settled if key.len() >= long_key::LONG => {
                let Some(stored) = self.get_from(&keyspaces.settled, &long_key::stored_key(key))? else { return Ok(None) };
                let (_, value) = long_key::parse(&stored).ok_or_else(|| ReadFailed("malformed row of a long key".into()))?;
                Ok(Some(value))
            }
            Table::Settled => self.get_from(&keyspaces.settled, key),
        }
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], direction: Direction, visit: Visit<'_>) -> Result<(), ReadFailed> {
        match table {
            Table::Meta => self.scan_one(&self.0.keyspaces.meta, start, end, direction, visit).map(|_| ()),
            Table::Recent => self.scan_recent(start, end, direction, visit),
            Table::Settled => self.scan_settled(start, end, direction, visit),
        }
    }
}
