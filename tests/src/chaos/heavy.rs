//! Commands that cost in proportion to the store, under load: whoever does not wait for that very command is served meanwhile, and no
//! leader is lost over it.

use super::{MEMBERS, Options};
use crate::process::{Cluster, Server};
use quorate_web::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, StatusRequest, TxnRequest, compare, kv_client::KvClient,
    maintenance_client::MaintenanceClient, request_op,
};
use std::{
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tonic::transport::{Channel, Endpoint};

/// Keys that one delete takes.
const KEYS: usize = 400_000;
const KEYS_SMOKE: usize = 40_000;
/// Puts in one transaction that fills the store; the default `--max-txn-ops` allows 128.
const FILL_OPS: usize = 100;
/// Whoever reads what a member has applied is never served later than that.
const GAP_LIMIT: Duration = Duration::from_millis(200);
/// How long the clients run before the command is carried out.
const WARM_UP: Duration = Duration::from_secs(1);
/// An election that the command caused has begun by then: the longest timeout of a follower.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(5);

/// The longest time between two answers of one kind, over all clients together.
#[derive(Debug)]
struct Gap {
    last: Instant,
    longest: Duration,
}

impl Gap {
    fn new() -> Self {
        Self { last: Instant::now(), longest: Duration::ZERO }
    }

    fn answered(&mut self) {
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }
}

type Shared = Arc<Mutex<Gap>>;

/// Runs both commands; prints what they cost everyone else.
pub(super) fn run(server: Server, options: &Options) -> Result<bool, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let cluster = Cluster::start(server, MEMBERS, &["--max-txn-ops=128"])?;
    let _inside = runtime.enter();
    let channels = cluster
        .members
        .iter()
        .map(|member| Endpoint::from_shared(format!("http://{}", member.client)).map(|endpoint| endpoint.connect_lazy()))
        .collect::<Result<Vec<_>, _>>()?;
    runtime.block_on(measure(&channels, if options.smoke { KEYS_SMOKE } else { KEYS }))
}

async fn measure(channels: &[Channel], keys: usize) -> Result<bool, Box<dyn Error>> {
    fill(channels, keys).await?;
    let everything = |target, union| Compare {
        key: "h/".into(),
        range_end: "h0".into(),
        target,
        result: compare::CompareResult::Greater as i32,
        target_union: Some(union),
    };
    // Each compare goes over every key; together they are just below what one command may visit.
    let passes = (keys + 1_000_000) / keys;
    let txn = TxnRequest {
        compare: vec![everything(compare::CompareTarget::Version as i32, compare::TargetUnion::Version(0)); passes.min(128)],
        success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put("h-txn"))) }],
        failure: vec![],
    };
    let mut member = KvClient::new(channels[0].clone());
    let txn = under_load(channels, "a txn at the cost limit", async {
        member.txn(txn).await.map(|answer| assert!(answer.into_inner().succeeded, "every key has a version"))
    })
    .await?;
    let mut member = KvClient::new(channels[0].clone());
    let delete = DeleteRangeRequest { key: "h/".into(), range_end: "h0".into(), prev_kv: false };
    let delete = under_load(channels, &format!("a delete of {keys} keys"), async {
        member.delete_range(delete).await.map(|answer| assert_eq!(answer.into_inner().deleted as usize, keys))
    })
    .await?;
    Ok(txn && delete)
}

fn put(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "v".into(), ..PutRequest::default() }
}

async fn fill(channels: &[Channel], keys: usize) -> Result<(), Box<dyn Error>> {
    let writers = channels.iter().cycle().take(8).enumerate().map(|(writer, channel)| {
        let mut client = KvClient::new(channel.clone());
        async move {
            for first in (writer * FILL_OPS..keys).step_by(8 * FILL_OPS) {
                let ops = (first..keys.min(first + FILL_OPS)).map(|key| put(&format!("h/{key:08}")));
                let success = ops.map(|put| RequestOp { request: Some(request_op::Request::RequestPut(put)) }).collect();
                client.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
            }
            Ok::<_, tonic::Status>(())
        }
    });
    futures::future::try_join_all(writers).await?;
    Ok(())
}

/// Carries a command out while others read and write, and tells how long each kind went without an answer.
async fn under_load(
    channels: &[Channel],
    name: &str,
    command: impl Future<Output = Result<(), tonic::Status>>,
) -> Result<bool, Box<dyn Error>> {
    let (reads, writes) = (Shared::new(Mutex::new(Gap::new())), Shared::new(Mutex::new(Gap::new())));
    let ended = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for (number, channel) in channels.iter().enumerate() {
        let (mut client, ended_too, reads) = (KvClient::new(channel.clone()), Arc::clone(&ended), Arc::clone(&reads));
        clients.push(tokio::spawn(async move {
            let range = RangeRequest { key: "h-load".into(), serializable: true, ..RangeRequest::default() };
            while !ended_too.load(Ordering::Relaxed) {
                client.range(range.clone()).await?;
                reads.lock().expect("no client panics").answered();
                tokio::time::sleep(PAUSE).await;
            }
            Ok::<_, tonic::Status>(())
        }));
        let (mut client, ended, writes) = (KvClient::new(channel.clone()), Arc::clone(&ended), Arc::clone(&writes));
        clients.push(tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                client.put(put(&format!("h-load-{number}"))).await?;
                writes.lock().expect("no client panics").answered();
                tokio::time::sleep(PAUSE).await;
            }
            Ok::<_, tonic::Status>(())
        }));
    }
    tokio::time::sleep(WARM_UP).await;
    let term = term(channels).await?;
    let begun = Instant::now();
    command.await?;
    let took = begun.elapsed();
    tokio::time::sleep(AFTERMATH).await;
    ended.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    let same = self::term(channels).await? == term;
    let longest = |gap: &Shared| gap.lock().expect("no client panics").longest;
    let (read, written) = (longest(&reads), longest(&writes));
    // A write behind the command in the log waits until it is applied, and no longer.
    let in_time = read <= GAP_LIMIT && written <= took + GAP_LIMIT;
    println!(
        "{}{name} took {:.2} s; the longest gap between reads {:.3} s, between writes {:.3} s; the leader {}",
        if in_time && same { "" } else { "FAILED: " },
        took.as_secs_f64(),
        read.as_secs_f64(),
        written.as_secs_f64(),
        if same { "stayed" } else { "changed" }
    );
    Ok(in_time && same)
}

async fn term(channels: &[Channel]) -> Result<u64, tonic::Status> {
    let status = MaintenanceClient::new(channels[0].clone()).status(StatusRequest {}).await?.into_inner();
    Ok(status.raft_term)
}
