//! One budget for the memory a member takes beside its index and its code, and the rule that divides it.
//!
//! The index is not in it: it is as large as the number of keys and their versions asks for. What is in it bounds everything else
//! that lives as long as the member, or grows with what clients and members send and ask for.

use std::{fmt, fs, path::Path};

/// The budget where there is memory enough, unless an operator says otherwise.
const DEFAULT_MOST_BYTES: u64 = 2 << 30;
/// Of the memory there is, the budget takes at most one part in so many: the rest is for the index and for everything else.
const DEFAULT_PART: u64 = 2;
/// Below that, a request of the default size hardly finds room.
pub const BUDGET_LEAST_BYTES: u64 = 64 << 20;
/// What the shares below are parts of.
const WHOLE: u64 = 256;

/// Who gets a part of the budget, how large a part in 256ths, and what for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    parts: u64,
    pub what: &'static str,
}

const fn share(parts: u64, what: &'static str) -> Share {
    Share { parts, what }
}

pub const ANSWERS: Share = share(32, "answers on their way to clients");
pub const RECEIVED: Share = share(32, "requests that have come in part");
pub const PROPOSALS: Share = share(32, "proposals that wait for their answer");
pub const WATCH_RESPONSES: Share = share(32, "responses that watchers have not taken, over all workers");
pub const UNAPPLIED_LOG: Share = share(32, "log entries that are not applied");
pub const PEER_INBOX: Share = share(16, "messages of other members that wait for the log half");
pub const UNPERSISTED: Share = share(8, "rows on their way to the state store");
pub const BLOCK_CACHE: Share = share(4, "blocks of the state store's tables");
pub const MEMTABLE: Share = share(1, "rows of one keyspace of the state store before they become a table");
pub const RECENT_ROWS: Share = share(1, "newest rows, for readers and watchers");
pub const LOG_TAIL: Share = share(1, "newest log entries, for followers that are a little behind");

/// All of them: their parts together are less than the whole.
pub const SHARES: [Share; 11] =
    [ANSWERS, RECEIVED, PROPOSALS, WATCH_RESPONSES, UNAPPLIED_LOG, PEER_INBOX, UNPERSISTED, BLOCK_CACHE, MEMTABLE, RECENT_ROWS, LOG_TAIL];

/// What limits the memory of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// `--memory-budget-bytes`.
    Flag,
    /// A control group, as of a container or a unit.
    Cgroup(u64),
    Machine(u64),
    /// Neither could be read.
    Unknown,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => write!(f, "--memory-budget-bytes"),
            Self::Cgroup(bytes) => write!(f, "the control group's limit of {bytes} bytes"),
            Self::Machine(bytes) => write!(f, "the machine's {bytes} bytes"),
            Self::Unknown => write!(f, "no known limit"),
        }
    }
}

/// How many bytes are divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryBudget {
    pub bytes: u64,
    pub because: Limit,
}

impl MemoryBudget {
    /// As the operator said, or from what this process may take: half of it, at most 2 GiB.
    #[must_use]
    pub fn of_process(flag_bytes: Option<u64>) -> Self {
        if let Some(bytes) = flag_bytes {
            return Self { bytes, because: Limit::Flag };
        }
        Self::within(limit(Path::new("/")))
    }

    fn within(because: Limit) -> Self {
        let bytes = match because {
            Limit::Cgroup(bytes) | Limit::Machine(bytes) => (bytes / DEFAULT_PART).min(DEFAULT_MOST_BYTES),
            Limit::Flag | Limit::Unknown => DEFAULT_MOST_BYTES,
        };
        Self { bytes: bytes.max(BUDGET_LEAST_BYTES), because }
    }

    /// A share in bytes.
    #[must_use]
    pub fn of(&self, share: Share) -> usize {
        usize::try_from(u128::from(self.bytes) * u128::from(share.parts) / u128::from(WHOLE)).unwrap_or(usize::MAX)
    }
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self { bytes: DEFAULT_MOST_BYTES, because: Limit::Unknown }
    }
}

/// The tightest limit there is: of the control groups this process is in, or the machine's memory. `root` is where `proc` and `sys`
/// are.
fn limit(root: &Path) -> Limit {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
    });
    match (cgroup_limit(root), machine) {
        (Some(group), machine) if machine.is_none_or(|machine| group < machine) => Limit::Cgroup(group),
        (_, Some(machine)) => Limit::Machine(machine),
        (_, None) => Limit::Unknown,
    }
}

/// The least limit of the process's control group and of those above it (cgroups(7)): version 2 is one hierarchy with `memory.max`;
/// version 1 has one for memory, with `memory.limit_in_bytes`.
fn cgroup_limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            controllers if controllers.split(',').any(|name| name == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        // In a container the group's path may be that of the host, which is not there; its own files are then in the mount's root.
        let paths = Path::new(group.trim_start_matches('/')).ancestors().map(|group| root.join(mount).join(group).join(file));
        paths.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine's files, and what is read from them.
    fn read(files: &[(&str, &str)]) -> Limit {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        limit(root.path())
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");

    #[test]
    fn without_a_control_group_the_machine_is_the_limit() {
        assert_eq!(read(&[MACHINE]), Limit::Machine(16 << 20));
        assert_eq!(read(&[MACHINE, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")]), Limit::Machine(16 << 20));
        assert_eq!(read(&[]), Limit::Unknown);
    }

    #[test]
    fn the_tightest_of_the_groups_above_counts() {
        let files = [
            MACHINE,
            ("proc/self/cgroup", "0::/system.slice/quorate.service\n"),
            ("sys/fs/cgroup/system.slice/quorate.service/memory.max", "8000000\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "4000000\n"),
        ];
        assert_eq!(read(&files), Limit::Cgroup(4_000_000));
    }

    #[test]
    fn the_first_version_of_control_groups_is_read_too() {
        let files = [
            MACHINE,
            ("proc/self/cgroup", "12:cpu,cpuacct:/a\n5:memory:/docker/abc\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n"),
        ];
        assert_eq!(read(&files), Limit::Cgroup(1_000_000));
        let unlimited =
            [MACHINE, ("proc/self/cgroup", "5:memory:/\n"), ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")];
        assert_eq!(read(&unlimited), Limit::Machine(16 << 20));
    }

    #[test]
    fn the_budget_is_half_of_what_there_is_within_bounds() {
        assert_eq!(MemoryBudget::within(Limit::Machine(64 << 30)).bytes, DEFAULT_MOST_BYTES);
        assert_eq!(MemoryBudget::within(Limit::Cgroup(512 << 20)).bytes, 256 << 20);
        assert_eq!(MemoryBudget::within(Limit::Cgroup(1 << 20)).bytes, BUDGET_LEAST_BYTES);
        assert_eq!(MemoryBudget::of_process(Some(5 << 30)), MemoryBudget { bytes: 5 << 30, because: Limit::Flag });
    }

    #[test]
    fn the_shares_are_parts_of_the_whole() {
        assert!(SHARES.iter().map(|share| share.parts).sum::<u64>() < WHOLE);
        assert_eq!(MemoryBudget::default().of(ANSWERS), 256 << 20);
        assert_eq!(MemoryBudget::default().of(LOG_TAIL), 8 << 20);
    }

    #[test]
    fn design_lists_every_share() {
        let design = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../DESIGN.md")).unwrap();
        for share in SHARES {
            let row = format!("` | {} | {} MiB | {} |\n", share.parts, MemoryBudget::default().of(share) >> 20, share.what);
            assert!(design.contains(&row), "not in DESIGN.md: {row}");
        }
    }
}
