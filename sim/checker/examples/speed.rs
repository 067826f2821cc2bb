//! How long a check takes, with and without a witness: `cargo run --release -p quorate-checker --example speed [OPERATIONS]`.
//!
//! Clients in turn put, read, and run small transactions on 1,000 keys of a true store, 16 at once, and one watch sees it all.

use quorate_checker::{Budget, Entry, Step, Witness, check, history::*, model::Model};
use std::time::Instant;

const KEYS: u64 = 1_000;
const CLIENTS: u64 = 16;

fn request(op: OpId) -> Request {
    let key = format!("key{:04}", op.wrapping_mul(2_654_435_761) % KEYS).into_bytes();
    let put = Request::Put(Put { key: key.clone(), value: format!("{op:064}").into_bytes(), ..Put::default() });
    match op % 10 {
        0..=3 => put,
        4 => {
            let compare = vec![Compare { keys: Keys::one(key.clone()), relation: Relation::Greater, target: Target::Version(0) }];
            let read = Request::Range(Range { keys: Keys::one(key), ..Range::default() });
            Request::Txn(Txn { compare, success: vec![put, read.clone()], failure: vec![read] })
        }
        5 => Request::DeleteRange(DeleteRange { keys: Keys::one(key), prev_kv: true }),
        _ => Request::Range(Range { keys: Keys::one(key), ..Range::default() }),
    }
}

fn main() {
    let operations: u64 = std::env::args().nth(1).map_or(100_000, |text| text.parse().expect("a number of operations"));
    let mut model = Model::default();
    let mut records = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    let watch = u64::MAX;
    let everything = Request::Watch(Watch { start_revision: 2, ..Watch::default() });
    records.push(Record::Invoke { op: watch, client: 0, at: 0, request: everything });
    records.push(Record::Return { op: watch, at: 0, outcome: Outcome::Ok { response: Response::Watch { revision: 1 }, rank: None } });
    for first in (0..operations).step_by(usize::try_from(CLIENTS).expect("few")) {
        let round = first..operations.min(first + CLIENTS);
        for op in round.clone() {
            records.push(Record::Invoke { op, client: u32::try_from(op % CLIENTS).expect("few"), at: first, request: request(op) });
        }
        for op in round.rev() {
            let before = model.revision();
            if request(op).is_logged() {
                entries.push(Entry { index: entries.len() as u64 + 1, step: Step::Operation(op) });
            }
            let response = model.apply(&request(op)).expect("valid");
            records.push(Record::Return { op, at: first + 1, outcome: Outcome::Ok { response, rank: None } });
            if model.revision() > before {
                let events = model.events(model.revision()).map(|event| Event { prev_kv: None, ..event }).collect();
                records.push(Record::Delivered { watch, at: first + 1, delivery: Delivery::Events { revision: model.revision(), events } });
            }
        }
    }
    let witness = Witness { entries, is_whole: true };
    println!("{} MiB resident with the history alone", resident_mib());
    for (how, witness) in [("with its witness", Some(&witness)), ("by search", None)] {
        let start = Instant::now();
        let stats = check(&records, witness, Budget::default()).expect_holds();
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{operations} operations, {} revisions, {} events, {how}: {seconds:.3} s, {} steps, {} MiB resident at most so far",
            stats.revision,
            stats.events,
            stats.steps,
            resident_mib()
        );
    }
}

/// The most memory that this process held so far.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) >> 10
}
