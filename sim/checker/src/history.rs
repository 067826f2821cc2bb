//! A history: what clients asked, when, and what they were told. The checker's own types, so that it shares no code with the store.
//!
//! Every written value embeds its operation's number, so an operation of unknown outcome resolves itself once it is seen.

use serde::{Deserialize, Serialize};

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
    Other(String),
}

/// `end`: `None` for the one key, `Some(vec![])` for all keys from `key` on, else `[key, end)`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keys {
    pub key: Key,
    pub end: Option<Key>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    Range(Range),
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
    Compact { revision: i64 },
    Watch(Watch),
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Range {
    pub keys: Keys,
    pub revision: i64,
    pub limit: i64,
    /// A serializable read may be stale but must be some state of the past, never older than this client's member showed before.
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Put {
    pub key: Key,
    pub value: Value,
    pub prev_kv: bool,
    pub ignore_value: bool,
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
    Value(Value),
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

/// `revision` is the header's.
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
    /// The watch is open; `revision` is that of the created response.
    Watch {
        revision: i64,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeyValue {
    pub key: Key,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub value: Value,
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
