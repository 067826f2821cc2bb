//! What goes into the two inner actors and what comes out, under one name for their hosts in tests.

pub use crate::consensus::{ConsensusEffect, ConsensusInput, Proposal};
pub use crate::machine::{MachineEffect, MachineInput};
