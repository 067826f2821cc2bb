//! Which entries the segments hold and where: four bytes an entry, so that a stretch never reaches into what was truncated.

use super::Location;
use super::record::LogPosition;
use crate::types::{LogId, LogIndex, SegmentId, Term};
use alloc::{collections::VecDeque, vec::Vec};

/// One file, in the order of ids without a gap.
#[derive(Debug)]
pub(super) struct Segment {
    pub id: SegmentId,
    /// Bytes of the file.
    pub length: u64,
    /// The last entry before this segment, as its segment header says; `None` if the whole segment is void.
    pub base: Option<LogId>,
    /// Index of the entry that `offsets` begins with.
    first: LogIndex,
    /// Where the record of each entry in force starts.
    offsets: Vec<u32>,
    /// Where the record of the last of them ends.
    end: u32,
    gaps: Vec<Gap>,
}

/// Entries from `from` on are not those that follow in the file: these were truncated, from offset `stop` on.
#[derive(Debug)]
struct Gap {
    from: LogIndex,
    stop: u32,
}

/// The entries from `base` (exclusive) to `end`.
#[derive(Debug)]
pub(super) struct SegmentedLog {
    pub segments: VecDeque<Segment>,
    /// Where each term starts, `base` first: the term of every entry without reading it.
    terms: VecDeque<LogId>,
    end: LogIndex,
}

impl Segment {
    pub fn new(id: SegmentId, length: u64, base: Option<LogId>) -> Self {
        Self { id, length, base, first: LogIndex(0), offsets: Vec::new(), end: 0, gaps: Vec::new() }
    }

    fn position(&self, index: LogIndex) -> Option<usize> {
        let at = usize::try_from(index.0.checked_sub(self.first.0)?).ok()?;
        (at < self.offsets.len()).then_some(at)
    }

    fn void(&mut self) {
        *self = Self::new(self.id, self.length, None);
    }

    fn truncate(&mut self, from: LogIndex) {
        let Some(at) = self.position(from.max(self.first)) else { return };
        // Cut at the same entry before, the segment's good stretch ends where it ended then.
        let again = self.gaps.iter().find(|gap| gap.from == from);
        let stop = again.map_or(self.offsets[at], |gap| gap.stop);
        self.offsets.truncate(at);
        self.end = stop;
        self.gaps.retain(|gap| gap.from < from);
        if at > 0 {
            self.gaps.push(Gap { from, stop });
        }
    }
}

impl SegmentedLog {
    pub fn new(base: LogId) -> Self {
        Self { segments: VecDeque::new(), terms: VecDeque::from([base]), end: base.index }
    }

    /// The entry before the first one held.
    pub fn base(&self) -> LogId {
        self.terms[0]
    }

    /// The last entry. Its term is right unless the log ends below `base`, which it does only within a recovery.
    pub fn end(&self) -> LogId {
        LogId { term: self.terms[self.terms.len() - 1].term, index: self.end }
    }

    /// The term of an entry from `base` to `end`.
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        if index > self.end {
            return None;
        }
        let after = self.terms.partition_point(|start| start.index <= index);
        Some(self.terms[after.checked_sub(1)?].term)
    }

    /// Notes an entry whose record lies in the newest segment.
    pub fn push(&mut self, id: LogId, start: u64, end: u64) {
        assert!(id.index == self.end.next(), "entry {id} after {}", self.end);
        self.end = id.index;
        if id.index <= self.base().index {
            self.terms[0].term = id.term;
            return;
        }
        if id.term != self.terms[self.terms.len() - 1].term {
            self.terms.push_back(id);
        }
        let segment = self.segments.back_mut().expect("a segment for the entry");
        if segment.offsets.is_empty() {
            segment.first = id.index;
        }
        segment.offsets.push(u32::try_from(start).expect("segments are below 4 GiB"));
        segment.end = u32::try_from(end).expect("segments are below 4 GiB");
    }

    /// Forgets the entries from `from` on. In a log whose oldest segments were released that may reach below `base`: the header of
    /// the first one left can speak of entries that were overruled later. Then `end` stays below `base` until their successors,
    /// which are below what was released, have passed.
    pub fn truncate(&mut self, from: LogIndex) {
        if from > self.end {
            return;
        }
        self.end = from.previous();
        while self.terms.len() > 1 && self.terms[self.terms.len() - 1].index >= from {
            self.terms.pop_back();
        }
        for segment in self.segments.iter_mut().rev() {
            let done = segment.first < from && !segment.offsets.is_empty();
            segment.truncate(from);
            if done {
                break;
            }
        }
    }

    /// The log is nothing but its end: what the segments hold is void.
    pub fn reset(&mut self, last: LogId) {
        self.segments.iter_mut().for_each(Segment::void);
        self.terms = VecDeque::from([last]);
        self.end = last.index;
    }

    /// Through where the oldest segments would have to go, so that of those that may go through `through` no more than `bytes` are left.
    pub fn surplus(&self, through: LogIndex, bytes: u64) -> LogIndex {
        let releasable = self.releasable(through);
        let mut left: u64 = self.segments.iter().take(releasable).map(|segment| segment.length).sum();
        let mut surplus = LogIndex(0);
        for (segment, next) in self.segments.iter().zip(self.segments.iter().skip(1)).take(releasable) {
            if left <= bytes {
                break;
            }
            left -= segment.length;
            surplus = next.base.map_or(surplus, |base| base.index);
        }
        surplus
    }

    /// How many of the oldest segments may go one after the other, so that whichever is the first one left, nothing above
    /// `through` is missing.
    pub fn releasable(&self, through: LogIndex) -> usize {
        let through = through.min(self.end);
        let mut count = 0;
        for (at, segment) in self.segments.iter().enumerate().skip(1) {
            match segment.base {
                Some(end) if end.index <= through => count = at,
                Some(_) => break,
                None => {}
            }
        }
        count
    }

    /// Forgets the oldest segment.
    pub fn pop(&mut self) -> Option<Segment> {
        let retired = self.segments.pop_front();
        let first = self.segments.iter().find_map(|segment| segment.base);
        // Headers may go back, where the log was truncated; what was let go stays gone.
        if let Some(base) = first.filter(|base| base.index > self.base().index) {
            // The header may name an entry that was overruled since; the log knows the term in force.
            let base = LogId { term: self.term(base.index).unwrap_or(base.term), index: base.index };
            while self.terms.len() > 1 && self.terms[1].index <= base.index {
                self.terms.pop_front();
            }
            self.terms[0] = base;
        }
        retired
    }

    /// Where to read from `index` on: whole records, at most `bytes` unless the first is larger, and none that lies at or behind
    /// `limit`.
    pub fn locate(&self, index: LogIndex, bytes: u32, limit: LogPosition) -> Option<Location> {
        if index <= self.base().index {
            return None;
        }
        let (segment, at) = self.segments.iter().rev().find_map(|segment| Some((segment, segment.position(index)?)))?;
        let durable = match segment.id.cmp(&limit.segment) {
            core::cmp::Ordering::Less => u32::MAX,
            core::cmp::Ordering::Equal => u32::try_from(limit.offset).unwrap_or(u32::MAX),
            core::cmp::Ordering::Greater => 0,
        };
        let stop = segment.gaps.iter().find(|gap| gap.from > index).map_or(segment.end, |gap| gap.stop);
        let start = segment.offsets[at];
        // Where one record may end and the next begin. Between entries lie other records; they are skipped by who reads.
        let next = segment.offsets.get(at + 1).map_or(stop, |next| stop.min(*next));
        if next > durable {
            return None;
        }
        let wanted = start.saturating_add(bytes).min(durable);
        let end = if wanted >= stop {
            stop
        } else {
            let after = segment.offsets.partition_point(|offset| *offset <= wanted);
            segment.offsets[after - 1].max(next)
        };
        Some(Location { segment: segment.id, offset: u64::from(start), length: end - start })
    }
}
