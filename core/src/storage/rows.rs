//! Rows of [`Table::Meta`]: each a frame around postcard of one struct, so that a damaged one is named instead of misread.

use super::{Direction, ReadFailed, StateReader, Table, WriteBatch};
use crate::codec;
use alloc::{format, vec::Vec};
use bytes::Bytes;
use core::{fmt::Display, ops::ControlFlow};
use serde::{Serialize, de::DeserializeOwned};

/// Version of the rows' frames.
const ROW_VERSION: u8 = 1;

pub(crate) fn put<T: Serialize>(key: Bytes, row: &T, batch: &mut WriteBatch) {
    batch.put(Table::Meta, key, codec::encoded(ROW_VERSION, row));
}

pub(crate) fn delete(key: Bytes, batch: &mut WriteBatch) {
    batch.delete(Table::Meta, key);
}

pub(crate) fn get<R: StateReader, T: DeserializeOwned>(reader: &R, key: &[u8]) -> Result<Option<T>, ReadFailed> {
    reader.get(Table::Meta, key)?.map(|stored| decode(key, &stored)).transpose()
}

/// The rows whose keys begin with `prefix`, in their order, each under the name that `parse` makes of what follows the prefix.
pub(crate) fn get_all<R: StateReader, K, T: DeserializeOwned>(
    reader: &R,
    prefix: &[u8],
    parse: impl Fn(&[u8]) -> Option<K>,
) -> Result<Vec<(K, T)>, ReadFailed> {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    let mut rows = Vec::new();
    let mut failed = None;
    reader.scan(Table::Meta, prefix, &end, Direction::Forward, &mut |key, stored| {
        let name = parse(&key[prefix.len()..]).ok_or_else(|| unreadable(key, "no such key"));
        match name.and_then(|name| Ok((name, decode(key, &stored)?))) {
            Ok(row) => {
                rows.push(row);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(rows), Err)
}

fn decode<T: DeserializeOwned>(key: &[u8], stored: &[u8]) -> Result<T, ReadFailed> {
    codec::decode(ROW_VERSION, stored, stored.len()).map(|(row, _)| row).map_err(|error| unreadable(key, error))
}

fn unreadable(key: &[u8], why: impl Display) -> ReadFailed {
    ReadFailed(format!("row {:?}: {why}", key.escape_ascii()))
}
