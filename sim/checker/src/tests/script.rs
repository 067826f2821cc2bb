//! Histories made by hand.

use crate::{Budget, Entry, Property, Stats, Step, Verdict, Violation, Witness, check, history::*, model::Model};

/// The search may not be asked.
pub(super) const NO_SEARCH: Budget = Budget { steps: 0, time: std::time::Duration::ZERO };

/// Builds a history and its witness on a true store; the lies are told by the tests.
#[derive(Default)]
pub(super) struct Script {
    pub(super) records: Vec<Record>,
    pub(super) model: Model,
    pub(super) log: Vec<OpId>,
    pub(super) ops: OpId,
}

impl Script {
    pub(super) fn call(&mut self, request: Request) -> OpId {
        self.ops += 1;
        let at = self.records.len() as Nanos;
        self.records.push(Record::Invoke { op: self.ops, client: 1, at, request });
        self.ops
    }

    /// The log has it, once.
    pub(super) fn logged(&mut self, op: OpId) {
        let is_logged =
            |record: &Record| matches!(record, Record::Invoke { op: called, request, .. } if *called == op && request.is_logged());
        if self.records.iter().any(is_logged) && !self.log.contains(&op) {
            self.log.push(op);
        }
    }

    pub(super) fn answer(&mut self, op: OpId, outcome: Outcome) {
        if let Outcome::Ok { .. } = outcome {
            self.logged(op);
        }
        let at = self.records.len() as Nanos;
        self.records.push(Record::Return { op, at, outcome });
    }

    pub(super) fn ok(&mut self, op: OpId, response: Response) {
        self.answer(op, Outcome::Ok { response, rank: None });
    }

    /// One operation from call to return, answered truly.
    pub(super) fn done(&mut self, request: Request) -> Response {
        let op = self.call(request.clone());
        let answer = self.model.apply(&request);
        self.logged(op);
        match &answer {
            Ok(response) => self.ok(op, response.clone()),
            Err(refused) => self.answer(op, Outcome::Refused(refused.clone())),
        }
        answer.unwrap_or(Response::Compact { revision: 0 })
    }

    /// An operation whose answer is lost; whether it is `carried_out` nobody says.
    pub(super) fn lost(&mut self, request: Request, carried_out: bool) -> OpId {
        let op = self.call(request.clone());
        if carried_out {
            self.model.apply(&request).expect("valid");
            self.logged(op);
        }
        self.answer(op, Outcome::Unknown);
        op
    }

    pub(super) fn watch(&mut self, watch: Watch) -> OpId {
        let op = self.call(Request::Watch(watch));
        self.ok(op, Response::Watch { revision: self.model.revision() });
        op
    }

    pub(super) fn deliver(&mut self, watch: OpId, delivery: Delivery) {
        let at = self.records.len() as Nanos;
        self.records.push(Record::Delivered { watch, at, delivery });
    }

    pub(super) fn events(&mut self, watch: OpId, events: Vec<Event>) {
        self.deliver(watch, Delivery::Events { revision: self.model.revision(), events });
    }

    pub(super) fn true_events(&self, revision: i64) -> Vec<Event> {
        self.model.events(revision).map(|event| Event { prev_kv: None, ..event }).collect()
    }

    pub(super) fn witness(&self) -> Witness {
        let entries = (1..).zip(&self.log).map(|(index, op)| Entry { index, step: Step::Operation(*op) }).collect();
        Witness { entries, is_whole: true }
    }

    /// With the order of the log at hand, this is found.
    #[track_caller]
    pub(super) fn denied(&self) -> Violation {
        match check(&self.records, Some(&self.witness()), NO_SEARCH) {
            Verdict::Broken(violation) => violation,
            other => panic!("nothing found with the witness: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn denies(&self, property: Property) {
        let violation = self.denied();
        assert_eq!(violation.property, property, "with the witness: {violation}");
    }

    /// The search finds what is wrong, and so does the witness, by the same name.
    #[track_caller]
    pub(super) fn breaks(&self, property: Property) {
        self.breaks_either(property, property);
    }

    /// What is wrong has one name for the search, and another for the witness, which sees more of it.
    #[track_caller]
    pub(super) fn breaks_either(&self, searched: Property, witnessed: Property) {
        match check(&self.records, None, Budget::default()) {
            Verdict::Broken(violation) => assert_eq!(violation.property, searched, "{violation}"),
            other => panic!("nothing found: {other:?}"),
        }
        self.denies(witnessed);
    }

    /// With the witness, and without.
    #[track_caller]
    pub(super) fn holds(&self) -> Stats {
        let verified = check(&self.records, Some(&self.witness()), Budget::default()).expect_holds();
        let found = check(&self.records, None, Budget::default()).expect_holds();
        assert_eq!(Stats { steps: 0, ..verified }, Stats { steps: 0, ..found.clone() });
        found
    }
}

pub(super) fn put(key: &str, value: &str) -> Request {
    Request::Put(Put { key: key.into(), value: value.into(), ..Put::default() })
}

pub(super) fn get(key: &str) -> Request {
    Request::Range(Range { keys: Keys::one(key), ..Range::default() })
}

pub(super) fn get_at(key: &str, revision: i64) -> Request {
    Request::Range(Range { keys: Keys::one(key), revision, ..Range::default() })
}

pub(super) fn stale_get(key: &str) -> Request {
    Request::Range(Range { keys: Keys::one(key), serializable: true, ..Range::default() })
}

pub(super) fn delete(key: &str) -> Request {
    Request::DeleteRange(DeleteRange { keys: Keys::one(key), prev_kv: false })
}

pub(super) fn two_puts(a: &str, b: &str) -> Request {
    Request::Txn(Txn { success: vec![put(a, "1"), put(b, "1")], ..Txn::default() })
}

/// Three writes of `a` and `b`, the last of both at once: revisions 2, 3, 4.
pub(super) fn three_writes() -> Script {
    let mut script = Script::default();
    script.done(put("a", "first"));
    script.done(put("b", "second"));
    script.done(two_puts("a", "b"));
    script
}

/// The same and one more, acknowledged, of which the store knows nothing afterwards.
pub(super) fn lost_write() -> Script {
    let mut script = three_writes();
    let before = script.model.clone();
    script.done(put("a", "lost"));
    script.model = before;
    script
}
