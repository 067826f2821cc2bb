//! What a leader knows of one other member's log, and how it sends to it.
//!
//! ```text
//!            acknowledged                 rejected, or the log could not be read
//!   Probe ────────────────> Replicate     Replicate ────────────────> Probe
//!   one append, then wait   a window of appends, none waited for
//!
//!          what it needs next is gone                  it has it, or nothing more is sent to it
//!   Probe, Replicate ────────────────> Snapshot     Snapshot ────────────────> Probe, Replicate
//!                                      no append
//! ```

use crate::entry::Entry;
use crate::types::{LogIndex, Monotonic};
use crate::wal::{Location, Planner};
use alloc::{collections::VecDeque, vec::Vec};

/// How the leader sends to one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ProgressState {
    /// Where the logs agree is not known: one append at a time, the next after an answer or a sign of life.
    Probe { waiting: bool },
    /// Appends follow each other within the window, without waiting for answers.
    Replicate,
    /// Needs a state instead of entries. The log after `holds` is kept for it meanwhile.
    Snapshot { holds: LogIndex },
}

/// What the leader knows of one other member in this term.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) state: ProgressState,
    /// The member's log agrees with ours, durably, through here.
    pub(super) matched: LogIndex,
    /// The next entry to send. Invariant: above `matched`.
    pub(super) next: LogIndex,
    /// Appends on their way: last index and bytes of each. Bounded by `inflight_appends` and `inflight_bytes`.
    inflight: VecDeque<(LogIndex, usize)>,
    inflight_bytes: usize,
    /// Commit index that was sent last.
    pub(super) commit_sent: LogIndex,
    /// An append, if only an empty one, is due: it will show whether earlier ones were lost.
    pub(super) probe_due: bool,
    /// A `ReadLog` under way for entries from `next` on.
    pub(super) reading: Option<Location>,
    /// Entries for `next` that came from the WAL.
    pub(super) read: Vec<Entry>,
    /// Newest read round the member has answered.
    pub(super) round: u64,
    /// When the member was last heard in this term.
    pub(super) heard: Monotonic,
}

impl Progress {
    pub(super) fn new(next: LogIndex, now: Monotonic) -> Self {
        Self {
            state: ProgressState::Probe { waiting: false },
            matched: LogIndex::default(),
            next,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            commit_sent: LogIndex::default(),
            probe_due: false,
            reading: None,
            read: Vec::new(),
            round: 0,
            heard: now,
        }
    }

    pub(super) fn is_probing(&self) -> bool {
        matches!(self.state, ProgressState::Probe { .. })
    }

    pub(super) fn waits_for_snapshot(&self) -> bool {
        matches!(self.state, ProgressState::Snapshot { .. })
    }

    pub(super) fn wait_for_snapshot(&mut self, holds: LogIndex) {
        self.probe_from(self.next);
        self.reading = None;
        self.read.clear();
        self.state = ProgressState::Snapshot { holds };
    }

    /// Of the log it does not need what is at or below.
    pub(super) fn holds(&self) -> LogIndex {
        match self.state {
            ProgressState::Snapshot { holds } => holds.max(self.matched),
            ProgressState::Probe { .. } | ProgressState::Replicate => self.matched,
        }
    }

    pub(super) fn on_matched(&mut self, matched: LogIndex) {
        // An acknowledgement from before says nothing about the state that it waits for.
        if self.waits_for_snapshot() && matched <= self.matched {
            return;
        }
        self.matched = self.matched.max(matched);
        while let Some((_, bytes)) = self.inflight.pop_front_if(|(last, _)| *last <= matched) {
            self.inflight_bytes -= bytes;
        }
        match self.state {
            ProgressState::Probe { .. } | ProgressState::Snapshot { .. } => {
                self.state = ProgressState::Replicate;
                self.restart_at(self.matched.next());
            }
            ProgressState::Replicate => {
                if self.next <= self.matched {
                    self.restart_at(self.matched.next());
                }
            }
        }
        self.check_invariants();
    }

    pub(super) fn probe_from(&mut self, next: LogIndex) {
        self.state = ProgressState::Probe { waiting: false };
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.restart_at(next);
        self.check_invariants();
    }

    fn restart_at(&mut self, next: LogIndex) {
        if self.next != next {
            self.next = next;
            self.reading = None;
            self.read.clear();
        }
    }

    pub(super) fn has_window(&self, appends_max: usize, bytes_max: usize) -> bool {
        match self.state {
            ProgressState::Probe { waiting } => !waiting,
            ProgressState::Replicate => self.inflight.len() < appends_max && self.inflight_bytes < bytes_max,
            ProgressState::Snapshot { .. } => false,
        }
    }

    pub(super) fn on_sent(&mut self, last: LogIndex, bytes: usize) {
        match &mut self.state {
            ProgressState::Probe { waiting } => *waiting = true,
            ProgressState::Replicate if bytes > 0 => {
                self.inflight.push_back((last, bytes));
                self.inflight_bytes += bytes;
                self.next = last.next();
            }
            ProgressState::Replicate => {}
            ProgressState::Snapshot { .. } => unreachable!("no append leaves for a member that waits for a snapshot"),
        }
        self.probe_due = false;
        self.check_invariants();
    }

    /// Takes what a `ReadLog` found: of the entries those in force, from `next` on without a hole, because a stretch of a segment
    /// also holds what was truncated later. Without any the member is asked again with its next sign of life.
    pub(super) fn on_log_read(&mut self, planner: &Planner, found: Vec<Entry>) {
        self.read.clear();
        for entry in found {
            let expected = LogIndex(self.next.0 + self.read.len() as u64);
            if entry.id.index == expected && planner.term(expected) == Some(entry.id.term) {
                self.read.push(entry);
            }
        }
        if self.read.is_empty() {
            self.state = ProgressState::Probe { waiting: true };
        }
    }

    fn check_invariants(&self) {
        assert!(self.next > self.matched, "sends {} again, which matched through {}", self.next, self.matched);
        assert_eq!(self.inflight.is_empty(), self.inflight_bytes == 0, "{} bytes of {} appends", self.inflight_bytes, self.inflight.len());
    }
}
