//! A flag changed as an operator does it: one member after the other is stopped and started with the new value, under load.

use super::{RECOVERY_LIMIT, Run};
use crate::load;
use nix::sys::signal::Signal;
use std::{error::Error, time::Duration};

/// Without an acknowledged write for longer than a change of leader takes, the cluster counts as stopped: a timeout is up to 1.5 s,
/// and a vote may be split once.
const LEADER_CHANGE_LIMIT: Duration = Duration::from_millis(3_500);
const MIB: usize = 1 << 20;
/// The number of the client that writes what only the new value allows; the load's are below.
const LARGE_CLIENT: u32 = 2_000;

/// Raises `--max-request-bytes`. While only one member has the new value, it is used.
pub(super) fn change(run: &mut Run, number: u32) -> Result<bool, Box<dyn Error>> {
    let mut in_time = true;
    for member in 0..run.cluster.members.len() {
        run.wait_writes("a flag is changed")?;
        run.recorder.measure_gap();
        run.recorder.ends_a_life(member);
        let changed = &mut run.cluster.members[member];
        changed.set("--max-request-bytes", &((32 + number as usize) * MIB).to_string());
        changed.signal(Signal::SIGTERM)?;
        changed.wait()?;
        changed.start()?;
        changed.wait_ready()?;
        if member == 0 && number == 0 {
            let endpoint = changed.client.clone();
            let written = load::first_write(&run.recorder, LARGE_CLIENT, &endpoint, 14 * MIB, RECOVERY_LIMIT);
            run.runtime.block_on(written).ok_or_else(|| format!("no large write through {endpoint} in {RECOVERY_LIMIT:?}"))?;
            // Other clients read everything, and take no answer of that size.
            run.runtime.block_on(load::first_write(&run.recorder, LARGE_CLIENT, &endpoint, 0, RECOVERY_LIMIT));
        }
        run.wait_writes("the next member is changed")?;
        let gap = run.recorder.longest_gap();
        let verdict = if gap <= LEADER_CHANGE_LIMIT { "" } else { "FAILED: " };
        println!("{verdict}--max-request-bytes changed on member {}: longest gap {:.2} s", member + 1, gap.as_secs_f64());
        in_time &= gap <= LEADER_CHANGE_LIMIT;
    }
    Ok(in_time)
}
