//! A stored key-value: protobuf bytes of etcd's `mvccpb.KeyValue`, kept as they go into answers.

use crate::types::{LeaseId, Revision};
use bytes::Bytes;

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
