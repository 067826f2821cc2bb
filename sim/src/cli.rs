//! The command line.

use crate::invariants::Checker;
use clap::Parser;
use std::{ops::Range, path::PathBuf};

/// Runs the production actors on virtual time with faults, and checks everything they promise.
///
/// Exit code: 0 nothing found, 1 a violation, 2 wrong usage, 3 no violation but a history that nobody could decide about (only with --search).
#[derive(Debug, Parser)]
#[command(name = "sim", version)]
pub struct Arguments {
    /// Run this one seed.
    #[arg(long, group = "what")]
    pub seed: Option<u64>,
    /// Run seeds FROM..TO (TO not included).
    #[arg(long, group = "what", value_parser = range, value_name = "FROM..TO")]
    pub seeds: Option<Range<u64>>,
    /// Run a schedule saved by --save, or written by hand.
    #[arg(long, group = "what", value_name = "FILE")]
    pub schedule: Option<PathBuf>,
    /// Plant each mutant in turn and report how many seeds it lives (only in a build with the feature `mutants`).
    #[arg(long, group = "what")]
    pub mutants: bool,
    /// Seeds that run at once, each on a thread of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    /// Run each seed twice and compare the hashes of everything that happened.
    #[arg(long)]
    pub check: bool,
    /// Plant one mutant (only in a build with the feature `mutants`).
    #[arg(long, value_name = "NAME")]
    pub mutant: Option<String>,
    /// Do not ask this checker: to see who else finds it.
    #[arg(long, value_name = "NAME")]
    pub without_checker: Option<Checker>,
    /// Judge histories by searching for an order, as if the log's were not known; may end undecided.
    #[arg(long)]
    pub search: bool,
    /// Save the schedule of --seed to a file.
    #[arg(long, value_name = "FILE", requires = "seed")]
    pub save: Option<PathBuf>,
    /// Print the last LINES events of a single run.
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    pub trace: usize,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("expected FROM..TO, such as 0..1000")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("the range is empty".into()) } else { Ok(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused_with_a_reason() {
        assert_eq!(range("3..9"), Ok(3..9));
        assert!(range("9..3").is_err());
        assert!(range("x..3").expect_err("not a number").contains("\"x\""));
        assert!(Arguments::try_parse_from(["sim", "--seed", "1", "--seeds", "1..2"]).is_err());
    }
}
