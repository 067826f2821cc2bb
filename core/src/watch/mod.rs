//! ⑧ Watchers: each gets the changes of its keys, in order, each once, none missing (etcd API, Watch guarantees).
//!
//! A hub serves many streams from published [`View`]s. It pulls: a new view tells it that there is more, the events are read
//! from the view, from memory or from disk alike, so publishing never waits for a watcher and a slow one costs only its own budget.

use crate::command::KeyRange;
use crate::mvcc::{EncodedKeyValue, EventKind, View};
use crate::storage::StateReader;
use crate::types::{Monotonic, Now, Revision, StreamId, WatchId};
use alloc::{sync::Arc, vec::Vec};
use core::time::Duration;

/// The named bounds of a hub.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// Bytes of responses handed to one stream and not yet drained; above it the stream waits.
    pub stream_bytes: usize,
    /// Watches on one stream.
    pub stream_watches: usize,
    /// Revisions in one catch-up response.
    pub catch_up_revisions: usize,
    /// Events one wake reads from history, over all watches.
    pub slice_events: usize,
    /// Above this a response is split, for watches that asked for fragments.
    pub fragment_bytes: usize,
    pub progress_interval: Duration,
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
    /// 0: the hub picks the lowest free id from 0 on.
    pub watch: WatchId,
    pub fragment: bool,
}

#[derive(Clone, Debug)]
pub enum HubInput<R: StateReader> {
    Published(Arc<View<R>>),
    Open(StreamId),
    Create(StreamId, WatchRequest),
    Cancel(StreamId, WatchId),
    /// A manual progress request for the whole stream.
    Progress(StreamId),
    /// The transport took so many bytes of responses off the stream's hands.
    Drained(StreamId, usize),
    Close(StreamId),
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
    pub revision: Revision,
    pub watch: WatchId,
    pub created: bool,
    pub canceled: Option<Canceled>,
    pub fragment: bool,
    /// Shared between watches that get the same ones.
    pub events: Arc<[WatchEvent]>,
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

/// The watch actor; a member may run several, each with streams of its own.
#[derive(Debug)]
pub struct Hub<R: StateReader> {
    view: Arc<View<R>>,
}

impl<R: StateReader> Hub<R> {
    #[must_use]
    pub fn new(_limits: HubLimits, view: Arc<View<R>>, _now: Now) -> Self {
        Self { view }
    }

    /// When to `step` with `Wake`: a progress notification is due, or history is left to read.
    #[must_use]
    pub fn deadline(&self) -> Monotonic {
        todo!()
    }

    pub fn step(&mut self, _now: Now, _input: HubInput<R>, _out: &mut Vec<HubEffect>) {
        let _ = &self.view;
        todo!()
    }
}
