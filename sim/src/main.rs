//! The simulator: the production actors on virtual time, with faults, checked at every step and from outside.
//!
//! `schedule` is a seed's plan as data, drawn by `nemesis`; `world` replays it: `process` hosts the two halves of a member, as
//! production does, `log_disk`, `state_store` and `wire` are what they work with, `sessions` are what connects clients with members (`v2`: those of the v2 tree), `faults` and
//! `phases` are what a schedule asks for. `invariants` watch every step, and the checker `judge`s the history at the end by the
//! order of the log. `run` does one seed in a fresh thread, `report` explains.

#[cfg(madsim)]
mod campaign;
#[cfg(madsim)]
mod chance;
#[cfg(madsim)]
mod cli;
#[cfg(madsim)]
mod clock;
#[cfg(madsim)]
mod convert;
#[cfg(madsim)]
mod disk;
#[cfg(madsim)]
mod faults;
#[cfg(madsim)]
mod invariants;
#[cfg(madsim)]
mod judge;
#[cfg(madsim)]
mod leases;
#[cfg(madsim)]
mod log_disk;
#[cfg(madsim)]
mod member;
#[cfg(madsim)]
mod nemesis;
#[cfg(madsim)]
mod network;
#[cfg(madsim)]
mod parameters;
#[cfg(madsim)]
mod phases;
#[cfg(madsim)]
mod process;
#[cfg(madsim)]
mod report;
#[cfg(madsim)]
mod run;
#[cfg(madsim)]
mod schedule;
#[cfg(madsim)]
mod sessions;
#[cfg(madsim)]
mod snapshot;
#[cfg(madsim)]
mod state_store;
#[cfg(madsim)]
mod store;
#[cfg(all(test, madsim))]
mod tests;
#[cfg(madsim)]
mod trace;
#[cfg(madsim)]
mod v2;
#[cfg(madsim)]
mod wire;
#[cfg(madsim)]
mod workload;
#[cfg(madsim)]
mod world;

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    campaign::main()
}

/// Built without `--cfg madsim` (RUSTFLAGS is set, or cargo was started outside the checkout): builds and runs itself with it.
#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" --cfg madsim");
    let mut command = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["run", "--quiet", "--manifest-path"]).arg(directory.join("Cargo.toml"));
    // A target directory of its own, so that the two sets of flags do not evict each other's builds.
    command.arg("--target-dir").arg(directory.join("../target/madsim"));
    if cfg!(feature = "mutants") {
        command.args(["--features", "mutants"]);
    }
    match command.arg("--").args(std::env::args_os().skip(1)).env("RUSTFLAGS", flags).status() {
        Ok(status) => std::process::ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("sim is built without --cfg madsim, and cargo does not start to build it again: {error}");
            std::process::ExitCode::from(2)
        }
    }
}

#[cfg(not(madsim))]
#[test]
fn the_simulator_is_built_with_cfg_madsim() {
    panic!(
        "sim was built without `--cfg madsim`, so none of its tests are here: unset RUSTFLAGS, and run cargo inside the checkout, \
         where .cargo/config.toml sets it"
    );
}
