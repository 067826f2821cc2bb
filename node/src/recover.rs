//! From files to a member's state: what the log and the state store say, and whether they can be trusted together.

use crate::{
    data_dir::DataDir,
    identity::Founding,
    memory::{MemoryBudget, RECENT_ROWS, UNPERSISTED},
    state::{FjallReader, StateError, StateStore},
    wal,
};
use bytes::Bytes;
use quorate_core::{
    command::Command,
    consensus::{Configuration, Entry, Payload},
    machine::{Machine, MachineLimits, MachineSettings, decode_command},
    storage::{Direction, StateReader, Table},
    types::{Boot, LogIndex, MemberId, SegmentId, StateNumber},
    wal::{Identity, Planner, Recovered, WalDamage, WalSettings, bootstrap_entries},
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Instant,
};

/// Enough of a segment's file to hold its first record, which names the owner.
const FRONT_BYTES: u64 = 64 << 10;

/// What the flags say about a data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It is of the cluster that the flags describe, which begins here if it is empty.
    Founded,
    /// The same, but nobody said which cluster: what a directory holds is taken as it is.
    Unstated,
    /// Of a cluster whose members may have changed since the flags described it.
    Joined,
}

/// What a member starts from.
#[derive(Debug)]
pub struct RecoveredMember {
    pub identity: Identity,
    pub boot: Boot,
    /// The log was made in this life.
    pub founded: bool,
    /// Members that this log shows to have run: they told the cluster their names, committed or not.
    pub announced: BTreeSet<MemberId>,
    pub log: Recovered,
    pub store: StateStore,
    pub machine: Machine<FjallReader>,
    pub bootstrap: Configuration,
}

/// Opens state store and log. Everything is checked before anything is changed.
///
/// # Errors
/// Why this member must not start, naming the file and what to do.
pub fn recover(directory: &DataDir, founding: &Founding, origin: Origin, memory: MemoryBudget) -> Result<RecoveredMember, String> {
    let mut phases = Phases::default();
    let found = wal::list(directory.wal()).map_err(|error| error.to_string())?;
    let segments = &found.segments;
    // Before anything is written: the data of others stays as it is.
    let owner = segments.first().and_then(|(segment, path)| owner(*segment, path));
    if let Some(owner) = &owner {
        check_owner(directory, owner, founding, origin)?;
    }
    let contents = read_ahead(segments)?;
    let states = directory.states();
    let unreadable = |error: io::Error| format!("cannot read what is in {}: {error}", directory.root().display());
    let oldest = states.oldest().map_err(unreadable)?;
    let (mut stored, mut lost) = match StateStore::open(&states.path(oldest), memory) {
        Ok(store) => (Some(store), None),
        Err(StateError::Lost(what)) => (None, Some(what)),
        Err(error) => return Err(error.to_string()),
    };
    let state_ms = phases.end();
    let mut applied = stored.as_ref().map_or(Ok(LogIndex(0)), applied)?;
    // A state is first written when the log's first write is durable.
    let has_state = lost.is_some() || stored.as_ref().map_or(Ok(false), holds_anything)?;
    let mut state_path = states.path(oldest);
    let (entries, bootstrap) = bootstrap_entries(&founding.members);
    let log = match read_log(segments, &contents, applied) {
        Ok(Some(log)) => {
            if owner.is_none() {
                check_owner(directory, &log.identity, founding, origin)?;
            }
            Some(log)
        }
        Ok(None) => None,
        Err(LogError::Unreadable(error)) => return Err(error),
        Err(LogError::Damaged(WalDamage::Empty)) if !has_state => None,
        Err(LogError::Damaged(WalDamage::Empty)) => return Err(unusable(directory, segments)),
        Err(LogError::Damaged(damage)) => return Err(format!("write-ahead log in {}: {damage}", directory.wal().display())),
    };
    let state = log.as_ref().map_or(StateNumber::default(), |log| log.state);
    if state != oldest {
        // A life ended before the directory that was in force until then was deleted; the log says which one is now.
        state_path = states.path(state);
        (stored, lost) = match in_force(&state_path, memory) {
            Ok(store) => (Some(store), None),
            Err(StateError::Lost(what)) => (None, Some(what)),
            Err(error) => return Err(error.to_string()),
        };
        applied = stored.as_ref().map_or(Ok(LogIndex(0)), self::applied)?;
    }
    if log.is_none() && has_state {
        return Err(format!(
            "{} has no write-ahead log, but {} has state: this member has lost what it promised to others. Put the log back (is --wal-dir right?), or remove this member from the cluster and add a new one with an empty data directory",
            directory.wal().display(),
            state_path.display()
        ));
    }
    if log.is_none() && origin == Origin::Joined {
        return Err(format!(
            "{} is empty and --initial-cluster-state is \"existing\": to join a running cluster is a change of its members, which this release does not serve yet. Start all members of a new cluster with --initial-cluster-state=new, or put this member's data back",
            directory.root().display()
        ));
    }
    let founded = log.is_none();
    let base = log.as_ref().map_or(LogIndex(0), |log| log.base.index);
    if base > applied {
        let why = lost.unwrap_or_else(|| format!("it has applied {applied}"));
        return Err(state_lost(directory, &state_path, &why, base));
    }
    if let Some(log) = log.as_ref().filter(|log| log.planner.end().index < applied) {
        return Err(format!(
            "the state store in {} has applied {applied}, but the write-ahead log in {} ends at {}: this member has lost what it promised to others. Put the log back, or remove this member from the cluster and add a new one with an empty data directory",
            state_path.display(),
            directory.wal().display(),
            log.planner.end().index
        ));
    }
    found.remove_unfinished().map_err(|error| error.to_string())?;
    if founded && let Some(aside) = found.move_aside(directory.wal()).map_err(|error| error.to_string())? {
        tracing::warn!(
            target: "quorate", moved_to = %aside.display(),
            "an earlier start ended before anything was durable; its files were moved aside, this member starts again as new"
        );
    }
    let log = log.unwrap_or_else(|| {
        let identity = Identity { cluster: founding.cluster, member: founding.member };
        Planner::bootstrap(identity, entries, WalSettings::default(), seed())
    });
    if let Some(torn_tail) = &log.torn_tail {
        tracing::warn!(target: "quorate", what = torn_tail, "cut a torn tail off the write-ahead log; nothing in it was promised to anyone");
    }
    let store = match stored {
        Some(store) => store,
        // The log holds every entry since the first: applying them again is all that is lost.
        None => StateStore::begin_anew(&state_path, memory, &lost.unwrap_or_default()).map_err(|error| error.to_string())?,
    };
    if let Some(repaired) = &store.repaired {
        tracing::warn!(target: "quorate", what = repaired, "the state store was mended");
    }
    let identity = log.identity.clone();
    let log_ms = phases.end();
    let limits =
        MachineLimits { recent_bytes: memory.of(RECENT_ROWS), unpersisted_bytes: memory.of(UNPERSISTED), ..MachineLimits::default() };
    let settings = MachineSettings { member: identity.member, boot: log.boot, limits };
    let machine = Machine::open(settings, store.reader()).map_err(|error| state_lost(directory, &state_path, &error.0, base))?;
    let index_ms = phases.end();
    tracing::info!(
        target: "quorate",
        member_id = %identity.member, cluster_id = %identity.cluster, boot = log.boot.0,
        applied = applied.0, replayed = log.entries.len(), founded, state_ms, log_ms, index_ms, "recovered"
    );
    for void in states.void(state).map_err(unreadable)? {
        tracing::info!(target: "quorate", path = %void.display(), state = state.0, "deleting a state that no log goes on from");
        StateStore::delete(&void).map_err(|error| error.to_string())?;
    }
    let announced = announced(&log.entries);
    Ok(RecoveredMember { identity, boot: log.boot, founded, announced, log, store, machine, bootstrap })
}

/// The store of a state that was received: it is there, or it is lost.
fn in_force(path: &Path, memory: MemoryBudget) -> Result<StateStore, StateError> {
    if path.is_dir() { StateStore::open(path, memory) } else { Err(StateError::Lost(format!("{} is missing", path.display()))) }
}

fn state_lost(directory: &DataDir, state: &Path, why: &str, base: LogIndex) -> String {
    let from = if base == LogIndex(0) {
        format!(
            "the write-ahead log in {} holds every entry since the first: move {} aside and start again",
            directory.wal().display(),
            state.display()
        )
    } else {
        format!(
            "the write-ahead log in {} begins behind {base}, so it cannot be made again from there. Put the state back, or remove this member from the cluster and add a new one with an empty data directory",
            directory.wal().display()
        )
    };
    format!("this member's state in {} is lost: {why}; {from}", state.display())
}

fn unusable(directory: &DataDir, segments: &[(SegmentId, PathBuf)]) -> String {
    let names: Vec<String> = segments.iter().map(|(_, path)| path.display().to_string()).collect();
    format!(
        "write-ahead log in {}: {} hold no complete first write, though they were written to: this member may have lost what it promised to others. Nothing was changed. Put the segments back as they were; or, if this member never ran, move them out of the directory and start it again; or remove it from the cluster and add a new one with an empty data directory",
        directory.wal().display(),
        names.join(", ")
    )
}

/// The owner that the front of a log names, if it can be read: damage is judged when everything is.
fn owner(segment: SegmentId, path: &Path) -> Option<Identity> {
    let mut front = Vec::new();
    fs::File::open(path).ok()?.take(FRONT_BYTES).read_to_end(&mut front).ok()?;
    let mut recovery = quorate_core::wal::Recovery::new(LogIndex(0), WalSettings::default(), seed());
    let _ = recovery.segment(segment, &front.into());
    recovery.identity().cloned()
}

/// Flags that found a cluster say whose data this must be. If members changed since, or nobody says anything, the data decides.
fn check_owner(directory: &DataDir, owner: &Identity, founding: &Founding, origin: Origin) -> Result<(), String> {
    if owner.cluster == founding.cluster && owner.member == founding.member {
        return Ok(());
    }
    match origin {
        Origin::Founded => Err(format!(
            "{} holds the data of member {} of cluster {}, but --initial-cluster, --initial-advertise-peer-urls and --initial-cluster-token say member {} of cluster {}. Nothing was changed. Give this member's own --data-dir, or an empty one for a new cluster; or, if it is the right one, the flags it was first started with, or none of the three",
            directory.wal().display(),
            owner.member,
            owner.cluster,
            founding.member,
            founding.cluster
        )),
        Origin::Unstated => Ok(()),
        Origin::Joined => {
            tracing::warn!(
                target: "quorate",
                data_member = %owner.member, data_cluster = %owner.cluster,
                flags_member = %founding.member, flags_cluster = %founding.cluster,
                "the data directory says another member or cluster than --initial-cluster; the flags are ignored once data exists"
            );
            Ok(())
        }
    }
}

/// Whoever told the cluster its name has run, whether or not that was committed.
fn announced(entries: &[Entry]) -> BTreeSet<MemberId> {
    let announcement = |entry: &Entry| match &entry.payload {
        Payload::Command { command, .. } => match decode_command(command) {
            Ok(Command::Publish(attributes)) => Some(attributes.member),
            _ => None,
        },
        Payload::Empty | Payload::Configuration { .. } => None,
    };
    entries.iter().filter_map(announcement).collect()
}

/// Tells how long each part of a start took.
struct Phases(Instant);

impl Default for Phases {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Phases {
    /// Milliseconds since the last call.
    fn end(&mut self) -> u64 {
        let now = Instant::now();
        let took = now.duration_since(std::mem::replace(&mut self.0, now));
        u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What the state store has applied.
fn applied(store: &StateStore) -> Result<LogIndex, String> {
    quorate_core::machine::stored_applied(&store.reader()).map(|id| id.index).map_err(|error| error.to_string())
}

fn holds_anything(store: &StateStore) -> Result<bool, String> {
    let mut any = false;
    let visit = &mut |_: &[u8], _: Bytes| {
        any = true;
        ControlFlow::Break(())
    };
    store.reader().scan(Table::Meta, &[], &[], Direction::Forward, visit).map_err(|error| error.to_string())?;
    Ok(any)
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    ChaCha20Rng::from_os_rng().fill_bytes(&mut seed);
    seed
}

/// Reads segment after segment on a thread of its own: one while the state store opens, the next while one is looked at.
fn read_ahead(segments: &[(SegmentId, PathBuf)]) -> Result<mpsc::Receiver<Result<Bytes, String>>, String> {
    let paths: Vec<PathBuf> = segments.iter().map(|(_, path)| path.clone()).collect();
    let (sender, contents) = mpsc::sync_channel(0);
    let read = move || {
        for path in paths {
            let read = fs::read(&path).map(Bytes::from).map_err(|error| format!("cannot read {}: {error}", path.display()));
            // Whoever found damage listens no more.
            if sender.send(read).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("wal-read".into()).spawn(read).map_err(|error| format!("cannot start a thread: {error}"))?;
    Ok(contents)
}

enum LogError {
    Unreadable(String),
    Damaged(WalDamage),
}

/// `None`: there is no log yet.
fn read_log(
    segments: &[(SegmentId, PathBuf)],
    contents: &mpsc::Receiver<Result<Bytes, String>>,
    applied: LogIndex,
) -> Result<Option<Recovered>, LogError> {
    if segments.is_empty() {
        return Ok(None);
    }
    let mut recovery = quorate_core::wal::Recovery::new(applied, WalSettings::default(), seed());
    for (segment, path) in segments {
        let bytes = contents.recv().unwrap_or_else(|_| Err(format!("{} was not read", path.display()))).map_err(LogError::Unreadable)?;
        recovery.segment(*segment, &bytes).map_err(LogError::Damaged)?;
    }
    recovery.finish().map(Some).map_err(LogError::Damaged)
}

#[cfg(test)]
mod tests;
