//! One member as a host sees it: its disk, store and clocks, and while it lives, the production actors and what they wait for.

use crate::chance::{Chance, Concern};
use crate::clock::{MemberClock, Nanos};
use crate::convert::Served;
use crate::disk::SimDisk;
use crate::schedule::FaultClass;
use crate::store::{SimReader, SimStore};
use quorate_checker::history::OpId;
use quorate_core::consensus::{Envelope, Role};
use quorate_core::mvcc::View;
use quorate_core::replica::{Replica, ReplicaInput};
use quorate_core::storage::{Table, WalOp, WriteBatch};
use quorate_core::types::{Boot, CommitNumber, MemberId, RevisionId, SegmentId, StreamId, WriteNumber};
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
    pub clock: MemberClock,
    pub life: Option<Box<Life>>,
    /// Counts lives; what was meant for an earlier one is void.
    pub life_number: u64,
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
            clock: MemberClock::default(),
            life: None,
            life_number: 0,
            lost: false,
            rotten: false,
            paused: 0,
            slow: Vec::new(),
            full: 0,
            fail_next_sync: None,
            die_at_write: None,
            chance: Chance::new(seed, Concern::Host, part),
            disk_chance: Chance::new(seed, Concern::Disk, part),
            store_chance: Chance::new(seed, Concern::Store, part),
            proven: (SegmentId(0), 0),
        }
    }

    #[must_use]
    pub fn leads(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.role == Role::Leader)
    }
}

/// A write on its way to the disk.
#[derive(Debug)]
pub struct DiskWrite {
    pub number: WriteNumber,
    pub ops: VecDeque<WalOp>,
    pub then: Vec<Envelope>,
    pub begun: Nanos,
    pub slowed: bool,
    /// Where it ends, and what was known durable when it was made.
    pub end: Option<(SegmentId, u64)>,
    pub proves: WriteNumber,
}

/// What the store's thread does, in order.
#[derive(Debug)]
pub enum StoreTask {
    Commit(CommitNumber, WriteBatch),
    Sync,
    Retire(Table, RevisionId),
}

/// What lives in the process and dies with it.
#[derive(Debug)]
pub struct Life {
    pub replica: Replica<SimReader>,
    pub hub: Hub<SimReader>,
    pub view: Arc<View<SimReader>>,
    pub boot: Boot,
    pub role: Role,
    /// Append messages with entries that still leave it: a storm took the rest.
    pub appends_left: Option<u64>,
    /// Until the boot is durable nothing is heard and nobody served.
    pub booting: bool,
    pub inbox: VecDeque<ReplicaInput<SimReader>>,
    pub run_planned: bool,
    pub state_planned: bool,
    pub slice_planned: bool,
    pub wake_planned: Option<Nanos>,
    pub hub_wake_planned: Option<Nanos>,
    pub writes: VecDeque<DiskWrite>,
    pub disk_busy: bool,
    /// Reported durable to the replica, and as it was when it last flushed.
    pub reported: WriteNumber,
    pub reported_at_flush: WriteNumber,
    /// Ends of writes that the log may come to vouch for.
    pub ends: VecDeque<(WriteNumber, (SegmentId, u64))>,
    pub tasks: VecDeque<StoreTask>,
    pub store_busy: bool,
    pub committed: CommitNumber,
    pub sequence: u64,
    pub proposals: BTreeMap<u64, OpId>,
    pub reads: BTreeMap<u64, (OpId, Served)>,
    pub streams: BTreeMap<StreamId, OpId>,
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
