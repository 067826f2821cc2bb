//! The small rows: what the machine knows beside key-values, written behind in the same batches.

use crate::command::{Alarm, MemberAttributes};
use crate::consensus::{Position, SnapshotId};
use crate::entry::Configuration;
use crate::lease::Lease;
use crate::mvcc::hash::RunningHash;
use crate::mvcc::store::UNCOMPACTED;
use crate::storage::{ReadFailed, StateReader, WriteBatch, rows};
use crate::types::{LeaseId, LogId, MemberId, Revision, RevisionId};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    vec::Vec,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Version of the state store as a whole: which tables there are and what their keys mean. 1 had no v2 tree and no
/// leases.
///
/// A release that adds a table, a second key space or a row that others must not pass over takes the next number, and reads the older
/// ones: what is not there yet is empty. An older release refuses the newer number.
const STATE_FORMAT: u32 = 2;

const FORMAT: &[u8] = b"format";
const APPLIED: &[u8] = b"applied";
/// The name of the row is older than the word.
const COMPACT_REVISION: &[u8] = b"floor";
/// As with the row before.
const COMPACTED_TO: &[u8] = b"swept";
const CONFIGURATION: &[u8] = b"configuration";
const ATTRIBUTES: &[u8] = b"members";
const ALARMS: &[u8] = b"alarms";
/// Of each lease one row: behind this its id, in the order of ids.
const LEASE: &[u8] = b"lease/";
/// Only while a state is being received: which snapshot, and the last row that is here.
const RECEIVING: &[u8] = b"receiving";

/// How far the store is. In every batch.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Applied {
    pub applied: LogId,
    pub revision: Revision,
    /// The divergence chain: a hash over every entry applied and what it wrote.
    pub chain: RunningHash,
}

impl Applied {
    pub fn write(&self, batch: &mut WriteBatch) {
        write(APPLIED, self, batch);
    }
}

/// The rows of which there is one each: what costs in proportion to a table is read by whoever needs it.
#[derive(Debug)]
pub(super) struct Tables {
    /// The store says that it is of this format.
    pub has_format: bool,
    pub applied: Applied,
    pub compact_revision: Revision,
    pub compacted_to: RevisionId,
    pub configuration: Option<Configuration>,
    pub attributes: BTreeMap<MemberId, MemberAttributes>,
    pub alarms: BTreeSet<Alarm>,
}

impl Tables {
    pub fn load<R: StateReader>(reader: &R) -> Result<Self, ReadFailed> {
        let format: Option<u32> = rows::get(reader, FORMAT)?;
        if let Some(found) = format.filter(|found| *found > STATE_FORMAT) {
            return Err(ReadFailed(format!("format {found} is newer than {STATE_FORMAT}, the newest known here")));
        }
        let fresh = Applied { applied: LogId::default(), revision: Revision(1), chain: RunningHash::default() };
        if read_receiving(reader)?.is_some() {
            return Err(ReadFailed("it holds a part of a snapshot only".into()));
        }
        Ok(Self {
            has_format: format == Some(STATE_FORMAT),
            applied: rows::get(reader, APPLIED)?.unwrap_or(fresh),
            compact_revision: rows::get(reader, COMPACT_REVISION)?.unwrap_or(Revision(-1)),
            compacted_to: rows::get(reader, COMPACTED_TO)?.unwrap_or(UNCOMPACTED),
            configuration: rows::get(reader, CONFIGURATION)?,
            attributes: rows::get(reader, ATTRIBUTES)?.unwrap_or_default(),
            alarms: rows::get(reader, ALARMS)?.unwrap_or_default(),
        })
    }
}

pub(super) fn write_format(batch: &mut WriteBatch) {
    write(FORMAT, &STATE_FORMAT, batch);
}
pub(super) fn write_compact_revision(revision: Revision, batch: &mut WriteBatch) {
    write(COMPACT_REVISION, &revision, batch);
}
pub(super) fn write_compacted_to(compacted_to: RevisionId, batch: &mut WriteBatch) {
    write(COMPACTED_TO, &compacted_to, batch);
}
pub(super) fn write_configuration(configuration: &Configuration, batch: &mut WriteBatch) {
    write(CONFIGURATION, configuration, batch);
}
pub(super) fn write_attributes(attributes: &BTreeMap<MemberId, MemberAttributes>, batch: &mut WriteBatch) {
    write(ATTRIBUTES, attributes, batch);
}
pub(super) fn write_alarms(alarms: &BTreeSet<Alarm>, batch: &mut WriteBatch) {
    write(ALARMS, alarms, batch);
}
pub(super) fn write_lease(id: LeaseId, lease: &Lease, batch: &mut WriteBatch) {
    rows::put(lease_key(id), lease, batch);
}
pub(super) fn delete_lease(id: LeaseId, batch: &mut WriteBatch) {
    rows::delete(lease_key(id), batch);
}

/// Ids are signed: with the sign turned over, the order of bytes is theirs.
fn lease_key(id: LeaseId) -> Bytes {
    let mut key = LEASE.to_vec();
    key.extend_from_slice(&(id.0 ^ i64::MIN).to_be_bytes());
    key.into()
}

fn parse_lease_id(key: &[u8]) -> Option<LeaseId> {
    Some(LeaseId(i64::from_be_bytes(key.try_into().ok()?) ^ i64::MIN))
}

/// In order of their ids.
pub(super) fn read_leases<R: StateReader>(reader: &R) -> Result<Vec<(LeaseId, Lease)>, ReadFailed> {
    rows::get_all(reader, LEASE, parse_lease_id)
}

pub(super) fn read_receiving<R: StateReader>(reader: &R) -> Result<Option<(SnapshotId, Position)>, ReadFailed> {
    rows::get(reader, RECEIVING)
}
pub(super) fn write_receiving(reached: Option<(SnapshotId, Position)>, batch: &mut WriteBatch) {
    match reached {
        Some(reached) => write(RECEIVING, &reached, batch),
        None => rows::delete(Bytes::from_static(RECEIVING), batch),
    }
}

fn write<T: Serialize>(key: &'static [u8], row: &T, batch: &mut WriteBatch) {
    rows::put(Bytes::from_static(key), row, batch);
}
