//! The reading side: what a log says after a crash, and whether it may be believed.
//!
//! Each segment is read up to the first place that holds no whole record of it: its *end*. The newest end is where writing stopped,
//! the others must be named by the segment after, as the end of the one before or as a cut. Somewhere a record names the newest
//! place known to be durable. An end below that place is damage that no crash explains: corruption. An end at or above it is a
//! torn tail. The sectors of a write that was not synced land in any order, so a whole record behind an end proves nothing, but
//! what it calls synced was synced.

use super::log::{Log, Segment};
use super::planner::{HardState, Inherited, Planner, Resume};
use super::record::{Place, Preamble, RECORDS_START, Read, Stamp, holds_mark, read, read_preamble, scan, segment_file_name};
use super::{Head, Identity, Record, Recovered, WalDamage, WalSettings};
use crate::entry::Entry;
use crate::mutant::{Mutant, planted};
use crate::types::{LogId, LogIndex, SegmentId};
use alloc::{collections::VecDeque, format, string::String, vec::Vec};
use bytes::Bytes;

/// No settings make smaller segments.
const SEGMENT_BYTES_MIN: u64 = 32 << 10;

/// Reads segments fed in the order of their ids.
#[derive(Debug)]
pub struct Recovery {
    applied: LogIndex,
    settings: WalSettings,
    seed: [u8; 32],
    fed: Option<SegmentId>,
    identity: Option<Identity>,
    state: HardState,
    log: Log,
    entries: VecDeque<Entry>,
    /// The newest place that a record calls synced.
    synced_through: Place,
    /// Where the newest record ends that was taken in.
    content: Place,
    /// Ends that no later segment has named yet, in order of place.
    ends: Vec<End>,
    /// The newest segment that was written to, and whether its front is whole.
    newest: Option<(Stamp, bool)>,
    /// Files behind it.
    spares: VecDeque<u64>,
    /// Only with the bug planted that believes any damage to be a torn tail.
    deaf: bool,
}

#[derive(Debug)]
struct End {
    place: Place,
    what: &'static str,
    /// For a look behind it, if nobody names it. Two or three segments are held at a time.
    stamp: Option<Stamp>,
    bytes: Bytes,
}

impl Recovery {
    /// `applied` is what the state store has: entries at or below it are not kept in memory.
    #[must_use]
    pub fn new(applied: LogIndex, settings: WalSettings, seed: [u8; 32]) -> Self {
        Self {
            applied,
            settings,
            seed,
            fed: None,
            identity: None,
            state: HardState::default(),
            log: Log::new(LogId::default()),
            entries: VecDeque::new(),
            synced_through: Place::default(),
            content: Place::default(),
            ends: Vec::new(),
            newest: None,
            spares: VecDeque::new(),
            deaf: false,
        }
    }

    /// Who owns the log, once the front of a segment was read.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Reads one segment whole.
    ///
    /// # Errors
    /// What makes the log unusable, as soon as it is certain.
    pub fn segment(&mut self, segment: SegmentId, bytes: &Bytes) -> Result<(), WalDamage> {
        if let Some(previous) = self.fed.replace(segment)
            && segment != previous.next()
        {
            return Err(WalDamage::Missing { segment: previous.next() });
        }
        let (stamp, damage) = match read_preamble(segment, bytes) {
            Preamble::Newer(version) => return Err(WalDamage::Newer { segment, offset: 0, version }),
            Preamble::Foreign => return Err(WalDamage::Foreign { segment }),
            Preamble::Blank => {
                self.check_length(segment, bytes)?;
                // Spares lie behind the log. What lies before any of it is no spare, unless nothing was ever synced.
                if self.identity.is_none() && holds_mark(bytes) {
                    let place = Place { segment, offset: 0 };
                    return Err(corrupt(place, "the preamble is missing, but records were written behind it after a sync".into()));
                }
                self.spares.push_back(bytes.len() as u64);
                return Ok(());
            }
            Preamble::Damaged { stamp, damage } => (stamp, Some(damage)),
            Preamble::Whole(stamp) => (stamp, None),
        };
        self.check_length(segment, bytes)?;
        self.void_blanks(segment);
        self.log.segments.push_back(Segment::new(segment, bytes.len() as u64, None));
        let (offset, what) = match damage {
            Some(damage) => (damage, "the preamble is damaged"),
            None if self.deaf => (0, "it lies behind a cut"),
            None => (self.read_chain(stamp, bytes)?, "there is no whole record"),
        };
        self.newest = Some((stamp, offset > RECORDS_START as u64));
        self.ends.push(End { place: Place { segment, offset }, what, stamp: Some(stamp), bytes: bytes.clone() });
        Ok(())
    }

    /// A file has its whole length before it becomes a segment: a shorter one was cut, and what it held behind is gone without a
    /// trace. Halves of the usual length, and halves of those, may be of other settings.
    fn check_length(&self, segment: SegmentId, bytes: &Bytes) -> Result<(), WalDamage> {
        let (length, usual) = (bytes.len() as u64, self.settings.segment_bytes);
        if length >= usual || (length >= SEGMENT_BYTES_MIN && length.is_power_of_two()) {
            return Ok(());
        }
        Err(corrupt(Place { segment, offset: length }, format!("the file ends there, but a segment has {usual} bytes")))
    }

    /// Decides about the tail.
    ///
    /// # Errors
    /// [`WalDamage::Corrupt`] if something durable is missing, [`WalDamage::Empty`] if nothing ever was durable.
    pub fn finish(mut self) -> Result<Recovered, WalDamage> {
        let torn = self.scan_ends();
        self.check_ends()?;
        let never_started = self.state.boot.0 == 0;
        let (Some(identity), Some((stamp, sound)), false) = (self.identity, self.newest, never_started) else {
            return Err(WalDamage::Empty);
        };
        if self.log.end().index < self.log.base().index {
            let what = format!("the log ends at entry {}, below its first one, {}", self.log.end().index, self.log.base().index);
            return Err(corrupt(self.content, what));
        }
        let (resume, cut) = if sound && !torn && self.ends.len() == 1 {
            (Resume::Behind(stamp), None)
        } else {
            let cuts = self.ends.iter().map(|end| end.place).collect();
            (Resume::Fresh { newest: stamp.segment, cuts }, self.ends.first().map(describe_cut))
        };
        let end = self.log.end();
        let before = self.applied.clamp(self.log.base().index, end.index);
        let before = LogId { term: self.log.term(before).unwrap_or_default(), index: before };
        let (state, base) = (self.state, self.log.base());
        let planner = Planner::resume(Inherited {
            settings: self.settings,
            seed: self.seed,
            identity: identity.clone(),
            state,
            log: self.log,
            end: self.content,
            resume,
            spares: self.spares,
        });
        Ok(Recovered {
            identity,
            boot: state.boot.next(),
            term: state.term,
            vote: state.vote,
            commit: state.commit.min(end.index),
            base,
            before,
            entries: self.entries.into(),
            cut,
            planner,
        })
    }

    /// Takes in records from the front of a segment; says where they end.
    fn read_chain(&mut self, stamp: Stamp, bytes: &Bytes) -> Result<u64, WalDamage> {
        let mut at = RECORDS_START;
        loop {
            let offset = at as u64;
            let Read::Record { header, record, taken } = read(&bytes[at..], stamp.segment, Some(stamp.seed), offset)? else {
                return Ok(offset);
            };
            let place = Place { segment: stamp.segment, offset };
            self.synced_through = self.synced_through.max(header.synced_through);
            if at == RECORDS_START {
                let Record::Head(head) = record else {
                    return Err(corrupt(place, "the first record is not a head".into()));
                };
                let previous = header.synced_through;
                if let Some(end) = self.ends.iter().find(|end| end.place.segment == previous.segment && end.place > previous) {
                    let what = format!("records follow, but the log went on from offset {} in the next segment", previous.offset);
                    return Err(corrupt(end.place, what));
                }
                self.name_end(previous);
                self.check_ends()?;
                if self.deaf {
                    return Ok(0);
                }
                self.on_head(head, place)?;
            } else {
                self.on_record(record, place, offset + taken as u64)?;
            }
            at += taken;
            self.content = Place { segment: stamp.segment, offset: at as u64 };
        }
    }

    fn on_head(&mut self, head: Head, place: Place) -> Result<(), WalDamage> {
        let Head { identity, boot, term, vote, end, commit } = head;
        match &self.identity {
            None => {
                let segments = core::mem::take(&mut self.log.segments);
                self.log = Log::new(end);
                self.log.segments = segments;
                self.identity = Some(identity);
            }
            Some(known) if *known != identity => {
                let (theirs, ours) = (&identity, known);
                let what = format!(
                    "it belongs to member {} of cluster {}, the segments before it to member {} of cluster {}",
                    theirs.member, theirs.cluster, ours.member, ours.cluster
                );
                return Err(corrupt(place, what));
            }
            Some(_) => {
                let ours = self.log.end();
                let settled = ours.index < self.log.base().index;
                if ours.index != end.index || (!settled && ours.term != end.term) {
                    return Err(corrupt(place, format!("the head continues from entry {end}, but the log ends at {ours}")));
                }
            }
        }
        self.state = HardState { boot, term, vote, commit };
        let segment = self.log.segments.back_mut().expect("the segment being read");
        segment.head = Some(end);
        Ok(())
    }

    fn on_record(&mut self, record: Record, place: Place, end: u64) -> Result<(), WalDamage> {
        match record {
            Record::Head(_) => return Err(corrupt(place, "a head within a segment".into())),
            Record::Boot(boot) => self.state.boot = boot,
            Record::Ballot { term, vote } => (self.state.term, self.state.vote) = (term, vote),
            Record::Commit(index) => self.state.commit = self.state.commit.max(index),
            Record::Cut { segment, offset } => self.name_end(Place { segment, offset }),
            Record::Idle => {}
            Record::Truncate { from } => {
                self.log.truncate(from);
                while self.entries.pop_back_if(|entry| entry.id.index >= from).is_some() {}
            }
            Record::Entry(entry) => {
                let previous = self.log.end();
                if entry.id.index != previous.index.next() {
                    return Err(corrupt(place, format!("entry {} follows entry {previous}", entry.id)));
                }
                self.log.push(entry.id, place.offset, end);
                if entry.id.index > self.applied.max(self.log.base().index) {
                    self.entries.push_back(entry);
                }
            }
        }
        Ok(())
    }

    /// A later segment says that this is where an earlier one ends.
    fn name_end(&mut self, place: Place) {
        self.ends.retain(|end| end.place != place);
    }

    /// Every end that nobody named must be at or above what was synced.
    fn check_ends(&mut self) -> Result<(), WalDamage> {
        // The newest of them: if the front of a segment is damaged, then that is why nobody named the end of the one before.
        let Some(end) = self.ends.iter().rfind(|end| end.place < self.synced_through) else { return Ok(()) };
        if planted(Mutant::W1b) {
            self.deaf = true;
            return Ok(());
        }
        let mark = self.synced_through;
        Err(corrupt(
            end.place,
            format!("{}, but the log was synced through offset {} of {}", end.what, mark.offset, segment_file_name(mark.segment)),
        ))
    }

    /// Looks behind the ends that nobody named; whether there was anything.
    fn scan_ends(&mut self) -> bool {
        let marks = self.ends.iter().filter_map(|end| scan(&end.bytes, end.stamp?, end.place.offset));
        let newest = marks.max();
        self.synced_through = self.synced_through.max(newest.unwrap_or_default());
        newest.is_some()
    }

    /// Files taken for spares that are not: a later segment was written to.
    fn void_blanks(&mut self, before: SegmentId) {
        let count = self.spares.len() as u64;
        for (ahead, length) in (1..=count).rev().zip(self.spares.drain(..)) {
            let segment = SegmentId(before.0 - ahead);
            self.log.segments.push_back(Segment::new(segment, length, None));
            self.ends.push(End { place: Place { segment, offset: 0 }, what: "the preamble is missing", stamp: None, bytes: Bytes::new() });
        }
    }
}

fn corrupt(place: Place, what: String) -> WalDamage {
    WalDamage::Corrupt { segment: place.segment, offset: place.offset, what }
}

fn describe_cut(end: &End) -> String {
    format!("{} cut at offset {}: a write that was never synced was torn", segment_file_name(end.place.segment), end.place.offset)
}
