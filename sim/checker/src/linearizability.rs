//! Complete check of linearizability by revision order.
//!
//! The store states its own order: an operation that changed something and was answered with revision `r` has rank `2r`, any other
//! that was answered with `r` has rank `2r + 1`. Two operations of one rank only read, and commute, compactions apart. So the history is
//! linearizable exactly if every revision has one writer, real time agrees with the ranks, and the sequential model, fed in rank
//! order, gives every answer that was given. An answer that lies about its revision fails the last.
//!
//! Compactions change no revision but are ordered too: by the revision they compact to, which only grows. Their order, the ranks and
//! real time are compared pairwise; a cycle of more than two would contain one of two, since the compactions are totally ordered.
//!
//! Operations of unknown outcome may fill the revisions that nobody was told of. What was seen of such a revision (values, watch events)
//! usually leaves one candidate; else the choice is searched, depth first. A dead end takes back the last choice that could have changed
//! a key it hangs on. That may skip a choice which would have helped by way of others, so before a history is rejected the search is
//! done again and takes back every choice in turn.

use crate::blame::{self, DeadEnd};
use crate::budget::Meter;
use crate::history::{Delivery, Keys, Request, Response};
use crate::model::{FIRST_REVISION, Model, NEVER_COMPACTED};
use crate::operation::{Answer, History, NEVER, Operation, Place, short};
use crate::real_time;
use crate::unknown::Evidence;
use crate::verdict::{Failure, Undecided};
use crate::violation::{Property, Violation};
use crate::witness::Witness;

/// How many revisions after the last one that was answered are considered to explain a refusal.
const UNSEEN_TAIL_MAX: usize = 8;

/// What the check found out.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) model: Model,
    /// The operation that wrote each revision, from the second on.
    pub(crate) writers: Vec<usize>,
}

type Checked<T = ()> = Result<T, Violation>;
type Step<T = ()> = Result<T, DeadEnd>;

/// `finish` judges what else depends on the order; where the order is not certain, another is tried if it objects.
pub(crate) fn check(
    history: &History<'_>,
    witness: Option<&Witness>,
    meter: &mut Meter,
    mut finish: impl FnMut(&Order) -> Checked,
) -> Result<Order, Failure> {
    let mut ranks = Ranks::new(history)?;
    let mut first = None;
    // A refusal may have seen what no answer has: writes of unknown outcome after the last known revision.
    for _ in 0..=UNSEEN_TAIL_MAX {
        let mut judge = |order: &Order| {
            check_causality(history, &ranks, order)?;
            check_log_order(history, order)?;
            real_time::check(history, order)?;
            finish(order)
        };
        let mut evidence = Evidence::new(history, ranks.writers.iter().map(Option::is_none).collect());
        if let Some(witness) = witness {
            evidence.narrow(witness, ranks.last)?;
        }
        let mut replay = Replay::new(history, &ranks, &evidence, Search::Jumping);
        let mut found = replay.run(meter, &mut judge);
        if matches!(found, Err(Failure::Broken(_))) && !replay.complete {
            replay = Replay::new(history, &ranks, &evidence, Search::Exhaustive);
            found = replay.run(meter, &mut judge);
        }
        match found {
            Err(Failure::Broken(violation)) if first.is_none() && violation.property == Property::Refusal => first = Some(violation),
            Err(Failure::Broken(_)) if first.is_some() => {}
            done => return done.map(|()| replay.order),
        }
        ranks.extend();
    }
    Err(Failure::Broken(first.expect("only a refusal goes round")))
}

/// Index of a revision in arrays that begin with the second one, which the first write makes.
pub(crate) fn slot(revision: i64) -> usize {
    usize::try_from(revision - FIRST_REVISION - 1).expect("a written revision")
}

/// The least revision of the past that an answered operation read, if any.
pub(crate) fn oldest_read(request: &Request, response: &Response) -> Option<i64> {
    match (request, response) {
        (Request::Range(range), _) => Some(range.revision).filter(|&revision| revision > 0),
        (Request::Txn(txn), Response::Txn { succeeded, responses, .. }) => {
            let branch = if *succeeded { &txn.success } else { &txn.failure };
            branch.iter().zip(responses).filter_map(|(request, response)| oldest_read(request, response)).min()
        }
        _ => None,
    }
}

/// Who says to have which revision.
struct Ranks {
    /// The acknowledged writer of each revision.
    writers: Vec<Option<usize>>,
    /// Acknowledged operations that changed nothing, by revision.
    readers: Vec<(i64, usize)>,
    /// The first moment at which each revision or a later one was seen by someone.
    seen: Vec<Place>,
    last: i64,
}

impl Ranks {
    fn new(history: &History<'_>) -> Checked<Self> {
        let mut last = FIRST_REVISION;
        let mut writers_max = 0;
        let mut sightings = Vec::new();
        for operation in &history.operations {
            writers_max += i64::from(operation.claims_change() || operation.is_unknown());
            let Some(response) = operation.response() else { continue };
            let revision = response.revision();
            let least = FIRST_REVISION + i64::from(operation.claims_change());
            if revision < least {
                let text = format!("operation {} was answered revision {revision}, which cannot be: {}", operation.id, short(response));
                return Err(Violation::new(Property::Answer, [operation.id], Some(revision), text));
            }
            sightings.push((revision, operation.returned, operation.id));
        }
        for watch in &history.watches {
            for (place, delivery) in &watch.deliveries {
                if let Delivery::Events { revision, .. } | Delivery::Progress { revision } = delivery {
                    sightings.push((*revision, *place, watch.id));
                }
            }
            if let Some((place, created)) = watch.created {
                sightings.push((created, place, watch.id));
            }
        }
        for &(revision, _, id) in &sightings {
            if revision - FIRST_REVISION > writers_max {
                let text =
                    format!("operation {id} was shown revision {revision}, but at most {writers_max} operations can have made one each");
                return Err(Violation::new(Property::Provenance, [id], Some(revision), text));
            }
            last = last.max(revision);
        }
        let mut seen = vec![NEVER; slot(last + 1)];
        for (revision, place, _) in sightings {
            if revision > FIRST_REVISION {
                let first = &mut seen[slot(revision)];
                *first = place.min(*first);
            }
        }
        for revision in (0..seen.len().saturating_sub(1)).rev() {
            seen[revision] = seen[revision].min(seen[revision + 1]);
        }
        let mut ranks = Self { writers: vec![None; seen.len()], readers: Vec::new(), seen, last };
        ranks.sort(&history.operations)?;
        Ok(ranks)
    }

    /// One more revision, which nobody saw.
    fn extend(&mut self) {
        self.last += 1;
        self.writers.push(None);
        self.seen.push(NEVER);
    }

    fn sort(&mut self, operations: &[Operation<'_>]) -> Checked {
        for (index, operation) in operations.iter().enumerate() {
            let Some(response) = operation.response() else { continue };
            let revision = response.revision();
            if !operation.claims_change() {
                self.readers.push((revision, index));
            } else if let Some(other) = self.writers[slot(revision)].replace(index) {
                let (a, b) = (&operations[other], operation);
                let text = format!("{b} and {a} were both told that they made revision {revision}");
                return Err(Violation::new(Property::UniqueRevision, [b.id, a.id], Some(revision), text));
            }
        }
        self.readers.sort_unstable();
        Ok(())
    }
}

/// Feeds the model in rank order.
struct Replay<'a> {
    history: &'a History<'a>,
    ranks: &'a Ranks,
    evidence: &'a Evidence<'a>,
    order: Order,
    /// Operations of unknown outcome that already stand for a revision.
    used: Vec<bool>,
    next_reader: usize,
    /// The greatest compaction of lower rank, and whose it is.
    floor: (i64, Option<usize>),
    /// What `floor` was before each revision.
    floors: Vec<(i64, Option<usize>)>,
    choices: Vec<Choice>,
    search: Search,
    /// Whether no choice was given up that might have helped.
    complete: bool,
    /// The violation that the longest attempt ended with.
    worst: Option<(i64, Violation)>,
}

/// Which choices a dead end takes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Search {
    /// The last one that could have changed what the dead end hangs on.
    Jumping,
    /// The last one.
    Exhaustive,
}

/// A revision for which several operations come into question.
struct Choice {
    revision: i64,
    next_reader: usize,
    left: Vec<usize>,
    /// What the dead ends of those tried so far hang on.
    blamed: Vec<Keys>,
}

impl<'a> Replay<'a> {
    fn new(history: &'a History<'a>, ranks: &'a Ranks, evidence: &'a Evidence<'a>, search: Search) -> Self {
        Self {
            history,
            ranks,
            evidence,
            order: Order { model: Model::default(), writers: Vec::with_capacity(ranks.writers.len()) },
            used: vec![false; history.operations.len()],
            next_reader: 0,
            floor: (NEVER_COMPACTED, None),
            floors: Vec::new(),
            choices: Vec::new(),
            search,
            complete: true,
            worst: None,
        }
    }

    fn run(&mut self, meter: &mut Meter, finish: &mut dyn FnMut(&Order) -> Checked) -> Result<(), Failure> {
        self.check_readers(meter).map_err(|dead_end| dead_end.violation)?;
        loop {
            let done = self.order.model.revision() == self.ranks.last;
            if done {
                meter.spend(self.history.length as u64);
            }
            match if done { finish(&self.order).map_err(DeadEnd::anywhere) } else { self.advance(meter) } {
                Ok(()) if done => return Ok(()),
                Ok(()) => {}
                Err(dead_end) => self.backtrack(meter, dead_end)?,
            }
        }
    }

    fn advance(&mut self, meter: &mut Meter) -> Step {
        let revision = self.order.model.revision() + 1;
        let mut candidates = match self.ranks.writers[slot(revision)] {
            Some(writer) => vec![writer],
            None => {
                let seen = self.ranks.seen[slot(revision)];
                let mut found = self.evidence.candidates(&self.order.model, self.floor.0, seen, |index| self.used[index], meter);
                self.prefer(&mut found);
                found
            }
        };
        let Some(writer) = candidates.pop() else { return Err(self.nobody_made(revision)) };
        if !candidates.is_empty() {
            self.choices.push(Choice { revision, next_reader: self.next_reader, left: candidates, blamed: Vec::new() });
        }
        self.write(meter, writer)
    }

    /// Sorts the likeliest last: most writes take effect in the order of their calls, and soon if ever.
    fn prefer(&self, candidates: &mut [usize]) {
        let operations = &self.history.operations;
        let before = self.order.writers.last().map_or(0, |&writer| operations[writer].called);
        let later = candidates.partition_point(|&index| operations[index].called < before);
        candidates[later..].reverse();
    }

    /// Takes back a choice that leaves another, and takes that.
    fn backtrack(&mut self, meter: &mut Meter, mut dead_end: DeadEnd) -> Result<(), Failure> {
        loop {
            let DeadEnd { violation, blamed } = dead_end;
            let reached = self.order.model.revision();
            if self.worst.as_ref().is_none_or(|(worst, _)| *worst < reached) {
                self.worst = Some((reached, violation));
            }
            let Some((writer, revision, next_reader)) = self.take_back(blamed) else {
                return Err(Failure::Broken(self.worst.take().expect("just set").1));
            };
            self.undo_to(revision - 1, next_reader);
            if meter.is_exhausted() {
                let (_, nearest) = self.worst.take().expect("just set");
                return Err(Failure::Undecided(Undecided { steps: meter.steps(), nearest }));
            }
            match self.write(meter, writer) {
                Ok(()) => return Ok(()),
                Err(next) => dead_end = next,
            }
        }
    }

    /// Another writer for the last choice that could matter to a dead end that hangs on `blamed`; the choices after it are forgotten.
    fn take_back(&mut self, mut blamed: Vec<Keys>) -> Option<(usize, i64, usize)> {
        while let Some(choice) = self.choices.last_mut() {
            let matters = |&writer: &usize| blame::could_change(self.history.operations[writer].request, &blamed);
            let chosen = self.order.writers.get(slot(choice.revision));
            if self.search == Search::Exhaustive || chosen.into_iter().chain(&choice.left).any(matters) {
                blame::add(&mut choice.blamed, &blamed);
                if let Some(writer) = choice.left.pop() {
                    return Some((writer, choice.revision, choice.next_reader));
                }
                blamed = std::mem::take(&mut choice.blamed);
            } else {
                self.complete &= choice.left.is_empty();
            }
            self.choices.pop();
        }
        None
    }

    fn undo_to(&mut self, revision: i64, next_reader: usize) {
        self.order.model.undo_to(revision);
        let kept = slot(revision + 1);
        for writer in self.order.writers.drain(kept..) {
            self.used[writer] = false;
        }
        self.floor = self.floors.get(kept).copied().unwrap_or(self.floor);
        self.floors.truncate(kept);
        self.next_reader = next_reader;
    }

    /// Makes the next revision with `writer`, and asks everybody who says to have read it.
    fn write(&mut self, meter: &mut Meter, writer: usize) -> Step {
        meter.spend(1);
        let at = self.order.model.revision();
        let operation = &self.history.operations[writer];
        let changes = match operation.answer {
            Answer::Ok { response, .. } => self.check_answer(operation, response, at)?,
            _ => match self.order.model.evaluate(operation.request, at, NEVER_COMPACTED) {
                Ok(evaluation) => evaluation.changes,
                Err(_) => unreachable!("candidates were evaluated"),
            },
        };
        self.order.model.commit(changes);
        self.order.writers.push(writer);
        self.used[writer] = true;
        self.floors.push(self.floor);
        self.check_readers(meter)
    }

    fn check_readers(&mut self, meter: &mut Meter) -> Step {
        let at = self.order.model.revision();
        let mut floor = self.floor;
        while let Some(&(_, index)) = self.ranks.readers.get(self.next_reader).filter(|(revision, _)| *revision == at) {
            self.next_reader += 1;
            meter.spend(1);
            let operation = &self.history.operations[index];
            self.check_answer(operation, operation.response().expect("only answered ones are ranked"), at)?;
            if let Request::Compact { revision } = *operation.request {
                if revision <= self.floor.0 {
                    return Err(DeadEnd::anywhere(self.compacted_before(operation, self.floor)));
                }
                if floor.0 < revision {
                    floor = (revision, Some(index));
                }
            }
        }
        self.floor = floor;
        Ok(())
    }

    /// Compares an answer with the model's on the state of `at`, and returns what the operation changes.
    fn check_answer(&self, operation: &Operation<'_>, response: &Response, at: i64) -> Step<Vec<crate::model::Change>> {
        let dead_end = |violation| DeadEnd::of(violation, [operation.request]);
        let wrong = |text| dead_end(Violation::new(Property::Answer, [operation.id], Some(response.revision()), text));
        let evaluation = self
            .order
            .model
            .evaluate(operation.request, at, NEVER_COMPACTED)
            .map_err(|refused| wrong(format!("{operation} should have been refused: {}", short(&refused))))?;
        if !same(&evaluation.response, response, false) {
            return Err(wrong(format!("{operation} should have been answered {}", short(&evaluation.response))));
        }
        if oldest_read(operation.request, response).is_some_and(|oldest| oldest < self.floor.0) {
            return Err(dead_end(self.compacted_before(operation, self.floor)));
        }
        Ok(evaluation.changes)
    }

    fn compacted_before(&self, operation: &Operation<'_>, (floor, by): (i64, Option<usize>)) -> Violation {
        let by = by.map(|index| &self.history.operations[index]);
        let culprit = by.map_or_else(|| "nobody".into(), ToString::to_string);
        let mut ids = vec![operation.id];
        ids.extend(by.map(|by| by.id));
        let text = format!("{operation} succeeded although {culprit}, of an older revision, had compacted everything below {floor}");
        Violation::new(Property::Compaction, ids, operation.response().map(Response::revision), text)
    }

    fn nobody_made(&self, revision: i64) -> DeadEnd {
        let mut text = format!(
            "revision {revision} exists, but no operation made it: none was acknowledged with it, and none of unknown outcome fits"
        );
        let mut ids = Vec::new();
        // To describe it reads the whole history, which a search cannot do at every dead end: only of the longest attempt is it told.
        if self.worst.as_ref().is_none_or(|(worst, _)| *worst < revision - 1) {
            let (pointed_at, seen) = self.evidence.describe(revision, &self.used);
            ids = pointed_at;
            text.push_str(&seen);
        }
        let violation = Violation::new(Property::Provenance, ids, Some(revision), text);
        match self.evidence.pointed_at(revision) {
            Some(writers) => DeadEnd::of(violation, writers.iter().map(|&writer| self.history.operations[writer].request)),
            None => DeadEnd::anywhere(violation),
        }
    }
}

/// Equal, but for the revision of a txn inside a txn.
pub(crate) fn same(expected: &Response, got: &Response, nested: bool) -> bool {
    match (expected, got) {
        (
            Response::Txn { revision: expected_revision, succeeded: expected_success, responses: expected },
            Response::Txn { revision, succeeded, responses },
        ) => {
            (nested || expected_revision == revision)
                && expected_success == succeeded
                && expected.len() == responses.len()
                && expected.iter().zip(responses).all(|(expected, got)| same(expected, got, true))
        }
        _ => expected == got,
    }
}

/// Nobody saw a revision before its writer was called.
fn check_causality(history: &History<'_>, ranks: &Ranks, order: &Order) -> Checked {
    for ((&writer, &seen), revision) in order.writers.iter().zip(&ranks.seen).zip(FIRST_REVISION + 1..) {
        let operation = &history.operations[writer];
        if seen <= operation.called {
            let text =
                format!("{operation} made revision {revision}, but that or a later one had been seen before it was called (record {seen})");
            return Err(Violation::new(Property::Causality, [operation.id], Some(revision), text));
        }
    }
    Ok(())
}

/// Where the recorder knows the log: later revisions come from later entries.
fn check_log_order(history: &History<'_>, order: &Order) -> Checked {
    let mut before: Option<(u64, &Operation<'_>)> = None;
    for (&writer, revision) in order.writers.iter().zip(FIRST_REVISION + 1..) {
        let operation = &history.operations[writer];
        let Answer::Ok { log_index: Some(index), .. } = operation.answer else { continue };
        if let Some((_, earlier)) = before.filter(|(earlier, _)| *earlier >= index) {
            let text = format!("{operation} made revision {revision} from log entry {index}, {earlier} an older one from no older entry");
            return Err(Violation::new(Property::LogOrder, [operation.id, earlier.id], Some(revision), text));
        }
        before = Some((index, operation));
    }
    Ok(())
}
