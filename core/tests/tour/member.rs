//! What the log half of a member promises its clients: each ticket is answered once, and what is said of an outcome is true.

use quorate_core::command::{Command, Put, Refusal};
use quorate_core::consensus::{Configuration, Envelope, ForwardMessage, Limits, Message, RaftMessage, ReadMessage, Settings};
use quorate_core::machine::{Machine, MachineLimits, MachineSettings};
use quorate_core::member::{
    self, Body, LogEffect, LogHalf, LogInput, MemberLimits, MemberSettings, Notice, Report, Request, Ticket, WalDone, WalWork, prepare,
};
use quorate_core::storage::MemoryStore;
use quorate_core::types::{Boot, ClusterId, LogId, LogIndex, MemberId, Monotonic, Now, ReadId, Term, WallMs, WriteNumber};
use quorate_core::wal::{Identity, Planner, WalSettings, bootstrap_entries};
use std::time::Duration;

pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Member 1 of three, alone with whoever asks it.
pub(crate) struct Member {
    pub(crate) half: LogHalf,
    pub(crate) now: Duration,
    newest_write: WriteNumber,
    next_ticket: u64,
    /// Everything since the last look.
    effects: Vec<LogEffect>,
}

/// What the consensus actor of a member that stands alone in a test is told.
pub(crate) fn consensus_settings(member: MemberId, boot: Boot) -> Settings {
    Settings {
        member,
        boot,
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: ELECTION_TIMEOUT,
        pre_vote: true,
        advance_first_election: false,
        seed: [1; 32],
        limits: Limits::default(),
    }
}

impl Member {
    pub(crate) fn starting(settings: MemberSettings) -> Self {
        let founders: Vec<_> = (1..=3).map(|id| (MemberId(id), Vec::new())).collect();
        let (entries, configuration): (_, Configuration) = bootstrap_entries(&founders);
        let identity = Identity { cluster: ClusterId(1), member: MemberId(1) };
        let recovered = Planner::bootstrap(identity, entries, WalSettings { segment_bytes: 64 << 10, spare_segments: 0 }, [1; 32]);
        let machine = MachineSettings { member: MemberId(1), boot: recovered.boot, limits: MachineLimits::default() };
        let machine = Machine::open(machine, MemoryStore::default()).unwrap();
        let consensus = consensus_settings(MemberId(1), recovered.boot);
        let (half, _) = member::open(consensus, settings, recovered, configuration, machine, 0, Now::default());
        let mut member = Self { half, now: Duration::ZERO, newest_write: WriteNumber(0), next_ticket: 0, effects: Vec::new() };
        member.flush();
        member
    }

    /// Its boot is durable, and member 2 leads.
    pub(crate) fn following(settings: MemberSettings) -> Self {
        let mut member = Self::starting(settings);
        member.durable();
        member.hear_leader();
        member.look();
        member
    }

    pub(crate) fn hear_leader(&mut self) {
        let heartbeat = RaftMessage::Heartbeat { commit: LogIndex(0), round: 0, replicated: LogIndex(0) };
        self.receive(Message::Raft(heartbeat));
    }

    pub(crate) fn receive(&mut self, message: Message) {
        self.step(LogInput::Peer(Envelope { from: MemberId(2), to: MemberId(1), term: Term(2), message }));
    }

    fn now(&self) -> Now {
        Now { monotonic: Monotonic(self.now), wall: WallMs(0) }
    }

    pub(crate) fn step(&mut self, input: LogInput) {
        self.half.step(self.now(), input, &mut self.effects);
        self.flush();
    }

    fn flush(&mut self) {
        self.half.flush(self.now(), &mut self.effects);
        for effect in &self.effects {
            if let LogEffect::Wal(WalWork::Write { number, .. }) = effect {
                self.newest_write = self.newest_write.max(*number);
            }
        }
    }

    pub(crate) fn durable(&mut self) {
        self.step(LogInput::Wal(WalDone::Durable(self.newest_write)));
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.step(LogInput::Wake);
    }

    pub(crate) fn ask(&mut self, body: Body, deadline: Option<Duration>) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let deadline = deadline.map(|after| self.now().monotonic + after);
        self.step(LogInput::Client(Request { ticket, deadline, require_leader: false, body }));
        ticket
    }

    pub(crate) fn look(&mut self) -> Vec<LogEffect> {
        std::mem::take(&mut self.effects)
    }
}

pub(crate) fn put() -> Body {
    let put = Put { key: "k".into(), value: "v".into(), ..Put::default() };
    Body::Propose(prepare(MemberId(1), &Command::Put(put), 0, usize::MAX).unwrap())
}

pub(crate) fn refusals(effects: &[LogEffect]) -> Vec<(Ticket, Refusal)> {
    let refused = |effect: &LogEffect| match effect {
        LogEffect::Answer(ticket, Err(refusal)) => Some((*ticket, refusal.clone())),
        _ => None,
    };
    effects.iter().filter_map(refused).collect()
}

fn forwards(effects: &[LogEffect]) -> usize {
    let is_forward =
        |effect: &&LogEffect| matches!(effect, LogEffect::Send(Envelope { message: Message::Forward(ForwardMessage::Request(_)), .. }));
    effects.iter().filter(is_forward).count()
}

fn asked_reads(effects: &[LogEffect]) -> Vec<ReadId> {
    let asked = |effect: &LogEffect| match effect {
        LogEffect::Send(Envelope { message: Message::Read(ReadMessage::Request(reads)), .. }) => Some(reads.clone()),
        _ => None,
    };
    effects.iter().filter_map(asked).flatten().collect()
}

#[test]
fn nothing_is_said_and_nobody_heard_before_the_boot_is_durable() {
    let mut member = Member::starting(MemberSettings::default());
    let ticket = member.ask(put(), None);
    member.hear_leader();
    member.pass(ELECTION_TIMEOUT / 2);
    let effects = member.look();
    let said = effects.iter().filter(|effect| matches!(effect, LogEffect::Send(_) | LogEffect::Answer(..) | LogEffect::Connect(_)));
    assert_eq!(said.count(), 0, "{effects:?}");
    assert_eq!(member.half.status().term, Term(1), "the leader of term 2 was not heard");
    member.durable();
    member.hear_leader();
    member.durable();
    let effects = member.look();
    assert!(effects.contains(&LogEffect::Notice(Notice::Opened)));
    assert_eq!(forwards(&effects), 1, "{ticket} waited for the opening");
}

#[test]
fn requests_above_their_number_are_refused_and_each_ticket_is_answered_once() {
    let limits = MemberLimits { tickets: 3, ..MemberLimits::default() };
    let mut member = Member::starting(MemberSettings { limits, ..MemberSettings::default() });
    for _ in 0..5 {
        member.ask(Body::Read, Some(ELECTION_TIMEOUT / 10));
    }
    assert_eq!(refusals(&member.look()), [(Ticket(4), Refusal::TooManyRequests), (Ticket(5), Refusal::TooManyRequests)]);
    member.pass(ELECTION_TIMEOUT / 5);
    let timed_out = [1, 2, 3].map(|ticket| (Ticket(ticket), Refusal::TimedOut));
    assert_eq!(refusals(&member.look()), timed_out);
    member.durable();
    member.pass(ELECTION_TIMEOUT / 5);
    assert_eq!(refusals(&member.look()), []);
}

#[test]
fn a_proposal_that_times_out_while_it_is_held_is_never_proposed() {
    let mut member = Member::starting(MemberSettings::default());
    member.durable();
    let ticket = member.ask(put(), Some(ELECTION_TIMEOUT / 10));
    member.pass(ELECTION_TIMEOUT / 5);
    let effects = member.look();
    assert_eq!(refusals(&effects), [(ticket, Refusal::TimedOut)], "there is no leader that it could be with");
    member.hear_leader();
    member.durable();
    assert_eq!(forwards(&member.look()), 0, "what was refused stays undone");
}

#[test]
fn a_proposal_that_times_out_on_its_way_is_of_unknown_outcome() {
    let mut member = Member::following(MemberSettings::default());
    let ticket = member.ask(put(), Some(ELECTION_TIMEOUT / 10));
    assert_eq!(forwards(&member.look()), 1);
    member.pass(ELECTION_TIMEOUT / 5);
    assert_eq!(refusals(&member.look()), [(ticket, Refusal::OutcomeUnknown)]);
}

#[test]
fn a_read_without_an_answer_is_asked_again_under_another_id() {
    let mut member = Member::following(MemberSettings::default());
    member.ask(Body::Read, None);
    let first = asked_reads(&member.look());
    member.pass(MemberLimits::default().read_retry);
    member.hear_leader();
    let second = asked_reads(&member.look());
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
    // The first attempt's answer speaks of an earlier moment, and nobody waits for it.
    member.receive(Message::Read(ReadMessage::Reply { reads: first, index: LogIndex(0) }));
    assert_eq!(member.look().iter().filter(|effect| matches!(effect, LogEffect::Answer(..))).count(), 0);
    member.receive(Message::Read(ReadMessage::Reply { reads: second, index: LogIndex(0) }));
    assert_eq!(member.look().iter().filter(|effect| matches!(effect, LogEffect::Answer(_, Ok(_)))).count(), 1);
}

#[test]
fn what_would_exceed_the_quota_is_refused_wherever_it_comes_in_and_the_alarm_raised_once() {
    let mut member = Member::following(MemberSettings { quota_bytes: Some(1_000), ..MemberSettings::default() });
    member.step(LogInput::State(Report::Applied { index: LogIndex(3), stored_bytes: 990, no_space: false }));
    member.look();
    let tickets = [member.ask(put(), None), member.ask(put(), None)];
    let effects = member.look();
    assert_eq!(refusals(&effects), tickets.map(|ticket| (ticket, Refusal::NoSpace)));
    assert_eq!(forwards(&effects), 1, "one request that raises the alarm");
    assert_eq!(member.half.consensus().last(), LogId { term: Term(1), index: LogIndex(3) });
}

#[test]
fn a_read_whose_index_is_applied_is_answered_at_once() {
    let mut member = Member::following(MemberSettings::default());
    let ticket = member.ask(Body::Read, None);
    let reads = asked_reads(&member.look());
    member.receive(Message::Read(ReadMessage::Reply { reads, index: LogIndex(0) }));
    assert!(member.look().iter().any(|effect| matches!(effect, LogEffect::Answer(answered, Ok(_)) if *answered == ticket)));
}
