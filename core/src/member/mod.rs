//! A whole member without I/O, in two halves that share nothing but messages.
//!
//! ```text
//!  clients, peers ──> LogHalf ── Order ──> StateHalf ──> clients, watch hubs
//!                     │    ^ <── Report ────┘   │   ^
//!                     v    │ WalDone            v   │ StoreDone
//!                      WAL                   state store
//! ```
//!
//! The [`LogHalf`] serves what must never wait: heartbeats, votes, read rounds, the log. The [`StateHalf`] does what costs in
//! proportion to a command or to the store: apply, answers from it, publishing, compacting, writing behind. A host gives each a thread
//! of its own and only carries out effects and moves bytes: every decision is in here, and the simulator runs exactly these two.
//!
//! **A ticket is answered exactly once, by the half that has it.** A client's request comes in under a [`Ticket`]. The log half
//! has it until its outcome is decided by the log: then the ticket moves, with the committed entries or with the index that a read
//! must see, to the state half, and the log half forgets it. So refused, timed out and unknown are decided in one place each:
//!
//! | at its deadline the request is | the answer |
//! |---|---|
//! | held, in no log | [`Refusal::TimedOut`], and it never will be in one |
//! | in some leader's log, or on the way there | [`Refusal::OutcomeUnknown`] |
//! | a read, wherever | [`Refusal::TimedOut`] |
//! | committed, and apply is behind | [`Refusal::OutcomeUnknown`]: it will be applied, but nobody can say with which result |
//!
//! What the hand-over costs: one queue and one wake of a thread for each flush of a half, shared by everything in that flush. A
//! read whose index is already applied does not make it: the log half answers it from the state published last.
//!
//! [`Refusal::TimedOut`]: crate::command::Refusal::TimedOut
//! [`Refusal::OutcomeUnknown`]: crate::command::Refusal::OutcomeUnknown

mod display;
mod log_half;
mod orders;
mod reads;
mod request;
mod snapshot;
mod state_half;
mod tickets;
mod v2_expiry;

pub use log_half::{LogEffect, LogHalf, LogInput, Notice, WalDone, WalWork};
pub use orders::{Order, Owed, Report};
pub use request::{Answer, Body, COMMAND_BYTES, Prepared, Request, Ticket, admit, prepare, raft_request_bytes};
pub use snapshot::{ChunkRead, ReadChunk, Rows, SnapshotLimits, SnapshotNotice};
pub use state_half::{BatchLimits, StateEffect, StateHalf, StateInput, StoreDone, StoreWork, SyncLimits};

use crate::consensus::{self, Configuration};
use crate::lease::LeaseLimits;
use crate::machine::Machine;
use crate::storage::StateReader;
use crate::types::Now;
use crate::wal::Recovered;
use core::time::Duration;

/// How many inputs a host steps before it flushes.
pub const INPUTS_PER_FLUSH: usize = 1_024;

/// What a member is told at start, beside what its consensus actor is.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// Bytes of the state store above which nothing that grows it is proposed; `None`: unlimited.
    pub quota_bytes: Option<u64>,
    /// A request that names no deadline, or a later one, ends after so long.
    pub request_timeout: Duration,
    /// How long a member whose disk failed may still hand leadership over, before it ends.
    pub last_words: Duration,
    pub limits: MemberLimits,
    pub sync: SyncLimits,
    pub batch: BatchLimits,
    pub leases: LeaseLimits,
    pub snapshot: SnapshotLimits,
}

/// The named bounds of a member's front desk.
#[derive(Clone, Copy, Debug)]
pub struct MemberLimits {
    /// Requests that wait for an answer in the log half; more are refused.
    pub tickets: usize,
    /// An unanswered read is asked again, with a new id, after so long.
    pub read_retry: Duration,
    /// A refused read is asked again after so long, doubling up to `read_retry`.
    pub read_pause: Duration,
}

impl Default for MemberLimits {
    fn default() -> Self {
        Self { tickets: 131_072, read_retry: Duration::from_millis(500), read_pause: Duration::from_millis(10) }
    }
}

impl Default for MemberSettings {
    fn default() -> Self {
        Self {
            quota_bytes: None,
            request_timeout: Duration::from_secs(7),
            last_words: Duration::from_millis(20),
            limits: MemberLimits::default(),
            sync: SyncLimits::default(),
            batch: BatchLimits::default(),
            leases: LeaseLimits::default(),
            snapshot: SnapshotLimits::default(),
        }
    }
}

/// Opens both halves from what recovery found. `bootstrap` is the configuration of a new cluster, used while the machine has none
/// stored; `stored_bytes` is what the state store takes.
#[must_use]
pub fn open<R: StateReader>(
    consensus: consensus::Settings,
    settings: MemberSettings,
    recovered: Recovered,
    bootstrap: Configuration,
    mut machine: Machine<R>,
    stored_bytes: u64,
    now: Now,
) -> (LogHalf, StateHalf<R>) {
    machine.bootstrap(bootstrap.clone());
    let stored = machine.configuration().cloned().unwrap_or(bootstrap);
    let applied = machine.applied().index;
    let state = recovered.state;
    let mut log = LogHalf::new(consensus, settings.clone(), recovered, stored, applied, machine.leases(), now);
    log.remember_time(machine.v2_times().0);
    (log, StateHalf::new(machine, &settings, state, stored_bytes, now))
}
