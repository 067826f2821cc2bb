//! Claims about the log, on a disk that is a map of byte vectors.

mod golden;
mod model;
mod planning;
mod torn;

use super::*;
use crate::consensus::Proposal;
use crate::storage::WalOp;
use crate::types::{RequestId, WriteNumber};
use alloc::vec;

const SETTINGS: WalSettings = WalSettings { segment_bytes: 8 << 10, spare_segments: 2 };

/// Carries out operations at once; everything is durable.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Disk {
    files: BTreeMap<SegmentId, Vec<u8>>,
}

impl Disk {
    fn apply(&mut self, ops: &[WalOp]) {
        for op in ops {
            match op {
                WalOp::Create { segment, length } => {
                    self.files.insert(*segment, vec![0; usize::try_from(*length).unwrap()]);
                }
                WalOp::Recycle { from, to } => {
                    let file = self.files.remove(from).expect("a file to recycle");
                    assert!(self.files.insert(*to, file).is_none(), "{to} is taken");
                }
                WalOp::WriteAt { segment, offset, bytes } => {
                    let at = usize::try_from(*offset).unwrap();
                    let file = self.files.get_mut(segment).expect("a file to write to");
                    file[at..at + bytes.len()].copy_from_slice(bytes);
                }
                WalOp::Sync { segment } => assert!(self.files.contains_key(segment), "sync of {segment}, which is not there"),
                WalOp::SyncDirectory => {}
                WalOp::Remove { segment } => {
                    self.files.remove(segment).expect("a file to remove");
                }
            }
        }
    }

    fn recover(&self) -> Result<Recovered, WalDamage> {
        self.recover_from(LogIndex(0), 9)
    }

    fn recover_from(&self, applied: LogIndex, seed: u8) -> Result<Recovered, WalDamage> {
        let mut recovery = Recovery::new(applied, SETTINGS, [seed; 32]);
        for (segment, bytes) in &self.files {
            recovery.segment(*segment, &Bytes::copy_from_slice(bytes))?;
        }
        recovery.finish()
    }

    /// Reads an entry back the way that `ReadLog` does.
    fn read(&self, location: Location) -> Vec<Entry> {
        let at = usize::try_from(location.offset).unwrap();
        let stretch = &self.files[&location.segment][at..at + location.length as usize];
        read_entries(location, &Bytes::copy_from_slice(stretch)).unwrap()
    }
}

fn identity() -> Identity {
    Identity { cluster: ClusterId(0xc), member: MemberId(0xa) }
}

fn founders() -> Vec<Entry> {
    bootstrap_entries(&[(MemberId(0xa), vec!["http://127.0.0.1:1".into()]), (MemberId(0xb), vec!["http://127.0.0.1:2".into()])]).0
}

fn bootstrap() -> Recovered {
    Planner::bootstrap(identity(), founders(), SETTINGS, [7; 32])
}

fn entry(term: u64, index: u64, size: usize) -> Entry {
    let request = RequestId { member: MemberId(0xa), boot: Boot(1), sequence: index };
    let Proposal { request, command } = Proposal { request, command: Bytes::from(vec![index as u8; size]) };
    Entry { id: LogId { term: Term(term), index: LogIndex(index) }, payload: Payload::Command { request, command } }
}

/// Seals, carries out and reports durable.
fn write(planner: &mut Planner, disk: &mut Disk) -> Vec<WalOp> {
    let (number, ops) = planner.seal().expect("something to write");
    disk.apply(&ops);
    planner.durable(number);
    ops
}

/// A new log on a disk, its first write durable: two configuration entries.
fn started() -> (Planner, Disk) {
    let mut disk = Disk::default();
    let mut planner = bootstrap().planner;
    write(&mut planner, &mut disk);
    (planner, disk)
}

/// What two recoveries of the same bytes must agree on.
fn summary(recovered: &Recovered) -> impl PartialEq + fmt::Debug + use<> {
    let Recovered { identity, boot, term, vote, commit, state, base, before, entries, torn_tail, planner } = recovered;
    (
        identity.clone(),
        (*boot, *term, *vote, *commit, *state, *base),
        *before,
        entries.clone(),
        torn_tail.clone(),
        planner.first(),
        planner.end(),
    )
}
