//! A state store in memory with cheap snapshots: layers of sorted rows, newest last, merged when they grow alike.

use bytes::Bytes;
use quorate_core::storage::{Direction, ReadFailed, RowOp, StateReader, Table, WriteBatch, recent_key};
use quorate_core::types::RevisionId;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// `None` hides the key in older layers.
type Layer = BTreeMap<(Table, Bytes), Option<Bytes>>;

/// The store, and a snapshot of it alike.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    layers: Vec<Arc<Layer>>,
}

impl MemoryStore {
    pub fn write(&mut self, batch: &WriteBatch) {
        let mut layer = Layer::new();
        for row in &batch.rows {
            match row {
                RowOp::Put { table, key, value } => layer.insert((*table, key.clone()), Some(value.clone())),
                RowOp::Delete { table, key } => layer.insert((*table, key.clone()), None),
            };
        }
        self.push(layer);
    }

    /// Drops rows below for good.
    pub fn retire(&mut self, table: Table, below: RevisionId) {
        let mut layer = Layer::new();
        self.scan(table, &[], &recent_key(below), Direction::Forward, &mut |key, _| {
            layer.insert((table, Bytes::copy_from_slice(key)), None);
            ControlFlow::Continue(())
        })
        .unwrap();
        self.push(layer);
    }

    fn push(&mut self, layer: Layer) {
        self.layers.push(Arc::new(layer));
        while let [.., older, newer] = self.layers.as_slice()
            && newer.len() * 2 >= older.len()
        {
            let mut merged = Layer::clone(older);
            merged.extend(newer.iter().map(|(key, value)| (key.clone(), value.clone())));
            self.layers.truncate(self.layers.len() - 2);
            if self.layers.is_empty() {
                merged.retain(|_, value| value.is_some());
            }
            self.layers.push(Arc::new(merged));
        }
    }
}

impl StateReader for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadFailed> {
        let key = (table, Bytes::copy_from_slice(key));
        Ok(self.layers.iter().rev().find_map(|layer| layer.get(&key)).cloned().flatten())
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), ReadFailed> {
        if !end.is_empty() && start >= end {
            return Ok(());
        }
        let from = Bound::Included((table, Bytes::copy_from_slice(start)));
        let past_table = [Table::Meta, Table::Recent, Table::Settled].into_iter().find(|other| *other > table);
        let to = match (end.is_empty(), past_table) {
            (false, _) => Bound::Excluded((table, Bytes::copy_from_slice(end))),
            (true, Some(next)) => Bound::Excluded((next, Bytes::new())),
            (true, None) => Bound::Unbounded,
        };
        let mut cursors: Vec<_> = self.layers.iter().map(|layer| layer.range((from.clone(), to.clone())).peekable()).collect();
        if direction == Direction::Backward {
            let mut rows = BTreeMap::new();
            cursors.into_iter().for_each(|cursor| rows.extend(cursor));
            for ((_, key), value) in rows.into_iter().rev() {
                if let Some(value) = value
                    && visit(key, value.clone()).is_break()
                {
                    break;
                }
            }
            return Ok(());
        }
        while let Some(key) = cursors.iter_mut().filter_map(|cursor| cursor.peek().map(|(key, _)| *key)).min() {
            let mut newest = &None;
            for cursor in &mut cursors {
                if let Some((_, value)) = cursor.next_if(|(found, _)| *found == key) {
                    newest = value;
                }
            }
            if let Some(value) = newest
                && visit(&key.1, value.clone()).is_break()
            {
                break;
            }
        }
        Ok(())
    }
}
