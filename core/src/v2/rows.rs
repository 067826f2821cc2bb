//! The tree as the state store has it: rows of [`Table::Meta`] under a prefix of their own, one a node, one an event that is kept, and
//! one that says how far the tree is.

use super::event::Event;
use super::node::Node;
use super::space::Space;
use crate::codec::{self, FrameError};
use crate::mvcc::tree::Tree;
use crate::storage::{Direction, ReadFailed, StateReader, Table, WriteBatch};
use crate::types::WallMs;
use alloc::{format, sync::Arc, vec::Vec};
use bytes::Bytes;
use core::ops::ControlFlow;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of the rows' frames.
const ROW_VERSION: u8 = 1;

const MARK: &[u8] = b"v2";
const EVENT: &[u8] = b"v2.event.";
const NODE: &[u8] = b"v2.node.";

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Mark {
    index: u64,
    time: WallMs,
}

fn event_key(index: u64) -> Bytes {
    [EVENT, &index.to_be_bytes()].concat().into()
}

fn node_key(key: &[u8]) -> Bytes {
    [NODE, key].concat().into()
}

fn put<T: Serialize>(key: Bytes, row: &T, batch: &mut WriteBatch) {
    let mut out = Vec::new();
    codec::encode(ROW_VERSION, row, &mut out);
    batch.put(Table::Meta, key, out.into());
}

pub(super) fn put_mark(index: u64, time: WallMs, batch: &mut WriteBatch) {
    put(Bytes::from_static(MARK), &Mark { index, time }, batch);
}
pub(super) fn put_event(event: &Event, batch: &mut WriteBatch) {
    put(event_key(event.index), event, batch);
}
pub(super) fn delete_event(index: u64, batch: &mut WriteBatch) {
    batch.delete(Table::Meta, event_key(index));
}
pub(super) fn put_node(key: &[u8], node: &Node, batch: &mut WriteBatch) {
    put(node_key(key), node, batch);
}
pub(super) fn delete_node(key: &[u8], batch: &mut WriteBatch) {
    batch.delete(Table::Meta, node_key(key));
}

pub(super) fn load<R: StateReader>(reader: &R) -> Result<Space, ReadFailed> {
    let mark: Mark = match reader.get(Table::Meta, MARK)? {
        Some(stored) => decode(MARK, &stored)?,
        None => Mark::default(),
    };
    let nodes: Vec<(Bytes, Node)> = load_all(reader, NODE, |key| Some(Bytes::copy_from_slice(key)))?;
    let events: Vec<(u64, Event)> = load_all(reader, EVENT, |key| key.try_into().ok().map(u64::from_be_bytes))?;
    let history = Tree::from_sorted(events.into_iter().map(|(index, event)| (index, Arc::new(event))));
    Ok(Space { nodes: Tree::from_sorted(nodes), history, index: mark.index, time: mark.time })
}

fn load_all<R: StateReader, K, T: DeserializeOwned>(
    reader: &R,
    prefix: &[u8],
    parse_key: impl Fn(&[u8]) -> Option<K>,
) -> Result<Vec<(K, T)>, ReadFailed> {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    let mut rows = Vec::new();
    let mut failed = None;
    reader.scan(Table::Meta, prefix, &end, Direction::Forward, &mut |key, stored| {
        let name = parse_key(&key[prefix.len()..]).ok_or_else(|| ReadFailed(format!("row {:?}: no such key", key.escape_ascii())));
        match name.and_then(|name| Ok((name, decode(key, &stored)?))) {
            Ok(row) => rows.push(row),
            Err(error) => failed = Some(error),
        }
        if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failed.map_or(Ok(rows), Err)
}

fn decode<T: DeserializeOwned>(key: &[u8], stored: &[u8]) -> Result<T, ReadFailed> {
    let named = |error: FrameError| ReadFailed(format!("row {:?}: {error}", key.escape_ascii()));
    codec::decode(ROW_VERSION, stored, stored.len()).map(|(row, _)| row).map_err(named)
}
