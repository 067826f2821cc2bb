//! The receiver: writes what it is sent to a directory beside its state, and goes on after the last row that is there.
//!
//! ```text
//!   Idle ─ Offer ─> Opening ─> Pulling ─ Chunk ─> Storing ─┐ (not the last)
//!                                 ^                        │
//!                                 └──── Fetch the next ────┤
//!                      Deciding <─ opened, like the offer <─ Syncing <─┘ (the last)
//!                         │
//!             NotInstalled│Install
//!                         v
//!          Idle        Awaiting ─ the log says so, durably ─> the state half swaps
//! ```

use super::super::orders::Report;
use super::super::state_half::{StateEffect, StoreWork};
use super::{Rows, SnapshotLimits, SnapshotNotice};
use crate::consensus::{Chunk, Installable, Position, Snapshot, SnapshotId, SnapshotMessage};
use crate::machine::{self, Machine};
use crate::mutant::{Mutant, planted};
use crate::storage::{ReadFailed, StateReader, WriteBatch};
use crate::types::{LogId, LogIndex, MemberId, Monotonic, StateNumber};
use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    vec::Vec,
};

/// A sender that answered within so many times [`SnapshotLimits::retry`] is not left for another.
const PATIENCE: u32 = 4;

#[derive(Debug)]
pub(in super::super) struct Incoming<R: StateReader> {
    limits: SnapshotLimits,
    /// The directory of the state in force. What is received lies in the next.
    state: StateNumber,
    transfer: Option<Transfer<R>>,
    /// After a failure nothing is begun before.
    pause_until: Monotonic,
    /// When what an earlier life received goes, unless it is offered again before. Never, once that is decided.
    leftover_until: Monotonic,
}

#[derive(Debug)]
struct Transfer<R: StateReader> {
    from: MemberId,
    snapshot: Snapshot,
    phase: Phase<R>,
    /// The last row stored.
    after: Option<Position>,
    /// When the sender answered last.
    heard: Monotonic,
    ask_at: Monotonic,
}

#[derive(Debug)]
enum Phase<R: StateReader> {
    Opening {
        anew: bool,
    },
    Pulling,
    Storing {
        last: bool,
    },
    Syncing,
    /// The log half decides whether it is needed.
    Deciding(Box<Received<R>>),
    /// It is, and the log will say so, durably.
    Awaiting(Box<Received<R>>),
}

/// A state that takes this member's place.
#[derive(Debug)]
pub(in super::super) struct Received<R: StateReader> {
    pub machine: Machine<R>,
    pub stored_bytes: u64,
    pub state: StateNumber,
}

impl<R: StateReader> Incoming<R> {
    pub fn new(limits: SnapshotLimits, state: StateNumber, now: Monotonic) -> Self {
        Self { limits, state, transfer: None, pause_until: Monotonic::default(), leftover_until: now + limits.idle }
    }

    pub fn deadline(&self) -> Monotonic {
        match &self.transfer {
            Some(Transfer { phase: Phase::Pulling, heard, ask_at, .. }) => (*ask_at).min(*heard + self.limits.idle),
            Some(_) => Monotonic::NEVER,
            None => self.leftover_until,
        }
    }

    /// Whether entries that are committed wait for the state that they follow.
    pub fn is_awaited(&self) -> bool {
        matches!(self.transfer, Some(Transfer { phase: Phase::Awaiting(_), .. }))
    }

    fn next(&self) -> StateNumber {
        self.state.next()
    }

    /// A sender that answers is kept to; one that was left is told nothing and will see.
    pub fn on_offer(&mut self, now: Monotonic, from: MemberId, snapshot: Snapshot, applied: LogIndex, out: &mut Vec<StateEffect<R>>) {
        if snapshot.last.index <= applied {
            return say(from, SnapshotMessage::Over { snapshot: snapshot.id }, out);
        }
        if now < self.pause_until {
            return;
        }
        if let Some(transfer) = &mut self.transfer {
            if transfer.snapshot.id == snapshot.id {
                return transfer.heard = now;
            }
            let left = matches!(transfer.phase, Phase::Pulling) && now.since(transfer.heard) >= self.limits.retry * PATIENCE;
            if !left {
                return;
            }
        }
        self.leftover_until = Monotonic::NEVER;
        let phase = Phase::Opening { anew: false };
        self.transfer = Some(Transfer { from, snapshot, phase, after: None, heard: now, ask_at: now });
        out.push(StateEffect::Store(StoreWork::BeginState { state: self.next(), anew: false }));
    }

    /// The directory is there. What an earlier life received of this very snapshot is not asked for again.
    pub fn on_begun(&mut self, now: Monotonic, reader: &R, out: &mut Vec<StateEffect<R>>) {
        let state = self.next();
        let Some(transfer) = &mut self.transfer else { return };
        let Phase::Opening { anew } = transfer.phase else { return };
        let found = match machine::receiving(reader) {
            Ok(found) => found,
            Err(failed) => return self.fail(now, failed.to_string(), out),
        };
        match found {
            machine::Receiving::Nothing => transfer.after = None,
            machine::Receiving::Part { snapshot, after } if snapshot == transfer.snapshot.id => transfer.after = Some(after),
            _ if anew => return self.fail(now, "a directory made anew is not empty".into(), out),
            _ => {
                transfer.phase = Phase::Opening { anew: true };
                return out.push(StateEffect::Store(StoreWork::BeginState { state, anew: true }));
            }
        }
        let (from, last, resumed) = (transfer.from, transfer.snapshot.last, transfer.after.is_some());
        out.push(StateEffect::Snapshot(SnapshotNotice::Receiving { from, last, resumed }));
        transfer.heard = now;
        self.fetch(now, out);
    }

    fn fetch(&mut self, now: Monotonic, out: &mut Vec<StateEffect<R>>) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.phase = Phase::Pulling;
        transfer.ask_at = now + self.limits.retry;
        say(transfer.from, SnapshotMessage::Fetch { snapshot: transfer.snapshot.id, after: transfer.after.clone() }, out);
    }

    pub fn on_chunk(&mut self, now: Monotonic, snapshot: SnapshotId, chunk: &Chunk, out: &mut Vec<StateEffect<R>>) {
        let state = self.next();
        let Some(transfer) = self.transfer.as_mut().filter(|transfer| transfer.snapshot.id == snapshot) else { return };
        if !matches!(transfer.phase, Phase::Pulling) {
            return;
        }
        let rows = match Rows::decode(chunk) {
            Ok(rows) => rows,
            Err(what) => return self.begin_anew(what.into(), out),
        };
        if rows.after != transfer.after {
            return;
        }
        transfer.heard = now;
        if let Some((table, key, _)) = rows.rows.last() {
            transfer.after = Some(Position { table: *table, key: key.clone() });
        }
        let mut batch = WriteBatch::default();
        rows.rows.into_iter().for_each(|(table, key, value)| batch.put(table, key, value));
        let reached = transfer.after.clone().filter(|_| !rows.last);
        machine::note_receiving(reached.map(|after| (snapshot, after)), &mut batch);
        transfer.phase = Phase::Storing { last: rows.last };
        out.push(StateEffect::Snapshot(SnapshotNotice::ReceivedChunk { bytes: chunk.body.len() }));
        out.push(StateEffect::Store(StoreWork::StoreRows { state, batch }));
    }

    /// What came is not what was sent.
    fn begin_anew(&mut self, what: String, out: &mut Vec<StateEffect<R>>) {
        let state = self.next();
        let Some(transfer) = &mut self.transfer else { return };
        transfer.phase = Phase::Opening { anew: true };
        transfer.after = None;
        out.push(StateEffect::Snapshot(SnapshotNotice::ReceivedBad { from: transfer.from, what }));
        out.push(StateEffect::Store(StoreWork::BeginState { state, anew: true }));
    }

    /// `open` makes a machine of the state when it is whole.
    pub fn on_stored(
        &mut self,
        now: Monotonic,
        reader: R,
        stored_bytes: u64,
        open: impl FnOnce(R) -> Result<Machine<R>, ReadFailed>,
        out: &mut Vec<StateEffect<R>>,
    ) {
        let state = self.next();
        let Some(transfer) = &mut self.transfer else { return };
        match transfer.phase {
            Phase::Storing { last: false } => self.fetch(now, out),
            Phase::Storing { last: true } if !planted(Mutant::W14) => {
                transfer.phase = Phase::Syncing;
                out.push(StateEffect::Store(StoreWork::SyncState { state }));
            }
            Phase::Storing { last: true } | Phase::Syncing => self.open(reader, stored_bytes, open, out),
            Phase::Opening { .. } | Phase::Pulling | Phase::Deciding(_) | Phase::Awaiting(_) => {}
        }
    }

    fn open(
        &mut self,
        reader: R,
        stored_bytes: u64,
        open: impl FnOnce(R) -> Result<Machine<R>, ReadFailed>,
        out: &mut Vec<StateEffect<R>>,
    ) {
        let state = self.next();
        let Some(transfer) = &mut self.transfer else { return };
        let id = transfer.snapshot.id;
        let opened = open(reader.clone()).and_then(|machine| Ok((machine.describe(&reader, id, stored_bytes)?, machine)));
        let machine = match opened {
            Ok((received, machine)) if transfer.snapshot.is_like(received.clone()) => machine,
            Ok(_) => return self.begin_anew("the state is not the one that was offered".into(), out),
            Err(failed) => return self.begin_anew(format!("the state does not open: {failed}"), out),
        };
        let Snapshot { last, ref configuration, .. } = transfer.snapshot;
        let installable = Installable { last, configuration: configuration.clone(), time: machine.v2_times().0, state };
        transfer.phase = Phase::Deciding(Box::new(Received { machine, stored_bytes, state }));
        out.push(StateEffect::Log(Report::Installable(Box::new(installable))));
    }

    pub fn on_not_installed(&mut self, out: &mut Vec<StateEffect<R>>) {
        let Some(transfer) = self.transfer.take() else { return };
        assert!(matches!(transfer.phase, Phase::Deciding(_)), "refused without a question");
        out.push(StateEffect::Snapshot(SnapshotNotice::NotNeeded { last: transfer.snapshot.last }));
        self.forget(out);
        say(transfer.from, SnapshotMessage::Over { snapshot: transfer.snapshot.id }, out);
    }

    pub fn on_install(&mut self, last: LogId) {
        let Some(transfer) = &mut self.transfer else { unreachable!("installed without a question") };
        assert_eq!(transfer.snapshot.last, last, "another state is installed than was received");
        let phase = core::mem::replace(&mut transfer.phase, Phase::Syncing);
        let Phase::Deciding(received) = phase else { unreachable!("installed without a question") };
        transfer.phase = Phase::Awaiting(received);
    }

    /// The log is durable through here. Gives the state that it goes on from, if that is so now.
    pub fn take(&mut self, durable: LogIndex, out: &mut Vec<StateEffect<R>>) -> Option<Received<R>> {
        let transfer =
            self.transfer.take_if(|transfer| matches!(transfer.phase, Phase::Awaiting(_)) && transfer.snapshot.last.index <= durable)?;
        let Phase::Awaiting(received) = transfer.phase else { unreachable!("looked at above") };
        self.state = received.state;
        let last = transfer.snapshot.last;
        out.push(StateEffect::Snapshot(SnapshotNotice::Installed { last, state: received.state }));
        out.push(StateEffect::Store(StoreWork::SwitchState { state: received.state }));
        say(transfer.from, SnapshotMessage::Over { snapshot: transfer.snapshot.id }, out);
        Some(*received)
    }

    pub fn on_gone(&mut self, snapshot: SnapshotId, out: &mut Vec<StateEffect<R>>) {
        let gone = |transfer: &mut Transfer<R>| matches!(transfer.phase, Phase::Pulling) && transfer.snapshot.id == snapshot;
        if self.transfer.take_if(gone).is_some() {
            self.forget(out);
        }
    }

    /// What was stored of it is of no use: no sender will name it again.
    fn forget(&self, out: &mut Vec<StateEffect<R>>) {
        out.push(StateEffect::Store(StoreWork::DropState { state: self.next() }));
    }

    pub fn on_failed(&mut self, now: Monotonic, reason: String, out: &mut Vec<StateEffect<R>>) {
        if self.transfer.is_some() {
            self.fail(now, reason, out);
        }
    }

    fn fail(&mut self, now: Monotonic, reason: String, out: &mut Vec<StateEffect<R>>) {
        self.transfer = None;
        self.pause_until = now + self.limits.retry * PATIENCE;
        out.push(StateEffect::Snapshot(SnapshotNotice::NotStored { reason }));
        self.forget(out);
    }

    /// Asks again, or gives up.
    pub fn wake(&mut self, now: Monotonic, out: &mut Vec<StateEffect<R>>) {
        match &self.transfer {
            Some(transfer) if !matches!(transfer.phase, Phase::Pulling) => {}
            Some(transfer) if now.since(transfer.heard) >= self.limits.idle => {
                self.transfer = None;
                self.forget(out);
            }
            Some(transfer) if transfer.ask_at <= now => self.fetch(now, out),
            None if self.leftover_until <= now => {
                self.leftover_until = Monotonic::NEVER;
                self.forget(out);
            }
            Some(_) | None => {}
        }
    }
}

fn say<R: StateReader>(to: MemberId, message: SnapshotMessage, out: &mut Vec<StateEffect<R>>) {
    out.push(StateEffect::Log(Report::Say { to, message }));
}
