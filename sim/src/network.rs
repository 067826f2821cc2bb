//! The wire between members: each direction of each link by itself, with latency, and whatever a schedule adds.

use crate::chance::{Chance, Concern};
use crate::clock::{MILLISECOND, Nanos};
use crate::schedule::FaultClass;
use quorate_core::consensus::{Envelope, ForwardMessage, LeaseMessage, Message, RaftMessage, ReadMessage, SnapshotMessage};

/// Members of the largest cluster; a link is a bit of a `u64`.
pub const MEMBERS_MAX: usize = 8;

/// A set of directed links.
pub type Links = u64;

#[must_use]
pub const fn link(from: usize, to: usize) -> Links {
    1 << (from * MEMBERS_MAX + to)
}

/// Both directions of every pair for which `apart` holds.
pub fn links(members: usize, apart: impl Fn(usize, usize) -> bool) -> Links {
    let mut set = 0;
    for a in 0..members {
        for b in 0..members {
            if a != b && (apart(a, b) || apart(b, a)) {
                set |= link(a, b);
            }
        }
    }
    set
}

/// Something done to links for a while.
#[derive(Clone, Copy, Debug)]
pub struct Disturbance {
    pub id: u64,
    pub class: FaultClass,
    pub links: Links,
    /// How many of a thousand messages it meets; a cut meets all.
    pub permille: u64,
    /// The most it delays a message by.
    pub delay: Nanos,
}

/// Where a message goes: none, one or two arrivals.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    pub arrivals: [Option<Nanos>; 2],
    /// The message's place among those sent on its link.
    pub number: u64,
    /// Why it did not arrive, or arrives late.
    pub cause: Option<FaultClass>,
}

#[derive(Debug)]
pub struct Network {
    chance: Chance,
    disturbances: Vec<Disturbance>,
    /// Per link: nothing sent later arrives earlier, unless reordered.
    in_order: Vec<Nanos>,
    sent: Vec<u64>,
    arrived: Vec<u64>,
}

/// Whether losing or delaying this message can change what happens next: it carries entries, an answer about them, a vote, or
/// somebody's request.
#[must_use]
pub fn is_weighty(message: &Message) -> bool {
    match message {
        Message::Raft(RaftMessage::Append { entries, .. }) => !entries.is_empty(),
        Message::Raft(RaftMessage::Heartbeat { .. } | RaftMessage::HeartbeatReply { .. } | RaftMessage::PreVoteReply { .. }) => false,
        _ => true,
    }
}

impl Network {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let all = MEMBERS_MAX * MEMBERS_MAX;
        Self {
            chance: Chance::new(seed, Concern::Network, 0),
            disturbances: Vec::new(),
            in_order: vec![0; all],
            sent: vec![0; all],
            arrived: vec![0; all],
        }
    }

    pub fn disturb(&mut self, disturbance: Disturbance) {
        self.disturbances.push(disturbance);
    }

    pub fn calm(&mut self, id: u64) {
        self.disturbances.retain(|disturbance| disturbance.id != id);
    }

    pub fn calm_all(&mut self) {
        self.disturbances.clear();
    }

    /// Whether nothing gets from one to the other, and by which class of fault.
    #[must_use]
    pub fn cut(&self, from: usize, to: usize) -> Option<FaultClass> {
        self.disturbances.iter().find(|d| d.class.is_cut() && d.links & link(from, to) != 0).map(|d| d.class)
    }

    pub fn send(&mut self, now: Nanos, from: usize, to: usize) -> Fate {
        let at = from * MEMBERS_MAX + to;
        self.sent[at] += 1;
        let mut fate = Fate { number: self.sent[at], ..Fate::default() };
        let mut latency = self.chance.tailed(150_000, 3 * MILLISECOND);
        let mut ordered = true;
        let mut copy = None;
        for disturbance in &self.disturbances {
            if disturbance.links & link(from, to) == 0 {
                continue;
            }
            let class = disturbance.class;
            if class.is_cut() {
                fate.cause = Some(class);
                return fate;
            }
            if !self.chance.permille(disturbance.permille) {
                continue;
            }
            let delay = self.chance.below(disturbance.delay);
            match class {
                FaultClass::Loss => {
                    fate.cause = Some(class);
                    return fate;
                }
                FaultClass::Duplicate => copy = Some(delay),
                FaultClass::Reorder => {
                    ordered = false;
                    latency += delay;
                }
                FaultClass::DelayTail => {
                    latency += delay;
                    fate.cause = Some(class);
                }
                _ => {}
            }
        }
        let mut arrival = now + latency;
        if ordered {
            arrival = arrival.max(self.in_order[at] + 1);
            self.in_order[at] = arrival;
        }
        fate.arrivals = [Some(arrival), copy.map(|delay| arrival + 1 + delay)];
        fate
    }

    /// Notes an arrival; true if a message sent later on the same link was there before.
    pub fn arrive(&mut self, from: usize, to: usize, number: u64) -> bool {
        let newest = &mut self.arrived[from * MEMBERS_MAX + to];
        let overtaken = number < *newest;
        *newest = number.max(*newest);
        overtaken
    }
}

/// The words of a message that tell two runs apart, for the trace hash.
pub fn digest(envelope: &Envelope, mix: &mut impl FnMut(u64)) {
    mix(envelope.from.0 << 32 ^ envelope.to.0);
    mix(envelope.term.0);
    match &envelope.message {
        Message::Raft(RaftMessage::Append { previous, entries, commit, round }) => {
            mix(1);
            mix(previous.index.0);
            mix(entries.last().map_or(0, |entry| entry.id.index.0 << 20 ^ entry.id.term.0));
            mix(commit.0 ^ round << 32);
        }
        Message::Raft(RaftMessage::Appended { matched, round }) => mix(2 ^ matched.0 << 8 ^ round << 40),
        Message::Raft(RaftMessage::AppendRejected { previous, hint, .. }) => mix(3 ^ previous.index.0 << 8 ^ hint.index.0 << 40),
        Message::Raft(RaftMessage::Heartbeat { commit, round, .. }) => mix(4 ^ commit.0 << 8 ^ round << 40),
        Message::Raft(RaftMessage::HeartbeatReply { round }) => mix(5 ^ round << 8),
        Message::Raft(RaftMessage::PreVote { end }) => mix(6 ^ end.index.0 << 8),
        Message::Raft(RaftMessage::PreVoteReply { granted }) => mix(7 ^ u64::from(*granted) << 8),
        Message::Raft(RaftMessage::RequestVote { end, transfer }) => mix(8 ^ end.index.0 << 8 ^ u64::from(*transfer) << 60),
        Message::Raft(RaftMessage::Vote { granted }) => mix(9 ^ u64::from(*granted) << 8),
        Message::Forward(ForwardMessage::Request(proposals)) => mix(10 ^ (proposals.len() as u64) << 8),
        Message::Forward(ForwardMessage::Refused { requests, .. }) => mix(11 ^ (requests.len() as u64) << 8),
        Message::Lease(LeaseMessage::Request(calls)) => mix(18 ^ (calls.len() as u64) << 8),
        Message::Lease(LeaseMessage::Reply(answers)) => mix(19 ^ (answers.len() as u64) << 8),
        Message::Lease(LeaseMessage::Refused(ids)) => mix(20 ^ (ids.len() as u64) << 8),
        Message::Read(ReadMessage::Request(reads)) => mix(12 ^ (reads.len() as u64) << 8),
        Message::Read(ReadMessage::Reply { reads, index }) => mix(13 ^ (reads.len() as u64) << 8 ^ index.0 << 32),
        Message::Read(ReadMessage::Refused { reads }) => mix(14 ^ (reads.len() as u64) << 8),
        Message::Raft(RaftMessage::TimeoutNow) => mix(15),
        Message::Snapshot(SnapshotMessage::Offer(snapshot)) => mix(16 ^ snapshot.id.number << 8 ^ snapshot.last.index.0 << 32),
        Message::Snapshot(SnapshotMessage::Fetch { snapshot, after }) => {
            mix(17 ^ snapshot.number << 8 ^ (after.as_ref().map_or(0, |row| row.key.len()) as u64) << 32);
        }
        Message::Snapshot(SnapshotMessage::Chunk { chunk, .. }) => mix(18 ^ u64::from(chunk.checksum) << 8),
        Message::Snapshot(SnapshotMessage::Over { snapshot }) => mix(19 ^ snapshot.number << 8),
        Message::Snapshot(SnapshotMessage::Gone { snapshot }) => mix(20 ^ snapshot.number << 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_reordering_a_link_delivers_in_order() {
        let mut network = Network::new(1);
        let mut last = 0;
        for at in 0..1_000 {
            let arrival = network.send(at * 1_000, 0, 1).arrivals[0].expect("nothing is lost");
            assert!(arrival > last);
            last = arrival;
        }
    }

    #[test]
    fn a_one_way_cut_stops_one_direction_only() {
        let mut network = Network::new(1);
        network.disturb(Disturbance { id: 1, class: FaultClass::OneWay, links: link(0, 1), permille: 1_000, delay: 0 });
        assert_eq!(network.send(0, 0, 1).cause, Some(FaultClass::OneWay));
        assert!(network.send(0, 1, 0).arrivals[0].is_some());
        network.calm(1);
        assert!(network.send(0, 0, 1).arrivals[0].is_some());
    }

    #[test]
    fn a_reordered_message_is_known_as_overtaken() {
        let mut network = Network::new(1);
        assert!(!network.arrive(0, 1, 2));
        assert!(network.arrive(0, 1, 1));
        assert!(!network.arrive(1, 0, 1));
    }
}
