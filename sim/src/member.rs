//! One member as a host sees it: its disk, store and clocks, and while its process runs, the production actors and what they wait for.

use crate::chance::{Chance, Concern};
use crate::clock::{MemberClock, Nanos};
use crate::convert::Served;
use crate::disk::SimDisk;
use crate::schedule::FaultClass;
use crate::store::SimStore;
use quorate_checker::history::OpId;
use quorate_core::consensus::{Entry, Payload, Role};
use quorate_core::lease::LeaseCall;
use quorate_core::member::{Body, LogHalf, LogInput, Owed, Request, StateEffect, StateHalf, StateInput, Ticket};
use quorate_core::mvcc::View;
use quorate_core::storage::{MemoryStore, Table, WalOp, WriteBatch};
use quorate_core::types::{
    BatchNumber, Boot, LogId, LogIndex, MemberId, Monotonic, RequestId, RevisionId, SegmentId, StateNumber, StreamId, Term, WriteNumber,
};
use quorate_core::watch::Hub;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

#[derive(Debug)]
pub struct Member {
    pub id: MemberId,
    pub disk: SimDisk,
    pub store: SimStore,
    /// Which state that is, and a later one that is being received.
    pub state: StateNumber,
    pub receiving: Option<(StateNumber, SimStore)>,
    pub clock: MemberClock,
    pub process: Option<Box<Process>>,
    /// Counts the processes that ended; what was meant for an earlier one is void.
    pub incarnation: u64,
    /// Its disk is beyond repair: it stays down.
    pub lost: bool,
    /// Bits of its log have flipped.
    pub rotten: bool,
    /// Pauses that hold now.
    pub paused: u32,
    /// Until when each fault of the disk holds.
    pub slow: Vec<(usize, Nanos)>,
    pub full: u32,
    pub fail_next_sync: Option<Nanos>,
    /// What put its wall clock off last.
    pub wall_fault: Option<FaultClass>,
    /// To die in the middle of the next write, and for how long.
    pub die_at_write: Option<Nanos>,
    pub chance: Chance,
    pub disk_chance: Chance,
    pub store_chance: Chance,
    /// Up to here the log itself says, durably, that it was synced.
    pub proven: (SegmentId, u64),
}

impl Member {
    #[must_use]
    pub fn new(seed: u64, index: usize) -> Self {
        let part = index as u64;
        let mut disk = SimDisk::default();
        disk.garbage = index.is_multiple_of(2);
        Self {
            id: MemberId(part + 1),
            disk,
            store: SimStore::new(),
            state: StateNumber::default(),
            receiving: None,
            clock: MemberClock::default(),
            process: None,
            incarnation: 0,
            lost: false,
            rotten: false,
            paused: 0,
            slow: Vec::new(),
            full: 0,
            fail_next_sync: None,
            wall_fault: None,
            die_at_write: None,
            chance: Chance::new(seed, Concern::Host, part),
            disk_chance: Chance::new(seed, Concern::Disk, part),
            store_chance: Chance::new(seed, Concern::Store, part),
            proven: (SegmentId(0), 0),
        }
    }

    #[must_use]
    pub fn leads(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.role == Role::Leader)
    }
}

/// What a write to the log makes durable, beside the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carries {
    /// Another term, and with it whom the member votes for.
    pub ballot: bool,
    /// Another end of the log.
    pub entries: bool,
}

/// The halves of a member, each on a thread of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    Log,
    State,
}

/// A write on its way to the disk.
#[derive(Debug)]
pub struct DiskWrite {
    pub number: WriteNumber,
    pub carries: Carries,
    pub ops: VecDeque<WalOp>,
    pub begun: Nanos,
    pub slowed: bool,
    /// Where it ends, and what was known durable when it was made.
    pub end: Option<(SegmentId, u64)>,
    pub proves: WriteNumber,
}

/// What the store's thread does, in order.
#[derive(Debug)]
pub enum StoreTask {
    Persist(BatchNumber, WriteBatch),
    Sync,
    Retire(Table, RevisionId),
    BeginState(StateNumber, bool),
    StoreRows(StateNumber, WriteBatch),
    SyncState(StateNumber),
    SwitchState(StateNumber),
    DropState,
}

/// A request that a member was asked and has not answered.
#[derive(Debug)]
pub struct Asked {
    /// `None`: the world itself asked, and looks at no answer.
    pub op: Option<OpId>,
    /// How to serve a read, once it may be.
    pub served: Option<Served>,
    /// What it asks of the lease clock, and when it came.
    pub call: Option<(LeaseCall, Nanos)>,
    /// What was committed anywhere when it arrived: a read must see it.
    pub committed: LogIndex,
    /// The quota forbade it when the member took it.
    pub must_refuse: bool,
    /// Where its entry stands in the log.
    pub rank: Option<LogIndex>,
    /// Nobody waits for it any more.
    pub cancelled: bool,
}

/// What is in memory and dies with the process.
#[derive(Debug)]
pub struct Process {
    pub boot: Boot,
    pub log: LogHalf,
    pub state: StateHalf<MemoryStore>,
    pub hub: Hub<MemoryStore>,
    pub view: Arc<View<MemoryStore>>,
    pub role: Role,
    /// Append messages with entries that still leave it: a storm took the rest.
    pub appends_left: Option<u64>,
    /// Its disk has failed: it ends itself soon, and comes back after so long.
    pub down: Option<Nanos>,
    pub inbox: VecDeque<LogInput>,
    pub state_inbox: VecDeque<StateInput<MemoryStore>>,
    /// What the state half's last turn brought and nobody has seen yet.
    pub state_effects: VecDeque<StateEffect<MemoryStore>>,
    pub run_planned: bool,
    pub state_busy: bool,
    /// When the whole state is looked at next.
    pub check_due: Nanos,
    pub work_planned: bool,
    /// When each half is woken, as far as that is planned.
    pub wake_planned: [Option<Nanos>; 2],
    pub hub_wake_planned: Option<Nanos>,
    pub writes: VecDeque<DiskWrite>,
    /// Term and end of the log as the newest write has them.
    pub written: (Term, LogId),
    /// What the newest durable write carried.
    pub durable: Carries,
    pub disk_busy: bool,
    /// Reported durable to the log half, and as it was when it last flushed.
    pub reported: WriteNumber,
    pub reported_at_flush: WriteNumber,
    /// Ends of writes that the log may come to vouch for.
    pub ends: VecDeque<(WriteNumber, (SegmentId, u64))>,
    pub tasks: VecDeque<StoreTask>,
    pub store_busy: bool,
    pub persisted: BatchNumber,
    /// What the log half knows the state store to take.
    pub stored_bytes: u64,
    next_ticket: u64,
    /// The newest request whose operation is known.
    pub proposed: u64,
    pub asked: BTreeMap<Ticket, Asked>,
    pub streams: BTreeMap<StreamId, OpId>,
    pub v2_waiting: Vec<crate::v2::Waiting>,
}

impl Process {
    #[must_use]
    pub fn new(
        boot: Boot,
        log: LogHalf,
        state: StateHalf<MemoryStore>,
        hub: Hub<MemoryStore>,
        view: Arc<View<MemoryStore>>,
        stored_bytes: u64,
    ) -> Self {
        let written = (log.status().term, log.consensus().last());
        Self {
            boot,
            log,
            state,
            hub,
            view,
            role: Role::Follower,
            appends_left: None,
            down: None,
            inbox: VecDeque::new(),
            state_inbox: VecDeque::new(),
            state_effects: VecDeque::new(),
            run_planned: false,
            state_busy: false,
            check_due: 0,
            work_planned: false,
            wake_planned: [None; 2],
            hub_wake_planned: None,
            writes: VecDeque::new(),
            written,
            durable: Carries::default(),
            disk_busy: false,
            reported: WriteNumber::default(),
            reported_at_flush: WriteNumber::default(),
            ends: VecDeque::new(),
            tasks: VecDeque::new(),
            store_busy: false,
            persisted: BatchNumber::default(),
            stored_bytes,
            next_ticket: 0,
            proposed: 0,
            asked: BTreeMap::new(),
            streams: BTreeMap::new(),
            v2_waiting: Vec::new(),
        }
    }

    /// When a half has something to do, if nothing happens first.
    #[must_use]
    pub fn deadline(&self, half: Half) -> Monotonic {
        match half {
            Half::Log => self.log.deadline(),
            Half::State => self.state.deadline(),
        }
    }

    /// Takes note of a request on its way into the log half.
    pub fn open_ticket(&mut self, op: Option<OpId>, served: Option<Served>, committed: LogIndex) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.asked.insert(ticket, Asked { op, served, call: None, committed, must_refuse: false, rank: None, cancelled: false });
        ticket
    }

    /// Whether the quota forbids a request, as the log half takes it.
    pub fn judge_growth(&mut self, request: &Request, quota_bytes: Option<u64>) {
        if let (Body::Propose(prepared), Some(quota)) = (&request.body, quota_bytes)
            && let Some(asked) = self.asked.get_mut(&request.ticket)
            && self.log.is_open()
        {
            asked.must_refuse = prepared.growth_bytes > 0 && self.stored_bytes + prepared.growth_bytes > quota;
        }
    }

    /// Takes note of where the requests of this process stand in the log.
    pub fn rank(&mut self, member: MemberId, entries: &[Entry], owed: &[Owed]) {
        for owed in owed {
            let own = RequestId { member, boot: self.boot, sequence: owed.sequence };
            let stands = |entry: &&Entry| matches!(&entry.payload, Payload::Command { request, .. } if *request == own);
            if let (Some(entry), Some(asked)) = (entries.iter().find(stands), self.asked.get_mut(&owed.ticket)) {
                asked.rank = Some(entry.id.index);
            }
        }
    }
}

/// How often each class of fault struck in a run, and how often it met something that it could change.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub fired: BTreeMap<FaultClass, u64>,
    pub mattered: BTreeMap<FaultClass, u64>,
}

impl Tally {
    pub fn fired(&mut self, class: FaultClass) {
        *self.fired.entry(class).or_default() += 1;
    }

    pub fn mattered(&mut self, class: FaultClass) {
        *self.mattered.entry(class).or_default() += 1;
    }
}
