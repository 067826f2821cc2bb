//! What applying a put costs: 256 bytes into 1,000,000 keys at random, 64 to a batch, with the rows for the state store.
//! `cargo run --release -p quorate-core --example apply_speed`

#![expect(clippy::disallowed_types, reason = "this measures time, which core itself never does")]

use bytes::Bytes;
use quorate_core::command::{Command, KeyRange, Put, Range};
use quorate_core::consensus::{Entry, Payload};
use quorate_core::machine::{Machine, MachineLimits, MachineSettings, encode_command};
use quorate_core::machine::{MachineEffect, MachineInput};
use quorate_core::storage::{Direction, ReadFailed, StateReader, Table};
use quorate_core::types::{Boot, LogId, LogIndex, MemberId, RequestId, Term};
use std::ops::ControlFlow;

const KEYS: u64 = 1_000_000;
const BATCH: u64 = 64;

/// Nothing is evicted here, so nothing is asked for.
#[derive(Clone, Debug)]
struct Empty;

impl StateReader for Empty {
    fn get(&self, _: Table, _: &[u8]) -> Result<Option<Bytes>, ReadFailed> {
        Ok(None)
    }
    fn scan(
        &self,
        _: Table,
        _: &[u8],
        _: &[u8],
        _: Direction,
        _: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), ReadFailed> {
        Ok(())
    }
}

fn main() {
    let limits = MachineLimits { recent_bytes: 1 << 30, unpersisted_bytes: usize::MAX, slice_rows: 1_000 };
    let mut machine = Machine::open(MachineSettings { member: MemberId(1), boot: Boot(1), limits }, Empty).expect("an empty store");
    let (mut random, mut index) = (1_u64, 0);
    for round in ["create", "update"] {
        let mut spent = std::time::Duration::ZERO;
        let mut slowest = spent;
        for _ in 0..KEYS / BATCH {
            let entries: Vec<Entry> = (0..BATCH)
                .map(|_| {
                    random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    let key = format!("{:064}", (random >> 33) % KEYS).into();
                    index += 1;
                    let put = Put { key, value: Bytes::from(vec![7; 256]), ..Put::default() };
                    let request = RequestId { member: MemberId(1), boot: Boot(1), sequence: index };
                    let payload = Payload::Command { request, command: encode_command(&Command::Put(put)) };
                    Entry { id: LogId { term: Term(1), index: LogIndex(index) }, payload }
                })
                .collect();
            let mut out = Vec::new();
            let begun = std::time::Instant::now();
            machine.step(MachineInput::Apply(entries.into()), &mut out);
            machine.flush(&mut out);
            let took = begun.elapsed();
            spent += took;
            slowest = slowest.max(took);
            out.retain(|effect: &MachineEffect<Empty>| matches!(effect, MachineEffect::Fatal(_)));
            assert!(out.is_empty());
        }
        println!("{round}: {:.2} us a put, slowest batch {slowest:?}", spent.as_secs_f64() * 1e6 / KEYS as f64);
    }
    let view = machine.view();
    let first = Bytes::from(format!("{:064}", 0));
    let request = Range { range: KeyRange { key: first, end: Bytes::from_static(b"\0") }, limit: 10_000, ..Range::default() };
    let begun = std::time::Instant::now();
    let reply = view.range(&request).expect("a range");
    println!("range of {} keys: {:.3} us a key", reply.kvs.len(), begun.elapsed().as_secs_f64() * 1e6 / reply.kvs.len() as f64);
    let begun = std::time::Instant::now();
    let whole = view.range_bytes(&Range { limit: 0, ..request });
    println!("bytes of all {} keys ({whole}) by the index: {:?}", view.key_count(), begun.elapsed());
}
