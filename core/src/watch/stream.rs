//! One client's stream: its watches, and how many bytes it was handed and has not taken.

use super::watcher_group::{Chunk, Interest, WatcherId};
use super::{HubEffect, HubLimits, WatchRequest, WatchResponse};
use crate::types::{Monotonic, Revision, StreamId, WatchId};
use alloc::{collections::BTreeMap, vec::Vec};

/// Names a group of unsynced watches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct GroupId(pub u64);

/// Where a watch stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SyncState {
    /// With those that have everything the newest view has, or are being brought there together.
    Synced,
    /// Reading history with others at the same revision.
    Unsynced(GroupId),
    /// Blocked: its stream must be drained first; [`Stream::victims`] has where it goes on.
    Victim,
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub interest: Interest,
    /// As asked: no progress before the store has reached it.
    pub start_revision: Revision,
    pub progress_notify: bool,
    pub fragment: bool,
    pub sync_state: SyncState,
    /// Had no events since the last progress tick.
    pub is_idle: bool,
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    pub watches: BTreeMap<WatchId, Watcher>,
    /// Watches in [`SyncState::Victim`], each with the first revision it is owed.
    pub victims: BTreeMap<WatchId, Revision>,
    pub undrained_bytes: usize,
    /// When progress is due; `None` while no watch asks for it.
    pub tick: Option<Monotonic>,
    next_watch: WatchId,
}

/// Where responses go, and how many bytes of them the clients of all streams have not taken.
#[derive(Debug)]
pub(super) struct Outlet<'a> {
    pub effects: &'a mut Vec<HubEffect>,
    pub undrained_bytes: usize,
}

impl Watcher {
    pub fn new(request: &WatchRequest, interest: Interest) -> Self {
        Self {
            interest,
            start_revision: request.start_revision,
            progress_notify: request.progress_notify,
            fragment: request.fragment,
            sync_state: SyncState::Synced,
            is_idle: true,
        }
    }
}

impl Stream {
    /// The id a client chose, or the next in line; `None` if the chosen one is taken.
    pub fn pick_id(&mut self, chosen: WatchId) -> Option<WatchId> {
        if chosen != WatchId(0) {
            return Some(chosen).filter(|id| !self.watches.contains_key(id));
        }
        while self.watches.contains_key(&self.next_watch) {
            self.next_watch = self.next_watch.next();
        }
        let id = self.next_watch;
        self.next_watch = id.next();
        Some(id)
    }

    pub fn add_victim(&mut self, watch: WatchId, owed: Revision) {
        self.watches.get_mut(&watch).expect("a watch of this stream").sync_state = SyncState::Victim;
        self.victims.insert(watch, owed);
    }

    /// Puts a response on the stream, whatever its budget.
    pub fn emit(&mut self, stream: StreamId, response: WatchResponse, out: &mut Outlet<'_>) {
        let bytes = response.bytes();
        self.undrained_bytes += bytes;
        out.undrained_bytes += bytes;
        out.effects.push(HubEffect { stream, response });
    }

    /// So many bytes are the client's now, or nobody's.
    pub fn drain(&mut self, bytes: usize, out: &mut Outlet<'_>) {
        let bytes = bytes.min(self.undrained_bytes);
        self.undrained_bytes -= bytes;
        out.undrained_bytes -= bytes;
    }

    /// Whether it must be drained before it is handed more events. When all streams together hold too much, one that holds
    /// nothing still gets a response at a time: who reads is served, however many do not.
    pub const fn is_full(&self, limits: &HubLimits, hub_undrained_bytes: usize) -> bool {
        self.undrained_bytes >= limits.stream_bytes || (self.undrained_bytes > 0 && hub_undrained_bytes >= limits.hub_bytes)
    }

    /// Sends one watch's events while the budget lasts. Says from which revision on it is still owed, if it did not.
    /// For history, `through` is where the last of them leaves the watch, if further than its own events do, and `store_revision` the
    /// newest there is.
    pub fn send_chunks(
        &mut self,
        (id, watch): WatcherId,
        chunks: &mut [Chunk],
        limits: &HubLimits,
        (through, store_revision): (Option<Revision>, Option<Revision>),
        out: &mut Outlet<'_>,
    ) -> Option<Revision> {
        let fragment = self.watches[&watch].fragment;
        let count = chunks.len();
        for (number, chunk) in chunks.iter_mut().enumerate() {
            if self.is_full(limits, out.undrained_bytes) {
                return Some(chunk.first);
            }
            self.watches.get_mut(&watch).expect("a watch of this stream").is_idle = false;
            let revision = through.filter(|_| number + 1 == count).unwrap_or(chunk.last);
            let store_revision = store_revision.unwrap_or(chunk.last);
            let pieces = if fragment { chunk.fragments(limits.fragment_bytes) } else { core::slice::from_ref(&chunk.events) };
            let last = pieces.len() - 1;
            for (piece, events) in pieces.iter().enumerate() {
                let (fragment, events) = (piece < last, events.clone());
                let response = WatchResponse { revision, store_revision, watch, fragment, events, ..WatchResponse::default() };
                self.emit(id, response, out);
            }
        }
        None
    }
}
