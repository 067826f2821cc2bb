//! The reading side: what a log says after a crash, and whether it may be believed.
//!
//! Each segment is read up to the first position that holds no whole record of it: its *end*. The newest end is where writing stopped,
//! the others must be named by the segment after, as the end of the one before or as a torn tail. Somewhere a record names the newest
//! position known to be durable. An end below that position is damage that no crash explains: corruption. An end at or above it is a
//! torn tail. The sectors of a write that was not synced land in any order, so a whole record behind an end proves nothing, but
//! what it calls synced was synced.

use super::log::{Segment, SegmentedLog};
use super::planner::{HardState, InitialState, Planner, Resume};
use super::record::{
    Incarnation, LogPosition, Preamble, RECORDS_START, ReadRecord, holds_mark, read, read_preamble, scan, segment_file_name,
};
use super::{Identity, Record, Recovered, SegmentHeader, WalDamage, WalSettings};
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
    log: SegmentedLog,
    entries: VecDeque<Entry>,
    /// The newest position that a record calls synced.
    synced_through: LogPosition,
    /// Where the newest record ends that was taken in.
    content: LogPosition,
    /// Ends that no later segment has named yet, in order of position.
    ends: Vec<SegmentEnd>,
    /// The newest segment that was written to, and whether its front is whole.
    newest: Option<(Incarnation, bool)>,
    /// Files behind it.
    spares: VecDeque<u64>,
    /// Only with the bug planted that believes any damage to be a torn tail.
    deaf: bool,
}

#[derive(Debug)]
struct SegmentEnd {
    position: LogPosition,
    what: &'static str,
    /// For a look behind it, if nobody names it. Two or three segments are held at a time.
    incarnation: Option<Incarnation>,
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
            log: SegmentedLog::new(LogId::default()),
            entries: VecDeque::new(),
            synced_through: LogPosition::default(),
            content: LogPosition::default(),
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
        let (incarnation, damage) = match read_preamble(segment, bytes) {
            Preamble::Newer(version) => return Err(WalDamage::Newer { segment, offset: 0, version }),
            Preamble::Foreign => return Err(WalDamage::Foreign { segment }),
            Preamble::Blank => {
                self.check_length(segment, bytes)?;
                // Spares lie behind the log. What lies before any of it is no spare, unless nothing was ever synced.
                if self.identity.is_none() && holds_mark(bytes) {
                    let position = LogPosition { segment, offset: 0 };
                    return Err(corrupt(position, "the preamble is missing, but records were written behind it after a sync".into()));
                }
                self.spares.push_back(bytes.len() as u64);
                return Ok(());
            }
            Preamble::Damaged { incarnation, damage } => (incarnation, Some(damage)),
            Preamble::Whole(incarnation) => (incarnation, None),
        };
        self.check_length(segment, bytes)?;
        self.void_blanks(segment);
        self.log.segments.push_back(Segment::new(segment, bytes.len() as u64, None));
        let (offset, what) = match damage {
            Some(damage) => (damage, "the preamble is damaged"),
            None if self.deaf => (0, "it lies behind a torn tail"),
            None => (self.read_chain(incarnation, bytes)?, "there is no whole record"),
        };
        self.newest = Some((incarnation, offset > RECORDS_START as u64));
        self.ends.push(SegmentEnd {
            position: LogPosition { segment, offset },
            what,
            incarnation: Some(incarnation),
            bytes: bytes.clone(),
        });
        Ok(())
    }

    /// A file has its whole length before it becomes a segment: a shorter one was cut, and what it held behind is gone without a
    /// trace. Halves of the usual length, and halves of those, may be of other settings.
    fn check_length(&self, segment: SegmentId, bytes: &Bytes) -> Result<(), WalDamage> {
        let (length, usual) = (bytes.len() as u64, self.settings.segment_bytes);
        if length >= usual || (length >= SEGMENT_BYTES_MIN && length.is_power_of_two()) {
            return Ok(());
        }
        Err(corrupt(LogPosition { segment, offset: length }, format!("the file ends there, but a segment has {usual} bytes")))
    }

    /// Decides about the tail.
    ///
    /// # Errors
    /// [`WalDamage::Corrupt`] if something durable is missing, [`WalDamage::Empty`] if nothing ever was durable.
    pub fn finish(mut self) -> Result<Recovered, WalDamage> {
        let torn = self.scan_ends();
        self.check_ends()?;
        let never_started = self.state.boot.0 == 0;
        let (Some(identity), Some((incarnation, sound)), false) = (self.identity, self.newest, never_started) else {
            return Err(WalDamage::Empty);
        };
        if self.log.end().index < self.log.base().index {
            let what = format!("the log ends at entry {}, below its first one, {}", self.log.end().index, self.log.base().index);
            return Err(corrupt(self.content, what));
        }
        let (resume, torn_tail) = if sound && !torn && self.ends.len() == 1 {
            (Resume::Behind(incarnation), None)
        } else {
            let torn_tails = self.ends.iter().map(|end| end.position).collect();
            (Resume::Fresh { newest: incarnation.segment, torn_tails }, self.ends.first().map(describe_torn_tail))
        };
        let end = self.log.end();
        let before = self.applied.clamp(self.log.base().index, end.index);
        let before = LogId { term: self.log.term(before).unwrap_or_default(), index: before };
        let (state, base) = (self.state, self.log.base());
        let planner = Planner::resume(InitialState {
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
            state: state.state,
            base,
            before,
            entries: self.entries.into(),
            torn_tail,
            planner,
        })
    }

    /// Takes in records from the front of a segment; says where they end.
    fn read_chain(&mut self, incarnation: Incarnation, bytes: &Bytes) -> Result<u64, WalDamage> {
        let mut at = RECORDS_START;
        loop {
            let offset = at as u64;
            let ReadRecord::Record { header, record, taken } = read(&bytes[at..], incarnation.segment, Some(incarnation.seed), offset)?
            else {
                return Ok(offset);
            };
            let position = LogPosition { segment: incarnation.segment, offset };
            self.synced_through = self.synced_through.max(header.synced_through);
            if at == RECORDS_START {
                let Record::SegmentHeader(segment_header) = record else {
                    return Err(corrupt(position, "the first record is not a segment header".into()));
                };
                let previous = header.synced_through;
                if let Some(end) = self.ends.iter().find(|end| end.position.segment == previous.segment && end.position > previous) {
                    let what = format!("records follow, but the log went on from offset {} in the next segment", previous.offset);
                    return Err(corrupt(end.position, what));
                }
                self.name_end(previous);
                self.check_ends()?;
                if self.deaf {
                    return Ok(0);
                }
                self.on_segment_header(segment_header, position)?;
            } else {
                self.on_record(record, position, offset + taken as u64)?;
            }
            at += taken;
            self.content = LogPosition { segment: incarnation.segment, offset: at as u64 };
        }
    }

    fn on_segment_header(&mut self, header: SegmentHeader, position: LogPosition) -> Result<(), WalDamage> {
        let SegmentHeader { identity, boot, term, vote, end, commit } = header;
        match &self.identity {
            None => {
                let segments = core::mem::take(&mut self.log.segments);
                self.log = SegmentedLog::new(end);
                self.log.segments = segments;
                self.identity = Some(identity);
            }
            Some(known) if *known != identity => {
                let (theirs, ours) = (&identity, known);
                let what = format!(
                    "it belongs to member {} of cluster {}, the segments before it to member {} of cluster {}",
                    theirs.member, theirs.cluster, ours.member, ours.cluster
                );
                return Err(corrupt(position, what));
            }
            Some(_) => {
                let ours = self.log.end();
                let settled = ours.index < self.log.base().index;
                if ours.index != end.index || (!settled && ours.term != end.term) {
                    return Err(corrupt(position, format!("the segment header continues from entry {end}, but the log ends at {ours}")));
                }
            }
        }
        self.state = HardState { boot, term, vote, commit, ..self.state };
        let segment = self.log.segments.back_mut().expect("the segment being read");
        segment.base = Some(end);
        Ok(())
    }

    fn on_record(&mut self, record: Record, position: LogPosition, end: u64) -> Result<(), WalDamage> {
        match record {
            Record::SegmentHeader(_) => return Err(corrupt(position, "a segment header within a segment".into())),
            Record::Boot(boot) => self.state.boot = boot,
            Record::Ballot { term, vote } => (self.state.term, self.state.vote) = (term, vote),
            Record::Commit(index) => self.state.commit = self.state.commit.max(index),
            Record::TornTail { segment, offset } => self.name_end(LogPosition { segment, offset }),
            Record::Idle => {}
            Record::State(state) => self.state.state = state,
            Record::Install { last, state } => {
                if state <= self.state.state {
                    return Err(corrupt(position, format!("state {state} is installed after state {}", self.state.state)));
                }
                self.log.reset(last);
                self.entries.clear();
                (self.state.state, self.state.commit) = (state, self.state.commit.max(last.index));
            }
            Record::Truncate { from } => {
                self.log.truncate(from);
                while self.entries.pop_back_if(|entry| entry.id.index >= from).is_some() {}
            }
            Record::Entry(entry) => {
                let previous = self.log.end();
                if entry.id.index != previous.index.next() {
                    return Err(corrupt(position, format!("entry {} follows entry {previous}", entry.id)));
                }
                self.log.push(entry.id, position.offset, end);
                if entry.id.index > self.applied.max(self.log.base().index) {
                    self.entries.push_back(entry);
                }
            }
        }
        Ok(())
    }

    /// A later segment says that this is where an earlier one ends.
    fn name_end(&mut self, position: LogPosition) {
        self.ends.retain(|end| end.position != position);
    }

    /// Every end that nobody named must be at or above what was synced.
    fn check_ends(&mut self) -> Result<(), WalDamage> {
        // The newest of them: if the front of a segment is damaged, then that is why nobody named the end of the one before.
        let Some(end) = self.ends.iter().rfind(|end| end.position < self.synced_through) else { return Ok(()) };
        if planted(Mutant::W1b) {
            self.deaf = true;
            return Ok(());
        }
        let mark = self.synced_through;
        Err(corrupt(
            end.position,
            format!("{}, but the log was synced through offset {} of {}", end.what, mark.offset, segment_file_name(mark.segment)),
        ))
    }

    /// Looks behind the ends that nobody named; whether there was anything.
    fn scan_ends(&mut self) -> bool {
        let marks = self.ends.iter().filter_map(|end| scan(&end.bytes, end.incarnation?, end.position.offset));
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
            self.ends.push(SegmentEnd {
                position: LogPosition { segment, offset: 0 },
                what: "the preamble is missing",
                incarnation: None,
                bytes: Bytes::new(),
            });
        }
    }
}

fn corrupt(position: LogPosition, what: String) -> WalDamage {
    WalDamage::Corrupt { segment: position.segment, offset: position.offset, what }
}

fn describe_torn_tail(end: &SegmentEnd) -> String {
    format!("{} cut at offset {}: a write that was never synced was torn", segment_file_name(end.position.segment), end.position.offset)
}
