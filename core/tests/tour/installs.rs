//! One member's state half is sent the state of another's: chunk by chunk, and what waits in the halves is accounted for at the swap.

use crate::member::consensus_settings;
use bytes::Bytes;
use quorate_core::command::{Command, LeaseGrant, Put, Refusal};
use quorate_core::consensus::{Chunk, Entry, Installable, Payload, SnapshotMessage};
use quorate_core::lease::LeaseChange;
use quorate_core::machine::{Machine, MachineLimits, MachineSettings, encode_command};
use quorate_core::member::{
    self, Answer, BatchLimits, MemberSettings, Order, Owed, Report, SnapshotLimits, SnapshotNotice, StateEffect, StateHalf, StateInput,
    StoreDone, StoreWork, Ticket,
};
use quorate_core::storage::MemoryStore;
use quorate_core::types::{
    Boot, ClusterId, LeaseId, LogId, LogIndex, MemberId, Monotonic, Now, RequestId, Revision, Term, WallMs, WriteNumber,
};
use quorate_core::wal::{Identity, Planner, WalSettings, bootstrap_entries};
use std::time::Duration;

const SENDER: MemberId = MemberId(1);
const RECEIVER: MemberId = MemberId(2);
const LIMITS: SnapshotLimits = SnapshotLimits {
    chunk_bytes: 150,
    pause: Duration::ZERO,
    retry: Duration::from_millis(100),
    idle: Duration::from_secs(2),
    longest: Duration::from_secs(60),
};

/// The state half of one member, with its state store and what came of it.
struct State {
    id: MemberId,
    half: StateHalf<MemoryStore>,
    now: Duration,
    store: MemoryStore,
    received: MemoryStore,
    /// The store does nothing more.
    is_stalled: bool,
    said: Vec<SnapshotMessage>,
    installable: Option<Installable>,
    ended: usize,
    answers: Vec<(Ticket, Result<Answer, Refusal>)>,
    notices: Vec<SnapshotNotice>,
    leases: Vec<LeaseChange>,
}

impl State {
    fn new(id: MemberId, machine: MachineLimits) -> Self {
        Self::on(id, machine, MemoryStore::default(), MemoryStore::default())
    }

    fn on(id: MemberId, machine: MachineLimits, store: MemoryStore, received: MemoryStore) -> Self {
        let machine = Machine::open(MachineSettings { member: id, boot: Boot(1), limits: machine }, store.clone()).unwrap();
        let (entries, configuration) = bootstrap_entries(&[(SENDER, Vec::new()), (RECEIVER, Vec::new())]);
        let wal = WalSettings { segment_bytes: 64 << 10, spare_segments: 0 };
        let recovered = Planner::bootstrap(Identity { cluster: ClusterId(1), member: id }, entries, wal, [1; 32]);
        let consensus = consensus_settings(id, recovered.boot);
        let batch = BatchLimits { persist_delay: Duration::ZERO, ..BatchLimits::default() };
        let settings = MemberSettings { batch, snapshot: LIMITS, ..MemberSettings::default() };
        let (_, half) = member::open(consensus, settings, recovered, configuration, machine, 0, Now::default());
        let mut state = Self {
            id,
            half,
            now: Duration::ZERO,
            store,
            received,
            is_stalled: false,
            said: Vec::new(),
            installable: None,
            ended: 0,
            answers: Vec::new(),
            notices: Vec::new(),
            leases: Vec::new(),
        };
        state.order(Order::Durable { log: LogIndex(10), write: WriteNumber(1) });
        state
    }

    fn order(&mut self, order: Order) {
        self.step(StateInput::Log(order));
    }

    /// An entry that grants a lease.
    fn grant(&mut self, index: u64, id: i64) {
        let request = RequestId { member: self.id, boot: Boot(1), sequence: index };
        let command = encode_command(&Command::LeaseGrant(LeaseGrant { lease: LeaseId(id), ttl_s: 60 }));
        let entry = Entry { id: LogId { term: Term(2), index: LogIndex(index) }, payload: Payload::Command { request, command } };
        self.order(Order::Apply { entries: [entry].into(), owed: Vec::new() });
    }

    /// Entries with a put each, of which this member owes the answers if `owes`.
    fn apply(&mut self, indexes: std::ops::RangeInclusive<u64>, owes: bool) {
        for index in indexes {
            let request = RequestId { member: self.id, boot: Boot(1), sequence: index };
            let put = Put { key: format!("key{index:03}").into(), value: vec![b'v'; 100].into(), ..Put::default() };
            let payload = Payload::Command { request, command: encode_command(&Command::Put(put)) };
            let entries = [Entry { id: LogId { term: Term(2), index: LogIndex(index) }, payload }].into();
            let owed = owes.then_some(Owed { sequence: index, ticket: Ticket(index), deadline: Monotonic(Duration::from_secs(60)) });
            self.order(Order::Apply { entries, owed: owed.into_iter().collect() });
        }
    }

    fn read(&mut self, ticket: u64, index: u64) {
        let deadline = Monotonic(Duration::from_secs(60));
        self.order(Order::Serve { ticket: Ticket(ticket), deadline, index: LogIndex(index) });
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.step(StateInput::Wake);
    }

    fn step(&mut self, input: StateInput<MemoryStore>) {
        let now = Now { monotonic: Monotonic(self.now), wall: WallMs(0) };
        let mut effects = Vec::new();
        self.half.step(now, input, &mut effects);
        self.half.flush(now, &mut effects);
        for effect in effects {
            match effect {
                StateEffect::Store(work) => {
                    if let Some(done) = self.work(work) {
                        self.step(StateInput::Store(done));
                    }
                }
                StateEffect::ReadChunk(read) => self.step(StateInput::ChunkRead(read.run())),
                StateEffect::Log(Report::Say { message, .. }) => self.said.push(message),
                StateEffect::Log(Report::Installable(installable)) => self.installable = Some(*installable),
                StateEffect::Log(Report::SnapshotEnded(_)) => self.ended += 1,
                StateEffect::Answer(ticket, answer) => self.answers.push((ticket, answer)),
                StateEffect::Snapshot(notice) => self.notices.push(notice),
                StateEffect::Fatal(reason) => panic!("{reason}"),
                StateEffect::Log(Report::Leases(changes)) => self.leases.extend(changes),
                StateEffect::Publish(_) | StateEffect::Log(Report::Applied { .. } | Report::Synced(_) | Report::V2End(_)) => {}
            }
        }
    }

    fn work(&mut self, work: StoreWork) -> Option<StoreDone<MemoryStore>> {
        let stored = |store: &MemoryStore| StoreDone::StateStored { reader: store.clone(), stored_bytes: store.bytes() };
        match work {
            StoreWork::Persist { .. } if self.is_stalled => None,
            StoreWork::Persist { number, batch, .. } => {
                self.store.write(&batch);
                Some(StoreDone::Persisted { number, reader: self.store.clone(), stored_bytes: self.store.bytes() })
            }
            StoreWork::BeginState { anew, .. } => {
                if anew {
                    self.received = MemoryStore::default();
                }
                Some(StoreDone::StateBegun { reader: self.received.clone() })
            }
            StoreWork::StoreRows { batch, .. } => {
                self.received.write(&batch);
                Some(stored(&self.received))
            }
            StoreWork::SyncState { .. } => Some(stored(&self.received)),
            StoreWork::SwitchState { .. } => {
                self.store = std::mem::take(&mut self.received);
                Some(StoreDone::Switched)
            }
            StoreWork::DropState { .. } => {
                self.received = MemoryStore::default();
                None
            }
            StoreWork::Sync | StoreWork::Retire { .. } => None,
        }
    }

    fn hear(&mut self, from: MemberId, message: SnapshotMessage) {
        self.order(Order::Snapshot { from, message });
    }

    fn chunks_received(&self) -> usize {
        self.notices.iter().filter(|notice| matches!(notice, SnapshotNotice::ReceivedChunk { .. })).count()
    }
}

/// Hands messages to and fro until neither says any more, or `stop` says so.
fn talk(sender: &mut State, receiver: &mut State, mut stop: impl FnMut(&mut SnapshotMessage) -> bool) {
    loop {
        let (to_receiver, to_sender) = (std::mem::take(&mut sender.said), std::mem::take(&mut receiver.said));
        if to_receiver.is_empty() && to_sender.is_empty() {
            return;
        }
        for mut message in to_receiver {
            if stop(&mut message) {
                return;
            }
            receiver.hear(SENDER, message);
        }
        to_sender.into_iter().for_each(|message| sender.hear(RECEIVER, message));
    }
}

/// Breaks off at the chunk after so many.
fn after_chunks(most: usize) -> impl FnMut(&mut SnapshotMessage) -> bool {
    let mut chunks = 0;
    move |message| {
        chunks += usize::from(matches!(message, SnapshotMessage::Chunk { .. }));
        chunks > most
    }
}

fn sender() -> State {
    let mut sender = State::new(SENDER, MachineLimits::default());
    sender.apply(1..=10, false);
    sender.order(Order::SendSnapshot { to: RECEIVER, first: LogIndex(5) });
    sender
}

fn install(receiver: &mut State) {
    let last = receiver.installable.take().expect("received whole").last;
    receiver.order(Order::Durable { log: LogIndex(1), write: WriteNumber(2) });
    receiver.order(Order::Install(last));
    receiver.order(Order::Durable { log: last.index, write: WriteNumber(3) });
}

#[test]
fn what_waits_at_a_swap_is_answered_once_and_what_follows_it_is_applied() {
    let mut sender = sender();
    let mut receiver = State::new(RECEIVER, MachineLimits { unpersisted_bytes: 0, ..MachineLimits::default() });
    receiver.is_stalled = true;
    receiver.apply(1..=3, true);
    assert_eq!(receiver.answers.len(), 1, "the store takes nothing, so no more is applied");
    receiver.read(100, 7);
    receiver.read(101, 12);
    talk(&mut sender, &mut receiver, |_| false);
    assert!(receiver.chunks_received() > 3, "{} chunks", receiver.chunks_received());
    let last = receiver.installable.as_ref().expect("received whole").last;
    assert_eq!(last, LogId { term: Term(2), index: LogIndex(10) });
    receiver.order(Order::Durable { log: LogIndex(1), write: WriteNumber(2) });
    receiver.order(Order::Install(last));
    receiver.apply(11..=12, true);
    assert_eq!(receiver.half.applied(), LogIndex(1), "what follows the snapshot waits for it");
    receiver.is_stalled = false;
    receiver.order(Order::Durable { log: LogIndex(12), write: WriteNumber(3) });
    receiver.step(StateInput::Wake);
    assert_eq!(receiver.half.applied(), LogIndex(12));
    receiver.half.check();
    let mut answered: Vec<(u64, bool)> = receiver.answers.iter().map(|(ticket, answer)| (ticket.0, answer.is_ok())).collect();
    answered.sort_unstable();
    assert_eq!(answered, [(1, true), (2, false), (3, false), (11, true), (12, true), (100, true), (101, true)]);
    let unknown = receiver.answers.iter().filter(|(_, answer)| *answer == Err(Refusal::OutcomeUnknown)).count();
    assert_eq!(unknown, 2);
    assert_eq!(receiver.half.view().revision(), Revision(13));
    talk(&mut sender, &mut receiver, |_| false);
    assert_eq!(sender.ended, 1, "the sender lets go of the state");
}

#[test]
fn the_log_half_is_told_which_leases_a_swap_brings_and_which_it_ends() {
    let mut sender = State::new(SENDER, MachineLimits::default());
    sender.apply(1..=9, false);
    sender.grant(10, 7);
    sender.order(Order::SendSnapshot { to: RECEIVER, first: LogIndex(5) });
    let mut receiver = State::new(RECEIVER, MachineLimits::default());
    receiver.grant(1, 5);
    talk(&mut sender, &mut receiver, |_| false);
    receiver.leases.clear();
    install(&mut receiver);
    let lease = sender.half.view().lease(LeaseId(7)).expect("granted");
    assert_eq!(receiver.leases, [LeaseChange::Ended(LeaseId(5)), LeaseChange::Is(LeaseId(7), lease)]);
}

#[test]
fn a_receiver_that_starts_again_goes_on_after_the_last_row_that_it_has() {
    let mut sender = sender();
    let mut first = State::new(RECEIVER, MachineLimits::default());
    talk(&mut sender, &mut first, after_chunks(3));
    let received = first.chunks_received();
    let mut second = State::on(RECEIVER, MachineLimits::default(), MemoryStore::default(), first.received);
    sender.said.clear();
    sender.pass(3 * LIMITS.retry);
    talk(&mut sender, &mut second, |_| false);
    assert!(second.notices.contains(&SnapshotNotice::Receiving {
        from: SENDER,
        last: LogId { term: Term(2), index: LogIndex(10) },
        resumed: true
    }));
    let mut whole = State::new(RECEIVER, MachineLimits::default());
    sender.order(Order::SendSnapshot { to: RECEIVER, first: LogIndex(5) });
    talk(&mut sender, &mut whole, |_| false);
    assert_eq!(received + second.chunks_received(), whole.chunks_received());
    install(&mut second);
    assert_eq!(second.half.view().digest(), sender.half.view().digest());
}

#[test]
fn a_flipped_byte_in_a_chunk_is_noticed_and_everything_is_asked_for_again() {
    let mut sender = sender();
    let mut receiver = State::new(RECEIVER, MachineLimits::default());
    let mut chunks = 0;
    talk(&mut sender, &mut receiver, |message| {
        if let SnapshotMessage::Chunk { chunk: Chunk { body, .. }, .. } = message {
            chunks += 1;
            if chunks == 3 {
                let mut flipped = body.to_vec();
                flipped[20] ^= 1;
                *body = Bytes::from(flipped);
            }
        }
        false
    });
    let bad = receiver.notices.iter().filter(|notice| matches!(notice, SnapshotNotice::ReceivedBad { .. })).count();
    assert_eq!(bad, 1);
    install(&mut receiver);
    assert_eq!(receiver.half.view().digest(), sender.half.view().digest());
}

#[test]
fn a_state_that_cannot_be_stored_is_told_and_tried_again_with_a_later_offer() {
    let mut sender = sender();
    let mut receiver = State::new(RECEIVER, MachineLimits::default());
    talk(&mut sender, &mut receiver, after_chunks(1));
    receiver.said.clear();
    receiver.step(StateInput::Store(StoreDone::StateFailed("No space left on device".into())));
    assert!(receiver.notices.contains(&SnapshotNotice::NotStored { reason: "No space left on device".into() }));
    sender.said.clear();
    sender.pass(3 * LIMITS.retry);
    talk(&mut sender, &mut receiver, |_| false);
    assert!(receiver.installable.is_none(), "not at once");
    receiver.pass(Duration::from_secs(1));
    sender.pass(3 * LIMITS.retry);
    talk(&mut sender, &mut receiver, |_| false);
    install(&mut receiver);
    assert_eq!(receiver.half.view().digest(), sender.half.view().digest());
}

#[test]
fn a_sender_lets_go_of_a_state_that_nobody_asks_for() {
    let mut sender = sender();
    for _ in 0..3 {
        sender.pass(LIMITS.retry);
    }
    let offers = sender.said.iter().filter(|message| matches!(message, SnapshotMessage::Offer(_))).count();
    assert_eq!(offers, 4, "said again until it is asked for");
    let Some(SnapshotMessage::Offer(offer)) = sender.said.pop() else { panic!("an offer") };
    sender.said.clear();
    sender.pass(LIMITS.idle);
    assert_eq!(sender.ended, 1);
    sender.hear(RECEIVER, SnapshotMessage::Fetch { snapshot: offer.id, after: None });
    assert_eq!(sender.said, [SnapshotMessage::Gone { snapshot: offer.id }]);
}

#[test]
fn what_is_not_needed_is_dropped_and_its_sender_told() {
    let mut sender = sender();
    let mut receiver = State::new(RECEIVER, MachineLimits::default());
    talk(&mut sender, &mut receiver, |_| false);
    assert!(!receiver.received.is_empty() && receiver.installable.is_some());
    receiver.order(Order::NotInstalled);
    assert!(receiver.received.is_empty());
    talk(&mut sender, &mut receiver, |_| false);
    assert_eq!(sender.ended, 1);
}

#[test]
fn what_an_earlier_life_received_goes_unless_it_is_offered_again() {
    let left = sender().store;
    let mut receiver = State::on(RECEIVER, MachineLimits::default(), MemoryStore::default(), left);
    receiver.pass(LIMITS.idle / 2);
    assert!(!receiver.received.is_empty());
    receiver.pass(LIMITS.idle);
    assert!(receiver.received.is_empty());
}
