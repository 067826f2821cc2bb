//! The same etcdctl commands and JSON requests against etcd 3.7.1 and Quorate: output and exit code must be equal.
//!
//! One member alone, then three, where every command is asked of each: the leader and both followers.

mod cases;
mod command_line;
mod side;

use crate::{
    normalise::Normaliser,
    peers,
    process::{Cluster, Server},
};
use cases::CASES;
use side::{CommandResult, Side};
use std::{
    error::Error,
    fmt::Write as _,
    path::Path,
    process::{Command, Stdio},
};

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Compare etcd with itself: what differs then is the suite's own fault.
    #[arg(long)]
    self_check: bool,
    /// Also run `check perf` against Quorate (a minute).
    #[arg(long)]
    check_perf: bool,
    /// Print every command's output, not only of those that differ.
    #[arg(long)]
    verbose: bool,
}

/// Which member is asked, of how many. The first one leads.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    pub member: usize,
    pub members: usize,
}

/// Every seat has clusters of its own, so that all see the same history.
const SEATS: [Seat; 4] =
    [Seat { member: 0, members: 1 }, Seat { member: 0, members: 3 }, Seat { member: 1, members: 3 }, Seat { member: 2, members: 3 }];

impl std::fmt::Display for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self { members: 1, .. } => write!(f, "1 member"),
            Self { member: 0, members } => write!(f, "{members} members, leader"),
            Self { member, members } => write!(f, "{members} members, follower {member}"),
        }
    }
}

/// What has been found so far.
#[derive(Clone, Copy, Default, Debug)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    fn add(&mut self, passed: bool) {
        *(if passed { &mut self.passed } else { &mut self.failed }) += 1;
    }
}

/// Runs all cases at every seat; prints a line for each difference and the counts.
pub fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let etcdctl = peers::build()?.join("etcdctl");
    let other = if options.self_check { Server::Etcd } else { Server::Quorate };
    // Not by both sides at once.
    other.binary()?;
    let mut total = Count::default();
    for seat in SEATS {
        let count = compare(&etcdctl, seat, other, options.verbose)?;
        println!("{seat}: {} equal, {} different", count.passed, count.failed);
        total.passed += count.passed;
        total.failed += count.failed;
    }
    if !options.self_check {
        let differences = command_line::differences()?;
        differences.iter().for_each(|difference| println!("DIFFERS  command line: {difference}"));
        total.passed += command_line::count() - differences.len();
        total.failed += differences.len();
    }
    if options.check_perf {
        let cluster = Cluster::start(other, 1, &[])?;
        let status = Command::new(&etcdctl).args(["--endpoints", &cluster.endpoints(), "check", "perf"]).stderr(Stdio::null()).status()?;
        total.add(status.success());
        println!("check perf: {status}");
    }
    println!("etcdctl and JSON against {} and etcd: {} passed, {} failed", other.name(), total.passed, total.failed);
    Ok(total.failed == 0)
}

/// All cases at one seat, on both sides at a time.
fn compare(etcdctl: &Path, seat: Seat, other: Server, verbose: bool) -> Result<Count, Box<dyn Error>> {
    let normaliser = Normaliser::new();
    let mut count = Count::default();
    let (etcd, other) = at_once(|| Side::start(etcdctl, Server::Etcd, seat), || Side::start(etcdctl, other, seat))?;
    for case in CASES {
        let (theirs, ours) = at_once(|| etcd.run(case), || other.run(case))?;
        let [theirs, ours] = [theirs, ours].map(|answer| {
            let output = lease_chance_aside(&positions_aside(&normaliser.apply(&answer.output), seat.members));
            CommandResult { output, ..answer }
        });
        count.add(theirs == ours);
        if theirs != ours {
            println!("DIFFERS  {seat}: {case}");
            for (side, answer) in [(&etcd, &theirs), (&other, &ours)] {
                println!("  {} ({})\n{}", side.name(), answer.exit, indent(&answer.output));
            }
        } else if verbose {
            println!("equal    {seat}: {case}\n{}", indent(&theirs.output));
        }
    }
    // The comparison cannot see this, because hashes become placeholders.
    for side in [&etcd, &other] {
        let hashes = side.hashes()?;
        let agree = hashes.iter().all(|hash| *hash == hashes[0]);
        count.add(agree);
        if !agree {
            println!("DIFFERS  {seat}: members of {} have the hashes {hashes:?}", side.name());
        }
    }
    Ok(count)
}

/// Does the same on both sides, each on a thread of its own.
fn at_once<T: Send>(
    one: impl FnOnce() -> Result<T, String> + Send,
    two: impl FnOnce() -> Result<T, String> + Send,
) -> Result<(T, T), Box<dyn Error>> {
    std::thread::scope(|scope| {
        let two = scope.spawn(two);
        let one = one();
        let two = two.join().map_err(|_| "a side's thread panicked")?;
        Ok((one?, two?))
    })
}

/// What a lease has left depends on when it is asked; of how much is left in place. etcd tells its keys in no particular order.
fn lease_chance_aside(text: &str) -> String {
    let rules = [r#"("(?:TTL|ttl)":"?)\d+("?,"(?:grantedTTL|granted-ttl)")"#, r#"("TTL" : )\d+(\n"GrantedTTL")"#];
    let text = rules.iter().fold(text.to_owned(), |text, rule| {
        regex::Regex::new(rule).expect("a rule is a valid pattern").replace_all(&text, "$1<remaining>$2").into_owned()
    });
    let lists = [(r"(attached keys\(\[)([^\]]*)(\])", ' '), (r#"("keys":\[)([^\]]*)(\])"#, ',')];
    lists.iter().fold(text, |text, (rule, separator)| {
        let sorted = |found: &regex::Captures<'_>| {
            let mut keys: Vec<&str> = found[2].split(*separator).collect();
            keys.sort_unstable();
            format!("{}{}{}", &found[1], keys.join(&separator.to_string()), &found[3])
        };
        regex::Regex::new(rule).expect("a rule is a valid pattern").replace_all(&text, sorted).into_owned()
    })
}

/// The index of an entry counts everything a server logs, and etcd logs more (its cluster version, alarm queries): see the register in
/// DESIGN.md. With several members it is also chance how many elections there were.
fn positions_aside(text: &str, members: usize) -> String {
    let index_rules = [
        r#"("(?:raftIndex|raftAppliedIndex)":"?)\d+"#,
        r#"("(?:RaftIndex|RaftAppliedIndex)" : )\d+"#,
        r"((?:true|false), (?:true|false), \d+, )\d+, \d+",
        r"(│ +(?:true|false) │ +(?:true|false) │ +\d+ │) +\d+ │ +\d+",
    ];
    let term_rules = [
        r#"("(?:raft_term|raftTerm)":"?)\d+"#,
        r#"("(?:RaftTerm)" : )\d+"#,
        r"((?:true|false), (?:true|false), )\d+",
        r"(│ +(?:true|false) │ +(?:true|false) │) +\d+",
    ];
    let rules = index_rules.iter().chain(if members > 1 { &term_rules[..] } else { &[] });
    rules.fold(text.to_owned(), |text, rule| {
        regex::Regex::new(rule).expect("a rule is a valid pattern").replace_all(&text, "$1<position>").into_owned()
    })
}

fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "    {line}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::{lease_chance_aside, positions_aside};

    #[test]
    fn what_a_lease_has_left_and_the_order_of_its_keys_are_set_aside_and_what_it_was_granted_is_not() {
        for (raw, aside) in [
            (r#"{"TTL":"599","grantedTTL":"600"}"#, r#"{"TTL":"<remaining>","grantedTTL":"600"}"#),
            (r#"{"ttl":59,"granted-ttl":60}"#, r#"{"ttl":<remaining>,"granted-ttl":60}"#),
            ("\"TTL\" : 59\n\"GrantedTTL\" : 60", "\"TTL\" : <remaining>\n\"GrantedTTL\" : 60"),
            (r#"{"ID":"5","TTL":"600"}"#, r#"{"ID":"5","TTL":"600"}"#),
            ("attached keys([b a])", "attached keys([a b])"),
            (r#"{"keys":["Yg==","YQ=="]}"#, r#"{"keys":["YQ==","Yg=="]}"#),
        ] {
            assert_eq!(lease_chance_aside(raw), aside);
        }
    }

    #[test]
    fn indexes_are_set_aside_always_and_terms_with_several_members() {
        for (raw, one, several) in [
            (
                r#"{"raft_term":2,"raftIndex":9}"#,
                r#"{"raft_term":2,"raftIndex":<position>}"#,
                r#"{"raft_term":<position>,"raftIndex":<position>}"#,
            ),
            ("\"RaftTerm\" : 2\n\"Revision\" : 3", "\"RaftTerm\" : 2\n\"Revision\" : 3", "\"RaftTerm\" : <position>\n\"Revision\" : 3"),
            ("true, false, 2, 9, 9, ", "true, false, 2, <position>, ", "true, false, <position>, <position>, "),
            ("│ true │ false │ 2 │ 9 │ 9 │", "│ true │ false │ 2 │<position> │", "│ true │ false │<position> │<position> │"),
        ] {
            assert_eq!(positions_aside(raw, 1), one);
            assert_eq!(positions_aside(raw, 3), several);
        }
    }
}
