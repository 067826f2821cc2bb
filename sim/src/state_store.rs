//! The state store's thread of a member: writes behind, in order, each thing taking its time.

use crate::clock::MILLISECOND;
use crate::invariants::Checker;
use crate::member::StoreTask;
use crate::store::SimStore;
use crate::world::{Event, World};
use quorate_core::member::{StateInput, StoreDone, StoreWork};
use quorate_core::types::BatchNumber;

impl World {
    pub(crate) fn on_store_work(&mut self, member: usize, work: StoreWork) {
        let task = match work {
            StoreWork::Persist { number, batch, applied, after } => {
                let reported = self.members[member].process.as_ref().expect("runs").reported;
                if after > reported {
                    let text = format!("member {member} hands its store {applied} before write {after} is durable; {reported} is");
                    self.checks.report(Checker::CommittedIsDurable, || text);
                }
                self.checks.on_persist(member, applied);
                StoreTask::Persist(number, batch)
            }
            StoreWork::Sync => StoreTask::Sync,
            StoreWork::Retire { table, below } => StoreTask::Retire(table, below),
            StoreWork::BeginState { state, anew } => StoreTask::BeginState(state, anew),
            StoreWork::StoreRows { state, batch } => StoreTask::StoreRows(state, batch),
            StoreWork::SyncState { state } => StoreTask::SyncState(state),
            StoreWork::SwitchState { state } => StoreTask::SwitchState(state),
            StoreWork::DropState { .. } => StoreTask::DropState,
        };
        self.strike_receiver(member, &task);
        self.members[member].process.as_mut().expect("runs").tasks.push_back(task);
        self.pump_store(member);
    }

    fn pump_store(&mut self, member: usize) {
        let host = &mut self.members[member];
        let Some(process) = host.process.as_mut().filter(|process| !process.store_busy) else { return };
        let Some(task) = process.tasks.front() else { return };
        process.store_busy = true;
        let most = match task {
            StoreTask::Persist(..) | StoreTask::StoreRows(..) => 4 * MILLISECOND,
            StoreTask::Sync | StoreTask::SyncState(_) => 40 * MILLISECOND,
            StoreTask::Retire(..) | StoreTask::BeginState(..) | StoreTask::SwitchState(_) | StoreTask::DropState => 2 * MILLISECOND,
        };
        let incarnation = host.incarnation;
        let time = host.store_chance.tailed(100_000, most);
        self.after(time, Event::StoreDone { member, incarnation });
    }

    pub(crate) fn on_store_done(&mut self, member: usize) {
        let host = &mut self.members[member];
        let process = host.process.as_mut().expect("its store works only while it runs");
        process.store_busy = false;
        match process.tasks.pop_front().expect("something was being done") {
            StoreTask::Persist(number, batch) => {
                host.store.commit(&batch);
                process.persisted = number;
                let (reader, stored_bytes) = (host.store.reader(), host.store.bytes());
                self.tell_state(member, StateInput::Store(StoreDone::Persisted { number, reader, stored_bytes }));
            }
            StoreTask::Sync => {
                host.store.sync();
                let number = process.persisted;
                self.tell_state(member, StateInput::Store(StoreDone::Synced(number)));
            }
            StoreTask::Retire(table, below) => {
                host.store.retire(table, below);
                let (reader, stored_bytes) = (host.store.reader(), host.store.bytes());
                self.tell_state(member, StateInput::Store(StoreDone::Retired { reader, stored_bytes }));
            }
            StoreTask::BeginState(state, anew) => {
                if anew || host.receiving.as_ref().is_none_or(|(number, _)| *number != state) {
                    host.receiving = Some((state, SimStore::new()));
                }
                let reader = host.receiving.as_ref().expect("made above").1.reader();
                self.tell_state(member, StateInput::Store(StoreDone::StateBegun { reader }));
            }
            StoreTask::StoreRows(state, batch) => {
                let (number, store) = host.receiving.as_mut().expect("begun before rows come");
                assert_eq!(*number, state, "rows of another state");
                store.commit(&batch);
                let (reader, stored_bytes) = (store.reader(), store.bytes());
                self.tell_state(member, StateInput::Store(StoreDone::StateStored { reader, stored_bytes }));
            }
            StoreTask::SyncState(state) => {
                let (number, store) = host.receiving.as_mut().expect("begun before it is synced");
                assert_eq!(*number, state, "another state than the one received");
                store.sync();
                let (reader, stored_bytes) = (store.reader(), store.bytes());
                self.tell_state(member, StateInput::Store(StoreDone::StateStored { reader, stored_bytes }));
            }
            StoreTask::SwitchState(state) => {
                let (number, store) = host.receiving.take().expect("received before it is switched to");
                assert_eq!(number, state, "another state than the one received");
                (host.store, host.state) = (store, state);
                process.persisted = BatchNumber::default();
                self.tell_state(member, StateInput::Store(StoreDone::Switched));
            }
            StoreTask::DropState => host.receiving = None,
        }
        self.pump_store(member);
    }
}
