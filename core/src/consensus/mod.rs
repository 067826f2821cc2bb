//! Raft: elections, replication, linearizable reads. Pure: no clock, socket, disk or chance of its own.

mod message;

pub use message::{Configuration, Entry, Envelope, ForwardRefusal, Message, Payload, Role};

use crate::command::RaftStatus;
use crate::effect::{ConsensusEffect, ConsensusInput};
use crate::types::{Boot, LogIndex, MemberId, Monotonic, Now};
use crate::wal::Recovered;
use alloc::vec::Vec;
use core::time::Duration;

/// What a member is told at start and never changes in one life.
#[derive(Clone, Debug)]
pub struct Settings {
    pub member: MemberId,
    pub boot: Boot,
    pub heartbeat_interval: Duration,
    /// T: an election timeout is drawn from [T, 1.5 T).
    pub election_timeout: Duration,
    pub pre_vote: bool,
    /// Seeds this actor's own stream of chance.
    pub seed: [u8; 32],
    pub limits: Limits,
}

/// The named bounds of the consensus actor. Tiny ones make the simulator reach rare paths.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries and bytes in one append message.
    pub append_entries: usize,
    pub append_bytes: usize,
    /// Append messages on their way to one follower, unanswered.
    pub inflight_appends: usize,
    /// Bytes on their way to one follower, unanswered.
    pub inflight_bytes: usize,
    /// Bytes of entries kept in memory behind the applied index; older ones are read from the WAL.
    pub tail_bytes: usize,
    /// Entries that are appended but not applied, above which proposals are refused.
    pub unapplied_entries: u64,
    /// Proposals of this member waiting for an answer from the log.
    pub pending_proposals: usize,
    /// Reads waiting for a round.
    pub pending_reads: usize,
    /// Request ids remembered per member and boot against a second append.
    pub forward_window: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            append_entries: 4_096,
            append_bytes: 1 << 20,
            inflight_appends: 256,
            inflight_bytes: 8 << 20,
            tail_bytes: 64 << 20,
            unapplied_entries: 5_000,
            pending_proposals: 16_384,
            pending_reads: 65_536,
            forward_window: 65_536,
        }
    }
}

/// The Raft actor of one member.
#[derive(Debug)]
pub struct Consensus {}

impl Consensus {
    /// `configuration` is the one stored with `applied` in the state store (for a new member: the bootstrap one); entries of
    /// the recovered log after it may change it.
    #[must_use]
    pub fn new(_settings: Settings, _recovered: Recovered, _configuration: Configuration, _applied: LogIndex, _now: Now) -> Self {
        todo!()
    }

    /// When to `step` with `Wake`, if nothing else happens first.
    #[must_use]
    pub fn deadline(&self) -> Monotonic {
        todo!()
    }

    /// Advances by one input; accumulates what `flush` will write and append.
    pub fn step(&mut self, _now: Now, _input: ConsensusInput, _out: &mut Vec<ConsensusEffect>) {
        todo!()
    }

    /// Emits at most one WAL write, and to each peer what its window allows.
    pub fn flush(&mut self, _now: Now, _out: &mut Vec<ConsensusEffect>) {
        todo!()
    }

    #[must_use]
    pub fn status(&self) -> RaftStatus {
        todo!()
    }

    /// The configuration in force: the last in the log, committed or not (Raft §6).
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        todo!()
    }
}
