//! Applying what is asked of leases, and what the leader's clock says of them.

use super::apply::Applier;
use super::tables;
use crate::command::{AlarmKind, LeaseCheckpoint, LeaseExpire, LeaseGrant, LeaseRevoke, Rejection, Reply};
use crate::lease::{Lease, LeaseChange};
use crate::mutant::{Mutant, planted};
use crate::mvcc::stop::Stop;
use crate::storage::StateReader;
use crate::types::{LeaseId, LogId, Term};

impl<R: StateReader> Applier<R> {
    pub(super) fn grant_lease(&mut self, grant: LeaseGrant, at: LogId) -> Result<Reply, Rejection> {
        let LeaseGrant { lease: id, ttl_s } = grant;
        if self.store.leases.contains(id) {
            return Err(Rejection::LeaseExists);
        }
        self.set_lease(id, Lease { ttl_s, granted: at.index, remaining_s: None });
        self.store.leases.counts.granted += 1;
        Ok(Reply::LeaseGranted { revision: self.store.revision, lease: id, ttl_s })
    }

    pub(super) fn revoke_lease(&mut self, LeaseRevoke { lease }: LeaseRevoke) -> Result<Reply, Stop> {
        if !self.store.leases.contains(lease) {
            return Err(Rejection::LeaseNotFound.into());
        }
        self.end_lease(lease)?;
        Ok(Reply::LeaseRevoked { revision: self.store.revision })
    }

    pub(super) fn expire_lease(&mut self, expire: LeaseExpire, at: LogId) -> Result<Reply, Stop> {
        let found = self.store.leases.get(expire.lease).filter(|lease| lease.granted == expire.granted);
        let Some(lease) = found.filter(|_| speaks(expire.term, at)) else { return Ok(Reply::LeaseClockHeard) };
        if self.is_raised(AlarmKind::Corrupt) {
            // The clock waits to hear what became of it: nothing.
            self.lease_changes.push(LeaseChange::Is(expire.lease, lease));
            return Err(Rejection::Corrupt.into());
        }
        self.end_lease(expire.lease)?;
        Ok(Reply::LeaseClockHeard)
    }

    pub(super) fn checkpoint_leases(&mut self, checkpoint: &LeaseCheckpoint, at: LogId) -> Reply {
        for checkpointed in checkpoint.leases.iter().filter(|_| speaks(checkpoint.term, at)) {
            let lease = self.store.leases.get(checkpointed.lease).filter(|lease| lease.granted == checkpointed.granted);
            if let Some(lease) = lease {
                self.set_lease(checkpointed.lease, Lease { remaining_s: checkpointed.remaining_s, ..lease });
            }
        }
        Reply::LeaseClockHeard
    }

    fn set_lease(&mut self, id: LeaseId, lease: Lease) {
        self.store.leases.set(id, lease);
        self.lease_changes.push(LeaseChange::Is(id, lease));
        self.write_small(|_, batch| tables::write_lease(id, &lease, batch));
    }

    fn end_lease(&mut self, id: LeaseId) -> Result<(), Stop> {
        self.write(false, |writer| {
            writer.end_lease(id);
            Ok(())
        })?;
        self.store.leases.counts.ended += 1;
        self.lease_changes.push(LeaseChange::Ended(id));
        self.write_small(|_, batch| tables::delete_lease(id, batch));
        Ok(())
    }
}

/// Whether the lease clock of that term may be heard at this place of the log: its leader alone, and no later one's members.
fn speaks(term: Term, at: LogId) -> bool {
    term == at.term || planted(Mutant::S1)
}
