//! `/metrics`: what the host counts, what the surfaces count, and what this member's status and state say at the moment of the scrape.
//! Names and meanings are etcd's; what cannot be told truthfully is left out.

use crate::{backend::Backend, service::Service};
use actix_web::{HttpRequest, HttpResponse, http::header::ACCEPT};
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::fmt::Write as _;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn answer<B: Backend>(service: &Service<B>, request: &HttpRequest) -> HttpResponse {
    let mut text = String::new();
    let encoded = encode_registry(&mut text, service.surface.registry())
        .and_then(|()| encode_registry(&mut text, &scraped(service)))
        .and_then(|()| encode_eof(&mut text));
    if encoded.is_err() {
        return HttpResponse::InternalServerError().body("a metric could not be written\n");
    }
    let open =
        request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|a| a.contains("application/openmetrics-text"));
    if open {
        return HttpResponse::Ok().content_type(OPEN_METRICS).body(text);
    }
    HttpResponse::Ok().content_type(PROMETHEUS).body(prometheus_text(&text))
}

type Labels = Vec<(&'static str, String)>;

fn scraped<B: Backend>(service: &Service<B>) -> Registry {
    let mut registry = Registry::default();
    let (status, view) = (service.backend.status(), service.backend.current());
    let (raft, versions) = (&status.raft, &service.surface.options().versions);
    let member = raft.member.to_string();

    let mut gauge = |name: &str, help: &str, value: i64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    gauge("etcd_server_has_leader", "Whether a leader is known", raft.leader.is_some().into());
    gauge("etcd_server_is_leader", "Whether this member leads", (raft.leader == Some(raft.member)).into());
    gauge("etcd_server_is_learner", "Whether this member is a learner", raft.is_learner.into());
    gauge("etcd_server_proposals_committed_total", "Index of the last entry committed", signed(raft.committed.0));
    gauge("etcd_server_proposals_applied_total", "Index of the last entry applied", signed(view.applied().index.0));
    gauge("etcd_server_proposals_pending", "Proposals waiting for their outcome", signed(raft.proposals_pending));
    gauge("etcd_server_quota_backend_bytes", "Bytes of storage this member may use", status.quota_bytes);
    gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of storage in use or free", status.db_bytes);
    gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of storage in use", status.db_bytes_in_use);
    gauge("etcd_debugging_mvcc_keys_total", "Keys that exist", signed(view.key_count()));
    gauge("etcd_debugging_mvcc_current_revision", "Newest revision", view.revision().0);
    gauge("etcd_debugging_mvcc_compact_revision", "Oldest readable revision", view.compact_revision().0);

    let mut counter = |name: &str, help: &str, value: u64| {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    counter("etcd_server_leader_changes_seen", "Leader changes seen", raft.leader_changes);
    counter("etcd_debugging_lease_granted", "Leases granted", view.lease_counts().granted);
    counter("etcd_debugging_lease_revoked", "Leases revoked or expired", view.lease_counts().ended);

    let mut family = |name: &str, help: &str, rows: Vec<Labels>| {
        let family = Family::<Labels, Gauge>::default();
        for labels in rows {
            family.get_or_create(&labels).set(1);
        }
        registry.register(name, help, family);
    };
    family("etcd_server_id", "Id of this member", vec![vec![("server_id", member)]]);
    family("etcd_server_version", "Release this member is compatible with", vec![vec![("server_version", versions.server.clone())]]);
    let minor = versions.cluster.rsplit_once('.').map_or(versions.cluster.as_str(), |(minor, _)| minor);
    family("etcd_cluster_version", "Version of the cluster", vec![vec![("cluster_version", minor.to_owned())]]);
    let alarms = view.alarms().iter();
    let alarms =
        alarms.map(|alarm| vec![("alarm_type", super::alarm_name(alarm.kind).to_owned()), ("server_id", alarm.member.to_string())]);
    family("etcd_debugging_server_alarms", "Alarms raised", alarms.collect());
    registry
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// OpenMetrics as the older Prometheus text: there a counter's description bears the name of its samples, and there is no end mark.
fn prometheus_text(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
            continue;
        }
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let kind = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '));
        // Writing to a string cannot fail.
        let _ = match (kind, help.take()) {
            (Some((name, kind)), help) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                let _ = help.map_or(Ok(()), |(_, help)| writeln!(text, "# HELP {name}{suffix} {help}"));
                writeln!(text, "# TYPE {name}{suffix} {}", if kind == "unknown" { "untyped" } else { kind })
            }
            (None, _) => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_their_suffix_in_the_older_text() {
        let mut registry = Registry::default();
        let puts = Counter::<u64>::default();
        puts.inc_by(2);
        registry.register("etcd_mvcc_put", "Puts", puts);
        let leader = Family::<Labels, Gauge>::default();
        leader.get_or_create(&vec![("a", "x".into()), ("b", "y".into())]).set(1);
        registry.register("etcd_server_id", "Id", leader);
        let mut open = String::new();
        encode_registry(&mut open, &registry).and_then(|()| encode_eof(&mut open)).expect("encodes");
        insta::assert_snapshot!(prometheus_text(&open), @r#"
        # HELP etcd_mvcc_put_total Puts.
        # TYPE etcd_mvcc_put_total counter
        etcd_mvcc_put_total 2
        # HELP etcd_server_id Id.
        # TYPE etcd_server_id gauge
        etcd_server_id{a="x",b="y"} 1
        "#);
    }
}
