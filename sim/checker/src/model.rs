//! The store as etcd's API describes it, one operation at a time: what every answer must equal.
//!
//! Written the obvious way, and nothing is ever thrown away: compaction only raises a floor, so any state of the past can be asked again.

use crate::history::{
    Compare, DeleteRange, Event, Key, KeyValue, Keys, Put, Range, Refused, Relation, Request, Response, Target, Txn, Value,
};
use std::collections::{BTreeMap, BTreeSet};

/// A fresh store's revision.
pub const FIRST_REVISION: i64 = 1;
/// The floor before the first compaction.
pub const NEVER_COMPACTED: i64 = -1;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Model {
    revision: i64,
    compacted: i64,
    index: BTreeMap<Key, usize>,
    keys: Vec<(Key, Vec<Version>)>,
    /// Every change in order: the key's place in `keys` and the version's place there.
    changes: Vec<(usize, usize)>,
    /// Where the changes of each revision after the first begin.
    starts: Vec<usize>,
    /// Those there are now: of the past nobody asks.
    leases: BTreeSet<i64>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Version {
    mod_revision: i64,
    create_revision: i64,
    version: i64,
    /// `None`: a tombstone.
    value: Option<Value>,
    lease: i64,
}

/// What an operation answers, and what it changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evaluation {
    pub response: Response,
    pub changes: Vec<Change>,
}

/// `kv`: what the key holds from now on; `None` when it was deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub key: Key,
    pub kv: Option<KeyValue>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            revision: FIRST_REVISION,
            compacted: NEVER_COMPACTED,
            index: BTreeMap::new(),
            keys: Vec::new(),
            changes: Vec::new(),
            starts: Vec::new(),
            leases: BTreeSet::new(),
        }
    }
}

impl Model {
    #[must_use]
    pub const fn revision(&self) -> i64 {
        self.revision
    }

    /// Reads below this are refused.
    #[must_use]
    pub const fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Carries out one operation on the newest state.
    pub fn apply(&mut self, request: &Request) -> Result<Response, Refused> {
        let evaluation = self.evaluate(request, self.revision, self.compacted)?;
        if let Request::Compact { revision } = request {
            self.compacted = *revision;
        }
        self.note(request);
        if !evaluation.changes.is_empty() {
            self.commit(evaluation.changes);
        }
        Ok(evaluation.response)
    }

    /// Takes note of what a request that was carried out did to the leases.
    pub fn note(&mut self, request: &Request) {
        match request {
            Request::LeaseGrant { lease, .. } => drop(self.leases.insert(*lease)),
            Request::LeaseRevoke { lease } => drop(self.leases.remove(lease)),
            _ => {}
        }
    }

    /// Ends a lease, if it is there; returns what becomes of its keys.
    pub fn end_lease(&mut self, lease: i64) -> Vec<Change> {
        if self.leases.remove(&lease) { self.keys_of(lease).map(|key| Change { key, kv: None }).collect() } else { Vec::new() }
    }

    /// Keys attached to a lease at the newest revision, ascending.
    fn keys_of(&self, lease: i64) -> impl Iterator<Item = Key> {
        let attached = move |place: usize| self.live(place, self.revision).is_some_and(|version| version.lease == lease);
        self.index.iter().filter(move |(_, place)| attached(**place)).map(|(key, _)| key.clone())
    }

    /// What `request` would answer and change on the state of revision `at` with everything below `floor` compacted.
    pub fn evaluate(&self, request: &Request, at: i64, floor: i64) -> Result<Evaluation, Refused> {
        let writes = matches!(request, Request::Txn(_)) && request.is_logged();
        self.validate(request, at, floor, writes)?;
        let mut execution = Execution { model: self, at, current: BTreeMap::new(), order: Vec::new() };
        let response = execution.run(request);
        let Execution { mut current, order, .. } = execution;
        let changes = order.into_iter().map(|key| Change { kv: current.remove(&key).flatten(), key }).collect();
        Ok(Evaluation { response, changes })
    }

    /// Makes `changes` the next revision.
    pub fn commit(&mut self, changes: Vec<Change>) {
        assert!(!changes.is_empty(), "a revision without a change");
        self.revision += 1;
        self.starts.push(self.changes.len());
        for Change { key, kv } in changes {
            let place = match self.index.get(&key) {
                Some(&place) => place,
                None => {
                    self.index.insert(key.clone(), self.keys.len());
                    self.keys.push((key, Vec::new()));
                    self.keys.len() - 1
                }
            };
            let versions = &mut self.keys[place].1;
            self.changes.push((place, versions.len()));
            versions.push(match kv {
                Some(kv) => Version {
                    mod_revision: self.revision,
                    create_revision: kv.create_revision,
                    version: kv.version,
                    value: Some(kv.value),
                    lease: kv.lease,
                },
                None => Version { mod_revision: self.revision, create_revision: 0, version: 0, value: None, lease: 0 },
            });
        }
    }

    /// Forgets every revision after `revision`.
    pub fn undo_to(&mut self, revision: i64) {
        while self.revision > revision {
            let start = self.starts.pop().expect("a start per revision");
            for (place, _) in self.changes.drain(start..).rev() {
                self.keys[place].1.pop();
            }
            self.revision -= 1;
        }
    }

    /// The changes of one revision, in order, as a watch with `prev_kv` shows them.
    pub fn events(&self, revision: i64) -> impl Iterator<Item = Event> + '_ {
        self.changes_of(revision).iter().map(|&(place, version)| self.event(place, version))
    }

    /// The keys that one revision changed, in order, and whether it deleted them.
    pub fn changed_keys(&self, revision: i64) -> impl Iterator<Item = (&Key, bool)> + '_ {
        self.changes_of(revision).iter().map(|&(place, version)| (&self.keys[place].0, self.keys[place].1[version].value.is_none()))
    }

    /// The first revision from `from` on that changed `key` in a way `wanted` wants (told whether it was a delete).
    pub fn next_change(&self, key: &[u8], from: i64, wanted: impl Fn(bool) -> bool) -> Option<i64> {
        let versions = &self.keys[*self.index.get(key)?].1;
        let start = versions.partition_point(|v| v.mod_revision < from);
        versions[start..].iter().find(|v| wanted(v.value.is_none())).map(|v| v.mod_revision)
    }

    /// What `key` held at revision `at`.
    #[must_use]
    pub fn get(&self, key: &[u8], at: i64) -> Option<KeyValue> {
        self.live(*self.index.get(key)?, at).map(|version| key_value(key, version))
    }

    fn changes_of(&self, revision: i64) -> &[(usize, usize)] {
        let Some(place) = usize::try_from(revision - FIRST_REVISION - 1).ok().filter(|&place| place < self.starts.len()) else {
            return &[];
        };
        let end = self.starts.get(place + 1).copied().unwrap_or(self.changes.len());
        &self.changes[self.starts[place]..end]
    }

    fn event(&self, place: usize, version: usize) -> Event {
        let (key, versions) = &self.keys[place];
        let now = &versions[version];
        let prev_kv = version.checked_sub(1).map(|before| &versions[before]).filter(|v| v.value.is_some()).map(|v| key_value(key, v));
        Event { deleted: now.value.is_none(), kv: key_value(key, now), prev_kv }
    }

    fn live(&self, place: usize, at: i64) -> Option<&Version> {
        let versions = &self.keys[place].1;
        let newest = match versions.last() {
            Some(last) if last.mod_revision <= at => last,
            _ => &versions[versions.partition_point(|v| v.mod_revision <= at).checked_sub(1)?],
        };
        newest.value.is_some().then_some(newest)
    }

    /// The live keys of an interval at revision `at`, ascending.
    fn live_in<'a>(&'a self, keys: &'a Keys, at: i64) -> Box<dyn Iterator<Item = (&'a [u8], &'a Version)> + 'a> {
        let live = move |(key, &place): (&'a Key, &usize)| Some((key.as_slice(), self.live(place, at)?));
        match &keys.end {
            None => Box::new(self.index.get_key_value(&keys.key).and_then(live).into_iter()),
            Some(end) if end.is_empty() => Box::new(self.index.range(keys.key.clone()..).filter_map(live)),
            Some(end) if *end <= keys.key => Box::new(std::iter::empty()),
            Some(end) => Box::new(self.index.range(keys.key.clone()..end.clone()).filter_map(live)),
        }
    }

    /// Refuses what cannot be done; only the taken branches count, and all is judged on the state before.
    fn validate(&self, request: &Request, at: i64, floor: i64, in_writing_txn: bool) -> Result<(), Refused> {
        match request {
            Request::Range(range) if range.revision > at => Err(Refused::FutureRevision),
            Request::Range(range) if range.revision > 0 && range.revision < floor => Err(Refused::Compacted),
            Request::Range(range) if range.revision < 0 && in_writing_txn => Err(Refused::Compacted),
            Request::Put(put) if put.lease != 0 && !self.leases.contains(&put.lease) => Err(Refused::LeaseNotFound),
            Request::LeaseGrant { lease, .. } if self.leases.contains(lease) => Err(Refused::LeaseExists),
            Request::LeaseRevoke { lease } if !self.leases.contains(lease) => Err(Refused::LeaseNotFound),
            Request::Put(put) if (put.ignore_value || put.ignore_lease) && self.get(&put.key, at).is_none() => Err(Refused::KeyNotFound),
            Request::Compact { revision } if *revision <= floor => Err(Refused::Compacted),
            Request::Compact { revision } if *revision > at => Err(Refused::FutureRevision),
            Request::Txn(txn) => self.branch(txn, at).1.iter().try_for_each(|op| self.validate(op, at, floor, in_writing_txn)),
            Request::Watch(_) | Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => {
                Err(Refused::Other("not a step of the store".into()))
            }
            _ => Ok(()),
        }
    }

    /// Whether all compares hold on the state of revision `at`, and what is to be done then.
    fn branch<'t>(&self, txn: &'t Txn, at: i64) -> (bool, &'t [Request]) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare, at));
        (succeeded, if succeeded { &txn.success } else { &txn.failure })
    }

    /// Every key of the interval must satisfy the compare; an empty interval counts as one key that is not there.
    fn holds(&self, compare: &Compare, at: i64) -> bool {
        let mut found = self.live_in(&compare.keys, at).map(|(_, version)| Some(version)).peekable();
        if found.peek().is_none() {
            return satisfies(compare, None);
        }
        found.all(|version| satisfies(compare, version))
    }
}

fn satisfies(compare: &Compare, stored: Option<&Version>) -> bool {
    let number = |f: fn(&Version) -> i64, given: &i64| stored.map_or(0, f).cmp(given);
    let order = match &compare.target {
        Target::Version(given) => number(|v| v.version, given),
        Target::Create(given) => number(|v| v.create_revision, given),
        Target::Mod(given) => number(|v| v.mod_revision, given),
        Target::Lease(given) => number(|v| v.lease, given),
        // A missing key has no value to compare: false whatever the relation.
        Target::Value(given) => match stored.and_then(|v| v.value.as_ref()) {
            None => return false,
            Some(value) => value.cmp(given),
        },
    };
    match compare.relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Greater => order.is_gt(),
        Relation::Less => order.is_lt(),
    }
}

fn key_value(key: &[u8], version: &Version) -> KeyValue {
    KeyValue {
        key: key.to_vec(),
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
        version: version.version,
        value: version.value.clone().unwrap_or_default(),
        lease: version.lease,
    }
}

/// One operation on the way: its own writes lie over the state it began on.
struct Execution<'a> {
    model: &'a Model,
    at: i64,
    current: BTreeMap<Key, Option<KeyValue>>,
    order: Vec<Key>,
}

impl Execution<'_> {
    fn revision(&self) -> i64 {
        self.at + i64::from(!self.order.is_empty())
    }

    fn run(&mut self, request: &Request) -> Response {
        match request {
            Request::Range(range) => self.range(range),
            Request::Put(put) => self.put(put),
            Request::DeleteRange(delete) => self.delete(delete),
            Request::Txn(txn) => {
                let (succeeded, branch) = self.model.branch(txn, self.at);
                let responses = branch.iter().map(|op| self.run(op)).collect();
                Response::Txn { revision: self.revision(), succeeded, responses }
            }
            Request::Compact { .. } => Response::Compact { revision: self.at },
            Request::LeaseGrant { ttl_s, .. } => Response::LeaseGrant { revision: self.at, ttl_s: *ttl_s },
            Request::LeaseRevoke { lease } => {
                for key in self.model.keys_of(*lease).collect::<Vec<_>>() {
                    self.change(key, None);
                }
                Response::LeaseRevoke { revision: self.revision() }
            }
            Request::Watch(_) | Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => unreachable!("validated before"),
        }
    }

    fn range(&self, range: &Range) -> Response {
        let revision = self.revision();
        let limit = usize::try_from(range.limit).ok().filter(|&limit| limit > 0).unwrap_or(usize::MAX);
        let mut kvs = Vec::new();
        let mut count = 0;
        let mut take = |kv: &dyn Fn() -> KeyValue| {
            count += 1;
            if !range.count_only && kvs.len() < limit {
                kvs.push(kv());
            }
        };
        if range.revision > 0 || self.order.is_empty() {
            let at = if range.revision > 0 { range.revision } else { self.at };
            self.model.live_in(&range.keys, at).for_each(|(key, version)| take(&|| key_value(key, version)));
        } else {
            self.newest(&range.keys).values().for_each(|kv| take(&|| kv.clone()));
        }
        let more = !range.count_only && count > kvs.len();
        if range.keys_only {
            // As etcd answers it from its index alone, the lease is not told either.
            kvs.iter_mut().for_each(|kv| (kv.value, kv.lease) = (Value::new(), 0));
        }
        Response::Range { revision, kvs, more, count: i64::try_from(count).expect("few keys") }
    }

    fn put(&mut self, put: &Put) -> Response {
        let before = self.newest_of(&put.key);
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: before.as_ref().map_or(self.at + 1, |kv| kv.create_revision),
            mod_revision: self.at + 1,
            version: before.as_ref().map_or(0, |kv| kv.version) + 1,
            value: match &before {
                Some(kv) if put.ignore_value => kv.value.clone(),
                _ => put.value.clone(),
            },
            lease: match &before {
                Some(kv) if put.ignore_lease => kv.lease,
                _ => put.lease,
            },
        };
        self.change(put.key.clone(), Some(kv));
        Response::Put { revision: self.revision(), prev_kv: before.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &DeleteRange) -> Response {
        let gone = self.newest(&delete.keys);
        for key in gone.keys() {
            self.change(key.clone(), None);
        }
        let deleted = i64::try_from(gone.len()).expect("few keys");
        let prev_kvs = if delete.prev_kv { gone.into_values().collect() } else { Vec::new() };
        Response::DeleteRange { revision: self.revision(), deleted, prev_kvs }
    }

    fn change(&mut self, key: Key, kv: Option<KeyValue>) {
        if self.current.insert(key.clone(), kv).is_none() {
            self.order.push(key);
        }
    }

    fn newest_of(&self, key: &[u8]) -> Option<KeyValue> {
        self.current.get(key).cloned().unwrap_or_else(|| self.model.get(key, self.at))
    }

    fn newest(&self, keys: &Keys) -> BTreeMap<Key, KeyValue> {
        let mut found: BTreeMap<_, _> =
            self.model.live_in(keys, self.at).map(|(key, version)| (key.to_vec(), key_value(key, version))).collect();
        for (key, kv) in self.current.iter().filter(|(key, _)| keys.contains(key)) {
            match kv {
                Some(kv) => found.insert(key.clone(), kv.clone()),
                None => found.remove(key),
            };
        }
        found
    }
}
