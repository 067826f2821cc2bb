//! Crashes and rot: what was synced survives or is missed, what was not is cut.

use super::*;
use crate::wal::record::SECTOR;

/// The disk before a write, the write's bytes and where they go.
struct Unsynced {
    before: Disk,
    after: Disk,
    segment: SegmentId,
    from: usize,
    to: usize,
}

impl Unsynced {
    fn new(before: &Disk, ops: &[WalOp]) -> Self {
        let mut after = before.clone();
        after.apply(ops);
        let Some(WalOp::WriteAt { segment, offset, bytes }) = ops.iter().rev().find(|op| matches!(op, WalOp::WriteAt { .. })) else {
            panic!("no write in {ops:?}")
        };
        let mut before = before.clone();
        let last = ops.iter().rposition(|op| matches!(op, WalOp::WriteAt { .. })).unwrap();
        before.apply(&ops[..last]);
        let from = usize::try_from(*offset).unwrap();
        Self { before, after, segment: *segment, from, to: from + bytes.len() }
    }

    /// Bytes `range` of the write reached the disk.
    fn landed(&self, range: core::ops::Range<usize>, disk: &mut Disk) {
        let file = disk.files.get_mut(&self.segment).unwrap();
        file[range.clone()].copy_from_slice(&self.after.files[&self.segment][range]);
    }

    /// Each way in which whole sectors of the write may have reached the disk.
    fn sector_subsets(&self) -> impl Iterator<Item = Disk> {
        let sectors: Vec<_> = (self.from / SECTOR..self.to.div_ceil(SECTOR))
            .map(|sector| (sector * SECTOR).max(self.from)..((sector + 1) * SECTOR).min(self.to))
            .filter(|range| self.before.files[&self.segment][range.clone()] != self.after.files[&self.segment][range.clone()])
            .collect();
        assert!((2..=12).contains(&sectors.len()), "{} sectors", sectors.len());
        (0_u32..1 << sectors.len()).map(move |subset| {
            let mut disk = self.before.clone();
            for (_, range) in sectors.iter().enumerate().filter(|(sector, _)| subset >> sector & 1 == 1) {
                self.landed(range.clone(), &mut disk);
            }
            disk
        })
    }

    fn prefixes(&self) -> impl Iterator<Item = Disk> {
        (self.from..=self.to).map(|end| {
            let mut disk = self.before.clone();
            self.landed(self.from..end, &mut disk);
            disk
        })
    }
}

/// Recovers what must be a log of `synced` and a prefix of `unsynced`; twice; then lives on, and checks that nothing comes back.
fn assert_torn_tail(disk: &Disk, synced: &[Entry], unsynced: &[Entry]) -> usize {
    let recovered = disk.recover().unwrap_or_else(|damage| panic!("{damage}"));
    assert_eq!(summary(&recovered), summary(&disk.recover().unwrap()));
    let kept = recovered.entries.len() - synced.len();
    assert_eq!(recovered.entries[..synced.len()], *synced);
    assert_eq!(recovered.entries[synced.len()..], unsynced[..kept]);

    let mut disk = disk.clone();
    let mut planner = recovered.planner;
    write(&mut planner, &mut disk);
    let next = planner.end().index.0 + 1;
    let later = [entry(7, next, 40), entry(7, next + 1, 40)];
    for entry in &later {
        planner.append(&Record::Entry(entry.clone()));
        write(&mut planner, &mut disk);
    }
    let again = disk.recover().unwrap_or_else(|damage| panic!("after the cut: {damage}"));
    assert_eq!(again.torn_tail, None);
    assert_eq!(again.boot, recovered.boot.next());
    assert_eq!(again.entries[..recovered.entries.len()], *recovered.entries);
    assert_eq!(again.entries[recovered.entries.len()..], later);
    kept
}

/// A batch of six sectors on a log whose last sync is recorded.
fn batch() -> (Unsynced, Vec<Entry>, Vec<Entry>) {
    let (mut planner, mut disk) = started();
    planner.append(&Record::Entry(entry(1, 3, 300)));
    write(&mut planner, &mut disk);
    planner.idle();
    write(&mut planner, &mut disk);
    let synced = [founders(), vec![entry(1, 3, 300)]].concat();
    let unsynced = vec![entry(1, 4, 10), entry(1, 5, 700), entry(1, 6, 30), entry(1, 7, 600), entry(1, 8, 500)];
    for entry in &unsynced {
        planner.append(&Record::Entry(entry.clone()));
    }
    let (_, ops) = planner.seal().unwrap();
    (Unsynced::new(&disk, &ops), synced, unsynced)
}

#[test]
fn every_prefix_of_an_unsynced_batch_is_a_torn_tail() {
    let (batch, synced, unsynced) = batch();
    let kept: Vec<usize> = batch.prefixes().map(|disk| assert_torn_tail(&disk, &synced, &unsynced)).collect();
    assert!(kept.is_sorted());
    assert_eq!((kept[0], kept[kept.len() - 1]), (0, unsynced.len()));
}

#[test]
fn every_sector_subset_of_an_unsynced_batch_is_a_torn_tail() {
    let (batch, synced, unsynced) = batch();
    let mut seen = alloc::collections::BTreeSet::new();
    for disk in batch.sector_subsets() {
        seen.insert(assert_torn_tail(&disk, &synced, &unsynced));
    }
    assert!(seen.len() >= 4, "{seen:?}");
}

#[test]
fn every_sector_subset_of_a_new_segment_is_a_torn_tail() {
    let (mut planner, mut disk) = started();
    planner.append(&Record::Entry(entry(1, 3, 3_000)));
    write(&mut planner, &mut disk);
    let synced = [founders(), vec![entry(1, 3, 3_000)]].concat();
    let unsynced = vec![entry(1, 4, 500), entry(1, 5, 600)];
    for entry in &unsynced {
        planner.append(&Record::Entry(entry.clone()));
    }
    let (_, ops) = planner.seal().unwrap();
    let batch = Unsynced::new(&disk, &ops);
    assert_eq!((batch.segment, batch.from), (SegmentId(2), 0));
    for disk in batch.sector_subsets() {
        assert_torn_tail(&disk, &synced, &unsynced);
    }
}

#[test]
fn every_sector_subset_of_a_recycled_segment_is_a_torn_tail() {
    let (mut planner, mut disk) = started();
    let mut synced = founders();
    let mut index = 3;
    // Until the segment to come holds a past.
    while index < 8 {
        let next = entry(1, index, 3_000);
        planner.append(&Record::Entry(next.clone()));
        synced.push(next);
        planner.release(LogIndex(index - 1));
        write(&mut planner, &mut disk);
        index += 1;
    }
    let (current, spare) = (*disk.files.keys().nth(disk.files.len() - 2).unwrap(), *disk.files.keys().last().unwrap());
    assert!(current < spare && disk.files[&spare].iter().any(|byte| *byte != 0));
    let unsynced = vec![entry(1, index, 1_000), entry(1, index + 1, 900)];
    for entry in &unsynced {
        planner.append(&Record::Entry(entry.clone()));
    }
    let synced: Vec<Entry> = synced.into_iter().filter(|entry| entry.id.index >= planner.first()).collect();
    let (_, ops) = planner.seal().unwrap();
    let batch = Unsynced::new(&disk, &ops);
    assert_eq!(batch.from, 0, "the batch begins the recycled segment");
    for disk in batch.sector_subsets() {
        assert_torn_tail(&disk, &synced, &unsynced);
    }
}

#[test]
fn a_torn_first_write_is_no_log_at_all() {
    let (_, ops) = bootstrap().planner.seal().unwrap();
    let batch = Unsynced::new(&Disk::default(), &ops);
    let mut whole = 0;
    for disk in batch.sector_subsets() {
        match disk.recover() {
            Ok(recovered) => {
                assert_eq!(recovered.entries, founders());
                whole += 1;
            }
            Err(damage) => assert_eq!(damage, WalDamage::Empty),
        }
    }
    assert_eq!(whole, 1);
    assert_eq!(Disk::default().recover().unwrap_err(), WalDamage::Empty);
}

#[test]
fn a_torn_write_after_a_cut_is_cut_again() {
    let (batch, synced, _) = batch();
    for torn in batch.sector_subsets().filter(|disk| disk.recover().unwrap().torn_tail.is_some()).step_by(5) {
        let (_, ops) = torn.recover().unwrap().planner.seal().unwrap();
        let fresh = Unsynced::new(&torn, &ops);
        for disk in fresh.sector_subsets() {
            let again = disk.recover().unwrap_or_else(|damage| panic!("{damage}"));
            assert_eq!(again.entries[..synced.len()], *synced);
            assert_torn_tail(&disk, &again.entries, &[]);
        }
    }
}

/// Three segments, everything synced, all but the last write recorded as synced. Returns the newest position recorded.
fn long_log() -> (Disk, SegmentId, usize) {
    let (mut planner, mut disk) = started();
    for index in 3..9 {
        planner.append(&Record::Entry(entry(1, index, 1_200)));
        write(&mut planner, &mut disk);
    }
    planner.idle();
    let ops = write(&mut planner, &mut disk);
    let Some(WalOp::WriteAt { segment, offset, .. }) = ops.first() else { panic!("{ops:?}") };
    assert_eq!(disk.files.len(), 3);
    (disk, *segment, usize::try_from(*offset).unwrap())
}

/// Where the records of each segment end, by the marks: behind it bytes mean nothing.
fn written(disk: &Disk, last: SegmentId, mark: usize) -> Vec<(SegmentId, usize)> {
    let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| (at + 1).next_multiple_of(8));
    disk.files.iter().map(|(segment, bytes)| (*segment, if *segment == last { mark } else { end(bytes) })).collect()
}

#[test]
fn every_flipped_bit_below_the_synced_mark_is_refused() {
    let (mut disk, last, mark) = long_log();
    let clean = disk.recover().unwrap();
    let mut flips = 0;
    for (segment, end) in written(&disk, last, mark) {
        for at in 0..end {
            // Every bit of the headers and of one record's body; one bit of each byte else.
            let bits = if at % 1_024 < 64 || (4_608..4_800).contains(&at) { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                disk.files.get_mut(&segment).unwrap()[at] ^= 1 << bit;
                match disk.recover() {
                    Err(WalDamage::Corrupt { segment: named, offset, .. }) => {
                        assert!(
                            named == segment && offset <= at as u64 && offset + 1_300 > (at as u64).min(4_608),
                            "{named} {offset} for {at}"
                        );
                    }
                    other => panic!("bit {bit} of byte {at} of {segment}: {other:?}"),
                }
                disk.files.get_mut(&segment).unwrap()[at] ^= 1 << bit;
                flips += 1;
            }
        }
    }
    assert!(flips > 20_000);
    assert_eq!(summary(&disk.recover().unwrap()), summary(&clean));
}

#[test]
fn every_flipped_bit_above_the_synced_mark_is_cut_or_harmless() {
    let (mut disk, last, mark) = long_log();
    let entries = disk.recover().unwrap().entries;
    let mut torn_tails = 0;
    for at in mark..disk.files[&last].len() {
        for bit in 0..8 {
            disk.files.get_mut(&last).unwrap()[at] ^= 1 << bit;
            let recovered = disk.recover().unwrap_or_else(|damage| panic!("bit {bit} of byte {at}: {damage}"));
            assert_eq!(recovered.entries, entries);
            torn_tails += usize::from(recovered.torn_tail.is_some());
            disk.files.get_mut(&last).unwrap()[at] ^= 1 << bit;
        }
    }
    assert!(torn_tails > 0);
}

#[test]
fn a_lost_block_below_the_synced_mark_is_refused() {
    let (disk, last, mark) = long_log();
    for (segment, end) in written(&disk, last, mark) {
        for block in (0..end).step_by(4_096) {
            let mut rotten = disk.clone();
            let stop = (block + 4_096).min(rotten.files[&segment].len());
            rotten.files.get_mut(&segment).unwrap()[block..stop].fill(0);
            let only_mark = segment == last && block + 4_096 > mark;
            match rotten.recover() {
                Err(WalDamage::Corrupt { segment: named, .. }) => assert_eq!(named, segment),
                // The block held the only record that told of the sync.
                Ok(_) if only_mark => {}
                other => panic!("block {block} of {segment}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_missing_segment_between_others_is_named() {
    let (mut disk, ..) = long_log();
    disk.files.remove(&SegmentId(2));
    assert_eq!(disk.recover().unwrap_err(), WalDamage::Missing { segment: SegmentId(2) });
}

#[test]
fn a_foreign_file_is_named() {
    let (mut disk, ..) = long_log();
    disk.files.insert(SegmentId(4), vec![0x55; 8_192]);
    assert_eq!(disk.recover().unwrap_err(), WalDamage::Foreign { segment: SegmentId(4) });
}

#[test]
fn a_log_of_another_member_is_refused() {
    let (disk, ..) = long_log();
    let other = Identity { member: MemberId(0xd), ..identity() };
    let mut stranger = Disk::default();
    let mut planner = Planner::bootstrap(other, founders(), SETTINGS, [3; 32]).planner;
    for index in 3..20 {
        planner.append(&Record::Entry(entry(1, index, 3_000)));
    }
    write(&mut planner, &mut stranger);
    let mut mixed = disk;
    mixed.files.insert(SegmentId(4), stranger.files[&SegmentId(4)].clone());
    let damage = mixed.recover().unwrap_err();
    let WalDamage::Corrupt { segment, .. } = &damage else { panic!("{damage}") };
    assert!(*segment == SegmentId(4) || *segment == SegmentId(3), "{damage}");
}

#[test]
fn a_segment_of_a_newer_release_is_refused_as_such() {
    let (mut disk, last, _) = long_log();
    let file = disk.files.get_mut(&last).unwrap();
    for at in [0, 4_096] {
        file[at + 8] = 2;
        let checksum = crc32c::crc32c(&file[at..at + 32]);
        file[at + 32..at + 36].copy_from_slice(&checksum.to_le_bytes());
    }
    assert_eq!(disk.recover().unwrap_err(), WalDamage::Newer { segment: last, offset: 0, version: 2 });
}

#[test]
fn a_record_of_a_newer_release_is_refused_with_its_place() {
    let (mut disk, last, _) = long_log();
    let file = disk.files.get_mut(&last).unwrap();
    let head_length = u32::from_le_bytes(file[4_608 + 8..4_608 + 12].try_into().unwrap()) as usize;
    // The record behind the segment header: its own header is 48 bytes, checked from the segment's seed on.
    let at = 4_608 + 48 + head_length.next_multiple_of(8);
    let seed = u32::from_le_bytes(file[24..28].try_into().unwrap());
    assert_eq!(file[at..at + 4], crc32c::crc32c_append(seed, &file[at + 4..at + 48]).to_le_bytes(), "a record stands there");
    file[at + 12] = 2;
    let checksum = crc32c::crc32c_append(seed, &file[at + 4..at + 48]);
    file[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(disk.recover().unwrap_err(), WalDamage::Newer { segment: last, offset: at as u64, version: 2 });
}

#[test]
fn a_value_that_looks_like_a_record_is_never_one() {
    let (mut planner, mut disk) = started();
    // A copy of everything that is on disk, headers and all, as a client's value.
    let forged = disk.files[&SegmentId(1)][4_608..5_100].to_vec();
    let request = RequestId { member: MemberId(0xa), boot: Boot(1), sequence: 1 };
    for index in 3..20 {
        let command = Bytes::from([vec![0; index % 8], forged.clone()].concat());
        let id = LogId { term: Term(1), index: LogIndex(index as u64) };
        planner.append(&Record::Entry(Entry { id, payload: Payload::Command { request, command } }));
        write(&mut planner, &mut disk);
    }
    let last = *disk.files.keys().last().unwrap();
    let recovered = disk.recover().unwrap();
    assert_eq!(recovered.entries.len(), 19);
    // The newest record is torn; its body, full of headers of segment 1, stays.
    let end = disk.files[&last].iter().rposition(|byte| *byte != 0).unwrap();
    disk.files.get_mut(&last).unwrap()[end] ^= 1;
    assert_eq!(disk.recover().unwrap().entries.len(), 18);
}
