//! A member says nothing before the number of its boot is durable: a crash would give the same number, and so the same ids, again.

use super::{Checker, Found};
use quorate_core::consensus::Envelope;
use quorate_core::types::WriteNumber;

pub(super) fn check(member: usize, reported: WriteNumber, envelope: &Envelope) -> Found {
    if reported > WriteNumber(0) {
        return Ok(());
    }
    Err((Checker::BootGate, format!("member {member} says {envelope} before its boot is durable")))
}
