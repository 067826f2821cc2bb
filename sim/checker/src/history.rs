//! A history: what clients asked, when, and what they were told. The checker's own types, so that it shares no code with the store.
//!
//! Records stand in the order in which they happened: that order, not `at`, says what was over before what began. A recorder with
//! several threads takes a record's place before it sends and after it has received, under one lock.
//!
//! Every written value embeds its operation's number, so an operation of unknown outcome resolves itself once it is seen.
//! A history begins with a fresh store, and every compaction is one of its operations.

use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Write};

/// An operation's number, unique in a history.
pub type OpId = u64;
pub type ClientId = u32;
/// True time in nanoseconds (simulated, or of the one machine that recorded the history).
pub type Nanos = u64;
pub type Key = Vec<u8>;
pub type Value = Vec<u8>;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    Invoke {
        op: OpId,
        client: ClientId,
        at: Nanos,
        request: Request,
    },
    Return {
        op: OpId,
        at: Nanos,
        outcome: Outcome,
    },
    /// From here on `client` talks to `member`, in one life of that member: what it is shown must not go back (until the next such record).
    Attached {
        client: ClientId,
        at: Nanos,
        member: u64,
    },
    /// A watch delivered changes or progress.
    Delivered {
        watch: OpId,
        at: Nanos,
        delivery: Delivery,
    },
    /// Something was done to the cluster; for people, and for liveness bounds.
    Fault {
        at: Nanos,
        what: String,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// `rank` is the log index of the entry that answered, where the recorder knows it (simulation only).
    Ok { response: Response, rank: Option<u64> },
    /// Certainly nothing was done.
    Refused(Refused),
    /// Done, or not, or still to come.
    Unknown,
}

/// Errors that say something about the store's state; any other refusal is `Other`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refused {
    Compacted,
    FutureRevision,
    KeyNotFound,
    LeaseNotFound,
    LeaseExists,
    Other(String),
}

/// `end`: `None` for the one key, `Some(vec![])` for all keys from `key` on, else `[key, end)`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keys {
    #[serde(with = "text")]
    pub key: Key,
    #[serde(with = "optional_text")]
    pub end: Option<Key>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    Range(Range),
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
    Compact {
        revision: i64,
    },
    Watch(Watch),
    /// `lease`: never 0 here.
    LeaseGrant {
        lease: i64,
        ttl_s: i64,
    },
    LeaseRevoke {
        lease: i64,
    },
    /// No step of the store: what is promised of it is in true time, see [`crate::lease`]. So with the next.
    LeaseKeepAlive {
        lease: i64,
    },
    LeaseTimeToLive {
        lease: i64,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Range {
    pub keys: Keys,
    pub revision: i64,
    pub limit: i64,
    /// A serializable read may be stale but must be some state of the past, never older than this client's member showed before
    /// (see [`Record::Attached`]).
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Put {
    #[serde(with = "text")]
    pub key: Key,
    #[serde(with = "text")]
    pub value: Value,
    pub prev_kv: bool,
    pub ignore_value: bool,
    /// 0: none.
    pub lease: i64,
    pub ignore_lease: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DeleteRange {
    pub keys: Keys,
    pub prev_kv: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Request>,
    pub failure: Vec<Request>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Compare {
    pub keys: Keys,
    pub relation: Relation,
    pub target: Target,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Relation {
    Equal,
    NotEqual,
    Greater,
    Less,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Target {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(#[serde(with = "text")] Value),
    Lease(i64),
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Watch {
    pub keys: Keys,
    /// 0: from the next change on.
    pub start_revision: i64,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
}

/// `revision` is the header's. That of a txn inside a txn is not looked at: etcd leaves it zero.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Response {
    Range {
        revision: i64,
        kvs: Vec<KeyValue>,
        more: bool,
        count: i64,
    },
    Put {
        revision: i64,
        prev_kv: Option<KeyValue>,
    },
    DeleteRange {
        revision: i64,
        deleted: i64,
        prev_kvs: Vec<KeyValue>,
    },
    Txn {
        revision: i64,
        succeeded: bool,
        responses: Vec<Response>,
    },
    Compact {
        revision: i64,
    },
    LeaseGrant {
        revision: i64,
        ttl_s: i64,
    },
    LeaseRevoke {
        revision: i64,
    },
    /// `None`: there is no such lease. Else what it was granted and what it has left.
    LeaseTime {
        seconds: Option<(i64, i64)>,
    },
    /// The watch is open; `revision` is that of the created response.
    Watch {
        revision: i64,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeyValue {
    #[serde(with = "text")]
    pub key: Key,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    #[serde(with = "text")]
    pub value: Value,
    /// 0: none.
    pub lease: i64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Delivery {
    /// One response's events.
    Events { revision: i64, events: Vec<Event> },
    /// Everything through `revision` has been delivered.
    Progress { revision: i64 },
    /// The watch ended because the next change owed was compacted away.
    Compacted { compact_revision: i64 },
    /// The stream broke; a client that resumes opens a new watch.
    Closed,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    pub deleted: bool,
    /// For a delete only key and mod revision mean something.
    pub kv: KeyValue,
    pub prev_kv: Option<KeyValue>,
}

impl Default for Keys {
    /// All keys.
    fn default() -> Self {
        Self { key: vec![0], end: Some(Vec::new()) }
    }
}

impl Request {
    /// Whether the answer may be stale: a serializable range, or a txn of nothing else (etcd API: a txn of compares alone is one).
    #[must_use]
    pub fn is_serializable(&self) -> bool {
        match self {
            Self::Range(range) => range.serializable,
            Self::Txn(txn) => txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Self::Range(range) if range.serializable)),
            _ => false,
        }
    }

    /// Whether it goes through the log: whatever may change something, and a txn inside a txn, whatever it holds.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        match self {
            Self::Put(_) | Self::DeleteRange(_) | Self::Compact { .. } | Self::LeaseGrant { .. } | Self::LeaseRevoke { .. } => true,
            Self::Txn(txn) => txn.success.iter().chain(&txn.failure).any(|op| !matches!(op, Self::Range(_))),
            Self::Range(_) | Self::Watch(_) | Self::LeaseKeepAlive { .. } | Self::LeaseTimeToLive { .. } => false,
        }
    }
}

impl Response {
    #[must_use]
    pub const fn revision(&self) -> i64 {
        match self {
            Self::Range { revision, .. }
            | Self::Put { revision, .. }
            | Self::DeleteRange { revision, .. }
            | Self::Txn { revision, .. }
            | Self::Compact { revision }
            | Self::LeaseGrant { revision, .. }
            | Self::LeaseRevoke { revision }
            | Self::Watch { revision } => *revision,
            Self::LeaseTime { .. } => 0,
        }
    }
}

impl Keys {
    #[must_use]
    pub fn one(key: impl Into<Key>) -> Self {
        Self { key: key.into(), end: None }
    }

    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            None => self.key == key,
            Some(end) => self.key.as_slice() <= key && (end.is_empty() || key < end.as_slice()),
        }
    }

    /// Whether some key is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let starts_before_the_end_of = |a: &Self, b: &Self| match &b.end {
            None => a.key <= b.key,
            Some(end) => end.is_empty() || a.key < *end,
        };
        let empty = |keys: &Self| keys.end.as_ref().is_some_and(|end| !end.is_empty() && *end <= keys.key);
        starts_before_the_end_of(self, other) && starts_before_the_end_of(other, self) && !empty(self) && !empty(other)
    }
}

/// Writes one record a line, as JSON.
pub fn write_lines(records: &[Record], mut to: impl Write) -> io::Result<()> {
    for record in records {
        serde_json::to_writer(&mut to, record)?;
        to.write_all(b"\n")?;
    }
    to.flush()
}

/// Reads what [`write_lines`] wrote; an error names the line.
pub fn read_lines(from: impl BufRead) -> io::Result<Vec<Record>> {
    from.lines()
        .enumerate()
        .map(|(number, line)| {
            serde_json::from_str(&line?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {e}", number + 1)))
        })
        .collect()
}

/// Bytes as text, one character a byte (U+0000 to U+00FF): lossless, and what people write stays readable.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&bytes.iter().map(|&byte| char::from(byte)).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.chars().map(|c| u8::try_from(c).map_err(|_| D::Error::custom(format!("character {c:?} is not a byte")))).collect()
    }
}

mod optional_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Text(#[serde(with = "super::text")] Vec<u8>);

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.clone().map(Text).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Text>::deserialize(deserializer)?.map(|text| text.0))
    }
}
