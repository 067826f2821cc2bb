//! A stored key-value: protobuf bytes of etcd's `mvccpb.KeyValue`, kept as they go into answers.

use crate::types::{LeaseId, Revision};
use alloc::vec::Vec;
use bytes::{Buf, Bytes};

/// One version of a key, decoded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyValue {
    pub key: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub version: i64,
    pub value: Bytes,
    pub lease: LeaseId,
}

/// One version of a key as `mvccpb.KeyValue` protobuf: fields key 1, create_revision 2, mod_revision 3, version 4, value 5, lease 6.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EncodedKeyValue(pub Bytes);

/// A row of [`crate::storage::Table::Recent`] or [`crate::storage::Table::Settled`]: one byte that says put or delete, then the
/// key-value. A delete has only key and mod revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row(Bytes);

const KIND_PUT: u8 = 0;
const KIND_DELETE: u8 = 1;

/// Protobuf tags: field number and wire type in one byte.
const KEY: u8 = 1 << 3 | LENGTH_DELIMITED;
const CREATE_REVISION: u8 = 2 << 3 | VARINT;
const MOD_REVISION: u8 = 3 << 3 | VARINT;
const VERSION: u8 = 4 << 3 | VARINT;
const VALUE: u8 = 5 << 3 | LENGTH_DELIMITED;
const LEASE: u8 = 6 << 3 | VARINT;
const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

/// A key-value by reference, on its way into bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyValueRef<'a> {
    pub key: &'a [u8],
    pub create: Revision,
    pub modified: Revision,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: LeaseId,
}

#[expect(clippy::cast_sign_loss, reason = "protobuf's int64 is two's complement")]
impl KeyValueRef<'_> {
    /// Bytes of the encoded form.
    pub fn encoded_len(&self) -> usize {
        let bytes = |field: &[u8]| if field.is_empty() { 0 } else { 1 + varint_len(field.len() as u64) + field.len() };
        let number = |field: i64| if field == 0 { 0 } else { 1 + varint_len(field as u64) };
        bytes(self.key) + number(self.create.0) + number(self.modified.0) + number(self.version) + bytes(self.value) + number(self.lease.0)
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(KEY, self.key, out);
        put_number(CREATE_REVISION, self.create.0, out);
        put_number(MOD_REVISION, self.modified.0, out);
        put_number(VERSION, self.version, out);
        put_bytes(VALUE, self.value, out);
        put_number(LEASE, self.lease.0, out);
    }

    pub fn encode(&self) -> EncodedKeyValue {
        let mut out = Vec::with_capacity(self.encoded_len());
        self.encode_into(&mut out);
        EncodedKeyValue(out.into())
    }
}

impl Row {
    pub fn put(fields: &KeyValueRef<'_>) -> Self {
        Self::of(KIND_PUT, fields)
    }

    pub fn delete(key: &[u8], modified: Revision) -> Self {
        Self::of(KIND_DELETE, &KeyValueRef { key, modified, ..KeyValueRef::default() })
    }

    fn of(kind: u8, fields: &KeyValueRef<'_>) -> Self {
        let mut out = Vec::with_capacity(1 + fields.encoded_len());
        out.push(kind);
        fields.encode_into(&mut out);
        Self(out.into())
    }

    /// Takes stored bytes; `None` if no release wrote them.
    pub fn parse(stored: Bytes) -> Option<Self> {
        (stored.first().is_some_and(|kind| *kind <= KIND_DELETE) && decode_fields(&stored[1..]).is_some()).then_some(Self(stored))
    }

    pub fn is_delete(&self) -> bool {
        self.0[0] == KIND_DELETE
    }

    pub const fn stored(&self) -> &Bytes {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn into_kv(self) -> EncodedKeyValue {
        let mut bytes = self.0;
        bytes.advance(1);
        EncodedKeyValue(bytes)
    }

    /// The fields, borrowed.
    pub fn fields(&self) -> KeyValueRef<'_> {
        decode_fields(&self.0[1..]).unwrap_or_default()
    }
}

impl KeyValue {
    #[must_use]
    pub fn encode(&self) -> EncodedKeyValue {
        KeyValueRef {
            key: &self.key,
            create: self.create_revision,
            modified: self.mod_revision,
            version: self.version,
            value: &self.value,
            lease: self.lease,
        }
        .encode()
    }
}

impl EncodedKeyValue {
    /// All fields; key and value share this one's memory. `None` if these bytes are no key-value.
    #[must_use]
    pub fn decode(&self) -> Option<KeyValue> {
        let fields = decode_fields(&self.0)?;
        Some(KeyValue {
            key: self.share(fields.key),
            create_revision: fields.create,
            mod_revision: fields.modified,
            version: fields.version,
            value: self.share(fields.value),
            lease: fields.lease,
        })
    }

    /// The key, sharing memory. As all accessors, empty or zero if absent.
    #[must_use]
    pub fn key(&self) -> Bytes {
        self.share(self.fields().key)
    }

    /// The value, sharing memory.
    #[must_use]
    pub fn value(&self) -> Bytes {
        self.share(self.fields().value)
    }

    #[must_use]
    pub fn create_revision(&self) -> Revision {
        self.fields().create
    }

    #[must_use]
    pub fn mod_revision(&self) -> Revision {
        self.fields().modified
    }

    #[must_use]
    pub fn version(&self) -> i64 {
        self.fields().version
    }

    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.fields().lease
    }

    pub(crate) fn fields(&self) -> KeyValueRef<'_> {
        decode_fields(&self.0).unwrap_or_default()
    }

    fn share(&self, part: &[u8]) -> Bytes {
        if part.is_empty() { Bytes::new() } else { self.0.slice_ref(part) }
    }
}

#[expect(clippy::cast_sign_loss, reason = "protobuf's int64 is two's complement")]
fn put_number(tag: u8, number: i64, out: &mut Vec<u8>) {
    if number != 0 {
        out.push(tag);
        put_varint(number as u64, out);
    }
}

fn put_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

const fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[expect(clippy::cast_possible_wrap, reason = "protobuf's int64 is two's complement")]
fn decode_fields(mut bytes: &[u8]) -> Option<KeyValueRef<'_>> {
    let mut fields = KeyValueRef::default();
    while let Some((&tag, rest)) = bytes.split_first() {
        bytes = rest;
        let number = take_varint(&mut bytes)?;
        match tag {
            KEY | VALUE => {
                let (field, rest) = bytes.split_at_checked(usize::try_from(number).ok()?)?;
                bytes = rest;
                if tag == KEY {
                    fields.key = field;
                } else {
                    fields.value = field;
                }
            }
            CREATE_REVISION => fields.create = Revision(number as i64),
            MOD_REVISION => fields.modified = Revision(number as i64),
            VERSION => fields.version = number as i64,
            LEASE => fields.lease = LeaseId(number as i64),
            _ => return None,
        }
    }
    Some(fields)
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
