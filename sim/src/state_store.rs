//! The state store's thread of a member: writes behind, in order, each thing taking its time.

use crate::clock::MILLISECOND;
use crate::invariants::Checker;
use crate::member::StoreTask;
use crate::world::{Event, World};
use quorate_core::member::{StateInput, StoreDone, StoreWork};

impl World {
    pub(crate) fn on_store_work(&mut self, member: usize, work: StoreWork) {
        let task = match work {
            StoreWork::Persist { number, batch, applied, after } => {
                let reported = self.members[member].life.as_ref().expect("lives").reported;
                if after > reported {
                    let text = format!("member {member} hands its store {applied} before write {after} is durable; {reported} is");
                    self.checks.report(Checker::CommittedIsDurable, || text);
                }
                self.checks.on_persist(member, applied);
                StoreTask::Persist(number, batch)
            }
            StoreWork::Sync => StoreTask::Sync,
            StoreWork::Retire { table, below } => StoreTask::Retire(table, below),
        };
        self.members[member].life.as_mut().expect("lives").tasks.push_back(task);
        self.pump_store(member);
    }

    fn pump_store(&mut self, member: usize) {
        let process = &mut self.members[member];
        let Some(life) = process.life.as_mut().filter(|life| !life.store_busy) else { return };
        let Some(task) = life.tasks.front() else { return };
        life.store_busy = true;
        let most = match task {
            StoreTask::Persist(..) => 4 * MILLISECOND,
            StoreTask::Sync => 40 * MILLISECOND,
            StoreTask::Retire(..) => 2 * MILLISECOND,
        };
        let number = process.life_number;
        let time = process.store_chance.tailed(100_000, most);
        self.after(time, Event::StoreDone { member, life: number });
    }

    pub(crate) fn on_store_done(&mut self, member: usize) {
        let process = &mut self.members[member];
        let life = process.life.as_mut().expect("its store works only while it lives");
        life.store_busy = false;
        match life.tasks.pop_front().expect("something was being done") {
            StoreTask::Persist(number, batch) => {
                process.store.commit(&batch);
                life.persisted = number;
                let (reader, stored_bytes) = (process.store.reader(), process.store.bytes());
                self.tell_state(member, StateInput::Store(StoreDone::Persisted { number, reader, stored_bytes }));
            }
            StoreTask::Sync => {
                process.store.sync();
                let number = life.persisted;
                self.tell_state(member, StateInput::Store(StoreDone::Synced(number)));
            }
            StoreTask::Retire(table, below) => process.store.retire(table, below),
        }
        self.pump_store(member);
    }
}
