//! The search of Wing and Gong with Lowe's memory: tries every order that real time allows. Exponential, and free of any cleverness about
//! revisions: what the check by revision order is compared with on small histories. Knows no watches and no stale reads.

use crate::history::{OpId, Outcome, Record, Refused, Request, Response};
use crate::linearizability::same;
use crate::model::Model;
use std::collections::BTreeSet;

struct Call<'a> {
    op: OpId,
    called: usize,
    returned: usize,
    request: &'a Request,
    outcome: Option<Result<&'a Response, &'a Refused>>,
}

pub(crate) fn is_linearizable(records: &[Record]) -> bool {
    let mut calls: Vec<Call<'_>> = Vec::new();
    for (place, record) in records.iter().enumerate() {
        match record {
            Record::Invoke { op, request, .. } => {
                calls.push(Call { op: *op, called: place, returned: usize::MAX, request, outcome: None });
            }
            Record::Return { op: returning, outcome, .. } => {
                let call = calls.iter_mut().find(|call| call.op == *returning).expect("called before");
                match outcome {
                    Outcome::Ok { response, .. } => (call.returned, call.outcome) = (place, Some(Ok(response))),
                    Outcome::Refused(refused) => (call.returned, call.outcome) = (place, Some(Err(refused))),
                    Outcome::Unknown => {}
                }
            }
            _ => {}
        }
    }
    assert!(calls.len() <= 64, "too long to search");
    search(&calls, 0, &Model::default(), &mut BTreeSet::new())
}

fn search(calls: &[Call<'_>], done: u64, model: &Model, visited: &mut BTreeSet<(u64, Model)>) -> bool {
    let open = || (0..calls.len()).filter(|i| done & (1 << i) == 0);
    if open().all(|i| calls[i].outcome.is_none()) {
        return true;
    }
    if !visited.insert((done, model.clone())) {
        return false;
    }
    let first_return = open().map(|i| calls[i].returned).min().expect("some are open");
    open().filter(|&i| calls[i].called < first_return).any(|i| {
        let mut next = model.clone();
        let got = next.apply(calls[i].request);
        let fits = match (&got, calls[i].outcome) {
            (Ok(got), Some(Ok(told))) => same(got, told, false),
            (Err(got), Some(Err(told))) => got == told || matches!(told, Refused::Other(_)),
            // What was refused for another reason did nothing, whatever it would have done.
            (Ok(_), Some(Err(Refused::Other(_)))) => {
                next = model.clone();
                true
            }
            (_, None) => true,
            _ => false,
        };
        fits && search(calls, done | 1 << i, &next, visited)
    })
}
