//! The planted watch bug does what its name says. In a process of its own: a mutant is planted for all of it.
#![cfg(feature = "mutants")]

#[path = "watch/log.rs"]
mod log;

use log::{Log, STREAM, World, key, lines, roomy};
use quorate_core::mutant::{Mutant, plant};
use quorate_core::types::Revision;
use quorate_core::watch::{WatchInput, WatchRequest};

#[test]
fn v4_tells_progress_to_a_watch_that_lags() {
    plant(Some(Mutant::V4));
    let mut log = Log::new();
    log.put("a", "1");
    let mut world = World::on(log, roomy());
    world.create(WatchRequest { start_revision: Revision(2), ..key("a") });
    assert_eq!(lines(&world.told(WatchInput::Progress(STREAM))), ["-1@2"], "before its event");
    assert_eq!(lines(&world.settle()), ["0@2 [a=1@2]"]);
}
