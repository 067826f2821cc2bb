//! The one way through a txn: its ops in order, those of the txns nested in it in their places.
//!
//! It takes no stack, however deep a txn nests: nobody has to have checked its depth before.

use super::{Op, Txn};

/// Which branches of a txn to walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Branches {
    /// `success` if true, else `failure`.
    One(bool),
    /// `success`, then `failure`.
    Both,
}

/// What is done with the parts of a txn. The first error ends the walk.
pub(crate) trait Visitor<'a> {
    type Error;

    /// A txn begins: which of its branches are walked?
    fn enter(&mut self, txn: &'a Txn) -> Result<Branches, Self::Error>;

    /// The second of both branches of the innermost open txn begins.
    fn turn(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A range, a put or a delete. Never a txn.
    fn op(&mut self, op: &'a Op) -> Result<(), Self::Error>;

    /// The innermost open txn ends.
    fn leave(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// What is left of an open txn.
struct Open<'a> {
    ops: core::slice::Iter<'a, Op>,
    second: Option<core::slice::Iter<'a, Op>>,
}

impl<'a> Open<'a> {
    fn of(txn: &'a Txn, branches: Branches) -> Self {
        match branches {
            Branches::One(success) => Self { ops: txn.branch(success).iter(), second: None },
            Branches::Both => Self { ops: txn.success.iter(), second: Some(txn.failure.iter()) },
        }
    }
}

/// Walks a txn from its beginning to its end.
pub(crate) fn walk<'a, V: Visitor<'a>>(txn: &'a Txn, visitor: &mut V) -> Result<(), V::Error> {
    let mut open = alloc::vec![Open::of(txn, visitor.enter(txn)?)];
    while let Some(innermost) = open.last_mut() {
        match innermost.ops.next() {
            Some(Op::Txn(nested)) => open.push(Open::of(nested, visitor.enter(nested)?)),
            Some(op) => visitor.op(op)?,
            None => match innermost.second.take() {
                Some(ops) => {
                    innermost.ops = ops;
                    visitor.turn()?;
                }
                None => {
                    open.pop();
                    visitor.leave()?;
                }
            },
        }
    }
    Ok(())
}

impl Txn {
    /// The ops that run if the compares hold, or do not.
    pub(crate) fn branch(&self, success: bool) -> &[Op] {
        if success { &self.success } else { &self.failure }
    }

    /// Whether a put stands anywhere in it.
    pub(crate) fn has_put(&self) -> bool {
        struct Search;
        impl Visitor<'_> for Search {
            /// A put was found.
            type Error = ();
            fn enter(&mut self, _: &Txn) -> Result<Branches, ()> {
                Ok(Branches::Both)
            }
            fn op(&mut self, op: &Op) -> Result<(), ()> {
                if matches!(op, Op::Put(_)) { Err(()) } else { Ok(()) }
            }
        }
        walk(self, &mut Search).is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Put;
    use alloc::{string::String, vec};
    use bytes::Bytes;

    fn put(key: &'static str) -> Op {
        Op::Put(Put { key: Bytes::from_static(key.as_bytes()), ..Put::default() })
    }

    /// Writes down what it meets: a txn in brackets, the second branch after a bar.
    struct Scribe {
        branches: Branches,
        text: String,
    }

    impl Visitor<'_> for Scribe {
        type Error = ();
        fn enter(&mut self, _: &Txn) -> Result<Branches, ()> {
            self.text.push('[');
            Ok(self.branches)
        }
        fn turn(&mut self) -> Result<(), ()> {
            self.text.push('|');
            Ok(())
        }
        fn op(&mut self, op: &Op) -> Result<(), ()> {
            let Op::Put(put) = op else { return Err(()) };
            self.text.push_str(core::str::from_utf8(&put.key).expect("written so"));
            Ok(())
        }
        fn leave(&mut self) -> Result<(), ()> {
            self.text.push(']');
            Ok(())
        }
    }

    #[test]
    fn a_walk_meets_every_op_of_the_branches_asked_for_in_order() {
        let inner = Txn { success: vec![put("b")], failure: vec![put("c")], ..Txn::default() };
        let txn = Txn { success: vec![put("a"), Op::Txn(inner), put("d")], failure: vec![Op::Txn(Txn::default())], ..Txn::default() };
        let read = |branches| {
            let mut scribe = Scribe { branches, text: String::new() };
            walk(&txn, &mut scribe).map(|()| scribe.text)
        };
        assert_eq!(read(Branches::Both).as_deref(), Ok("[a[b|c]d|[|]]"));
        assert_eq!(read(Branches::One(true)).as_deref(), Ok("[a[b]d]"));
        assert_eq!(read(Branches::One(false)).as_deref(), Ok("[[]]"));
    }

    #[test]
    fn an_error_ends_the_walk() {
        assert!(Txn { failure: vec![put("a")], ..Txn::default() }.has_put());
        assert!(!Txn { success: vec![Op::Txn(Txn::default())], ..Txn::default() }.has_put());
    }
}
