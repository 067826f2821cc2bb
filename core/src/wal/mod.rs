//! The write-ahead log's format and decisions: bytes in, operations out. Nothing here touches a disk.

mod log;
mod planner;
mod record;
mod recovery;
#[cfg(test)]
mod tests;

pub use planner::Planner;
pub use record::{WAL_VERSION, segment_file_name};
pub use recovery::Recovery;

use crate::entry::{Configuration, Entry, Payload};
use crate::types::{Boot, ClusterId, LogId, LogIndex, MemberId, SegmentId, StateNumber, Term};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use bytes::Bytes;
use core::fmt;
use record::ReadRecord;
use serde::{Deserialize, Serialize};

/// What the log records. Append-only: variant numbers are on disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// First in every segment: whose log this is, and everything that earlier segments said and still holds.
    SegmentHeader(SegmentHeader),
    /// The data directory was opened for the n-th time.
    Boot(Boot),
    /// Term and vote (Raft Figure 2, persistent state).
    Ballot {
        term: Term,
        vote: Option<MemberId>,
    },
    Entry(Entry),
    /// The log ends before `from`: a leader overruled what followed. Never an overwrite.
    Truncate {
        from: LogIndex,
    },
    /// Entries through here are known committed. A hint: losing it loses nothing.
    Commit(LogIndex),
    /// A torn tail was cut at open: what lies at the named position and everything behind it is void.
    TornTail {
        segment: SegmentId,
        offset: u64,
    },
    /// Nothing happened; carries the mark of the last sync.
    Idle,
    /// The log before this is void, whatever it held: the state through `last` came from another member and lies, synced, in the
    /// directory `state`. The log goes on behind `last`.
    Install {
        last: LogId,
        state: StateNumber,
    },
    /// Which directory the state lies in: said again behind each segment's header, unless it is the first.
    State(StateNumber),
}

/// The identity of a log and its hard state at the start of a segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentHeader {
    pub identity: Identity,
    pub boot: Boot,
    pub term: Term,
    pub vote: Option<MemberId>,
    /// The last entry before this segment.
    pub end: LogId,
    pub commit: LogIndex,
}

/// Who owns a data directory; never changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
}

/// What recovery found: the state to start [`crate::consensus::Consensus`] from.
#[derive(Debug)]
pub struct Recovered {
    pub identity: Identity,
    /// The boot now begun; its record is the first thing the planner will write.
    pub boot: Boot,
    pub term: Term,
    pub vote: Option<MemberId>,
    pub commit: LogIndex,
    /// The directory of the state store that belongs to this log; every other one is void.
    pub state: StateNumber,
    /// The entry before the first one held in segments.
    pub base: LogId,
    /// The entry before the first of `entries`: what is applied, or `base` if that is newer, or the end if that is older.
    pub before: LogId,
    /// Entries above what the caller said is applied, in memory; those below stay on disk and can be located.
    pub entries: Vec<Entry>,
    /// What a torn tail lost, for the log line; `None` after a clean end.
    pub torn_tail: Option<String>,
    pub planner: Planner,
}

impl Recovered {
    /// Nothing from any leader was ever in this log: its member has acknowledged no entry, or it has lost those it had.
    #[must_use]
    pub fn holds_only_bootstrap(&self) -> bool {
        self.entries.last().map_or(self.before, |entry| entry.id).term <= BOOTSTRAP_TERM
    }
}

/// Where an entry's records lie, for `ReadLog`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    pub segment: SegmentId,
    pub offset: u64,
    pub length: u32,
}

/// Why a WAL does not open. Each names the file and the offset and says what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WalDamage {
    /// Durable data is damaged: below the synced mark nothing may be missing.
    Corrupt { segment: SegmentId, offset: u64, what: String },
    /// A segment between others is missing.
    Missing { segment: SegmentId },
    /// Written by a newer release, from that record on: offset 0 is the preamble.
    Newer { segment: SegmentId, offset: u64, version: u8 },
    /// Not a segment of ours.
    Foreign { segment: SegmentId },
    /// Nothing ever became durable: the member was never heard of, so bootstrap it again.
    Empty,
}

impl fmt::Display for WalDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REPLACE: &str =
            "this member has lost what it promised to others, so remove it from the cluster and add a new one with an empty data directory";
        match self {
            Self::Corrupt { segment, offset, what } => {
                write!(f, "{} is corrupt at offset {offset}: {what}; {REPLACE}", segment_file_name(*segment))
            }
            Self::Missing { segment } => {
                write!(f, "{} is missing between other segments; put it back, or {REPLACE}", segment_file_name(*segment))
            }
            Self::Newer { segment, offset, version } => write!(
                f,
                "{} has format version {version} at offset {offset}, the newest known here is {WAL_VERSION}; start the release that wrote it, or a newer one",
                segment_file_name(*segment)
            ),
            Self::Foreign { segment } => write!(
                f,
                "{} is not a log segment (offset 0 holds something else); move it out of the directory, and put back the segment of that name if there was one",
                segment_file_name(*segment)
            ),
            Self::Empty => write!(f, "the log holds no complete first write; the member never started, so start it again as a new one"),
        }
    }
}

impl core::error::Error for WalDamage {}

/// How segments are laid out.
#[derive(Clone, Copy, Debug)]
pub struct WalSettings {
    /// Below 4 GiB. A larger record gets a segment of its own size; entries are bounded by the request limit, about 2 MiB.
    pub segment_bytes: u64,
    /// Retired segments kept for recycling.
    pub spare_segments: usize,
}

impl Default for WalSettings {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, spare_segments: 2 }
    }
}

/// The entries in a stretch of a segment that [`Planner::locate`] named; a last one that is cut short is left out.
///
/// # Errors
/// [`WalDamage::Corrupt`] if the stretch is not what was written there.
pub fn read_entries(location: Location, bytes: &Bytes) -> Result<Vec<Entry>, WalDamage> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let offset = location.offset + at as u64;
        match record::read(&bytes[at..], location.segment, None, offset)? {
            ReadRecord::Record { record, taken, .. } => {
                if let Record::Entry(entry) = record {
                    entries.push(entry);
                }
                at += taken;
            }
            ReadRecord::Short => break,
            ReadRecord::Nothing => {
                let what = "there is no whole record where one was written".into();
                return Err(WalDamage::Corrupt { segment: location.segment, offset, what });
            }
        }
    }
    Ok(entries)
}

/// The term of the bootstrap entries. The first leader's is above it.
pub const BOOTSTRAP_TERM: Term = Term(1);

/// The bootstrap entries of a new cluster: as in etcd one configuration entry per member, at term 1, each adding one voter, in the
/// order of their ids. Also the configuration that they lead to.
#[must_use]
pub fn bootstrap_entries(members: &[(MemberId, Vec<String>)]) -> (Vec<Entry>, Configuration) {
    let members: BTreeMap<_, _> = members.iter().cloned().collect();
    let mut configuration = Configuration::default();
    let entries = (1..)
        .zip(members)
        .map(|(index, (member, urls))| {
            configuration.voters.insert(member);
            configuration.peer_urls.insert(member, urls);
            let payload = Payload::Configuration { request: None, configuration: configuration.clone() };
            Entry { id: LogId { term: BOOTSTRAP_TERM, index: LogIndex(index) }, payload }
        })
        .collect();
    (entries, configuration)
}
