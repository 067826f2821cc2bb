//! What all clients of a run do, in one order, and what the one who breaks things waits for.

use quorate_checker::history::{ClientId, Delivery, Nanos, OpId, Outcome, Record, Request, Response};
use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Shared by all clients. A record is placed before its request is sent, and after its answer is received, under one lock.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
    /// How often each member has been killed.
    lives: Vec<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    next_op: OpId,
    acknowledged_writes: u64,
    newest_revision: i64,
    /// The newest revision each watcher has been told of.
    watched: Vec<i64>,
    outage: Option<Outage>,
    gap: Option<Gap>,
}

/// The longest time without an acknowledged write since it was asked for.
#[derive(Clone, Copy, Debug)]
struct Gap {
    last: Instant,
    longest: Duration,
}

/// From the moment something was broken; over once a write called after it is acknowledged.
#[derive(Clone, Copy, Debug)]
struct Outage {
    first_op: OpId,
    since: Instant,
    over: Option<Duration>,
}

impl Recorder {
    pub fn new(members: usize, watchers: usize) -> Self {
        Self {
            start: Instant::now(),
            state: Mutex::new(State { watched: vec![0; watchers], ..State::default() }),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
            lives: (0..members).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub fn life(&self, member: usize) -> u64 {
        self.lives[member].load(Ordering::SeqCst)
    }

    /// To be called before a member is killed.
    pub fn ends_a_life(&self, member: usize) {
        self.lives[member].fetch_add(1, Ordering::SeqCst);
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub fn attached(&self, client: ClientId, member: usize) {
        self.place(|at, state| state.records.push(Record::Attached { client, at, member: member as u64 }));
    }

    /// The next operation's number, which goes into what it writes.
    pub fn invoke(&self, client: ClientId, request: impl FnOnce(OpId) -> Request) -> (OpId, Request) {
        self.place(|at, state| {
            state.next_op += 1;
            let op = state.next_op;
            let request = request(op);
            state.records.push(Record::Invoke { op, client, at, request: request.clone() });
            (op, request)
        })
    }

    pub fn returned(&self, op: OpId, outcome: Outcome) {
        self.place(|at, state| {
            if let Outcome::Ok { response, .. } = &outcome {
                state.newest_revision = state.newest_revision.max(response.revision());
                if matches!(response, Response::Put { .. } | Response::Txn { succeeded: true, .. }) {
                    state.acknowledged_writes += 1;
                    if let Some(gap) = &mut state.gap {
                        gap.longest = gap.longest.max(gap.last.elapsed());
                        gap.last = Instant::now();
                    }
                    if let Some(outage) = state.outage.as_mut().filter(|outage| op > outage.first_op) {
                        outage.over.get_or_insert(outage.since.elapsed());
                    }
                }
            }
            state.records.push(Record::Return { op, at, outcome });
        });
        self.changed.notify_all();
    }

    pub fn delivered(&self, watcher: usize, watch: OpId, delivery: Delivery) {
        self.place(|at, state| {
            if let Delivery::Events { revision, .. } | Delivery::Progress { revision } = &delivery {
                state.watched[watcher] = *revision;
            }
            state.records.push(Record::Delivered { watch, at, delivery });
        });
        self.changed.notify_all();
    }

    /// Notes that something is broken from now on.
    pub fn fault(&self, what: &str) {
        self.place(|at, state| {
            state.outage = Some(Outage { first_op: state.next_op, since: Instant::now(), over: None });
            state.records.push(Record::Fault { at, what: what.into() });
        });
    }

    /// Waits for the first write that was called after the last fault and acknowledged; says how long after the fault that was.
    pub fn wait_recovered(&self, limit: Duration) -> Option<Duration> {
        self.wait(limit, |state| state.outage.and_then(|outage| outage.over))
    }

    /// Measures the longest time without an acknowledged write from now on.
    pub fn measure_gap(&self) {
        self.lock().gap = Some(Gap { last: Instant::now(), longest: Duration::ZERO });
    }

    /// The longest one since the last [`Self::measure_gap`], also if it has not ended.
    pub fn longest_gap(&self) -> Duration {
        self.lock().gap.map_or(Duration::ZERO, |gap| gap.longest.max(gap.last.elapsed()))
    }

    /// Waits until so many more writes are acknowledged.
    pub fn wait_writes(&self, more: u64, limit: Duration) -> bool {
        let goal = self.lock().acknowledged_writes + more;
        self.wait(limit, |state| (state.acknowledged_writes >= goal).then_some(())).is_some()
    }

    /// Waits until every watcher has been told of the newest revision that anybody saw.
    pub fn wait_watchers(&self, limit: Duration) -> bool {
        self.wait(limit, |state| state.watched.iter().all(|&revision| revision >= state.newest_revision).then_some(())).is_some()
    }

    pub fn newest_revision(&self) -> i64 {
        self.lock().newest_revision
    }

    pub fn acknowledged_writes(&self) -> u64 {
        self.lock().acknowledged_writes
    }

    pub fn take_records(&self) -> Vec<Record> {
        std::mem::take(&mut self.lock().records)
    }

    fn wait<T>(&self, limit: Duration, done: impl Fn(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(result) = done(&state) {
                return Some(result);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.changed.wait_timeout(state, left).expect("no client panics").0;
        }
    }

    fn place<T>(&self, change: impl FnOnce(Nanos, &mut State) -> T) -> T {
        let mut state = self.lock();
        let at = Nanos::try_from(self.start.elapsed().as_nanos()).expect("a run of less than centuries");
        change(at, &mut state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no client panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_checker::history::Put;

    fn put(op: OpId) -> Request {
        Request::Put(Put { key: b"k".to_vec(), value: op.to_string().into_bytes(), ..Put::default() })
    }

    fn acknowledged(revision: i64) -> Outcome {
        Outcome::Ok { response: Response::Put { revision, prev_kv: None }, rank: None }
    }

    #[test]
    fn an_outage_ends_with_a_write_called_after_it_began() {
        let recorder = Recorder::new(1, 0);
        let (early, _) = recorder.invoke(1, put);
        recorder.fault("kill");
        recorder.returned(early, acknowledged(2));
        assert_eq!(recorder.wait_recovered(Duration::ZERO), None);
        let (late, _) = recorder.invoke(1, put);
        recorder.returned(late, acknowledged(3));
        assert!(recorder.wait_recovered(Duration::ZERO).is_some());
    }

    #[test]
    fn a_gap_is_as_long_as_nothing_is_acknowledged() {
        let recorder = Recorder::new(1, 0);
        recorder.measure_gap();
        let (op, _) = recorder.invoke(1, put);
        recorder.returned(op, acknowledged(2));
        let first = recorder.lock().gap.expect("it is measured").longest;
        let (op, _) = recorder.invoke(1, put);
        recorder.returned(op, Outcome::Unknown);
        assert_eq!(recorder.lock().gap.expect("it is measured").longest, first, "what is not acknowledged ends no gap");
        assert!(recorder.longest_gap() >= first);
    }

    #[test]
    fn watchers_are_done_when_all_know_the_newest_revision() {
        let recorder = Recorder::new(1, 2);
        let (op, _) = recorder.invoke(1, put);
        recorder.returned(op, acknowledged(2));
        recorder.delivered(0, 9, Delivery::Progress { revision: 2 });
        assert!(!recorder.wait_watchers(Duration::ZERO));
        recorder.delivered(1, 9, Delivery::Progress { revision: 2 });
        assert!(recorder.wait_watchers(Duration::ZERO));
    }

    #[test]
    fn records_come_out_in_the_order_of_their_times() {
        let recorder = Recorder::new(1, 0);
        for revision in 2..50 {
            let (op, _) = recorder.invoke(1, put);
            recorder.returned(op, acknowledged(revision));
        }
        let stats = quorate_checker::check(&recorder.take_records(), None, quorate_checker::Budget::default()).expect_holds();
        assert_eq!(stats.writes, 48);
    }
}
