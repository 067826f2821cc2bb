//! What the client surfaces call, answered by the hosted actors.

use super::{
    Shared,
    inbox::Inbound,
    watch::{HubHandle, HubRequest},
};
use crate::{state::FjallReader, transport::frame::COMMAND_BYTES};
use quorate_core::{
    command::{Alarm, AlarmChange, AlarmKind, Command, KeyRange, Op, Range, Refusal, Reply, Txn},
    effect::Proposal,
    machine::encode_command,
    mvcc::View,
    types::{MemberId, ReadId, RequestId, Revision, StreamId},
    watch::WatchResponse,
};
use quorate_web::front::{
    Consistency, Context, Drained, Front, Status, WatchReceiver, WatchSender, WatchStreamRequest, raft_request_bytes,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout_at},
};

/// An unanswered read is asked again, with a new id, after so long.
const READ_RETRY: Duration = Duration::from_millis(500);
/// A refused read is tried again after so long, doubling up to [`READ_RETRY`].
const READ_REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// Requests of one watch stream waiting for its hub.
const STREAM_REQUESTS: usize = 64;

/// The front of one worker.
#[derive(Clone, Debug)]
pub struct NodeFront {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Inbound>,
    hub: HubHandle,
}

impl NodeFront {
    #[must_use]
    pub fn new(shared: Arc<Shared>, inbox: mpsc::Sender<Inbound>, hub: HubHandle) -> Self {
        Self { shared, inbox, hub }
    }

    fn deadline(&self, context: Context) -> Instant {
        let own = Instant::now() + self.shared.member.request_timeout;
        context.deadline.map_or(own, |theirs| theirs.min(own))
    }

    fn admit(&self, context: Context) -> Result<(), Refusal> {
        if self.shared.is_stopping() {
            return Err(Refusal::Stopped);
        }
        if context.require_leader && self.shared.leadership.borrow().leader.is_none() {
            return Err(Refusal::NoLeader);
        }
        Ok(())
    }

    async fn replicate(&self, command: &Command, deadline: Instant) -> Result<Reply, Refusal> {
        let member = &self.shared.member;
        let encoded = encode_command(command);
        if encoded.len() > COMMAND_BYTES {
            return Err(Refusal::RequestTooLarge);
        }
        // Held until the answer is here, or nobody waits for it any more.
        let _share = self.shared.proposals.try_take(encoded.len() as u64).ok_or(Refusal::TooManyRequests)?;
        let request = RequestId { member: member.member, boot: member.boot, sequence: self.shared.next_sequence() };
        let led = self.shared.leadership.subscribe();
        let had_leader = led.borrow().leader.is_some();
        let (answer, answered) = oneshot::channel();
        let proposal = Proposal { request, command: encoded };
        match timeout_at(deadline.into(), self.inbox.send(Inbound::Propose { proposal, answer })).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Refusal::Stopped),
            Err(_) => return Err(Refusal::TimedOut),
        }
        match timeout_at(deadline.into(), answered).await {
            Ok(Ok(answer)) => answer,
            // The replica is gone, or forgot: either way nobody knows.
            Ok(Err(_)) => Err(Refusal::OutcomeUnknown),
            Err(_) if !had_leader && led.has_changed().is_ok_and(|changed| !changed) => Err(Refusal::TimedOut),
            Err(_) => Err(Refusal::OutcomeUnknown),
        }
    }

    /// Refuses what would grow the store beyond its quota, and tells the cluster. What frees space always passes.
    fn check_quota(&self, command: &Command) -> Result<(), Refusal> {
        let Some(quota) = self.shared.member.quota_bytes else { return Ok(()) };
        if self.shared.usage.bytes().saturating_add(growth(command)) <= quota || growth(command) == 0 {
            return Ok(());
        }
        let alarm = Alarm { member: self.shared.member.member, kind: AlarmKind::NoSpace };
        if !self.current().alarms().contains(&alarm) {
            let front = self.clone();
            let deadline = Instant::now() + self.shared.member.request_timeout;
            tokio::spawn(async move {
                tracing::warn!(target: "quorate", quota_bytes = quota, "database space exceeds its quota; raising the NOSPACE alarm");
                // If it does not get through, the next write that is too large tries again.
                let _ = front.replicate(&Command::Alarm(AlarmChange { alarm, active: true }), deadline).await;
            });
        }
        Err(Refusal::NoSpace)
    }
}

/// Bytes that a command may add to the store, about as etcd counts them.
fn growth(command: &Command) -> u64 {
    const ROW: u64 = 48;
    fn of(ops: &[Op]) -> u64 {
        ops.iter()
            .map(|op| match op {
                Op::Put(put) => ROW + (put.key.len() + put.value.len()) as u64,
                Op::Txn(txn) => branches(txn),
                Op::Range(_) | Op::DeleteRange(_) => 0,
            })
            .sum()
    }
    fn branches(txn: &Txn) -> u64 {
        of(&txn.success).max(of(&txn.failure))
    }
    match command {
        Command::Put(put) => ROW + (put.key.len() + put.value.len()) as u64,
        Command::Txn(txn) => branches(txn),
        Command::DeleteRange(_) | Command::Compact(_) | Command::Alarm(_) | Command::Publish(_) => 0,
    }
}

/// Carries one stream's requests to its hub, and none while the hub says that the stream holds too much already: its client may
/// ask faster than it listens. What is drained always gets through.
async fn carry(
    hub: mpsc::Sender<HubRequest>,
    stream: StreamId,
    responses: mpsc::UnboundedSender<WatchResponse>,
    mut requests: mpsc::Receiver<WatchStreamRequest>,
    drained: Arc<Drained>,
) {
    let (full, mut is_full) = watch::channel(false);
    let client = responses.clone();
    if hub.send(HubRequest::Open { stream, responses, full }).await.is_err() {
        return;
    }
    loop {
        let has_room = !*is_full.borrow_and_update();
        let request = tokio::select! {
            biased;
            bytes = drained.take() => HubRequest::Drained(stream, bytes),
            request = requests.recv(), if has_room => match request {
                Some(request) => HubRequest::Stream(stream, request),
                None => break,
            },
            changed = is_full.changed(), if !has_room => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            // A client that leaves is noticed also when it is not read from.
            () = client.closed() => break,
            () = hub.closed() => return,
        };
        if hub.send(request).await.is_err() {
            return;
        }
    }
    let _ = hub.send(HubRequest::Close(stream)).await;
}

impl Front for NodeFront {
    type Reader = FjallReader;

    async fn propose(&self, command: Command, context: Context) -> Result<Reply, Refusal> {
        self.admit(context)?;
        self.check_quota(&command)?;
        if raft_request_bytes(self.shared.member.member, context.request_bytes) > self.shared.member.max_request_bytes {
            return Err(Refusal::RequestTooLarge);
        }
        self.replicate(&command, self.deadline(context)).await
    }

    async fn view(&self, consistency: Consistency, context: Context) -> Result<Arc<View<FjallReader>>, Refusal> {
        self.admit(context)?;
        if consistency == Consistency::Serializable {
            return Ok(self.current());
        }
        let deadline = self.deadline(context);
        let member = &self.shared.member;
        let mut pause = READ_REFUSED_PAUSE;
        loop {
            let read = ReadId { member: member.member, boot: member.boot, sequence: self.shared.next_sequence() };
            let (answer, answered) = oneshot::channel();
            match timeout_at(deadline.into(), self.inbox.send(Inbound::Read { read, answer })).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Refusal::Stopped),
                Err(_) => return Err(Refusal::TimedOut),
            }
            match timeout_at(deadline.min(Instant::now() + READ_RETRY).into(), answered).await {
                Ok(Ok(Ok(()))) => return Ok(self.current()),
                Ok(Err(_)) | Ok(Ok(Err(Refusal::Stopped))) => return Err(Refusal::Stopped),
                // No leader for now, or another one: it may come right in time.
                Ok(Ok(Err(_))) => {
                    self.admit(context)?;
                    sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
                    pause = (pause * 2).min(READ_RETRY);
                }
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return Err(Refusal::TimedOut);
            }
        }
    }

    fn current(&self) -> Arc<View<FjallReader>> {
        self.shared.view.borrow().clone()
    }

    fn watch(&self, _context: Context) -> (WatchSender, WatchReceiver) {
        let stream = StreamId(self.shared.streams.fetch_add(1, Ordering::Relaxed));
        let (sender, requests) = mpsc::channel::<WatchStreamRequest>(STREAM_REQUESTS);
        // Bounded by the hub: it stops at `stream_bytes` until they are drained.
        let (responses, receiver) = mpsc::unbounded_channel();
        let drained = Arc::new(Drained::default());
        tokio::spawn(carry(self.hub.0.clone(), stream, responses, requests, Arc::clone(&drained)));
        (WatchSender(sender), WatchReceiver { responses: receiver, drained })
    }

    fn status(&self) -> Status {
        let everything = Range { range: KeyRange { key: vec![0].into(), end: vec![0].into() }, ..Range::default() };
        let in_use = self.current().range_bytes(&everything);
        let bytes = self.shared.usage.bytes().max(in_use);
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Status {
            cluster: self.shared.member.cluster,
            raft: self.shared.status(),
            db_bytes: signed(bytes),
            db_bytes_in_use: signed(in_use),
            quota_bytes: self.shared.member.quota_bytes.map_or(0, signed),
        }
    }

    async fn transfer(&self, target: MemberId, context: Context) -> Result<(), Refusal> {
        self.admit(context)?;
        let mut led = self.shared.leadership.subscribe();
        let leader = led.borrow_and_update().leader;
        if leader != Some(self.shared.member.member) {
            return Err(Refusal::NotLeader);
        }
        if target == self.shared.member.member {
            return Ok(());
        }
        if !self.current().configuration().voters.contains(&target) {
            return Err(Refusal::BadLeaderTransferee);
        }
        let deadline = self.deadline(context);
        self.inbox.send(Inbound::Transfer(target)).await.map_err(|_| Refusal::Stopped)?;
        match timeout_at(deadline.into(), led.wait_for(|now| now.leader == Some(target))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Stopped),
            Err(_) => Err(Refusal::TimedOut),
        }
    }

    async fn compacted_physically(&self, revision: Revision, context: Context) -> Result<(), Refusal> {
        let mut swept = self.shared.swept.subscribe();
        match timeout_at(self.deadline(context).into(), swept.wait_for(|swept| *swept >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Stopped),
            Err(_) => Err(Refusal::TimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Carried {
        hub: mpsc::Receiver<HubRequest>,
        full: watch::Sender<bool>,
        requests: mpsc::Sender<WatchStreamRequest>,
        responses: mpsc::UnboundedReceiver<WatchResponse>,
        drained: Arc<Drained>,
    }

    async fn carried() -> Carried {
        let (hub_sender, mut hub) = mpsc::channel(1_000);
        let (requests, requests_receiver) = mpsc::channel(STREAM_REQUESTS);
        let (responses_sender, responses) = mpsc::unbounded_channel();
        let drained = Arc::new(Drained::default());
        tokio::spawn(carry(hub_sender, StreamId(7), responses_sender, requests_receiver, Arc::clone(&drained)));
        let Some(HubRequest::Open { full, .. }) = hub.recv().await else { panic!("a stream opens first") };
        Carried { hub, full, requests, responses, drained }
    }

    #[tokio::test]
    async fn a_stream_that_holds_too_much_is_not_read_from_until_it_is_drained() {
        let Carried { mut hub, full, requests, responses: _responses, drained } = carried().await;
        requests.send(WatchStreamRequest::Progress).await.unwrap();
        assert!(matches!(hub.recv().await, Some(HubRequest::Stream(..))));
        full.send(true).unwrap();
        for _ in 0..STREAM_REQUESTS {
            requests.send(WatchStreamRequest::Progress).await.unwrap();
        }
        assert!(requests.try_send(WatchStreamRequest::Progress).is_err(), "the client has to wait");
        drained.add(5);
        assert!(matches!(hub.recv().await, Some(HubRequest::Drained(StreamId(7), 5))), "what is drained overtakes what waits");
        full.send(false).unwrap();
        for _ in 0..STREAM_REQUESTS {
            assert!(matches!(hub.recv().await, Some(HubRequest::Stream(..))));
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_a_full_stream_closes_it() {
        let Carried { mut hub, full, requests, responses, .. } = carried().await;
        full.send(true).unwrap();
        drop((requests, responses));
        assert!(matches!(hub.recv().await, Some(HubRequest::Close(StreamId(7)))));
    }
}
