//! Messages between members: what becomes of them on their way.

use crate::network::{digest, is_weighty};
use crate::schedule::FaultClass;
use crate::world::{Event, World};
use quorate_core::consensus::{Envelope, Message, RaftMessage};
use quorate_core::member::LogInput;
use quorate_core::types::MemberId;

impl World {
    pub(crate) fn on_arrive(&mut self, to: usize, envelope: Envelope, number: u64, copy: bool, late: bool) {
        let from = self.name(envelope.from);
        let overtaken = self.network.arrive(from, to, number);
        digest(&envelope, &mut |word| self.trace.hash.mix(word));
        let weighty = is_weighty(&envelope.message);
        let Some(process) = self.members[to].process.as_ref() else { return };
        if !process.log.is_open() {
            // Not heard yet: the member itself says so.
            return self.tell(to, LogInput::Peer(envelope));
        }
        if copy && weighty {
            self.tally.mattered(FaultClass::Duplicate);
        }
        if overtaken && !copy && weighty {
            self.tally.mattered(FaultClass::Reorder);
        }
        if late && weighty {
            self.tally.mattered(FaultClass::DelayTail);
        }
        self.trace.tell(self.now, || format!("{from} -> {to}: {envelope}"));
        self.tell(to, LogInput::Peer(envelope));
    }

    pub(crate) fn on_peer_closed(&mut self, member: usize, peer: MemberId) {
        self.tell(member, LogInput::PeerClosed(peer));
    }

    pub(crate) fn send(&mut self, member: usize, mut envelope: Envelope) {
        let reported = self.members[member].process.as_ref().expect("runs").reported;
        self.checks.on_sent(member, reported, &envelope);
        let to = self.name(envelope.to);
        if to >= self.members.len() {
            return;
        }
        if let Message::Raft(RaftMessage::Append { entries, .. }) = &envelope.message
            && self.parameters.tiny
            && entries.len() >= self.parameters.limits.append_entries
        {
            self.tally.mattered(FaultClass::Tiny);
        }
        if matches!(&envelope.message, Message::Raft(RaftMessage::Append { entries, .. }) if !entries.is_empty())
            && let Some(left) = self.members[member].process.as_mut().and_then(|process| process.appends_left.as_mut())
        {
            if *left == 0 {
                self.trace.tell(self.now, || format!("{member} -> {to}: lost to a storm: {envelope}"));
                return;
            }
            *left -= 1;
        }
        self.strike_chunk(member, to, &mut envelope);
        let fate = self.network.send(self.now, member, to);
        let weighty = is_weighty(&envelope.message);
        if let Some(class) = fate.cause.filter(|_| weighty && fate.arrivals[0].is_none() && self.members[to].process.is_some()) {
            self.tally.mattered(class);
        }
        let late =
            fate.cause == Some(FaultClass::DelayTail) && fate.arrivals[0].is_some_and(|at| at - self.now > self.parameters.heartbeat);
        if fate.arrivals[0].is_none() {
            self.trace.tell(self.now, || format!("{member} -> {to}: lost to {:?}: {envelope}", fate.cause));
        }
        if let Some(at) = fate.arrivals[1] {
            self.at(at, Event::Arrive { to, envelope: envelope.clone(), number: fate.number, copy: true, late: false });
        }
        if let Some(at) = fate.arrivals[0] {
            self.at(at, Event::Arrive { to, envelope, number: fate.number, copy: false, late });
        }
    }
}
