//! The check by revision order and the exhaustive search agree, on histories that hold and on histories that were tampered with.

use super::generate::{Settings, history, history_and_witness};
use crate::{Budget, Verdict, check, history::*, wgl::is_linearizable};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// Changes one answer, or the time of one record, at random.
fn tamper(records: &mut [Record], rng: &mut ChaCha8Rng) {
    let mut pick = |bound: usize| rng.next_u64() as usize % bound.max(1);
    if pick(4) == 0 {
        // Move a return back, or a call forward, past a neighbour that is another operation's.
        let place = pick(records.len() - 1);
        let of = |record: &Record| match record {
            Record::Invoke { op, .. } | Record::Return { op, .. } => Some(*op),
            _ => None,
        };
        if of(&records[place]) != of(&records[place + 1]) {
            records.swap(place, place + 1);
            let mut now = 0;
            for record in records {
                let (Record::Invoke { at, .. } | Record::Return { at, .. } | Record::Attached { at, .. }) = record else { continue };
                now += 1;
                *at = now;
            }
        }
        return;
    }
    let answered: Vec<_> = (0..records.len()).filter(|&i| matches!(records[i], Record::Return { .. })).collect();
    if answered.is_empty() {
        return;
    }
    let Record::Return { outcome, .. } = &mut records[answered[pick(answered.len())]] else { unreachable!() };
    match outcome {
        Outcome::Unknown => {}
        Outcome::Refused(refused) => {
            *refused = [Refused::Compacted, Refused::FutureRevision, Refused::KeyNotFound, Refused::Other("x".into())][pick(4)].clone();
        }
        _ if pick(6) == 0 => {
            *outcome = [Outcome::Unknown, Outcome::Refused(Refused::Compacted), Outcome::Refused(Refused::FutureRevision)][pick(3)].clone();
        }
        Outcome::Ok { response, .. } => tamper_response(response, &mut pick),
    }
}

fn tamper_response(response: &mut Response, pick: &mut impl FnMut(usize) -> usize) {
    let shift = if pick(2) == 0 { 1 } else { -1 };
    match response {
        Response::Range { revision, kvs, count, .. } => match (pick(4), kvs.first_mut()) {
            (0, Some(kv)) => kv.mod_revision += shift,
            (1, Some(kv)) => kv.version += shift,
            (2, Some(kv)) => kv.value.push(b'!'),
            (3, _) => *count += shift,
            _ => *revision += shift,
        },
        Response::Put { revision, prev_kv } => match prev_kv {
            Some(kv) if pick(2) == 0 => kv.version += shift,
            _ => *revision += shift,
        },
        Response::DeleteRange { revision, deleted, .. } => *if pick(2) == 0 { revision } else { deleted } += shift,
        Response::Txn { revision, succeeded, responses } => match (pick(3), responses.first_mut()) {
            (0, _) => *succeeded = !*succeeded,
            (1, Some(first)) if !matches!(first, Response::Txn { .. }) => tamper_response(first, pick),
            _ => *revision += shift,
        },
        Response::Compact { revision } | Response::Watch { revision } => *revision += shift,
        Response::LeaseGrant { .. } | Response::LeaseRevoke { .. } | Response::LeaseTime { .. } => unreachable!("not generated"),
    }
}

/// Both verdicts on many histories, tampered with so many times; returns how many hold.
fn agree(seeds: std::ops::Range<u64>, settings: impl Fn(u64) -> Settings, tampers: u64) -> usize {
    let mut hold = 0;
    for seed in seeds {
        let (mut records, witness) = history_and_witness(seed, settings(seed));
        let mut rng = ChaCha8Rng::seed_from_u64(!seed);
        for _ in 0..tampers {
            tamper(&mut records, &mut rng);
        }
        let (verdict, expected) = (check(&records, None, Budget::default()), is_linearizable(&records));
        let verified = check(&records, Some(&witness), Budget::default());
        // What was tampered with may hold in another order than the log's, but never the other way round.
        let deceived = matches!(verified, Verdict::Holds(_)) && !expected || tampers == 0 && !matches!(verified, Verdict::Holds(_));
        if matches!(verdict, Verdict::Holds(_)) != expected || deceived {
            let mut lines = Vec::new();
            write_lines(&records, &mut lines).expect("memory");
            panic!(
                "seed {seed}: the search says {expected}, the check {verdict:?}, with the witness {verified:?}\n{}",
                String::from_utf8_lossy(&lines)
            );
        }
        hold += usize::from(expected);
    }
    hold
}

fn mixed(seed: u64) -> Settings {
    Settings {
        dull_values: seed.is_multiple_of(3),
        unknown_percent: [0, 15, 40][seed as usize % 3],
        keys: 1 + seed % 3,
        ..Settings::small()
    }
}

#[test]
fn valid_histories_pass_both() {
    assert_eq!(agree(0..2_000, mixed, 0), 2_000);
}

#[test]
fn verdicts_agree_on_histories_tampered_with_once() {
    let hold = agree(10_000..13_000, mixed, 1);
    assert!((300..2_700).contains(&hold), "{hold} of 3000 still hold: the tampering proves little");
}

#[test]
fn verdicts_agree_on_histories_tampered_with_thrice() {
    agree(20_000..22_000, mixed, 3);
}

#[test]
fn long_histories_with_watches_and_stale_reads_pass() {
    for seed in 0..150 {
        let settings = Settings { unknown_percent: seed % 15, dull_values: false, ..Settings::usual() };
        let (records, witness) = history_and_witness(seed, settings);
        for witness in [None, Some(&witness)] {
            let stats = check(&records, witness, Budget::default()).expect_holds();
            assert_eq!(stats.behind, [], "seed {seed}");
        }
    }
}

#[test]
fn a_history_survives_its_export() {
    let records = history(7, Settings::usual());
    let mut lines = Vec::new();
    write_lines(&records, &mut lines).expect("memory");
    assert_eq!(read_lines(lines.as_slice()).expect("own lines"), records);
    let error = read_lines(&b"{}\n"[..]).expect_err("not a record");
    assert!(error.to_string().starts_with("line 1: "), "{error}");
}
