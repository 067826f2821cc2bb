//! From files to a member's state: what the log and the state store say, and whether they can be trusted together.

use crate::{
    data_dir::DataDir,
    identity::Founding,
    state::{FjallReader, StateStore},
    wal,
};
use bytes::Bytes;
use quorate_core::{
    command::Command,
    consensus::{Configuration, Entry, Payload},
    machine::{Machine, MachineLimits, MachineSettings, decode_command},
    types::{Boot, LogIndex, MemberId, SegmentId},
    wal::{Identity, Planner, Recovered, WalDamage, WalSettings, bootstrap_entries},
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::{
    collections::BTreeSet,
    fs,
    io::Read,
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
pub struct Recovery {
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

/// Opens state store and log.
///
/// # Errors
/// Why this member must not start, naming the file and what to do.
pub fn recover(directory: &DataDir, founding: &Founding, origin: Origin) -> Result<Recovery, String> {
    let mut phases = Phases::default();
    let segments = wal::open(directory.wal()).map_err(|error| error.to_string())?;
    // Before anything is written: the data of others stays as it is.
    let owner = segments.first().and_then(|(segment, path)| owner(*segment, path));
    if let Some(owner) = &owner {
        check_owner(directory, owner, founding, origin)?;
    }
    let contents = read_ahead(&segments)?;
    let store = StateStore::open(&directory.state()).map_err(|error| error.to_string())?;
    if let Some(repaired) = &store.repaired {
        tracing::warn!(target: "quorate", what = repaired, "the state store was mended");
    }
    let state_ms = phases.end();
    let (entries, bootstrap) = bootstrap_entries(&founding.members);
    let applied = applied(&store)?;
    let (log, founded) = match read_log(directory, &segments, &contents, applied)? {
        Some(log) => {
            if owner.is_none() {
                check_owner(directory, &log.identity, founding, origin)?;
            }
            (log, false)
        }
        None if applied > LogIndex(0) => {
            return Err(format!(
                "{} has no write-ahead log, but {} has state: this member has lost what it promised to others. Put the log back (is --wal-dir right?), or remove this member from the cluster and add a new one with an empty data directory",
                directory.wal().display(),
                directory.state().display()
            ));
        }
        None if origin == Origin::Joined => {
            return Err(format!(
                "{} is empty and --initial-cluster-state is \"existing\": to join a running cluster is a change of its members, which this release does not serve yet. Start all members of a new cluster with --initial-cluster-state=new, or put this member's data back",
                directory.root().display()
            ));
        }
        None => {
            let identity = Identity { cluster: founding.cluster, member: founding.member };
            (Planner::bootstrap(identity, entries, WalSettings::default(), seed()), true)
        }
    };
    if let Some(cut) = &log.cut {
        tracing::warn!(target: "quorate", what = cut, "cut a torn tail off the write-ahead log; nothing in it was promised to anyone");
    }
    if log.base.index > applied {
        return Err(format!(
            "the state store in {} has applied {applied}, but the write-ahead log in {} begins behind {}: the state is lost. Put the state back, or remove this member from the cluster and add a new one with an empty data directory",
            directory.state().display(),
            directory.wal().display(),
            log.base.index
        ));
    }
    let identity = log.identity.clone();
    let log_ms = phases.end();
    let settings = MachineSettings { member: identity.member, boot: log.boot, limits: MachineLimits::default() };
    let machine = Machine::open(settings, store.reader()).map_err(|error| error.to_string())?;
    let index_ms = phases.end();
    tracing::info!(
        target: "quorate",
        member_id = %identity.member, cluster_id = %identity.cluster, boot = log.boot.0,
        applied = applied.0, replayed = log.entries.len(), founded, state_ms, log_ms, index_ms, "recovered"
    );
    let announced = announced(&log.entries);
    Ok(Recovery { identity, boot: log.boot, founded, announced, log, store, machine, bootstrap })
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

/// `None`: there is no log yet.
fn read_log(
    directory: &DataDir,
    segments: &[(SegmentId, PathBuf)],
    contents: &mpsc::Receiver<Result<Bytes, String>>,
    applied: LogIndex,
) -> Result<Option<Recovered>, String> {
    if segments.is_empty() {
        return Ok(None);
    }
    let mut recovery = quorate_core::wal::Recovery::new(applied, WalSettings::default(), seed());
    for (segment, path) in segments {
        let bytes = contents.recv().map_err(|_| format!("{} was not read", path.display()))??;
        recovery.segment(*segment, &bytes).map_err(|damage| damaged(directory, &damage))?;
    }
    match recovery.finish() {
        Ok(log) => Ok(Some(log)),
        Err(WalDamage::Empty) => {
            tracing::warn!(target: "quorate", "an earlier start ended before anything was durable; starting again as new");
            for (_, path) in segments {
                fs::remove_file(path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
            }
            Ok(None)
        }
        Err(damage) => Err(damaged(directory, &damage)),
    }
}

fn damaged(directory: &DataDir, damage: &WalDamage) -> String {
    format!("write-ahead log in {}: {damage}", directory.wal().display())
}

#[cfg(test)]
mod tests;
