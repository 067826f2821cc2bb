//! What the client surfaces call: each request is sent to the member's log half under a ticket, whose answer is awaited.

use super::{Shared, inbox::Inbound, watch::HubHandle};
use crate::state::FjallReader;
use quorate_core::{
    command::{Command, Refusal, Reply},
    lease::{LeaseCall, LeaseTime},
    member::{Answer, Body, Request, Ticket, admit},
    mvcc::View,
    types::{MemberId, Monotonic, Revision, StreamId},
};
use quorate_web::{
    backend::{Backend, Consistency, Context, Status},
    watch_stream::{self, WatchReceiver, WatchSender},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout_at,
};

/// One worker's way to the member.
#[derive(Clone, Debug)]
pub struct MemberHandle {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Inbound>,
    hub: HubHandle,
}

/// A ticket whose owner may leave: then the member is told, so that it need not go on.
struct Held<'a> {
    handle: &'a MemberHandle,
    ticket: Ticket,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.handle.shared.tickets.close(self.ticket) {
            // If there is no room, its deadline ends it.
            let _ = self.handle.inbox.try_send(Inbound::Cancel(self.ticket));
        }
    }
}

impl MemberHandle {
    #[must_use]
    pub fn new(shared: Arc<Shared>, inbox: mpsc::Sender<Inbound>, hub: HubHandle) -> Self {
        Self { shared, inbox, hub }
    }

    fn deadline(&self, context: Context) -> Instant {
        let own = Instant::now() + self.shared.member.request_timeout;
        context.deadline.map_or(own, |theirs| theirs.min(own))
    }

    /// The member's own time at that moment.
    fn monotonic(&self, at: Instant) -> Monotonic {
        self.shared.clock.now().monotonic + at.saturating_duration_since(Instant::now())
    }

    /// Sends a request and awaits its ticket. The member answers each, at its deadline at the latest.
    ///
    /// # Errors
    /// Whatever the member refuses it for.
    pub async fn ask(&self, body: Body, context: Context) -> Result<Answer, Refusal> {
        let (ticket, answered) = self.shared.tickets.open();
        let _held = Held { handle: self, ticket };
        let deadline = context.deadline.map(|deadline| self.monotonic(deadline));
        let request = Inbound::Client(Request { ticket, deadline, require_leader: context.require_leader, body });
        if let Err(full) = self.inbox.try_send(request) {
            let request = full.into_inner();
            match timeout_at(self.deadline(context).into(), self.inbox.send(request)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Refusal::Stopped),
                Err(_) => return Err(Refusal::TimedOut),
            }
        }
        // A member that is gone takes the process with it.
        answered.await.unwrap_or(Err(Refusal::OutcomeUnknown))
    }
}

impl Backend for MemberHandle {
    type Reader = FjallReader;

    async fn propose(&self, command: Command, context: Context) -> Result<Reply, Refusal> {
        let member = &self.shared.member;
        let prepared = admit(&self.current(), member.member, &command, context.request_bytes, member.max_request_bytes)?;
        drop(command);
        // Held until the answer is here, or nobody waits for it any more.
        let _share = self.shared.proposals.try_take(prepared.command.len() as u64).ok_or(Refusal::TooManyRequests)?;
        self.ask(Body::Propose(prepared), context).await.map(Answer::into_reply)
    }

    async fn view(&self, consistency: Consistency, context: Context) -> Result<Arc<View<FjallReader>>, Refusal> {
        if consistency == Consistency::Linearizable {
            self.ask(Body::Read, context).await?;
        }
        Ok(self.current())
    }

    fn current(&self) -> Arc<View<FjallReader>> {
        self.shared.view.borrow().clone()
    }

    async fn lease(&self, call: LeaseCall, context: Context) -> Result<Option<LeaseTime>, Refusal> {
        self.ask(Body::Lease(call), context).await.map(Answer::into_lease_time)
    }

    fn watch(&self, _context: Context) -> (WatchSender, WatchReceiver) {
        let stream = StreamId(self.shared.streams.fetch_add(1, Ordering::Relaxed));
        watch_stream::open(self.hub.0.clone(), stream)
    }

    fn v2_changes(&self) -> watch::Receiver<u64> {
        self.shared.v2_index.subscribe()
    }

    fn status(&self) -> Status {
        let in_use = self.current().live_bytes();
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
        self.ask(Body::Transfer(target), context).await.map(drop)
    }

    async fn compacted_physically(&self, revision: Revision, context: Context) -> Result<(), Refusal> {
        let mut compacted_to = self.shared.compacted_to.subscribe();
        match timeout_at(self.deadline(context).into(), compacted_to.wait_for(|to| *to >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Stopped),
            Err(_) => Err(Refusal::TimedOut),
        }
    }
}
