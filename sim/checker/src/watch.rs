//! The six promises of a watch (etcd API guarantees): ordered, unique, reliable, atomic, resumable, bookmarkable.
//!
//! Given the true changes, all but the bookmarks are one statement: what a watch delivered is a prefix of the changes it asked for, from
//! the revision it asked for, cut between revisions. One that resumes is a new watch from the revision after the last delivered.

use crate::history::{Delivery, Event, KeyValue, OpId, Request};
use crate::model::Model;
use crate::operation::{History, Place, WatchRun, short};
use crate::unknown::wants;
use crate::violation::{Property, Violation};

type Checked<T = ()> = Result<T, Violation>;

/// What the watches of a history came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    /// Watches still open, and the revision of the change each waits for.
    pub(crate) behind: Vec<(OpId, i64)>,
    /// Deliveries judged and revisions looked at.
    pub(crate) steps: u64,
}

pub(crate) fn check(history: &History<'_>, model: &Model) -> Checked<Tally> {
    let compactions: Vec<_> = history
        .operations
        .iter()
        .filter(|operation| operation.refused().is_none())
        .filter_map(|operation| match operation.request {
            Request::Compact { revision } => Some((*revision, operation.called)),
            _ => None,
        })
        .collect();
    let mut tally = Tally::default();
    for watch in &history.watches {
        Judge::new(watch, model, &compactions)?.run(&mut tally)?;
    }
    Ok(tally)
}

struct Judge<'a> {
    watch: &'a WatchRun<'a>,
    model: &'a Model,
    /// Compactions that happened or may have: revision, and when called.
    compactions: &'a [(i64, Place)],
    from: i64,
    /// Everything before this revision has been settled by what was delivered.
    needed: i64,
    /// No change from `needed` to here is one that the watch is for.
    searched: i64,
    over: bool,
}

impl<'a> Judge<'a> {
    fn new(watch: &'a WatchRun<'a>, model: &'a Model, compactions: &'a [(i64, Place)]) -> Checked<Self> {
        if watch.created.is_none() && !watch.deliveries.is_empty() {
            let text = format!("watch {} delivered something but was not created", watch.id);
            return Err(Violation::new(Property::WellFormed, [watch.id], None, text));
        }
        let created = watch.created.map_or(i64::MAX - 1, |(_, revision)| revision);
        let from = if watch.request.start_revision > 0 { watch.request.start_revision } else { created + 1 };
        Ok(Self { watch, model, compactions, from, needed: from, searched: from, over: false })
    }

    fn run(mut self, tally: &mut Tally) -> Checked {
        for (number, &(place, delivery)) in self.watch.deliveries.iter().enumerate() {
            if self.over {
                return Err(self.broken(Property::WatchCancel, None, format!("delivered {} after its end", short(delivery))));
            }
            match delivery {
                Delivery::Events { revision, events } => {
                    self.on_events(number, place, *revision, events)?;
                    tally.events += events.len() as u64;
                }
                Delivery::Progress { revision } => self.on_progress(*revision)?,
                Delivery::Compacted { compact_revision } => self.on_compacted(place, *compact_revision)?,
                Delivery::Closed => self.over = true,
            }
        }
        if !self.over
            && let Some(revision) = self.next_due()
        {
            tally.behind.push((self.watch.id, revision));
        }
        tally.steps += self.watch.deliveries.len() as u64 + u64::try_from(self.searched - self.from).unwrap_or(0);
        Ok(())
    }

    fn on_events(&mut self, number: usize, place: Place, header: i64, events: &[Event]) -> Checked {
        if events.is_empty() {
            return Err(self.broken(Property::WellFormed, None, "delivered a response without events that is no progress".into()));
        }
        for group in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
            let revision = group[0].kv.mod_revision;
            let due = if revision < self.needed { None } else { self.next_due() };
            if due != Some(revision) {
                return Err(self.unexpected(number, group, due));
            }
            self.check_group(number, place, revision, group)?;
            self.needed = revision + 1;
        }
        if header < self.needed - 1 {
            let text = format!("delivered an event of revision {} in a response of revision {header}", self.needed - 1);
            return Err(self.broken(Property::WatchBookmarkable, Some(header), text));
        }
        Ok(())
    }

    /// The events of one revision against the model's.
    fn check_group(&self, number: usize, place: Place, revision: i64, group: &[Event]) -> Checked {
        let due: Vec<_> = self.model.events(revision).filter(|event| wants(self.watch.request, &event.kv.key, event.deleted)).collect();
        if due.len() != group.len() || !due.iter().zip(group).all(|(due, got)| same_change(due, got)) {
            let found = |event: &Event| due.iter().any(|due| same_change(due, event));
            let came = |due: &Event| group.iter().any(|got| same_change(due, got));
            let missing = due.iter().find(|due| !came(due));
            let property = if !group.iter().all(found) {
                Property::WatchReliable
            } else if let Some(missing) = missing {
                let later = self.events_of(number + 1).any(|event| same_change(missing, event));
                if later { Property::WatchAtomic } else { Property::WatchReliable }
            } else if group.len() > due.len() {
                Property::WatchUnique
            } else {
                Property::WatchOrdered
            };
            let text = format!("delivered {} where {} was due together", short(&group), short(&due));
            return Err(self.broken(property, Some(revision), text));
        }
        for (due, got) in due.iter().zip(group) {
            self.check_previous(place, due, got)?;
        }
        Ok(())
    }

    fn check_previous(&self, place: Place, due: &Event, got: &Event) -> Checked {
        let revision = due.kv.mod_revision;
        let expected: Option<&KeyValue> = due.prev_kv.as_ref().filter(|_| self.watch.request.prev_kv);
        // The state before is unreadable once it is compacted.
        let compacted = || self.compactions.iter().any(|&(floor, called)| floor >= revision && called < place);
        if got.prev_kv.as_ref() == expected || got.prev_kv.is_none() && compacted() {
            return Ok(());
        }
        let text = format!("delivered {} with the previous value {} instead of {}", short(&got.kv), short(&got.prev_kv), short(&expected));
        Err(self.broken(Property::WatchPreviousValue, Some(revision), text))
    }

    fn on_progress(&mut self, revision: i64) -> Checked {
        if revision + 1 < self.from {
            let text = format!("reported progress through {revision}, before its start at {}", self.from);
            return Err(self.broken(Property::WatchBookmarkable, Some(revision), text));
        }
        if let Some(due) = self.next_due().filter(|&due| due <= revision) {
            let text = format!("reported progress through {revision} but had not delivered the change of revision {due}");
            return Err(self.broken(Property::WatchBookmarkable, Some(due), text));
        }
        self.needed = self.needed.max(revision + 1);
        Ok(())
    }

    fn on_compacted(&mut self, place: Place, compact_revision: i64) -> Checked {
        self.over = true;
        if !self.compactions.iter().any(|&(floor, called)| floor == compact_revision && called < place) {
            let text = format!("ended as compacted at {compact_revision}, to which nobody had compacted");
            return Err(self.broken(Property::WatchCancel, Some(compact_revision), text));
        }
        if self.needed >= compact_revision {
            let text = format!("ended as compacted at {compact_revision}, though it needed nothing before {}", self.needed);
            return Err(self.broken(Property::WatchCancel, Some(compact_revision), text));
        }
        Ok(())
    }

    /// The revision of the next change that this watch is for.
    fn next_due(&mut self) -> Option<i64> {
        let request = self.watch.request;
        if request.keys.end.is_none() {
            let unwanted = |deleted| if deleted { request.no_delete } else { request.no_put };
            return self.model.next_change(&request.keys.key, self.needed, |deleted| !unwanted(deleted));
        }
        self.searched = self.searched.max(self.needed);
        while self.searched <= self.model.revision() {
            if self.model.changed_keys(self.searched).any(|(key, deleted)| wants(request, key, deleted)) {
                return Some(self.searched);
            }
            self.searched += 1;
        }
        None
    }

    /// Names what is wrong with events that were not due.
    fn unexpected(&self, number: usize, group: &[Event], due: Option<i64>) -> Violation {
        let event = &group[0];
        let revision = event.kv.mod_revision;
        let before = self.watch.deliveries[..number].iter().flat_map(|(_, delivery)| events(delivery));
        let (property, why) = if revision < self.from {
            (Property::WatchReliable, format!("it began at {}", self.from))
        } else if before.clone().any(|earlier| same_change(earlier, event)) {
            (Property::WatchUnique, "it had been delivered before".into())
        } else if before.clone().any(|earlier| earlier.kv.mod_revision == revision) {
            (Property::WatchAtomic, "other changes of that revision had been delivered before".into())
        } else if let Some(due) = due.filter(|&due| due < revision) {
            let later = self.events_of(number).any(|event| event.kv.mod_revision == due);
            let property = if later { Property::WatchOrdered } else { Property::WatchReliable };
            (property, format!("the change of revision {due} was due"))
        } else {
            (Property::WatchReliable, "no such change was ever made, or none that it asked for".into())
        };
        self.broken(property, Some(revision), format!("delivered {}; {why}", short(event)))
    }

    fn events_of(&self, from_delivery: usize) -> impl Iterator<Item = &'a Event> {
        self.watch.deliveries[from_delivery..].iter().flat_map(|(_, delivery)| events(delivery))
    }

    fn broken(&self, property: Property, revision: Option<i64>, text: String) -> Violation {
        let text = format!("watch {} ({}) {text}", self.watch.id, short(self.watch.request));
        Violation::new(property, [self.watch.id], revision, text)
    }
}

fn events(delivery: &Delivery) -> &[Event] {
    match delivery {
        Delivery::Events { events, .. } => events,
        _ => &[],
    }
}

/// Of a delete only key and revision mean something.
fn same_change(a: &Event, b: &Event) -> bool {
    a.deleted == b.deleted && a.kv.key == b.kv.key && a.kv.mod_revision == b.kv.mod_revision && (a.deleted || a.kv == b.kv)
}
