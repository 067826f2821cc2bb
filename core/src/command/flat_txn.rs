//! The stored form of a [`Txn`]: its ops as one list in the order they are met, each txn followed by its branches.
//!
//! Nested structs would be read by recursion, which bytes from outside could drive through the stack's end. A list cannot.

use super::walk::{self, Branches, walk};
use super::{Compare, DeleteRange, Op, Put, Range, Txn};
use alloc::vec::Vec;
use core::convert::Infallible;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

/// How deep txns may nest: the outermost is at 1. Far above what the limit on ops allows in its default.
pub const TXN_DEPTH_MAX: usize = 200;

/// Append-only: the variant numbers are in the log.
#[derive(Serialize)]
enum FlatRef<'a> {
    Range(&'a Range),
    Put(&'a Put),
    DeleteRange(&'a DeleteRange),
    Txn { compare: &'a [Compare], success: u32, failure: u32 },
}

#[derive(Deserialize)]
enum Flat {
    Range(Range),
    Put(Put),
    DeleteRange(DeleteRange),
    Txn { compare: Vec<Compare>, success: u32, failure: u32 },
}

impl Serialize for Txn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut items = Items(Vec::new());
        let Ok(()) = walk(self, &mut items);
        items.0.serialize(serializer)
    }
}

struct Items<'a>(Vec<FlatRef<'a>>);

impl<'a> walk::Visitor<'a> for Items<'a> {
    type Error = Infallible;

    fn enter(&mut self, txn: &'a Txn) -> Result<Branches, Infallible> {
        let count = |ops: &[Op]| u32::try_from(ops.len()).expect("a txn of 4 billion ops");
        self.0.push(FlatRef::Txn { compare: &txn.compare, success: count(&txn.success), failure: count(&txn.failure) });
        Ok(Branches::Both)
    }

    fn op(&mut self, op: &'a Op) -> Result<(), Infallible> {
        match op {
            Op::Range(range) => self.0.push(FlatRef::Range(range)),
            Op::Put(put) => self.0.push(FlatRef::Put(put)),
            Op::DeleteRange(delete) => self.0.push(FlatRef::DeleteRange(delete)),
            Op::Txn(_) => {}
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Txn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(TxnVisitor)
    }
}

struct TxnVisitor;

/// A txn whose ops are still coming.
struct Open {
    txn: Txn,
    success: u32,
    failure: u32,
}

impl Open {
    fn add(&mut self, op: Op) {
        if self.success > 0 {
            self.success -= 1;
            self.txn.success.push(op);
        } else {
            self.failure -= 1;
            self.txn.failure.push(op);
        }
    }
    const fn is_whole(&self) -> bool {
        self.success == 0 && self.failure == 0
    }
}

impl<'de> Visitor<'de> for TxnVisitor {
    type Value = Txn;

    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the ops of a txn, in order")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Txn, A::Error> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            let item = items.next_element()?.ok_or_else(|| A::Error::custom("a txn ends early"))?;
            let mut op = match item {
                Flat::Range(range) => Op::Range(range),
                Flat::Put(put) => Op::Put(put),
                Flat::DeleteRange(delete) => Op::DeleteRange(delete),
                Flat::Txn { compare, success, failure } => {
                    if open.len() == TXN_DEPTH_MAX {
                        return Err(A::Error::custom("txns nested too deep"));
                    }
                    open.push(Open { txn: Txn { compare, ..Txn::default() }, success, failure });
                    if !open[open.len() - 1].is_whole() {
                        continue;
                    }
                    Op::Txn(open.pop().map(|open| open.txn).unwrap_or_default())
                }
            };
            loop {
                let Some(parent) = open.last_mut() else {
                    let Op::Txn(txn) = op else { return Err(A::Error::custom("an op outside a txn")) };
                    return match items.next_element::<Flat>()? {
                        None => Ok(txn),
                        Some(_) => Err(A::Error::custom("an op after the txn's end")),
                    };
                };
                parent.add(op);
                if !parent.is_whole() {
                    break;
                }
                op = Op::Txn(open.pop().map(|open| open.txn).unwrap_or_default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{CompareResult, CompareTarget, KeyRange};
    use bytes::Bytes;

    fn put(key: &'static str) -> Op {
        Op::Put(Put { key: Bytes::from_static(key.as_bytes()), ..Put::default() })
    }

    fn nested(depth: usize) -> Txn {
        (1..depth).fold(Txn::default(), |txn, _| Txn { failure: alloc::vec![Op::Txn(txn)], ..Txn::default() })
    }

    #[test]
    fn a_txn_comes_back_as_it_went() {
        let compare = Compare { range: KeyRange::default(), result: CompareResult::Less, target: CompareTarget::Version(3) };
        let inner = Txn { compare: alloc::vec![compare], success: alloc::vec![put("b")], failure: alloc::vec![] };
        let empty = Op::Txn(Txn::default());
        let txn = Txn {
            success: alloc::vec![put("a"), empty, Op::Txn(inner), put("c")],
            failure: alloc::vec![Op::Range(Range::default())],
            ..Txn::default()
        };
        let bytes = postcard::to_allocvec(&txn).unwrap();
        assert_eq!(postcard::from_bytes::<Txn>(&bytes).unwrap(), txn);
        for cut in 0..bytes.len() {
            assert!(postcard::from_bytes::<Txn>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_txn_nested_beyond_the_bound_is_not_read() {
        let of = |depth| postcard::from_bytes::<Txn>(&postcard::to_allocvec(&nested(depth)).unwrap());
        assert!(of(TXN_DEPTH_MAX).is_ok());
        assert!(of(TXN_DEPTH_MAX + 1).is_err());
        // A million levels, in bytes: one txn with one op in its success branch, again and again.
        let mut bytes = alloc::vec![0xc0, 0x84, 0x3d];
        bytes.extend([3, 0, 1, 0].repeat(1_000_000));
        assert!(postcard::from_bytes::<Txn>(&bytes).is_err());
    }
}
