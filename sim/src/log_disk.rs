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
                let incarnation = self.members[member].incarnation;
                let delay = self.members[member].chance.tailed(50_000, 10 * MILLISECOND);
                self.after(delay, Event::LogRead { member, incarnation, segment, offset, length });
            }
        }
    }

    fn on_write(&mut self, member: usize, number: WriteNumber, ops: Vec<WalOp>) {
        self.checks.on_write(member, number);
        let end = ops.iter().rev().find_map(|op| match op {
            WalOp::WriteAt { segment, offset, bytes } => Some((*segment, offset + bytes.len() as u64)),
            _ => None,
        });
        let process = self.members[member].process.as_mut().expect("runs");
        let proves = process.reported_at_flush;
        let holds = (process.log.status().term, process.log.consensus().last());
        let written = std::mem::replace(&mut process.written, holds);
        let carries = Carries { ballot: holds.0 != written.0, entries: holds.1 != written.1 };
        process.writes.push_back(DiskWrite { number, carries, ops: ops.into(), begun: self.now, slowed: false, end, proves });
        self.pump_disk(member);
    }

    /// The WAL's thread: operations in order, each sync taking its time, one write after the other.
    fn pump_disk(&mut self, member: usize) {
        let tiny = self.parameters.tiny;
        let host = &mut self.members[member];
        let Some(process) = host.process.as_mut().filter(|process| !process.disk_busy) else { return };
        let Some(write) = process.writes.front_mut() else { return };
        let mut full = false;
        while let Some(op) = write.ops.front() {
            if matches!(op, WalOp::Sync { .. } | WalOp::SyncDirectory) {
                break;
            }
            if tiny && matches!(op, WalOp::Create { .. } | WalOp::Recycle { .. }) {
                self.tally.mattered(FaultClass::Tiny);
            }
            host.disk.full = host.full > 0;
            match host.disk.apply(op) {
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
        let mut time = host.disk_chance.tailed(200_000, 6 * MILLISECOND);
        for (_, most) in &host.slow {
            time += host.disk_chance.tailed(*most / 4, *most);
            write.slowed = true;
        }
        process.disk_busy = true;
        let incarnation = host.incarnation;
        let death = host.die_at_write.take().map(|down| (host.disk_chance.below(time), down));
        if let Some((at, down)) = death {
            self.tally.mattered(FaultClass::Kill);
            self.after(at, Event::Die { member, incarnation, down });
        }
        self.after(time, Event::DiskDone { member, incarnation });
    }

    pub(crate) fn on_disk_done(&mut self, member: usize) {
        let host = &mut self.members[member];
        let process = host.process.as_mut().expect("its disk works only while it runs");
        process.disk_busy = false;
        let write = process.writes.front_mut().expect("something was being written");
        let failing = host.fail_next_sync.take();
        host.disk.failing_sync = failing.is_some();
        host.disk.full = false;
        let synced = write.ops.pop_front().map_or(Ok(()), |op| host.disk.apply(&op));
        host.disk.failing_sync = false;
        match (synced, failing) {
            (Err(DiskError::SyncFailed), Some(down)) => {
                if host.disk.is_dirty() {
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
            let write = process.writes.pop_front().expect("it was there");
            process.durable = write.carries;
            if write.slowed && write.carries.ballot && self.storm.0 > 0 {
                self.tally.mattered(FaultClass::SlowStorm);
            }
            if write.slowed && self.now - write.begun > self.parameters.heartbeat {
                self.tally.mattered(FaultClass::SlowDisk);
            }
            while let Some((_, end)) = process.ends.pop_front_if(|end| end.0 <= write.proves) {
                host.proven = end.max(host.proven);
            }
            process.ends.extend(write.end.map(|end| (write.number, end)));
            self.checks.on_durable(member, write.number);
            self.tell(member, LogInput::Wal(WalDone::Durable(write.number)));
        }
        self.pump_disk(member);
    }

    /// A failed disk ends the process, after it has said what it still can; it comes back after `down`.
    fn fail_disk(&mut self, member: usize, down: Nanos) {
        self.trace.tell(self.now, || format!("the disk of member {member} fails"));
        let process = self.members[member].process.as_mut().expect("runs");
        process.disk_busy = true;
        process.down = Some(down);
        self.tell(member, LogInput::Wal(WalDone::Failed("the simulated disk failed".into())));
    }

    pub(crate) fn on_log_read(&mut self, member: usize, segment: SegmentId, offset: u64, length: u32) {
        let bytes = self.members[member].disk.read(segment, offset, length);
        self.tell(member, LogInput::Wal(WalDone::Read { segment, offset, bytes }));
    }
}
