//! The planted watch bug does what its name says. In a process of its own: a mutant is planted for all of it.
#![cfg(feature = "mutants")]

use bytes::Bytes;
use quorate_core::command::{KeyRange, Refusal};
use quorate_core::mutant::{Mutant, plant};
use quorate_core::mvcc::{EncodedKeyValue, Event, EventKind};
use quorate_core::types::{Now, Revision, RevisionId, StreamId, WatchId};
use quorate_core::watch::{History, HubEffect, HubLimits, WatchHub, WatchInput, WatchRequest};
use std::sync::Arc;

/// A store with a single put, at revision 2.
#[derive(Debug)]
struct OnePut;

impl History for OnePut {
    fn revision(&self) -> Revision {
        Revision(2)
    }
    fn compact_revision(&self) -> Revision {
        Revision(-1)
    }
    fn events(&self, after: Revision, _limit: usize, _: usize) -> Result<Vec<Event>, Refusal> {
        let id = RevisionId { main: Revision(2), sub: 0 };
        let event = Event { id, kind: EventKind::Put, kv: EncodedKeyValue::default(), key: Bytes::from_static(b"a") };
        Ok(Vec::from_iter((after < id.main).then_some(event)))
    }
    fn at(&self, _key: &[u8], _revision: Revision) -> Result<Option<EncodedKeyValue>, Refusal> {
        Ok(None)
    }
}

/// Revision, watch and number of events of each response to a progress request that comes before the watch has caught up.
fn told() -> Vec<(Revision, WatchId, usize)> {
    let stream = StreamId(1);
    let range = KeyRange { key: Bytes::from_static(b"a"), end: Bytes::new() };
    let request = WatchRequest { range, start_revision: Revision(2), ..WatchRequest::default() };
    let mut hub = WatchHub::new(HubLimits::default(), Arc::new(OnePut), Now::default());
    let mut out: Vec<HubEffect> = Vec::new();
    for input in [WatchInput::Open(stream), WatchInput::Create(stream, request), WatchInput::Progress(stream)] {
        hub.step(Now::default(), input, &mut out);
    }
    hub.flush(Now::default(), &mut out);
    out.iter().skip(1).map(|effect| (effect.response.revision, effect.response.watch, effect.response.events.len())).collect()
}

#[test]
fn v4_tells_progress_to_a_watch_that_lags() {
    plant(None);
    assert_eq!(told(), [(Revision(2), WatchId(0), 1)]);
    plant(Some(Mutant::V4));
    assert_eq!(told(), [(Revision(2), WatchId(-1), 0), (Revision(2), WatchId(0), 1)], "progress, and then the event it denied");
}
