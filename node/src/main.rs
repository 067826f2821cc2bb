//! `quorate`: one member of a cluster.

use nix::sys::signal::{SigSet, Signal};
use quorate_node::{config::Config, logging, run};
use std::process::ExitCode;
use tikv_jemallocator::Jemalloc;

/// Rows and requests are allocated on one thread and freed on another; this gives back what is free, see `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let config = match Config::from_process() {
        Ok(config) => config,
        Err(usage) => {
            if usage.asked {
                println!("{}", usage.message);
            } else {
                eprintln!("{}", usage.message);
            }
            return ExitCode::from(usage.exit);
        }
    };
    if let Err(error) = logging::start(&config.log) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    stop_on_panic();
    if let Err(error) = survive_file_size_limit() {
        tracing::error!(target: "quorate", %error, "this member cannot start");
        return ExitCode::FAILURE;
    }
    match run::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(target: "quorate", error, "this member cannot start");
            ExitCode::FAILURE
        }
    }
}

/// A write beyond `RLIMIT_FSIZE` must fail as one on a full disk does, with an error that names the file, not kill the process
/// without a word. Threads inherit the mask, so this comes before the first of them.
fn survive_file_size_limit() -> nix::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block()
}

/// A member must never live on without one of its threads.
fn stop_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        let what = panic.payload_as_str().unwrap_or("unknown");
        tracing::error!(target: "quorate", error = what, place, "a broken assumption stops this member");
        report(panic);
        std::process::abort();
    }));
}
