//! Deliberate bugs, each a real one of this field, that measure whether the simulator bites.
//!
//! Without the `mutants` feature [`planted`] is `false` at compile time and nothing of them is left in the binary.

/// One planted bug. Names follow the field's bug lists: E elections, R replication, F flow control, L reads, W storage,
/// K key-values, V watch, S leases, H the hosting of a member, U the outcomes of requests, Q the quota, D the v2 tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mutant {
    /// A vote leaves before it is durable.
    E1 = 1,
    /// No check-quorum: a leader that hears no quorum stays.
    E9,
    /// A leader steps down unless every member answers.
    E10,
    /// Entries of an older term are committed by counting (Figure 8).
    R1,
    /// Every append truncates, also when the entries agree.
    R4,
    /// The leader counts its own entry before its own disk has it.
    R8,
    /// A follower acknowledges before its disk has the entry.
    R9,
    /// An unknown term counts as term 0, and term 0 as one that agrees: where the log was released, nobody notices that it was.
    R12,
    /// A leader that has nothing new to append sends no snapshot: who comes back when all is quiet never catches up.
    R13,
    /// A follower whose log is full takes nothing from its leader, though nothing committed is left to apply.
    F1,
    /// A leader serves reads before it has committed in its own term.
    L1,
    /// A leader serves reads without asking a quorum.
    L2,
    /// Damage below the synced mark is cut like a torn tail.
    W1b,
    /// The log is let go of through what is applied, synced or not.
    W6,
    /// A received state takes the place of the old one before it is synced.
    W14,
    /// The applied index is written apart from the rows it vouches for.
    W7,
    /// A state store from which rows are missing is opened all the same.
    W8,
    /// Compares are evaluated when proposed, not when applied.
    K4,
    /// What the index adds up to does not shrink with a key's value: only budgets look at it.
    K5,
    /// A read that fails in apply is answered as a refusal, and apply goes on.
    K6,
    /// Progress is reported for a watcher that is not synced.
    V4,
    /// `Retire` leaves before the sync that must cover it.
    T1,
    /// A member is heard and campaigns before its boot is durable.
    H1,
    /// A message leaves although the write that it promises is not durable.
    H2,
    /// Entries are handed to apply ahead of the word that the log became less durable.
    H3,
    /// A read joins a round that began before it came.
    L3,
    /// A read is asked under the id of an earlier one that came to nothing.
    L4,
    /// A read is answered before its index is applied.
    L5,
    /// An unknown outcome is told as a failure.
    U1,
    /// The quota is looked at only by the leader.
    Q1,
    /// The history of the v2 tree is lost at a restart.
    D1,
    /// The ends of v2 nodes are lost at a restart.
    D2,
    /// The cluster's time is the leader's wall clock.
    D3,
    /// Who led once goes on ending leases by its own clock, through whoever leads, and no apply asks in which term it was said.
    S1,
    /// A keepalive is answered by the clock alone, whatever is under way in the log for that lease.
    S2,
    /// A leader answers keepalives without asking a quorum.
    S3,
    /// A new leader gives every lease its whole time, whatever its checkpoint says.
    S4,
    /// Leases run by the wall clock.
    S6,
    /// Which keys a lease has is forgotten at a restart.
    S7,
}

impl Mutant {
    /// Every mutant, in the order of the campaign's table.
    pub const ALL: [Self; 39] = [
        Self::E1,
        Self::E9,
        Self::E10,
        Self::R1,
        Self::R4,
        Self::R8,
        Self::R9,
        Self::R12,
        Self::R13,
        Self::F1,
        Self::L1,
        Self::L2,
        Self::W1b,
        Self::W6,
        Self::W14,
        Self::W7,
        Self::W8,
        Self::K4,
        Self::K5,
        Self::K6,
        Self::V4,
        Self::T1,
        Self::H1,
        Self::H2,
        Self::H3,
        Self::L3,
        Self::L4,
        Self::L5,
        Self::U1,
        Self::Q1,
        Self::D1,
        Self::D2,
        Self::D3,
        Self::S1,
        Self::S2,
        Self::S3,
        Self::S4,
        Self::S6,
        Self::S7,
    ];
}

#[cfg(feature = "mutants")]
static PLANTED: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

/// Plants one bug in this process, or none. Set once, before any actor runs.
#[cfg(feature = "mutants")]
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.store(mutant.map_or(0, |m| m as u8), core::sync::atomic::Ordering::SeqCst);
}

/// Whether that bug is planted.
#[inline]
#[must_use]
pub fn planted(mutant: Mutant) -> bool {
    #[cfg(feature = "mutants")]
    return PLANTED.load(core::sync::atomic::Ordering::Relaxed) == mutant as u8;
    #[cfg(not(feature = "mutants"))]
    {
        let _ = mutant;
        false
    }
}
