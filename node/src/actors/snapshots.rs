//! What is said of snapshots: log lines for operators, and etcd's metrics.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use quorate_core::{member::SnapshotNotice, types::MemberId};
use std::{collections::BTreeMap, time::Instant};

type Labels = Vec<(&'static str, String)>;

/// Counted for `/metrics`; clones count together.
#[derive(Clone, Debug, Default)]
pub struct SnapshotMetrics {
    send_success: Family<Labels, Counter>,
    send_failures: Family<Labels, Counter>,
    sending: Family<Labels, Gauge>,
    sent_bytes: Counter,
    receive_success: Family<Labels, Counter>,
    receive_failures: Family<Labels, Counter>,
    receiving: Family<Labels, Gauge>,
    received_bytes: Counter,
    installed: Counter,
    /// Of what is under way.
    begun: BTreeMap<MemberId, Instant>,
    from: Option<(MemberId, Instant)>,
}

fn to(member: MemberId) -> Labels {
    vec![("To", member.to_string())]
}

fn from(member: MemberId) -> Labels {
    vec![("From", member.to_string())]
}

fn milliseconds(since: Option<Instant>) -> u64 {
    since.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
}

impl SnapshotMetrics {
    /// Under etcd's names where it has one.
    pub fn register(&self, metrics: &mut Registry) {
        metrics.register("etcd_network_snapshot_send_success", "Snapshots sent", self.send_success.clone());
        metrics.register("etcd_network_snapshot_send_failures", "Snapshots given up by this sender", self.send_failures.clone());
        metrics.register("etcd_network_snapshot_send_inflights_total", "Snapshots being sent", self.sending.clone());
        metrics.register("etcd_network_snapshot_receive_success", "Snapshots received and installed", self.receive_success.clone());
        metrics.register(
            "etcd_network_snapshot_receive_failures",
            "Snapshots that came wrong or could not be stored",
            self.receive_failures.clone(),
        );
        metrics.register("etcd_network_snapshot_receive_inflights_total", "Snapshots being received", self.receiving.clone());
        metrics.register_with_unit("quorate_snapshot_sent", "Bytes of snapshots sent", Unit::Bytes, self.sent_bytes.clone());
        metrics.register_with_unit("quorate_snapshot_received", "Bytes of snapshots received", Unit::Bytes, self.received_bytes.clone());
        metrics.register("quorate_snapshot_installed", "Snapshots whose state took the place of this member's", self.installed.clone());
    }

    pub(super) fn note(&mut self, notice: &SnapshotNotice) {
        match notice {
            SnapshotNotice::Sending { to: member, last } => {
                self.begun.insert(*member, Instant::now());
                self.sending.get_or_create(&to(*member)).set(1);
                tracing::info!(target: "quorate", remote_peer_id = %member, applied = %last, "sending database snapshot");
            }
            SnapshotNotice::SentChunk { bytes, .. } => drop(self.sent_bytes.inc_by(*bytes as u64)),
            SnapshotNotice::SendingEnded { to: member, over } => {
                let took_ms = milliseconds(self.begun.remove(member));
                self.sending.get_or_create(&to(*member)).set(0);
                if *over {
                    self.send_success.get_or_create(&to(*member)).inc();
                    tracing::info!(target: "quorate", remote_peer_id = %member, took_ms, "sent database snapshot");
                } else {
                    self.send_failures.get_or_create(&to(*member)).inc();
                    tracing::warn!(target: "quorate", remote_peer_id = %member, took_ms, "failed to send database snapshot: nobody asks for it");
                }
            }
            SnapshotNotice::Receiving { from: member, last, resumed } => {
                self.ended();
                self.from = Some((*member, Instant::now()));
                self.receiving.get_or_create(&from(*member)).set(1);
                tracing::info!(target: "quorate", remote_peer_id = %member, applied = %last, resumed, "receiving database snapshot");
            }
            SnapshotNotice::ReceivedChunk { bytes } => drop(self.received_bytes.inc_by(*bytes as u64)),
            SnapshotNotice::ReceivedBad { from: member, what } => {
                self.receive_failures.get_or_create(&from(*member)).inc();
                tracing::error!(target: "quorate", remote_peer_id = %member, error = what, "a database snapshot came wrong; all of it is asked for again");
            }
            SnapshotNotice::NotStored { reason } => {
                if let Some(member) = self.ended() {
                    self.receive_failures.get_or_create(&from(member)).inc();
                }
                tracing::error!(target: "quorate", error = reason, "a database snapshot could not be stored; it will be asked for again");
            }
            SnapshotNotice::NotNeeded { last } => {
                self.ended();
                tracing::info!(target: "quorate", applied = %last, "a database snapshot is not needed any more");
            }
            SnapshotNotice::Installed { last, state } => {
                let took_ms = milliseconds(self.from.map(|(_, since)| since));
                if let Some(member) = self.ended() {
                    self.receive_success.get_or_create(&from(member)).inc();
                }
                self.installed.inc();
                tracing::info!(target: "quorate", applied = %last, state = state.0, took_ms, "applied database snapshot");
            }
        }
    }

    /// From whom nothing is being received any more.
    fn ended(&mut self) -> Option<MemberId> {
        let (member, _) = self.from.take()?;
        self.receiving.get_or_create(&from(member)).set(0);
        Some(member)
    }
}
