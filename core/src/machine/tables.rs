//! The small rows of [`Table::Meta`]: what the machine knows beside key-values, written behind in the same batches.

use crate::command::{Alarm, MemberAttributes};
use crate::consensus::{Position, SnapshotId};
use crate::entry::Configuration;
use crate::lease::Lease;
use crate::mvcc::hash::RunningHash;
use crate::mvcc::store::UNCOMPACTED;
use crate::storage::{Direction, ReadFailed, StateReader, Table, WriteBatch};
use crate::types::{LeaseId, LogId, MemberId, Revision, RevisionId};
use crate::v2::SpaceWriter;
use crate::{codec, codec::FrameError};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    vec::Vec,
};
use bytes::Bytes;
use core::ops::ControlFlow;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of the rows' frames.
const ROW_VERSION: u8 = 1;
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
/// Just above the keys of all of them.
const LEASES_END: &[u8] = b"lease0";
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
    pub v2: SpaceWriter,
    /// In order of their ids.
    pub leases: Vec<(LeaseId, Lease)>,
}

impl Tables {
    pub fn load<R: StateReader>(reader: &R) -> Result<Self, ReadFailed> {
        let format: Option<u32> = read(reader, FORMAT)?;
        if let Some(found) = format.filter(|found| *found > STATE_FORMAT) {
            return Err(ReadFailed(format!("format {found} is newer than {STATE_FORMAT}, the newest known here")));
        }
        let fresh = Applied { applied: LogId::default(), revision: Revision(1), chain: RunningHash::default() };
        if read_receiving(reader)?.is_some() {
            return Err(ReadFailed("it holds a part of a snapshot only".into()));
        }
        Ok(Self {
            has_format: format == Some(STATE_FORMAT),
            applied: read(reader, APPLIED)?.unwrap_or(fresh),
            compact_revision: read(reader, COMPACT_REVISION)?.unwrap_or(Revision(-1)),
            compacted_to: read(reader, COMPACTED_TO)?.unwrap_or(UNCOMPACTED),
            configuration: read(reader, CONFIGURATION)?,
            attributes: read(reader, ATTRIBUTES)?.unwrap_or_default(),
            alarms: read(reader, ALARMS)?.unwrap_or_default(),
            v2: SpaceWriter::open(reader)?,
            leases: read_leases(reader)?,
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
    batch.put(Table::Meta, lease_key(id), codec::encoded(ROW_VERSION, lease));
}
pub(super) fn delete_lease(id: LeaseId, batch: &mut WriteBatch) {
    batch.delete(Table::Meta, lease_key(id));
}

/// Ids are signed: with the sign turned over, the order of bytes is theirs.
fn lease_key(id: LeaseId) -> Bytes {
    let mut key = LEASE.to_vec();
    key.extend_from_slice(&(id.0 ^ i64::MIN).to_be_bytes());
    key.into()
}

fn parse_lease_key(key: &[u8]) -> Option<LeaseId> {
    let id = key.strip_prefix(LEASE)?.try_into().ok()?;
    Some(LeaseId(i64::from_be_bytes(id) ^ i64::MIN))
}

fn read_leases<R: StateReader>(reader: &R) -> Result<Vec<(LeaseId, Lease)>, ReadFailed> {
    let mut leases = Vec::new();
    let mut failed = None;
    reader.scan(Table::Meta, LEASE, LEASES_END, Direction::Forward, &mut |key, stored| {
        let lease = codec::decode(ROW_VERSION, &stored, stored.len()).map(|(lease, _)| lease);
        match (parse_lease_key(key), lease) {
            (Some(id), Ok(lease)) => {
                leases.push((id, lease));
                return ControlFlow::Continue(());
            }
            (_, Err(error)) => failed = Some(named(key, &error)),
            (None, Ok(_)) => failed = Some(ReadFailed(format!("row {:?} is of no lease", key.escape_ascii()))),
        }
        ControlFlow::Break(())
    })?;
    failed.map_or(Ok(leases), Err)
}

pub(super) fn read_receiving<R: StateReader>(reader: &R) -> Result<Option<(SnapshotId, Position)>, ReadFailed> {
    read(reader, RECEIVING)
}
pub(super) fn write_receiving(reached: Option<(SnapshotId, Position)>, batch: &mut WriteBatch) {
    match reached {
        Some(reached) => write(RECEIVING, &reached, batch),
        None => batch.delete(Table::Meta, Bytes::from_static(RECEIVING)),
    }
}

fn write<T: Serialize>(key: &'static [u8], row: &T, batch: &mut WriteBatch) {
    batch.put(Table::Meta, Bytes::from_static(key), codec::encoded(ROW_VERSION, row));
}

fn read<R: StateReader, T: DeserializeOwned>(reader: &R, key: &[u8]) -> Result<Option<T>, ReadFailed> {
    let Some(stored) = reader.get(Table::Meta, key)? else { return Ok(None) };
    codec::decode(ROW_VERSION, &stored, stored.len()).map(|(row, _)| Some(row)).map_err(|error| named(key, &error))
}

fn named(key: &[u8], error: &FrameError) -> ReadFailed {
    ReadFailed(format!("row {:?}: {error}", key.escape_ascii()))
}
