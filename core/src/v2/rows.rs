//! The tree as the state store has it: [`rows`] under a prefix of their own, one a node, one an event that is kept, and
//! one that says how far the tree is.

use super::event::Event;
use super::node::Node;
use super::space::Space;
use crate::mvcc::tree::Tree;
use crate::storage::{ReadFailed, StateReader, WriteBatch, rows};
use crate::types::WallMs;
use alloc::{sync::Arc, vec::Vec};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

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

pub(super) fn put_mark(index: u64, time: WallMs, batch: &mut WriteBatch) {
    rows::put(Bytes::from_static(MARK), &Mark { index, time }, batch);
}
pub(super) fn put_event(event: &Event, batch: &mut WriteBatch) {
    rows::put(event_key(event.index), event, batch);
}
pub(super) fn delete_event(index: u64, batch: &mut WriteBatch) {
    rows::delete(event_key(index), batch);
}
pub(super) fn put_node(key: &[u8], node: &Node, batch: &mut WriteBatch) {
    rows::put(node_key(key), node, batch);
}
pub(super) fn delete_node(key: &[u8], batch: &mut WriteBatch) {
    rows::delete(node_key(key), batch);
}

pub(super) fn load<R: StateReader>(reader: &R) -> Result<Space, ReadFailed> {
    let mark: Mark = rows::get(reader, MARK)?.unwrap_or_default();
    let nodes: Vec<(Bytes, Node)> = rows::get_all(reader, NODE, |key| Some(Bytes::copy_from_slice(key)))?;
    let events: Vec<(u64, Event)> = rows::get_all(reader, EVENT, |key| key.try_into().ok().map(u64::from_be_bytes))?;
    let history = Tree::from_sorted(events.into_iter().map(|(index, event)| (index, Arc::new(event))));
    Ok(Space { nodes: Tree::from_sorted(nodes), history, index: mark.index, time: mark.time })
}
