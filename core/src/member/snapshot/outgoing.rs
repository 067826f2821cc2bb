//! The sender: pins one state for all who need one, and reads it chunk by chunk as they ask.

use super::super::orders::Report;
use super::super::state_half::StateEffect;
use super::{ChunkRead, ReadChunk, SnapshotLimits, SnapshotNotice};
use crate::consensus::{Position, Snapshot, SnapshotId, SnapshotMessage};
use crate::machine::Machine;
use crate::storage::{ReadFailed, StateReader};
use crate::types::{LogIndex, MemberId, Monotonic};
use alloc::{boxed::Box, collections::BTreeMap, format, vec::Vec};

#[derive(Debug)]
pub(in super::super) struct Outgoing<R: StateReader> {
    limits: SnapshotLimits,
    /// States pinned so far.
    number: u64,
    pin: Option<Pin<R>>,
    /// Who is sent the pinned state. Empty without one. Bounded by the members there are.
    sending: BTreeMap<MemberId, Sending>,
}

#[derive(Debug)]
struct Pin<R> {
    snapshot: Snapshot,
    reader: R,
    until: Monotonic,
}

#[derive(Debug)]
struct Sending {
    /// When it asked last.
    heard: Monotonic,
    offer_at: Monotonic,
    /// After which row it wants more.
    wanted: Option<Option<Position>>,
    /// A chunk for it is being read.
    reading: bool,
    /// Not before.
    read_at: Monotonic,
}

impl Sending {
    fn begun(now: Monotonic) -> Self {
        Self { heard: now, offer_at: now, wanted: None, reading: false, read_at: now }
    }
}

impl<R: StateReader> Outgoing<R> {
    pub fn new(limits: SnapshotLimits) -> Self {
        Self { limits, number: 0, pin: None, sending: BTreeMap::new() }
    }

    pub fn deadline(&self) -> Monotonic {
        let Some(pin) = &self.pin else { return Monotonic::NEVER };
        let each = |sending: &Sending| {
            let read_at = if sending.wanted.is_some() && !sending.reading { sending.read_at } else { Monotonic::NEVER };
            sending.offer_at.min(sending.heard + self.limits.idle).min(read_at)
        };
        self.sending.values().map(each).fold(pin.until, Monotonic::min)
    }

    /// That member needs a state from which a log that begins with `first` goes on.
    pub fn begin(
        &mut self,
        now: Monotonic,
        to: MemberId,
        first: LogIndex,
        machine: &Machine<R>,
        stored_bytes: u64,
        out: &mut Vec<StateEffect<R>>,
    ) {
        let usable = self.pin.as_ref().is_some_and(|pin| pin.snapshot.last.index.next() >= first);
        if !usable && let Err(failed) = self.pin(now, machine, stored_bytes) {
            return out.push(StateEffect::Fatal(format!("a state cannot be sent to member {to}: {failed}")));
        }
        let Some(pin) = &self.pin else { return };
        out.push(StateEffect::Snapshot(SnapshotNotice::Sending { to, last: pin.snapshot.last }));
        self.sending.insert(to, Sending::begun(now));
        self.wake(now, out);
    }

    /// Takes what the store has now in the place of an older state: who was sent that one is offered this one.
    fn pin(&mut self, now: Monotonic, machine: &Machine<R>, stored_bytes: u64) -> Result<(), ReadFailed> {
        self.number += 1;
        let id = SnapshotId { sender: machine.member(), boot: machine.boot(), number: self.number };
        let reader = machine.reader();
        let snapshot = machine.describe(&reader, id, stored_bytes)?;
        self.pin = Some(Pin { snapshot, reader, until: now + self.limits.longest });
        self.sending.values_mut().for_each(|sending| *sending = Sending::begun(now));
        Ok(())
    }

    pub fn on_fetch(
        &mut self,
        now: Monotonic,
        from: MemberId,
        snapshot: SnapshotId,
        after: Option<Position>,
        out: &mut Vec<StateEffect<R>>,
    ) {
        if self.pin.as_ref().is_none_or(|pin| pin.snapshot.id != snapshot) {
            return say(from, SnapshotMessage::Gone { snapshot }, out);
        }
        let sending = self.sending.entry(from).or_insert_with(|| Sending::begun(now));
        sending.heard = now;
        sending.offer_at = now + 2 * self.limits.retry;
        sending.wanted = Some(after);
        self.wake(now, out);
    }

    pub fn on_over(&mut self, from: MemberId, snapshot: SnapshotId, out: &mut Vec<StateEffect<R>>) {
        if self.pin.as_ref().is_some_and(|pin| pin.snapshot.id == snapshot) {
            self.end(from, true, out);
        }
    }

    /// The log half knows already.
    pub fn stop(&mut self, to: MemberId, out: &mut Vec<StateEffect<R>>) {
        self.let_go(to, true, out);
    }

    /// A row that cannot be read ends the member, as it does when it is applied to: nobody else would learn of it.
    pub fn on_read(&mut self, now: Monotonic, read: ChunkRead, out: &mut Vec<StateEffect<R>>) {
        let ChunkRead { to, snapshot, chunk } = read;
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(failed) => return out.push(StateEffect::Fatal(format!("a state cannot be sent to member {to}: {failed}"))),
        };
        if self.pin.as_ref().is_none_or(|pin| pin.snapshot.id != snapshot) {
            return;
        }
        let Some(sending) = self.sending.get_mut(&to) else { return };
        sending.reading = false;
        out.push(StateEffect::Snapshot(SnapshotNotice::SentChunk { to, bytes: chunk.body.len() }));
        say(to, SnapshotMessage::Chunk { snapshot, chunk }, out);
        self.wake(now, out);
    }

    /// Does what is due.
    pub fn wake(&mut self, now: Monotonic, out: &mut Vec<StateEffect<R>>) {
        let Some(pin) = &self.pin else { return };
        let limits = self.limits;
        let over_at = |sending: &Sending| (sending.heard + limits.idle).min(pin.until);
        let over: Vec<MemberId> = self.sending.iter().filter(|(_, sending)| over_at(sending) <= now).map(|(to, _)| *to).collect();
        for to in over {
            self.end(to, false, out);
        }
        let Some(pin) = &self.pin else { return };
        for (to, sending) in &mut self.sending {
            if sending.offer_at <= now {
                sending.offer_at = now + limits.retry;
                say(*to, SnapshotMessage::Offer(Box::new(pin.snapshot.clone())), out);
            }
            if sending.read_at <= now
                && !sending.reading
                && let Some(after) = sending.wanted.take()
            {
                sending.reading = true;
                sending.read_at = now + limits.pause;
                out.push(StateEffect::ReadChunk(ReadChunk {
                    to: *to,
                    snapshot: pin.snapshot.id,
                    reader: pin.reader.clone(),
                    compacted_to: pin.snapshot.compacted_to,
                    after,
                    bytes: limits.chunk_bytes,
                }));
            }
        }
    }

    fn end(&mut self, to: MemberId, over: bool, out: &mut Vec<StateEffect<R>>) {
        if self.let_go(to, over, out) {
            out.push(StateEffect::Log(Report::SnapshotEnded(to)));
        }
    }

    fn let_go(&mut self, to: MemberId, over: bool, out: &mut Vec<StateEffect<R>>) -> bool {
        let was_sent = self.sending.remove(&to).is_some();
        if was_sent {
            out.push(StateEffect::Snapshot(SnapshotNotice::SendingEnded { to, over }));
        }
        if self.sending.is_empty() {
            self.pin = None;
        }
        was_sent
    }

    /// Whoever is sent something is sent a pinned state.
    pub fn check_invariants(&self) {
        assert_eq!(self.pin.is_none(), self.sending.is_empty(), "a state is pinned for {} members", self.sending.len());
    }
}

fn say<R: StateReader>(to: MemberId, message: SnapshotMessage, out: &mut Vec<StateEffect<R>>) {
    out.push(StateEffect::Log(Report::Say { to, message }));
}
