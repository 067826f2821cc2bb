//! ⑥ A committed command meets the state. A pure function of (state, command): nothing local is looked at.

use crate::command::{Command, Refusal};
use crate::consensus::Configuration;
use crate::effect::{MachineEffect, MachineInput};
use crate::mvcc::View;
use crate::storage::{ReadFailed, StateReader};
use crate::types::{Boot, LogId, MemberId};
use alloc::{sync::Arc, vec::Vec};
use bytes::Bytes;

/// Checks a command's shape before it is proposed: limits, duplicate keys, empty keys (etcd API error table).
pub fn validate(_command: &Command, _txn_ops_max: usize) -> Result<(), Refusal> {
    todo!()
}

/// A command in its frame, as [`crate::effect::Proposal`] carries it.
#[must_use]
pub fn encode_command(_command: &Command) -> Bytes {
    todo!()
}

/// What a machine is told at start.
#[derive(Clone, Debug)]
pub struct MachineSettings {
    pub member: MemberId,
    pub boot: Boot,
    pub limits: MachineLimits,
}

/// The named bounds of the machine.
#[derive(Clone, Copy, Debug)]
pub struct MachineLimits {
    /// Bytes of recent values kept in memory although they are persisted.
    pub recent_bytes: usize,
    /// Bytes not yet persisted above which apply holds back.
    pub unpersisted_bytes: usize,
    /// Rows one slice of background work may touch.
    pub slice_rows: usize,
}

impl Default for MachineLimits {
    fn default() -> Self {
        Self { recent_bytes: 64 << 20, unpersisted_bytes: 64 << 20, slice_rows: 1_000 }
    }
}

/// The state machine of one member.
#[derive(Debug)]
pub struct Machine<R: StateReader> {
    view: Arc<View<R>>,
}

impl<R: StateReader> Machine<R> {
    /// Builds the state from the store: index from settled and recent rows, then the small tables. An empty store is a fresh one.
    pub fn open(_settings: MachineSettings, _reader: R) -> Result<Self, ReadFailed> {
        todo!()
    }

    #[must_use]
    pub fn applied(&self) -> LogId {
        todo!()
    }

    /// The configuration stored with the applied index; `None` in a fresh store.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        todo!()
    }

    /// The state after everything flushed so far.
    #[must_use]
    pub fn view(&self) -> Arc<View<R>> {
        Arc::clone(&self.view)
    }

    /// Whether `Slice` has work to do.
    #[must_use]
    pub fn has_background_work(&self) -> bool {
        todo!()
    }

    /// Whether so much is unpersisted that the host should not apply more until `Persisted` comes.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        todo!()
    }

    pub fn step(&mut self, _input: MachineInput<R>, _out: &mut Vec<MachineEffect<R>>) {
        todo!()
    }

    /// Publishes and commits what was stepped since the last flush.
    pub fn flush(&mut self, _out: &mut Vec<MachineEffect<R>>) {
        todo!()
    }
}
