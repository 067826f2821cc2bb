//! The WAL's thread of a member: carries out what the log half asks of its disk, and fails with it.

use crate::clock::{MILLISECOND, Nanos};
use crate::disk::DiskError;
use crate::invariants::Checker;
use crate::member::{Carries, DiskWrite};
use crate::schedule::FaultClass;
use crate::world::{Event, World};
use quorate_core::member::{LogInput, WalDone, WalWork};
use quorate_core::storage::WalOp;
use quorate_core::types::{SegmentId, WriteNumber};

impl World {
    pub(crate) fn on_wal_work(&mut self, member: usize, work: WalWork) {
        match work {
            WalWork::Write { number, ops } => self.on_write(member, number, ops),
            WalWork::Prepare { .. } => {}
            WalWork::Read { segment, offset, length } => {
                let life = self.members[member].life_number;
                let delay = self.members[member].chance.tailed(50_000, 10 * MILLISECOND);
                self.after(delay, Event::LogRead { member, life, segment, offset, length });
            }
        }
    }

    fn on_write(&mut self, member: usize, number: WriteNumber, ops: Vec<WalOp>) {
        self.checks.on_write(member, number);
        let end = ops.iter().rev().find_map(|op| match op {
            WalOp::WriteAt { segment, offset, bytes } => Some((*segment, offset + bytes.len() as u64)),
            _ => None,
        });
        let life = self.members[member].life.as_mut().expect("lives");
        let proves = life.reported_at_flush;
        let holds = (life.log.status().term, life.log.consensus().last());
        let written = std::mem::replace(&mut life.written, holds);
        let carries = Carries { ballot: holds.0 != written.0, entries: holds.1 != written.1 };
        life.writes.push_back(DiskWrite { number, carries, ops: ops.into(), begun: self.now, slowed: false, end, proves });
        self.pump_disk(member);
    }

    /// The WAL's thread: operations in order, each sync taking its time, one write after the other.
    fn pump_disk(&mut self, member: usize) {
        let tiny = self.parameters.tiny;
        let process = &mut self.members[member];
        let Some(life) = process.life.as_mut().filter(|life| !life.disk_busy) else { return };
        let Some(write) = life.writes.front_mut() else { return };
        let mut full = false;
        while let Some(op) = write.ops.front() {
            if matches!(op, WalOp::Sync { .. } | WalOp::SyncDirectory) {
                break;
            }
            if tiny && matches!(op, WalOp::Create { .. } | WalOp::Recycle { .. }) {
                self.tally.mattered(FaultClass::Tiny);
            }
            process.disk.full = process.full > 0;
            match process.disk.apply(op) {
                Ok(()) => drop(write.ops.pop_front()),
                Err(DiskError::Full) => {
                    full = true;
                    break;
                }
                Err(bad) => {
                    return self.checks.report(Checker::Health, || format!("member {member} asks its disk for the impossible: {bad}"));
                }
            }
        }
        if full {
            self.tally.mattered(FaultClass::DiskFull);
            return self.fail_disk(member, 500 * MILLISECOND);
        }
        let mut time = process.disk_chance.tailed(200_000, 6 * MILLISECOND);
        for (_, most) in &process.slow {
            time += process.disk_chance.tailed(*most / 4, *most);
            write.slowed = true;
        }
        life.disk_busy = true;
        let number = process.life_number;
        let death = process.die_at_write.take().map(|down| (process.disk_chance.below(time), down));
        if let Some((at, down)) = death {
            self.tally.mattered(FaultClass::Kill);
            self.after(at, Event::Die { member, life: number, down });
        }
        self.after(time, Event::DiskDone { member, life: number });
    }

    pub(crate) fn on_disk_done(&mut self, member: usize) {
        let process = &mut self.members[member];
        let life = process.life.as_mut().expect("its disk works only while it lives");
        life.disk_busy = false;
        let write = life.writes.front_mut().expect("something was being written");
        let failing = process.fail_next_sync.take();
        process.disk.failing_sync = failing.is_some();
        process.disk.full = false;
        let synced = write.ops.pop_front().map_or(Ok(()), |op| process.disk.apply(&op));
        process.disk.failing_sync = false;
        match (synced, failing) {
            (Err(DiskError::SyncFailed), Some(down)) => {
                if process.disk.is_dirty() {
                    self.tally.mattered(FaultClass::FsyncError);
                }
                return self.fail_disk(member, down);
            }
            (Ok(()), _) => {}
            (Err(bad), _) => {
                return self.checks.report(Checker::Health, || format!("member {member} asks its disk for the impossible: {bad}"));
            }
        }
        if write.ops.is_empty() {
            let write = life.writes.pop_front().expect("it was there");
            life.durable = write.carries;
            if write.slowed && write.carries.ballot && self.storm.0 > 0 {
                self.tally.mattered(FaultClass::SlowStorm);
            }
            if write.slowed && self.now - write.begun > self.parameters.heartbeat {
                self.tally.mattered(FaultClass::SlowDisk);
            }
            while let Some((_, end)) = life.ends.pop_front_if(|end| end.0 <= write.proves) {
                process.proven = end.max(process.proven);
            }
            life.ends.extend(write.end.map(|end| (write.number, end)));
            self.checks.on_durable(member, write.number);
            self.tell(member, LogInput::Wal(WalDone::Durable(write.number)));
        }
        self.pump_disk(member);
    }

    /// A failed disk ends the process, after it has said what it still can; it comes back after `down`.
    fn fail_disk(&mut self, member: usize, down: Nanos) {
        self.trace.tell(self.now, || format!("the disk of member {member} fails"));
        let life = self.members[member].life.as_mut().expect("lives");
        life.disk_busy = true;
        life.down = Some(down);
        self.tell(member, LogInput::Wal(WalDone::Failed("the simulated disk failed".into())));
    }

    pub(crate) fn on_log_read(&mut self, member: usize, segment: SegmentId, offset: u64, length: u32) {
        let bytes = self.members[member].disk.read(segment, offset, length);
        self.tell(member, LogInput::Wal(WalDone::Read { segment, offset, bytes }));
    }
}
