//! A large range answer on its way out: encoded piece by piece as the transport takes it, never as one buffer.

use crate::{
    encoded::RangeResponse,
    permit::{BudgetPermit, WithPermit},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use std::vec;
use tonic::Response;

/// Bytes after which a piece takes no further key-value.
const PIECE_BYTES: usize = 64 << 10;
/// Tag and length of a key-value in the answer, about.
const KEY_VALUE_OVERHEAD_BYTES: usize = 4;
/// What precedes a message (gRPC over HTTP/2, "Length-Prefixed-Message"): whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A response's stand-in for its message: the layer around the service sends this instead.
#[derive(Clone, Debug)]
pub(super) struct StreamedBody {
    pub answer: RangeResponse,
    pub permit: BudgetPermit,
}

/// A small answer as it is; a large one beside an empty message, for the layer to send in pieces.
pub(super) fn ranged(WithPermit { answer, permit }: WithPermit<RangeResponse>) -> Response<RangeResponse> {
    if !permit.counts() {
        return Response::new(answer);
    }
    // What no length prefix can tell is left to tonic to refuse.
    if u32::try_from(answer.encoded_len()).is_err() {
        return super::with_permit(WithPermit { answer, permit });
    }
    let mut response = Response::new(RangeResponse::default());
    response.extensions_mut().insert(StreamedBody { answer, permit });
    response
}

/// The bytes of one length-prefixed message. A message is its fields one after the other, so each piece is encoded as a message
/// of some of the fields.
#[derive(Debug)]
pub(super) struct Pieces {
    /// The whole message's length and its fields before the key-values.
    head: Option<(usize, RangeResponse)>,
    kvs: vec::IntoIter<Bytes>,
    /// The fields after the key-values.
    tail: Option<RangeResponse>,
}

impl Pieces {
    pub(super) fn of(answer: RangeResponse) -> Self {
        let length = answer.encoded_len();
        let RangeResponse { header, kvs, more, count } = answer;
        Self {
            head: Some((length, RangeResponse { header, ..RangeResponse::default() })),
            kvs: kvs.into_iter(),
            tail: Some(RangeResponse { more, count, ..RangeResponse::default() }),
        }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some((length, head)) = self.head.take() {
            let mut piece = BytesMut::with_capacity(PREFIX_BYTES + head.encoded_len());
            piece.put_u8(0);
            piece.put_u32(u32::try_from(length).expect("checked when it was streamed"));
            head.encode_raw(&mut piece);
            return Some(piece.freeze());
        }
        let (mut kvs, mut size) = (Vec::new(), 0);
        while size < PIECE_BYTES
            && let Some(kv) = self.kvs.next()
        {
            // An empty one is some bytes too, or a million of them would be one piece.
            size += kv.len() + KEY_VALUE_OVERHEAD_BYTES;
            kvs.push(kv);
        }
        let part = if kvs.is_empty() { self.tail.take()? } else { RangeResponse { kvs, ..RangeResponse::default() } };
        Some(part.encode_to_vec().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::ResponseHeader;

    fn whole(answer: &RangeResponse) -> Vec<u8> {
        let message = answer.encode_to_vec();
        let mut whole = vec![0];
        whole.put_u32(u32::try_from(message.len()).expect("small"));
        whole.extend(message);
        whole
    }

    #[test]
    fn the_pieces_are_the_message() {
        let header = Some(ResponseHeader { cluster_id: 1, member_id: 2, revision: 3, raft_term: 4 });
        for (keys, value) in [(0, 0), (1, 0), (1, 3 * PIECE_BYTES), (300, 1_000), (20_000, 7), (5, PIECE_BYTES), (4, PIECE_BYTES - 1)] {
            let kvs = (0..keys).map(|n: usize| Bytes::from(vec![n.to_le_bytes()[0]; value])).collect();
            let answer = RangeResponse { header, kvs, more: keys == 1, count: i64::try_from(keys).expect("small") };
            let pieces: Vec<Bytes> = Pieces::of(answer.clone()).collect();
            assert!(pieces.concat() == whole(&answer), "{keys} keys of {value} bytes");
            assert!(pieces.iter().all(|piece| piece.len() <= 2 * PIECE_BYTES + value), "{keys} keys of {value} bytes");
        }
    }
}
