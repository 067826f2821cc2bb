//! ⑧ Watchers: each gets the changes of its keys, in order, each once, none missing (etcd API, Watch guarantees).
//!
//! A hub serves many streams from published [`View`]s. It pulls: a new view tells it that there is more, the events are read
//! from the view, from memory or from disk alike, so publishing never waits for a watcher and a slow one costs only its own budget.
//!
//! ```text
//!              start in the past               caught up
//!   Create ──────────────────────> unsynced ─────────────> synced <── start 0 or ahead
//!                                     ^  └─┐ stream full    │ stream full
//!                                     │    v                v
//!                                  drained └──── victim <───┘
//! ```
//!
//! The words are etcd's. Watches at the same revision form a watcher group: its events are read once, matched by key, and shared. The
//! synced group advances with each published view; an unsynced one reads history in slices, one slice a flush, in turn, and on its way takes
//! along the groups it passes. A slice is read first and the compaction floor looked at again afterwards: if it passed the slice's
//! start, the slice may have holes, and its watches are cancelled as compacted. A slice that has holes all the same was read from
//! a view whose rows are gone by now: it is thrown away, and the next view says where the floor is.
//!
//! The guarantees, and what gives them: *ordered* and *unique*, because a watch has one cursor that only grows; *reliable*,
//! because a cursor moves only past events that were handed out; *atomic*, because slices and responses end between revisions;
//! *resumable*, because any start not below the floor is served; *bookmarkable*, because progress is told only to synced watches.

mod display;
mod hub;
mod interval;
mod stream;
mod watcher_group;

pub use hub::WatchHub;

use crate::command::{KeyRange, Refusal};
use crate::mvcc::{EncodedKeyValue, Event, EventKind, View};
use crate::storage::StateReader;
use crate::types::{Revision, StreamId, WatchId};
use alloc::{sync::Arc, vec::Vec};
use core::time::Duration;

/// The named bounds of a hub.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// Bytes of responses handed to one stream and not yet drained; above it the stream waits. Counted by
    /// [`WatchResponse::bytes`]. A response that is begun below it goes out whole.
    pub stream_bytes: usize,
    /// The same over all streams of the hub; above it a stream gets its next response only once it has taken the one before.
    pub hub_bytes: usize,
    /// Watches on one stream.
    pub stream_watches: usize,
    /// Watches on all streams of the hub.
    pub hub_watches: usize,
    /// Revisions in one response.
    pub catch_up_revisions: usize,
    /// Events one step or flush reads from history, over all watches; more only to complete a revision.
    pub slice_events: usize,
    /// Bytes of key-values that one step or flush reads from history, over all watches, the previous ones that are asked for counted apart;
    /// more only to complete a revision.
    pub slice_bytes: usize,
    /// Above this a response is split, for watches that asked for fragments.
    pub fragment_bytes: usize,
    /// Zero: progress is told only when asked for.
    pub progress_interval: Duration,
}

impl Default for HubLimits {
    /// etcd's numbers where it has one: 1,000 revisions, 1.5 MiB + 512 KiB, 10 minutes.
    fn default() -> Self {
        Self {
            stream_bytes: 16 << 20,
            hub_bytes: 256 << 20,
            stream_watches: 100_000,
            hub_watches: 1_000_000,
            catch_up_revisions: 1_000,
            slice_events: 1_000,
            slice_bytes: 4 << 20,
            fragment_bytes: 2 << 20,
            progress_interval: Duration::from_secs(600),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WatchRequest {
    pub range: KeyRange,
    /// 0: from the next change on.
    pub start_revision: Revision,
    pub progress_notify: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
    /// 0: the hub picks the next id, from 0 on, that is not in use.
    pub watch: WatchId,
    pub fragment: bool,
}

/// What a hub reads: a state of the store with its history. A [`View`], or in tests a plain log.
pub trait History {
    /// As [`View::revision`].
    fn revision(&self) -> Revision;
    /// As [`View::compact_revision`].
    fn compact_revision(&self) -> Revision;
    /// As [`View::events`].
    fn events(&self, after: Revision, limit: usize, bytes: usize) -> Result<Vec<Event>, Refusal>;
    /// As [`View::at`].
    fn at(&self, key: &[u8], revision: Revision) -> Result<Option<EncodedKeyValue>, Refusal>;
}

impl<R: StateReader> History for View<R> {
    fn revision(&self) -> Revision {
        Self::revision(self)
    }
    fn compact_revision(&self) -> Revision {
        Self::compact_revision(self)
    }
    fn events(&self, after: Revision, limit: usize, bytes: usize) -> Result<Vec<Event>, Refusal> {
        Self::events(self, after, limit, bytes)
    }
    fn at(&self, key: &[u8], revision: Revision) -> Result<Option<EncodedKeyValue>, Refusal> {
        Self::at(self, key, revision)
    }
}

/// The hub of a member: over published views.
pub type Hub<R> = WatchHub<View<R>>;

/// What goes into a [`Hub`].
pub type HubInput<R> = WatchInput<View<R>>;

#[derive(Clone, Debug)]
pub enum WatchInput<H> {
    /// A newer state. One that is older than what the hub has is ignored.
    Published(Arc<H>),
    Open(StreamId),
    Create(StreamId, WatchRequest),
    Cancel(StreamId, WatchId),
    /// A manual progress request for the whole stream.
    Progress(StreamId),
    /// The transport took so many bytes of responses off the stream's hands, counted by [`WatchResponse::bytes`].
    Drained(StreamId, usize),
    Close(StreamId),
    /// Time may have reached [`WatchHub::deadline`]; early is harmless.
    Wake,
}

/// Effect of a hub: put this on that stream, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HubEffect {
    pub stream: StreamId,
    pub response: WatchResponse,
}

/// What a watcher is told. Fields as in etcd's `WatchResponse`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WatchResponse {
    /// `header.revision` without events. With events: the watch has all it is owed through this revision, once any last fragment is
    /// there.
    pub revision: Revision,
    /// `header.revision` with events: of the store when they were handed out, if they are history, or else of the last of them.
    pub store_revision: Revision,
    pub watch: WatchId,
    pub created: bool,
    pub canceled: Option<Canceled>,
    pub fragment: bool,
    /// Shared between watches that get the same ones.
    pub events: Arc<[WatchEvent]>,
}

impl WatchResponse {
    /// What a response counts against its stream's budget: its events, and a flat charge that stands for everything else.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const FLAT: usize = 64;
        FLAT + self.events.iter().map(WatchEvent::bytes).sum::<usize>()
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Canceled {
    /// At the client's wish.
    Requested,
    /// The next change owed is below the floor.
    Compacted(Revision),
    EmptyRange,
    DuplicateId,
    NegativeStart,
    TooManyWatches,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchEvent {
    pub kind: EventKind,
    pub kv: EncodedKeyValue,
    pub prev_kv: Option<EncodedKeyValue>,
}

impl WatchEvent {
    /// What an event counts against budgets: its key-values, and a flat charge for tags and lengths.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const FLAT: usize = 16;
        FLAT + self.kv.0.len() + self.prev_kv.as_ref().map_or(0, |kv| kv.0.len())
    }
}
