//! A state as a whole: what one holds for whoever is sent it, and one that came from elsewhere and takes the place of another.

use super::tables::{self, Tables};
use super::{Machine, MachineSettings};
use crate::consensus::{Position, Snapshot, SnapshotId};
use crate::storage::{Direction, ReadFailed, StateReader, Table, WriteBatch};
use crate::types::{Boot, RequestId};
use core::ops::ControlFlow;

/// What a directory holds that a state is received into.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Receiving {
    Nothing,
    /// The rows of that snapshot through this one.
    Part {
        snapshot: SnapshotId,
        after: Position,
    },
    /// Something else.
    Other,
}

/// What a directory holds of a state that is being received.
pub fn receiving<R: StateReader>(reader: &R) -> Result<Receiving, ReadFailed> {
    if let Some((snapshot, after)) = tables::read_receiving(reader)? {
        return Ok(Receiving::Part { snapshot, after });
    }
    let mut found = Receiving::Nothing;
    reader.scan(Table::Meta, &[], &[], Direction::Forward, &mut |_, _| {
        found = Receiving::Other;
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Notes in a batch of received rows which one is the last, or that there are no more.
pub fn note_receiving(reached: Option<(SnapshotId, Position)>, batch: &mut WriteBatch) {
    tables::write_receiving(reached, batch);
}

impl<R: StateReader> Machine<R> {
    #[must_use]
    pub fn boot(&self) -> Boot {
        self.applier.answers_for.1
    }

    /// The state store as it was when a batch was persisted last: some way behind what is applied.
    #[must_use]
    pub fn reader(&self) -> R {
        self.applier.store.reader.clone()
    }

    /// What a store holds, under the name that it is sent by.
    pub fn describe(&self, reader: &R, id: SnapshotId, bytes: u64) -> Result<Snapshot, ReadFailed> {
        let tables = Tables::load(reader)?;
        let Some(configuration) = tables.configuration else { return Err(ReadFailed("it holds no configuration".into())) };
        Ok(Snapshot {
            id,
            last: tables.applied.applied,
            digest: tables.applied.chain.value(),
            revision: tables.applied.revision,
            compact_revision: tables.compact_revision,
            compacted_to: tables.compacted_to,
            configuration,
            bytes,
        })
    }

    /// A machine with this one's settings on another store.
    pub fn open_another(&self, reader: R) -> Result<Self, ReadFailed> {
        let (member, boot) = self.applier.answers_for;
        Self::open(MachineSettings { member, boot, limits: self.limits }, reader)
    }

    /// Takes over, from the machine whose place it takes, the requests that were applied there and are not yet answered.
    pub fn inherit(&mut self, before: Self) {
        assert!(
            before.applied() < self.applied(),
            "a state through {} takes the place of one through {}",
            self.applied(),
            before.applied()
        );
        self.replies = before.replies;
        self.compactor.inherit(before.compactor);
    }

    /// Requests that are applied and wait for their answer.
    pub fn unanswered(&self) -> impl Iterator<Item = RequestId> {
        self.replies.iter().map(|(request, _)| *request).chain(self.compactor.waiters())
    }
}
