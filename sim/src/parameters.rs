//! What a seed's cluster is like: how fast, how tight its bounds, how busy its clients.

use crate::chance::{Chance, Concern};
use crate::clock::{MILLISECOND, Nanos};
use crate::schedule::{Fault, Item, Schedule};
use crate::workload::WorkloadShape;
use quorate_core::consensus::Limits;
use quorate_core::lease::LeaseLimits;
use quorate_core::machine::MachineLimits;
use quorate_core::member::{BatchLimits, INPUTS_PER_FLUSH, MemberLimits, MemberSettings, SnapshotLimits, SyncLimits};
use quorate_core::wal::WalSettings;
use quorate_core::watch::HubLimits;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Parameters {
    pub heartbeat: Nanos,
    pub election: Nanos,
    pub tiny: bool,
    pub limits: Limits,
    pub machine: MachineLimits,
    pub member: MemberSettings,
    pub wal: WalSettings,
    pub hub: HubLimits,
    pub workload: WorkloadShape,
    /// A client gives up after so long.
    pub patience: Nanos,
    /// Of a thousand requests, how many name a deadline of their own, and how many are left by their clients early.
    pub hurried_permille: u64,
    pub leaving_permille: u64,
    /// Inputs that a half steps before it flushes.
    pub inputs_per_flush: usize,
    /// From an input of the state half until it runs, at most.
    pub apply_delay: Nanos,
    /// What applying an entry takes.
    pub apply_cost: Nanos,
    /// What some entries take beside that, at most.
    pub apply_stall: Nanos,
}

impl Parameters {
    #[must_use]
    pub fn draw(schedule: &Schedule) -> Self {
        let mut chance = Chance::new(schedule.seed, Concern::Parameters, 0);
        let (heartbeat, election) = *chance.pick(&[(100, 1_000), (100, 1_000), (50, 500), (40, 400)]);
        let tiny = schedule.items.iter().any(|item| item.fault == Fault::Tiny);
        // No `..Default::default()`: a limit that is added is to be drawn here, too.
        let roomy = Limits::default();
        let mut limits = Limits {
            append_entries: roomy.append_entries,
            append_bytes: roomy.append_bytes,
            inflight_appends: roomy.inflight_appends,
            inflight_bytes: roomy.inflight_bytes,
            tail_bytes: roomy.tail_bytes,
            unapplied_entries: roomy.unapplied_entries,
            pending_proposals: roomy.pending_proposals,
            pending_reads: roomy.pending_reads,
            forward_window: roomy.forward_window,
            unapplied_bytes: roomy.unapplied_bytes,
            retained_entries: chance.between(0, 200),
            kept_bytes: roomy.kept_bytes,
            absent_after: Duration::from_millis(chance.between(500, 6_000)),
        };
        let roomy = HubLimits::default();
        let mut hub = HubLimits {
            stream_bytes: roomy.stream_bytes,
            hub_bytes: roomy.hub_bytes,
            stream_watches: roomy.stream_watches,
            hub_watches: roomy.hub_watches,
            catch_up_revisions: roomy.catch_up_revisions,
            slice_events: roomy.slice_events,
            slice_bytes: roomy.slice_bytes,
            fragment_bytes: roomy.fragment_bytes,
            progress_interval: Duration::from_millis(chance.between(1_000, 8_000)),
        };
        let roomy = MachineLimits::default();
        let mut machine = MachineLimits {
            recent_bytes: roomy.recent_bytes,
            unpersisted_bytes: roomy.unpersisted_bytes,
            slice_rows: chance.between(1, 100) as usize,
        };
        let mut wal = WalSettings { segment_bytes: chance.between(32 << 10, 256 << 10), spare_segments: chance.below(4) as usize };
        let roomy = BatchLimits::default();
        let mut batch = BatchLimits {
            persist_bytes: roomy.persist_bytes,
            persist_delay: Duration::ZERO,
            report_entries: roomy.report_entries,
            report_bytes: roomy.report_bytes,
            report_delay: Duration::ZERO,
        };
        // Without delay each flush hands on what it has, which is when the two halves interleave most finely.
        if chance.permille(500) {
            let most = 20 * MILLISECOND;
            batch.persist_bytes = chance.between(500, 16 << 10) as usize;
            batch.persist_delay = Duration::from_nanos(chance.below(most));
            batch.report_entries = chance.between(1, 64);
            batch.report_bytes = chance.between(100, 16 << 10) as usize;
            batch.report_delay = Duration::from_nanos(chance.below(most));
        }
        let mut member = MemberSettings {
            quota_bytes: None,
            // Some below what a client waits, none below what an apply may take.
            request_timeout: Duration::from_millis(chance.between(4_000, 7_000)),
            last_words: Duration::from_millis(chance.between(0, 20)),
            limits: MemberLimits {
                tickets: MemberLimits::default().tickets,
                read_retry: Duration::from_millis(chance.between(50, 500)),
                read_pause: Duration::from_millis(chance.between(1, 20)),
            },
            sync: SyncLimits { entries: chance.between(20, 300), bytes: chance.between(4 << 10, 256 << 10) as usize },
            batch,
            leases: LeaseLimits {
                checkpoint_above: Duration::from_secs(3),
                checkpoint_interval: Duration::from_secs(2),
                checkpoint_leases: chance.between(1, 4) as usize,
                pending_expiries: chance.between(1, 4) as usize,
                taken_up_at_once: chance.between(1, 4) as usize,
                calls: LeaseLimits::default().calls,
            },
            snapshot: SnapshotLimits {
                chunk_bytes: chance.between(200, 8 << 10) as usize,
                pause: Duration::from_millis(chance.below(6)),
                retry: Duration::from_millis(chance.between(50, 500)),
                idle: Duration::from_millis(chance.between(2_000, 8_000)),
                longest: Duration::from_millis(chance.between(4_000, 20_000)),
            },
        };
        // So little is kept that whoever was away needs a snapshot.
        let is_struck = |item: &Item| item.fault.class().is_of_snapshots();
        if chance.permille(500) || schedule.items.iter().any(is_struck) {
            limits.retained_entries = chance.between(0, 10);
            member.sync.entries = chance.between(1, 30);
        }
        // A full store refuses writes until an operator comes, which a cut that must be survived leaves no time for.
        if schedule.standing_cut.is_none() && chance.permille(150) {
            member.quota_bytes = Some(chance.between(4 << 10, 16 << 10));
        }
        if chance.permille(500) {
            machine.recent_bytes = chance.between(0, 8 << 10) as usize;
            limits.tail_bytes = chance.between(0, 16 << 10) as usize;
            hub.slice_events = chance.between(1, 20) as usize;
            hub.catch_up_revisions = chance.between(1, 20) as usize;
        }
        if tiny {
            limits.append_entries = if chance.permille(500) { 1 } else { chance.between(2, 4) as usize };
            limits.append_bytes = chance.between(100, 600) as usize;
            limits.inflight_appends = if chance.permille(500) { 1 } else { chance.between(2, 3) as usize };
            limits.inflight_bytes = chance.between(200, 4_000) as usize;
            // So few that a log of uncommitted entries reaches them, in half of the seeds.
            let most = if chance.permille(500) { 4_000 } else { 40_000 };
            limits.unapplied_bytes = chance.between(1_000, most) as usize;
            limits.unapplied_entries = chance.between(8, 60);
            limits.pending_proposals = chance.between(4, 16) as usize;
            limits.pending_reads = chance.between(4, 16) as usize;
            limits.forward_window = chance.between(16, 64) as usize;
            machine.unpersisted_bytes = chance.between(500, 8_000) as usize;
            hub.stream_bytes = chance.between(100, 2_000) as usize;
            hub.hub_bytes = chance.between(400, 8_000) as usize;
            hub.slice_bytes = chance.between(200, 4_000) as usize;
            hub.fragment_bytes = chance.between(200, 2_000) as usize;
            hub.stream_watches = chance.between(1, 2) as usize;
            hub.hub_watches = chance.between(2, 6) as usize;
            member.leases.calls = chance.between(2, 16) as usize;
            member.limits.tickets = chance.between(16, 64) as usize;
            wal.segment_bytes = chance.between(4 << 10, 16 << 10);
            wal.spare_segments = chance.below(3) as usize;
            limits.kept_bytes = chance.between(4 << 10, 64 << 10);
        }
        let workload = WorkloadShape {
            pause: chance.between(600, 1_000) * MILLISECOND,
            write_permille: chance.between(350, 750),
            value_bytes: chance.between(50, 900),
            leases: !schedule.without_leases,
        };
        Self {
            heartbeat: heartbeat * MILLISECOND,
            election: election * MILLISECOND,
            tiny,
            limits,
            machine,
            member,
            wal,
            hub,
            workload,
            patience: 5_000 * MILLISECOND,
            hurried_permille: chance.between(0, 200),
            leaving_permille: chance.between(0, 60),
            inputs_per_flush: *chance.pick(&[1, 2, INPUTS_PER_FLUSH, INPUTS_PER_FLUSH]),
            apply_delay: chance.tailed(100_000, 5 * MILLISECOND),
            apply_cost: chance.tailed(2_000, MILLISECOND),
            apply_stall: if chance.permille(200) { chance.tailed(50 * MILLISECOND, 1_500 * MILLISECOND) } else { 0 },
        }
    }
}
