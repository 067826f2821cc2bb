//! A seed's plan as data: who takes part, and which fault strikes when. Drawn up front, then only replayed, so that a run can be
//! saved as text, changed by hand, and shrunk.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What can be done to a cluster. Member numbers count from 0.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Fault {
    /// The process dies; its disk keeps what was synced and, of the rest, whatever reached it, in any order, torn.
    /// `at_write`: not at once but in the middle of the next write to its log.
    Kill {
        member: usize,
        down_ms: u64,
        at_write: bool,
    },
    KillAll {
        down_ms: u64,
    },
    /// The next so many leaders die shortly after their election, each at most so long after, and of what they append only the first
    /// few messages leave them: what Figure 8 of the paper needs.
    Storm {
        times: u64,
        most_ms: u64,
    },
    /// The process stands still while its clocks go on (SIGSTOP).
    Pause {
        member: usize,
        ms: u64,
    },
    /// Nothing leaves the member, or nothing reaches it.
    OneWay {
        member: usize,
        inbound: bool,
        ms: u64,
    },
    /// Members in `side` (a bit each) and the others do not reach each other.
    Symmetric {
        side: u64,
        ms: u64,
    },
    /// Two halves see each other only through one member.
    Bridge {
        middle: usize,
        ms: u64,
    },
    /// Everybody sees the middle and nobody else.
    Star {
        middle: usize,
        ms: u64,
    },
    /// Members in a row, the first at the end: each sees its neighbours only.
    Chain {
        first: usize,
        ms: u64,
    },
    Loss {
        permille: u64,
        ms: u64,
    },
    Duplicate {
        permille: u64,
        ms: u64,
    },
    Reorder {
        permille: u64,
        spread_ms: u64,
        ms: u64,
    },
    DelayTail {
        permille: u64,
        most_ms: u64,
        ms: u64,
    },
    SlowDisk {
        member: usize,
        sync_ms: u64,
        ms: u64,
    },
    /// The next sync fails, and what it should have synced may be lost; the process ends.
    FsyncError {
        member: usize,
        down_ms: u64,
    },
    /// Writes fail until there is room again; the process ends.
    DiskFull {
        member: usize,
        ms: u64,
    },
    /// The process dies and a bit of its synced log flips.
    BitRot {
        member: usize,
        down_ms: u64,
    },
    /// A read of the state store fails, after so many more that do not.
    ReadError {
        member: usize,
        reads: u64,
    },
    /// A row of the state store rots.
    RowRot {
        member: usize,
    },
    /// The process dies and a byte of its state store's journal rots, synced or not.
    JournalRot {
        member: usize,
        down_ms: u64,
    },
    ClockDrift {
        member: usize,
        ppm: i64,
        ms: u64,
    },
    ClockOffset {
        member: usize,
        wall_ms: i64,
    },
    ClockStep {
        member: usize,
        wall_ms: i64,
    },
    /// Clients compact to the newest revision and read and watch around it.
    Compaction {
        times: u64,
    },
    /// Leadership is handed over on request. `deaf_ms` above 0: the old leader hears nothing for so long and may believe it still leads.
    Transfer {
        target: usize,
        deaf_ms: u64,
    },
    /// The next snapshot on its way: sender and receiver do not reach each other for so long.
    SnapshotCut {
        ms: u64,
    },
    /// A bit of one of its chunks flips.
    SnapshotFlip,
    /// Its sender dies.
    SenderKill {
        down_ms: u64,
    },
    /// Its receiver dies: as it begins, stores rows, syncs them, says in its log that it goes on from there, switches, or has switched.
    ReceiverKill {
        phase: u64,
        down_ms: u64,
    },
    /// Windows, batches, segments and slices are tiny in this run.
    Tiny,
}

/// How faults are counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum FaultClass {
    Kill,
    /// A kill that left a torn or reordered tail.
    Torn,
    /// A kill with a write to the log under way.
    SplitWrite,
    KillAll,
    Storm,
    /// A leader that a storm takes while a disk is slow.
    SlowStorm,
    Pause,
    OneWay,
    Symmetric,
    Bridge,
    Star,
    Chain,
    Loss,
    Duplicate,
    Reorder,
    DelayTail,
    SlowDisk,
    FsyncError,
    DiskFull,
    BitRot,
    ReadError,
    RowRot,
    JournalRot,
    ClockDrift,
    ClockOffset,
    ClockStep,
    Compaction,
    Transfer,
    Tiny,
    /// The quota of the state store is small in this run.
    Quota,
    /// A member was so far behind that it was sent a snapshot.
    Snapshot,
    SnapshotCut,
    SnapshotFlip,
    SenderKill,
    ReceiverKill,
}

impl FaultClass {
    pub const ALL: [Self; 35] = [
        Self::Kill,
        Self::Torn,
        Self::SplitWrite,
        Self::KillAll,
        Self::Storm,
        Self::SlowStorm,
        Self::Pause,
        Self::OneWay,
        Self::Symmetric,
        Self::Bridge,
        Self::Star,
        Self::Chain,
        Self::Loss,
        Self::Duplicate,
        Self::Reorder,
        Self::DelayTail,
        Self::SlowDisk,
        Self::FsyncError,
        Self::DiskFull,
        Self::BitRot,
        Self::ReadError,
        Self::RowRot,
        Self::JournalRot,
        Self::ClockDrift,
        Self::ClockOffset,
        Self::ClockStep,
        Self::Compaction,
        Self::Transfer,
        Self::Tiny,
        Self::Quota,
        Self::Snapshot,
        Self::SnapshotCut,
        Self::SnapshotFlip,
        Self::SenderKill,
        Self::ReceiverKill,
    ];

    #[must_use]
    pub const fn is_cut(self) -> bool {
        matches!(self, Self::OneWay | Self::Symmetric | Self::Bridge | Self::Star | Self::Chain | Self::SnapshotCut)
    }

    #[must_use]
    pub const fn is_of_snapshots(self) -> bool {
        matches!(self, Self::SnapshotCut | Self::SnapshotFlip | Self::SenderKill | Self::ReceiverKill)
    }

    /// When a fault of this class counts as having mattered: it met something that it could change.
    #[must_use]
    pub const fn mattered_means(self) -> &'static str {
        match self {
            Self::Kill => "writes not yet durable were under way, or the victim led",
            Self::Torn => "recovery found a torn tail and cut it",
            Self::SplitWrite => "it carried entries, and the write before it, which is durable, the ballot of their term",
            Self::KillAll => "a client was waiting for an answer",
            Self::Storm => "two leaders in a row died of it",
            Self::SlowStorm => "a ballot waited for a slow disk before the storm was over",
            Self::Pause => "it led, or weighty messages waited for it",
            Self::OneWay | Self::Symmetric | Self::Bridge | Self::Star | Self::Chain => "it cut a weighty message between live members",
            Self::Loss => "a weighty message was lost",
            Self::Duplicate => "a live member got a weighty message twice",
            Self::Reorder => "a weighty message was overtaken by a later one",
            Self::DelayTail => "a weighty message came later than a heartbeat interval",
            Self::SlowDisk => "a sync that messages waited for took longer than a heartbeat interval",
            Self::FsyncError => "the failed sync held un-synced writes",
            Self::DiskFull => "a write was refused",
            Self::BitRot => "recovery met the flipped bit and refused",
            Self::ReadError => "a member ended, or did not start, because of it",
            Self::RowRot => "a member ended, or refused its state, because of it",
            Self::JournalRot => "the state store did not open, or lost what no sync covered",
            Self::ClockDrift => "the role or the leader changed at the drifting member",
            Self::ClockOffset | Self::ClockStep => "a member began to lead, and to give the cluster its time, by such a wall clock",
            Self::Compaction => "a reader or watcher was refused what was compacted",
            Self::Transfer => "the target was elected",
            Self::Tiny => "a message or window was filled to its limit, or a WAL segment was left for a new one",
            Self::Quota => "a write was refused because it would exceed the quota",
            Self::Snapshot => "it was installed",
            Self::SnapshotCut | Self::SenderKill => "a chunk was on its way",
            Self::SnapshotFlip => "the receiver noticed and began anew",
            Self::ReceiverKill => "the receiver came to that point",
        }
    }
}

impl fmt::Display for FaultClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Fault {
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::Kill { .. } => FaultClass::Kill,
            Self::KillAll { .. } => FaultClass::KillAll,
            Self::Storm { .. } => FaultClass::Storm,
            Self::Pause { .. } => FaultClass::Pause,
            Self::OneWay { .. } => FaultClass::OneWay,
            Self::Symmetric { .. } => FaultClass::Symmetric,
            Self::Bridge { .. } => FaultClass::Bridge,
            Self::Star { .. } => FaultClass::Star,
            Self::Chain { .. } => FaultClass::Chain,
            Self::Loss { .. } => FaultClass::Loss,
            Self::Duplicate { .. } => FaultClass::Duplicate,
            Self::Reorder { .. } => FaultClass::Reorder,
            Self::DelayTail { .. } => FaultClass::DelayTail,
            Self::SlowDisk { .. } => FaultClass::SlowDisk,
            Self::FsyncError { .. } => FaultClass::FsyncError,
            Self::DiskFull { .. } => FaultClass::DiskFull,
            Self::BitRot { .. } => FaultClass::BitRot,
            Self::ReadError { .. } => FaultClass::ReadError,
            Self::RowRot { .. } => FaultClass::RowRot,
            Self::JournalRot { .. } => FaultClass::JournalRot,
            Self::ClockDrift { .. } => FaultClass::ClockDrift,
            Self::ClockOffset { .. } => FaultClass::ClockOffset,
            Self::ClockStep { .. } => FaultClass::ClockStep,
            Self::Compaction { .. } => FaultClass::Compaction,
            Self::Transfer { .. } => FaultClass::Transfer,
            Self::SnapshotCut { .. } => FaultClass::SnapshotCut,
            Self::SnapshotFlip => FaultClass::SnapshotFlip,
            Self::SenderKill { .. } => FaultClass::SenderKill,
            Self::ReceiverKill { .. } => FaultClass::ReceiverKill,
            Self::Tiny => FaultClass::Tiny,
        }
    }

    /// The member that it may put beyond repair.
    #[must_use]
    pub const fn dooms(&self) -> Option<usize> {
        match *self {
            Self::BitRot { member, .. } | Self::RowRot { member } | Self::JournalRot { member, .. } => Some(member),
            _ => None,
        }
    }
}

/// One decision of the nemesis.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Item {
    pub at_ms: u64,
    pub fault: Fault,
}

/// A whole run. `seed` still feeds the streams of chance of everything that is not a fault.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Schedule {
    pub seed: u64,
    pub members: usize,
    /// Faults end here at the latest.
    pub chaos_end_ms: u64,
    /// A cut that is left standing after the chaos, while the liveness of what is connected is judged; then all is healed.
    pub standing_cut: Option<Fault>,
    /// Clients use no leases, whose ends are nobody's operations: for whoever searches for an order without the log's.
    #[serde(default)]
    pub without_leases: bool,
    #[serde(skip)]
    pub items: Vec<Item>,
}

/// Why a saved schedule is not one.
#[derive(Debug)]
pub struct BadSchedule(String);

impl fmt::Display for BadSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Schedule {
    /// One line for the run, then one per fault.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string(self).expect("plain data");
        for item in &self.items {
            text.push('\n');
            text.push_str(&serde_json::to_string(item).expect("plain data"));
        }
        text.push('\n');
        text
    }

    /// Reads what [`Self::to_text`] wrote; empty lines and those beginning with `#` are skipped.
    pub fn from_text(text: &str) -> Result<Self, BadSchedule> {
        let mut lines =
            text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let bad = |at: usize, error: serde_json::Error| BadSchedule(format!("line {at}: {error}"));
        let (at, first) = lines.next().ok_or_else(|| BadSchedule("the file is empty".into()))?;
        let mut schedule: Self = serde_json::from_str(first).map_err(|error| bad(at, error))?;
        for (at, line) in lines {
            schedule.items.push(serde_json::from_str(line).map_err(|error| bad(at, error))?);
        }
        if !matches!(schedule.members, 1..=5) {
            return Err(BadSchedule(format!("members must be 1 to 5, not {}", schedule.members)));
        }
        Ok(schedule)
    }
}
