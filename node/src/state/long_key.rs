//! User keys may be longer than fjall's 65,535 bytes. Such a key is stored under its first bytes and a hash, the whole key in front
//! of the value; readers put the few rows that share those first bytes back in order.

use bytes::Bytes;
use sha1::{Digest, Sha1};

/// Keys from this length on are stored shortened.
pub(super) const LONG: usize = 65_000;
const HASH: usize = 20;

pub(super) fn is_long(stored: &[u8]) -> bool {
    stored.len() > LONG
}

/// The key a row is stored under.
pub(super) fn stored_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(LONG + HASH);
    stored.extend_from_slice(&key[..LONG]);
    stored.extend_from_slice(&Sha1::digest(key));
    stored
}

/// Before every row that shares the first bytes of `key`.
pub(super) fn group_start(key: &[u8]) -> &[u8] {
    &key[..key.len().min(LONG)]
}

/// Behind every row that shares the first bytes of `key`.
pub(super) fn group_end(key: &[u8]) -> Vec<u8> {
    let mut end = key[..LONG].to_vec();
    end.extend_from_slice(&[0xff; HASH + 1]);
    end
}

/// The value stored for a long key.
pub(super) fn stored_value(key: &[u8], value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(key.len()).expect("a key is shorter than a request");
    [&length.to_le_bytes(), key, value].concat()
}

/// The key and value of a long row; `None` if it is malformed.
pub(super) fn parse(stored: &Bytes) -> Option<(Bytes, Bytes)> {
    let length = u32::from_le_bytes(stored.get(..4)?.try_into().ok()?) as usize;
    let end = 4_usize.checked_add(length)?;
    (end <= stored.len()).then(|| (stored.slice(4..end), stored.slice(end..)))
}
