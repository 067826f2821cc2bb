//! The vocabulary of numbers: one newtype for everything that could be swapped by mistake.

use core::{fmt, time::Duration};
use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);
        impl $name {
            /// The number after this one. Panics at the end of the type's range, which no store lives to see.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("number space exhausted"))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number!(/// A member of the cluster; printed in hexadecimal, as etcd does.
    MemberId(u64), "{:x}");
number!(/// The cluster: eight bytes of a hash over its initial members.
    ClusterId(u64), "{:x}");
number!(/// An election's number (Raft §5.1). Zero before the first.
    Term(u64), "{}");
number!(/// Position in the Raft log; the first entry has 1, and 0 stands before it.
    LogIndex(u64), "{}");
number!(/// A state of the key space. A fresh store is at 1; each write that changes a key adds one (etcd API, KV).
    Revision(i64), "{}");
number!(/// A lease; any `i64` but 0, which means "none".
    LeaseId(i64), "{:x}");
number!(/// A watch on one stream; -1 answers for the whole stream.
    WatchId(i64), "{}");
number!(/// One client's watch stream on one member.
    StreamId(u64), "{}");
number!(/// How often this member has opened its data directory; made durable at each open.
    Boot(u64), "{}");
number!(/// Orders the writes to this member's WAL.
    WriteNumber(u64), "{}");
number!(/// Orders the batches written behind to this member's state store.
    BatchNumber(u64), "{}");
number!(/// A directory of the state store: the first is 0, and each snapshot that is installed makes the next.
    StateNumber(u64), "{}");
number!(/// A file of the WAL. Ids only grow, also when a file is recycled.
    SegmentId(u64), "{}");

/// Position and term of a log entry. Field order makes `Ord` the "more up-to-date" rule of Raft §5.4.1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct LogId {
    pub term: Term,
    pub index: LogIndex,
}

/// A single change within a revision: `sub` counts the changed keys of one transaction from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct RevisionId {
    pub main: Revision,
    pub sub: u32,
}

/// Names a proposal for ever: which member took it, in which of its lives, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RequestId {
    pub member: MemberId,
    pub boot: Boot,
    pub sequence: u64,
}

/// Names one attempt to read linearizably; never used twice, not even for a retry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ReadId {
    pub member: MemberId,
    pub boot: Boot,
    pub sequence: u64,
}

/// This member's own time since some start, including suspended time. It may drift against other members' but never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Monotonic(pub Duration);

/// Milliseconds since the Unix epoch as this member's clock shows them: data only, it may step either way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct WallMs(pub u64);

/// What the host says the time is. Core never asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    pub monotonic: Monotonic,
    pub wall: WallMs,
}

impl core::ops::Add<Duration> for Monotonic {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Monotonic {
    /// A moment that never comes: the deadline of an actor that waits for nothing.
    pub const NEVER: Self = Self(Duration::MAX);

    /// Time passed since `earlier`, zero if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl LogIndex {
    /// The index before this one, or 0.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.index)
    }
}
impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.member, self.boot, self.sequence)
    }
}
impl fmt::Display for ReadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.member, self.boot, self.sequence)
    }
}
