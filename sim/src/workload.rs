//! What clients do. Each is a future that awaits only things of this world, through its [`Port`]: a sleep, an answer, a delivery.

use crate::chance::Chance;
use crate::clock::{MILLISECOND, Nanos};
use crate::v2;
use quorate_checker::history::{
    Compare, DeleteRange, Delivery, Key, Keys, OpId, Outcome, Put, Range, Refused, Relation, Request, Response, Target, Txn, Watch,
};
use std::{cell::RefCell, collections::VecDeque, future::poll_fn, rc::Rc, task::Poll};

/// Clients that operate; some of them also watch, on streams of their own.
pub const CLIENTS: u32 = 8;
pub const WATCHERS: u32 = 4;
/// Leases that all share, about.
const LEASES: u64 = 9;
/// Above this the leases that last.
const LONG_LEASES: i64 = 100;
/// Of a thousand operations, how many are about leases.
const LEASES_PERMILLE: u64 = 250;
/// Operations of a client after which it grants no long leases any more.
const EARLY_OPERATIONS: u64 = 20;
/// Keys that all share: few, so that they collide.
const KEYS: u64 = 24;

/// What a client waits for.
#[derive(Debug)]
pub enum Ask {
    Sleep(Nanos),
    Call {
        member: usize,
        op: OpId,
        request: Request,
    },
    Watch {
        member: usize,
        op: OpId,
        request: Watch,
    },
    V2 {
        member: usize,
        op: OpId,
        asked: v2::Asked,
    },
    /// The next delivery of the watch, or nothing after so long.
    Delivery {
        watch: OpId,
        patience: Nanos,
    },
}

/// What a client does without waiting.
#[derive(Debug)]
pub enum Tell {
    Progress { watch: OpId },
    Close { watch: OpId },
}

#[derive(Debug)]
pub enum Answer {
    Slept,
    Outcome(Outcome),
    Delivery(Option<Delivery>),
    V2(v2::Outcome),
}

/// What a client and the world leave for each other.
#[derive(Debug, Default)]
pub struct Mailbox {
    pub ask: Option<Ask>,
    pub answer: Option<Answer>,
    pub told: VecDeque<Tell>,
    /// Set by the world: no new operations any more.
    pub stopping: bool,
    /// Set by the world: faults go on, so clients may be unkind to their watches.
    pub unkind: bool,
    /// Compactions asked for by the schedule.
    pub compactions: u64,
    /// The newest revision that any client was shown.
    pub revision: i64,
}

#[derive(Clone, Debug)]
pub struct Port {
    pub mailbox: Rc<RefCell<Mailbox>>,
    client: u32,
    members: usize,
    ops: Rc<RefCell<u64>>,
}

impl Port {
    #[must_use]
    pub fn new(client: u32, members: usize) -> Self {
        Self { mailbox: Rc::default(), client, members, ops: Rc::default() }
    }

    pub async fn ask(&self, ask: Ask) -> Answer {
        self.mailbox.borrow_mut().ask = Some(ask);
        poll_fn(|_| self.mailbox.borrow_mut().answer.take().map_or(Poll::Pending, Poll::Ready)).await
    }

    pub async fn sleep(&self, time: Nanos) {
        self.ask(Ask::Sleep(time)).await;
    }

    fn next_op(&self) -> OpId {
        let mut ops = self.ops.borrow_mut();
        *ops += 1;
        u64::from(self.client) * 1_000_000 + *ops
    }

    async fn call(&self, member: usize, op: OpId, request: Request) -> Outcome {
        match self.ask(Ask::Call { member, op, request }).await {
            Answer::Outcome(outcome) => {
                if let Outcome::Ok { response, .. } = &outcome {
                    let mut mailbox = self.mailbox.borrow_mut();
                    mailbox.revision = mailbox.revision.max(response.revision());
                }
                outcome
            }
            other => unreachable!("a call is answered by its outcome, not by {other:?}"),
        }
    }

    fn revision(&self) -> i64 {
        self.mailbox.borrow().revision
    }

    #[must_use]
    pub const fn members(&self) -> usize {
        self.members
    }

    /// Which of the v2 clients this is.
    #[must_use]
    pub const fn v2_number(&self) -> u32 {
        self.client - CLIENTS - WATCHERS
    }

    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.mailbox.borrow().stopping
    }
}

/// How a seed's clients differ from another's.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadShape {
    /// Between two operations of a client, at most.
    pub pause: Nanos,
    pub write_permille: u64,
    pub value_bytes: u64,
    /// Leases are granted and used. Their ends are nobody's operations, so whoever searches for an order goes without.
    pub leases: bool,
}

fn key(chance: &mut Chance) -> Key {
    // Half of all traffic is on a quarter of the keys.
    let number = if chance.permille(500) { chance.below(KEYS / 4) } else { chance.below(KEYS) };
    format!("k{number:02}").into_bytes()
}

fn keys(chance: &mut Chance) -> Keys {
    let key = key(chance);
    let end = match chance.below(6) {
        0..=2 => None,
        3 => Some(Vec::new()),
        _ => {
            let mut end = key.clone();
            *end.last_mut().expect("not empty") += chance.below(9) as u8;
            Some(end)
        }
    };
    Keys { key, end }
}

fn value(op: OpId, index: u64, shape: WorkloadShape, chance: &mut Chance) -> Vec<u8> {
    let mut value = format!("{op}.{index}").into_bytes();
    if chance.permille(100) {
        value.resize(value.len() + shape.value_bytes as usize, b'.');
    }
    value
}

fn put(key: Key, value: Vec<u8>, shape: WorkloadShape, chance: &mut Chance) -> Put {
    let put = Put { key, value, prev_kv: chance.permille(300), ..Put::default() };
    if !shape.leases {
        return put;
    }
    match chance.below(20) {
        0..=5 => Put { lease: lease(chance), ..put },
        6 => Put { ignore_lease: true, ..put },
        _ => put,
    }
}

/// One of a few ids that all share.
fn lease(chance: &mut Chance) -> i64 {
    chance.below(LEASES).cast_signed() - 2
}

/// Something about a lease. Mostly short ones, that come and go. `long`: one that nobody keeps, so that it ends by itself, whatever
/// leaders come and go, before the run does.
fn lease_request(long: Option<i64>, chance: &mut Chance) -> Request {
    if let Some(lease) = long.filter(|_| chance.permille(300)) {
        return Request::LeaseGrant { lease, ttl_s: chance.between(10, 40).cast_signed() };
    }
    // 0 is no lease, and so asks for none in particular.
    let lease = match lease(chance) {
        0 => LEASES.cast_signed(),
        id => id,
    };
    match chance.below(20) {
        0..=5 => Request::LeaseGrant { lease, ttl_s: chance.between(1, 6).cast_signed() },
        6 => Request::LeaseRevoke { lease },
        7..=9 => Request::LeaseTimeToLive { lease },
        _ => Request::LeaseKeepAlive { lease },
    }
}

/// A revision to read or watch from: now and then one that is compacted or still to come.
fn some_revision(known: i64, chance: &mut Chance) -> i64 {
    match chance.below(10) {
        0 => known + chance.below(3).cast_signed(),
        _ => (known - chance.tailed(0, 200).cast_signed()).max(1),
    }
}

fn range(known: i64, chance: &mut Chance) -> Range {
    Range {
        keys: keys(chance),
        revision: if chance.permille(250) { some_revision(known, chance) } else { 0 },
        limit: if chance.permille(200) { chance.between(1, 4).cast_signed() } else { 0 },
        serializable: chance.permille(250),
        keys_only: chance.permille(100),
        count_only: chance.permille(100),
    }
}

fn compare(known: i64, chance: &mut Chance) -> Compare {
    let relation = *chance.pick(&[Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less]);
    let target = match chance.below(5) {
        4 => Target::Lease(chance.below(LEASES).cast_signed() - 2),
        0 => Target::Version(chance.below(3).cast_signed()),
        1 => Target::Create((known - chance.tailed(0, 60).cast_signed()).max(0)),
        2 => Target::Mod((known - chance.tailed(0, 60).cast_signed()).max(0)),
        _ => Target::Value(format!("{}", chance.between(1, 8)).into_bytes()),
    };
    let keys = if chance.permille(800) { Keys { key: key(chance), end: None } } else { keys(chance) };
    Compare { keys, relation, target }
}

/// Operations of a txn: no key is put twice, in whatever branch, as etcd demands.
fn branch(
    op: OpId,
    index: &mut u64,
    depth: u32,
    free: &mut Vec<u64>,
    known: i64,
    shape: WorkloadShape,
    chance: &mut Chance,
) -> Vec<Request> {
    let mut requests = Vec::new();
    for _ in 0..chance.between(0, 3) {
        *index += 1;
        let request = match chance.below(10) {
            0..=4 if !free.is_empty() => {
                let number = free.swap_remove(chance.below(free.len() as u64) as usize);
                let key = format!("k{number:02}").into_bytes();
                Request::Put(put(key, value(op, *index, shape, chance), shape, chance))
            }
            5 if !free.is_empty() => {
                let number = free.swap_remove(chance.below(free.len() as u64) as usize);
                let key = format!("k{number:02}").into_bytes();
                Request::DeleteRange(DeleteRange { keys: Keys { key, end: None }, prev_kv: chance.permille(300) })
            }
            6 if depth > 0 => Request::Txn(txn(op, index, depth - 1, free, known, shape, chance)),
            _ => Request::Range(Range { revision: 0, serializable: false, ..range(known, chance) }),
        };
        requests.push(request);
    }
    requests
}

fn txn(op: OpId, index: &mut u64, depth: u32, free: &mut Vec<u64>, known: i64, shape: WorkloadShape, chance: &mut Chance) -> Txn {
    let compare = (0..chance.below(3)).map(|_| compare(known, chance)).collect();
    let success = branch(op, index, depth, free, known, shape, chance);
    let failure = branch(op, index, depth, free, known, shape, chance);
    Txn { compare, success, failure }
}

fn request(op: OpId, known: i64, shape: WorkloadShape, chance: &mut Chance) -> Request {
    if !chance.permille(shape.write_permille) {
        return Request::Range(range(known, chance));
    }
    match chance.below(100) {
        0..=54 => Request::Put(put(key(chance), value(op, 0, shape, chance), shape, chance)),
        55..=67 => Request::DeleteRange(DeleteRange { keys: keys(chance), prev_kv: chance.permille(300) }),
        68..=97 => Request::Txn(txn(op, &mut 0, 1, &mut (0..KEYS).collect(), known, shape, chance)),
        _ => Request::Compact { revision: (known - chance.tailed(0, 150).cast_signed()).max(1) },
    }
}

/// A client that operates until the world stops it.
pub async fn operate(port: Port, mut chance: Chance, shape: WorkloadShape) {
    let mut member = chance.below(port.members as u64) as usize;
    port.sleep(chance.below(shape.pause)).await;
    while !port.is_stopping() {
        let op = port.next_op();
        let known = port.revision();
        let asked_to_compact = {
            let mut mailbox = port.mailbox.borrow_mut();
            mailbox.compactions.checked_sub(1).map(|left| mailbox.compactions = left).is_some()
        };
        let request = if asked_to_compact {
            Request::Compact { revision: known.max(1) }
        } else if shape.leases && chance.permille(LEASES_PERMILLE) {
            let is_early = *port.ops.borrow() < EARLY_OPERATIONS;
            lease_request(is_early.then(|| LONG_LEASES + i64::from(port.client)), &mut chance)
        } else {
            request(op, known, shape, &mut chance)
        };
        let outcome = port.call(member, op, request).await;
        let failed = matches!(&outcome, Outcome::Unknown | Outcome::Refused(Refused::Other(_)));
        if failed || chance.permille(50) {
            member = chance.below(port.members as u64) as usize;
        }
        let pause = if failed { 150 * MILLISECOND } else { 0 };
        port.sleep(pause + chance.tailed(MILLISECOND, shape.pause)).await;
    }
}

/// A client that watches, resumes where it was cut off, and now and then breaks off by itself.
pub async fn observe(port: Port, mut chance: Chance) {
    port.sleep(chance.below(500 * MILLISECOND)).await;
    let mut last = 0;
    let mut template = new_watch(&mut chance);
    loop {
        let op = port.next_op();
        let member = chance.below(port.members as u64) as usize;
        let request = Watch { start_revision: template.start_revision, ..template.clone() };
        match port.ask(Ask::Watch { member, op, request }).await {
            Answer::Outcome(Outcome::Ok { response: Response::Watch { revision }, .. }) => last = last.max(revision),
            Answer::Outcome(_) => {
                if port.is_stopping() {
                    return;
                }
                port.sleep(chance.between(100 * MILLISECOND, 400 * MILLISECOND)).await;
                continue;
            }
            other => unreachable!("a watch is answered by its outcome, not by {other:?}"),
        }
        if chance.permille(400) {
            port.mailbox.borrow_mut().told.push_back(Tell::Progress { watch: op });
        }
        let unkind = chance.below(60);
        let mut next = template.start_revision.max(0);
        for count in 0_u64.. {
            let patience = chance.between(200 * MILLISECOND, 2_000 * MILLISECOND);
            let Answer::Delivery(delivery) = port.ask(Ask::Delivery { watch: op, patience }).await else {
                unreachable!("a delivery was asked for")
            };
            match delivery {
                Some(Delivery::Events { events, .. }) => {
                    if let Some(event) = events.last() {
                        next = event.kv.mod_revision + 1;
                        last = last.max(event.kv.mod_revision);
                    }
                }
                Some(Delivery::Progress { revision }) => next = next.max(revision + 1),
                Some(Delivery::Compacted { compact_revision }) => {
                    next = compact_revision;
                    break;
                }
                Some(Delivery::Closed) => break,
                None => {}
            }
            if chance.permille(60) {
                port.mailbox.borrow_mut().told.push_back(Tell::Progress { watch: op });
            }
            if count > unkind && port.mailbox.borrow().unkind {
                port.mailbox.borrow_mut().told.push_back(Tell::Close { watch: op });
                break;
            }
        }
        if chance.permille(600) {
            template.start_revision = next;
        } else {
            template = new_watch(&mut chance);
            template.start_revision = if chance.permille(500) { 0 } else { some_revision(last, &mut chance) };
        }
    }
}

fn new_watch(chance: &mut Chance) -> Watch {
    Watch {
        keys: if chance.permille(400) { Keys::default() } else { keys(chance) },
        start_revision: 0,
        prev_kv: chance.permille(300),
        no_put: chance.permille(100),
        no_delete: chance.permille(100),
    }
}
