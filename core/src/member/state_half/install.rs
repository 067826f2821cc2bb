//! Another member's state takes the place of this one's: everything that belonged to the old one is accounted for here.
//!
//! | what | becomes |
//! |---|---|
//! | entries handed over before | dropped: the new state has them |
//! | answers owed for those | unknown: which they were nobody here can say; those applied and waiting for their space stay |
//! | entries handed over behind it, and answers owed for them | kept, applied to the new state |
//! | reads that wait for an index | kept; answered from the new state as soon as it is published |
//! | batches not handed to the store, those not synced, a sync under way | dropped with the old directory |
//! | reports on their way | harmless: they speak of less than the log half knows to be applied |
//! | views that readers and hubs hold | theirs; they keep what they see of the old directory alive |
//! | leases that the log half knows | told anew: those that are, and the end of those that are no more |
//! | watchers | go on from their revision in the new state, or are told that it is compacted |

use super::*;
use crate::consensus::SnapshotMessage;
use crate::lease::LeaseChange;
use crate::member::snapshot::Received;
use alloc::collections::BTreeSet;

impl<R: StateReader> StateHalf<R> {
    pub(super) fn on_snapshot_order(&mut self, now: Now, order: Order, out: &mut Vec<StateEffect<R>>) {
        let now = now.monotonic;
        match order {
            Order::SendSnapshot { to, first } => self.outgoing.begin(now, to, first, &self.machine, self.stored_bytes, out),
            Order::StopSnapshot(to) => self.outgoing.stop(to, out),
            Order::Snapshot { from, message } => match message {
                SnapshotMessage::Offer(snapshot) => self.incoming.on_offer(now, from, *snapshot, self.machine.applied().index, out),
                SnapshotMessage::Fetch { snapshot, after } => self.outgoing.on_fetch(now, from, snapshot, after, out),
                SnapshotMessage::Chunk { snapshot, chunk } => self.incoming.on_chunk(now, snapshot, &chunk, out),
                SnapshotMessage::Over { snapshot } => self.outgoing.on_over(from, snapshot, out),
                SnapshotMessage::Gone { snapshot } => self.incoming.on_gone(snapshot, out),
            },
            Order::Install(last) => self.incoming.on_install(last),
            Order::NotInstalled => self.incoming.on_not_installed(out),
            Order::Apply { .. } | Order::Serve { .. } | Order::Tell { .. } | Order::Durable { .. } => unreachable!("not of a snapshot"),
        }
    }

    pub(super) fn on_stored(&mut self, now: Now, reader: R, stored_bytes: u64, out: &mut Vec<StateEffect<R>>) {
        let machine = &self.machine;
        self.incoming.on_stored(now.monotonic, reader, stored_bytes, |reader| machine.open_another(reader), out);
    }

    /// Swaps the state, once the log says durably that it goes on from there.
    pub(super) fn install_when_durable(&mut self, out: &mut Vec<StateEffect<R>>) {
        let Some(Received { machine, stored_bytes, .. }) = self.incoming.take(self.durable.0, out) else { return };
        assert!(self.effects.is_empty(), "{} effects of the state that goes", self.effects.len());
        let last = machine.applied().index;
        let before = core::mem::replace(&mut self.machine, machine);
        let leases = leases_changed(&before, &self.machine);
        self.machine.inherit(before);
        self.committed.retain(|entries| entries.first().is_some_and(|entry| entry.id.index > last));
        self.disown(out);
        self.held = Held::default();
        self.unsynced.clear();
        self.sync = SyncProgress { begun_at: last, ..SyncProgress::default() };
        (self.synced, self.synced_before) = (last, last);
        self.stored_bytes = stored_bytes;
        self.unreported_bytes = 0;
        self.is_switching = true;
        out.push(StateEffect::Publish(self.machine.view()));
        self.answer_reads(out);
        // Before the word how far is applied, as with any other change of them.
        if !leases.is_empty() {
            out.push(StateEffect::Log(Report::Leases(leases)));
        }
        self.report(out);
        self.check_invariants();
    }

    /// Answers that nobody can give any more.
    fn disown(&mut self, out: &mut Vec<StateEffect<R>>) {
        let (member, boot) = (self.machine.member(), self.machine.boot());
        let ahead = self.committed.iter().flat_map(|entries| entries.iter()).filter_map(|entry| entry.payload.request());
        let own = ahead.filter(|request| (request.member, request.boot) == (member, boot));
        let kept: BTreeSet<u64> = own.chain(self.machine.unanswered()).map(|request| request.sequence).collect();
        self.owed.retain(|sequence, (ticket, _)| {
            let keeps = kept.contains(sequence);
            if !keeps {
                out.push(StateEffect::Answer(*ticket, Err(Refusal::OutcomeUnknown)));
            }
            keeps
        });
    }
}

/// What leads from the leases of one state to those of another.
fn leases_changed<R: StateReader>(before: &Machine<R>, after: &Machine<R>) -> Vec<LeaseChange> {
    let kept: BTreeSet<_> = after.leases().map(|(id, _)| id).collect();
    let ended = before.leases().filter(|(id, _)| !kept.contains(id)).map(|(id, _)| LeaseChange::Ended(id));
    ended.chain(after.leases().map(|(id, lease)| LeaseChange::Is(id, lease))).collect()
}
