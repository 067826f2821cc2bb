//! Random valid histories and their witnesses: several clients at once on one sequential store, with watches that lag, stale reads and
//! lost answers.

use crate::history::*;
use crate::model::{FIRST_REVISION, Model, NEVER_COMPACTED};
use crate::{Entry, Step, Witness};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

pub(super) struct Settings {
    pub(super) operations: usize,
    pub(super) clients: usize,
    pub(super) keys: u64,
    pub(super) watches: usize,
    /// Stale reads, which the exhaustive search does not know.
    pub(super) serializable: bool,
    /// Of a hundred operations, how many lose their answer.
    pub(super) unknown_percent: u64,
    /// Values repeat, so that they tell nothing about who wrote them.
    pub(super) dull_values: bool,
}

impl Settings {
    pub(super) const fn small() -> Self {
        Self { operations: 12, clients: 4, keys: 2, watches: 0, serializable: false, unknown_percent: 15, dull_values: false }
    }

    pub(super) const fn usual() -> Self {
        Self { operations: 300, clients: 8, keys: 6, watches: 4, serializable: true, unknown_percent: 5, dull_values: false }
    }
}

/// Where a client's operation stands.
enum Stage {
    Called,
    Done {
        answer: Result<Response, Refused>,
        place: usize,
    },
    /// The client was told that nobody knows.
    Lost,
}

struct Flight {
    op: OpId,
    client: ClientId,
    request: Request,
    stage: Stage,
}

struct OpenWatch {
    op: OpId,
    request: Watch,
    next: i64,
}

pub(super) struct Generator {
    rng: ChaCha8Rng,
    settings: Settings,
    records: Vec<Record>,
    model: Model,
    flights: Vec<Flight>,
    idle: Vec<ClientId>,
    watches: Vec<OpenWatch>,
    /// The operations of the log, and revision and floor before the first and after each.
    log: Vec<OpId>,
    states: Vec<(i64, i64)>,
    /// The newest place in the log that each client was shown.
    shown: Vec<usize>,
    next_op: OpId,
    at: Nanos,
}

pub(super) fn history(seed: u64, settings: Settings) -> Vec<Record> {
    history_and_witness(seed, settings).0
}

pub(super) fn history_and_witness(seed: u64, settings: Settings) -> (Vec<Record>, Witness) {
    let clients = u32::try_from(settings.clients).expect("few clients");
    let mut generator = Generator {
        rng: ChaCha8Rng::seed_from_u64(seed),
        records: Vec::new(),
        model: Model::default(),
        flights: Vec::new(),
        idle: (0..clients).collect(),
        watches: Vec::new(),
        log: Vec::new(),
        states: vec![(FIRST_REVISION, NEVER_COMPACTED)],
        shown: vec![0; settings.clients],
        next_op: 0,
        at: 0,
        settings,
    };
    generator.run();
    // Indexes with holes, as where entries are nobody's operation.
    let entries = (1..).zip(generator.log).map(|(place, op)| Entry { index: 3 * place, step: Step::Operation(op) }).collect();
    (generator.records, Witness { entries, is_whole: true })
}

impl Generator {
    fn run(&mut self) {
        for client in 0..self.idle.len() {
            let (client, at) = (client as ClientId, self.now());
            self.records.push(Record::Attached { client, at, member: u64::from(client) % 3 });
        }
        while self.next_op < self.settings.operations as u64 || self.flights.iter().any(|flight| !matches!(flight.stage, Stage::Lost)) {
            let calling = self.next_op < self.settings.operations as u64;
            match self.below(8) {
                0..=2 if calling => self.call(),
                3..=4 => self.carry_out(),
                5..=6 => self.give_back(),
                _ => self.deliver(),
            }
        }
        for index in 0..self.watches.len() {
            self.deliver_from(index, i64::MAX);
        }
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn now(&mut self) -> Nanos {
        self.at += self.rng.next_u64() % 3;
        self.at
    }

    fn call(&mut self) {
        if self.idle.is_empty() {
            return;
        }
        let client = self.idle.swap_remove(self.rng.next_u64() as usize % self.idle.len());
        let op = self.next_op;
        self.next_op += 1;
        if self.watches.len() < self.settings.watches && self.percent(10) {
            self.idle.push(client);
            return self.watch(op, client);
        }
        let request = self.request(op);
        let at = self.now();
        self.records.push(Record::Invoke { op, client, at, request: request.clone() });
        self.flights.push(Flight { op, client, request, stage: Stage::Called });
    }

    fn watch(&mut self, op: OpId, client: ClientId) {
        let revision = self.model.revision();
        let start_revision = match self.below(3) {
            0 => 0,
            1 => revision + 1 + self.below(3) as i64,
            _ => (revision - self.below(5) as i64).max(self.model.compacted()).max(1),
        };
        let request =
            Watch { keys: self.keys(), start_revision, prev_kv: self.percent(50), no_put: self.percent(10), no_delete: self.percent(10) };
        let at = self.now();
        self.records.push(Record::Invoke { op, client, at, request: Request::Watch(request.clone()) });
        let outcome = Outcome::Ok { response: Response::Watch { revision }, rank: None };
        self.records.push(Record::Return { op, at, outcome });
        let next = if start_revision > 0 { start_revision } else { revision + 1 };
        self.watches.push(OpenWatch { op, request, next });
    }

    fn carry_out(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let index = self.rng.next_u64() as usize % self.flights.len();
        let shown = self.shown[self.flights[index].client as usize];
        let stale = shown + self.rng.next_u64() as usize % (self.states.len() - shown);
        let flight = &mut self.flights[index];
        let lost = match flight.stage {
            Stage::Called => false,
            Stage::Lost => true,
            Stage::Done { .. } => return,
        };
        let (place, answer) = if flight.request.is_serializable() {
            let (at, floor) = self.states[stale];
            (stale, self.model.evaluate(&flight.request, at, floor).map(|evaluation| evaluation.response))
        } else {
            let answer = self.model.apply(&flight.request);
            if flight.request.is_logged() {
                self.log.push(flight.op);
                self.states.push((self.model.revision(), self.model.compacted()));
            }
            (self.states.len() - 1, answer)
        };
        if lost {
            self.flights.swap_remove(index);
        } else {
            flight.stage = Stage::Done { answer, place };
        }
    }

    fn give_back(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let index = self.rng.next_u64() as usize % self.flights.len();
        let lost = self.rng.next_u64() % 100 < self.settings.unknown_percent;
        let at = self.now();
        let flight = &mut self.flights[index];
        let (op, client) = (flight.op, flight.client);
        let outcome = match std::mem::replace(&mut flight.stage, Stage::Lost) {
            Stage::Lost => return,
            Stage::Called if lost => Outcome::Unknown,
            Stage::Called => return flight.stage = Stage::Called,
            Stage::Done { answer, place } => {
                let may_be_stale = flight.request.is_serializable();
                self.flights.swap_remove(index);
                if !lost && (may_be_stale || answer.is_ok()) {
                    let shown = &mut self.shown[client as usize];
                    *shown = (*shown).max(place);
                }
                match answer {
                    _ if lost => Outcome::Unknown,
                    Ok(response) => Outcome::Ok { response, rank: None },
                    Err(refused) => Outcome::Refused(refused),
                }
            }
        };
        self.records.push(Record::Return { op, at, outcome });
        self.idle.push(client);
    }

    fn deliver(&mut self) {
        if !self.watches.is_empty() {
            let index = self.rng.next_u64() as usize % self.watches.len();
            let through = self.model.revision() - self.below(4) as i64;
            self.deliver_from(index, through);
        }
    }

    fn deliver_from(&mut self, index: usize, through: i64) {
        let through = through.min(self.model.revision());
        let watch = &mut self.watches[index];
        if through < watch.next {
            return;
        }
        let mut events: Vec<_> = (watch.next..=through)
            .flat_map(|revision| self.model.events(revision))
            .filter(|event| crate::unknown::wants(&watch.request, &event.kv.key, event.deleted))
            .collect();
        if !watch.request.prev_kv {
            events.iter_mut().for_each(|event| event.prev_kv = None);
        }
        watch.next = through + 1;
        let op = watch.op;
        let at = self.now();
        if !events.is_empty() {
            let delivery = Delivery::Events { revision: self.model.revision(), events };
            self.records.push(Record::Delivered { watch: op, at, delivery });
        }
        if self.percent(30) {
            self.records.push(Record::Delivered { watch: op, at, delivery: Delivery::Progress { revision: through } });
        }
    }

    fn key(&mut self) -> Key {
        format!("k{}", self.below(self.settings.keys)).into_bytes()
    }

    fn keys(&mut self) -> Keys {
        let key = self.key();
        match self.below(4) {
            0 => Keys::default(),
            1 => Keys { key, end: Some(self.key()) },
            2 => Keys { key, end: Some(Vec::new()) },
            _ => Keys::one(key),
        }
    }

    fn value(&mut self, op: OpId) -> Value {
        if self.settings.dull_values { format!("{}", self.below(2)) } else { format!("{op}") }.into_bytes()
    }

    fn request(&mut self, op: OpId) -> Request {
        match self.below(20) {
            0..=1 => Request::Compact { revision: self.model.revision() - self.below(6) as i64 + 1 },
            2..=5 => Request::Txn(self.txn(op, 2)),
            _ => self.simple(op, 0),
        }
    }

    /// Puts of one txn are for different keys: `part` is the place of this one.
    fn simple(&mut self, op: OpId, part: u64) -> Request {
        match self.below(10) {
            0..=4 => {
                let key = if part == 0 { self.key() } else { format!("part{part}").into_bytes() };
                let ignore_value = self.percent(10);
                let value = if ignore_value { Vec::new() } else { self.value(op) };
                Request::Put(Put { key, value, prev_kv: self.percent(30), ignore_value, ..Put::default() })
            }
            5 if part == 0 => Request::DeleteRange(DeleteRange { keys: self.keys(), prev_kv: self.percent(50) }),
            _ => {
                let revision = if self.percent(30) { self.model.revision() + 1 - self.below(6) as i64 } else { 0 };
                Request::Range(Range {
                    keys: self.keys(),
                    revision: revision.max(0),
                    limit: self.below(3) as i64,
                    serializable: self.settings.serializable && self.percent(30),
                    keys_only: self.percent(10),
                    count_only: self.percent(10),
                })
            }
        }
    }

    fn txn(&mut self, op: OpId, depth: u64) -> Txn {
        let compares = self.below(3);
        let compare = (0..compares).map(|_| self.compare()).collect();
        let mut branch = |first: u64| -> Vec<Request> {
            let parts = self.below(3);
            (0..parts)
                .map(|part| {
                    if depth > 1 && self.percent(15) {
                        let compare = vec![self.compare()];
                        let success = vec![self.simple(op, first + part + 10)];
                        return Request::Txn(Txn { compare, success, failure: Vec::new() });
                    }
                    self.simple(op, first + part)
                })
                .collect()
        };
        let (success, failure) = (branch(1), branch(1));
        // Never a stale txn where nobody wants one.
        let mut txn = Txn { compare, success, failure };
        if !self.settings.serializable && Request::Txn(txn.clone()).is_serializable() {
            txn.success.push(Request::Put(Put { key: b"mark".to_vec(), value: self.value(op), ..Put::default() }));
        }
        txn
    }

    fn compare(&mut self) -> Compare {
        let number = self.below(4) as i64;
        let target = match self.below(4) {
            0 => Target::Version(number),
            1 => Target::Create(number),
            2 => Target::Mod(self.model.revision() - number),
            _ => Target::Value(format!("{number}").into_bytes()),
        };
        let relation = [Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less][self.below(4) as usize];
        Compare { keys: self.keys(), relation, target }
    }
}
