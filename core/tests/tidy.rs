//! Rules of the house that a compiler does not check. Each failure names the file, the line and what to do instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Longer files are split by what they are about.
const LINES_MAX: usize = 900;

/// Files that are longer all the same, and how long they may stay. Numbers here only ever go down.
const LONG_FILES: [(&str, usize); 0] = [];

/// What `core` may be built from: data and arithmetic, nothing that could do anything.
const CORE_DEPENDENCIES: [&str; 7] = ["bytes", "crc32c", "postcard", "rand_chacha", "rand_core", "serde", "serde_bytes"];

/// Who must not be able to reach whom, however indirectly: the judge of histories does not know what it judges, and nothing of
/// the simulated world is in the product.
const UNREACHABLE: [(&str, &[&str]); 4] = [
    ("quorate-checker", &["quorate-core", "quorate-web", "node", "madsim"]),
    ("quorate-core", &["quorate-web", "node", "madsim", "tokio"]),
    ("quorate-web", &["node", "madsim", "quorate-checker"]),
    ("node", &["madsim", "sim", "quorate-checker"]),
];

fn root() -> PathBuf {
    // Asked when run: a target directory may be shared by several checkouts.
    let core = std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo");
    Path::new(&core).parent().expect("core is in the workspace").to_path_buf()
}

#[derive(Debug)]
struct Source {
    /// From the root of the workspace, with forward slashes.
    path: String,
    text: String,
}

impl Source {
    /// Lines with their numbers, without those that are comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(at, line)| (at + 1, line))
    }
}

/// Every Rust file of the workspace but this one, which has to name what it forbids.
fn sources() -> Vec<Source> {
    let mut folders = vec![root()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry of the folder").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                let is_ours = !name.starts_with('.') && name != "target";
                folders.extend(is_ours.then_some(path));
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).expect("UTF-8 text");
                let path = path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
                sources.push(Source { path, text });
            }
        }
    }
    sources.retain(|source| source.path != "core/tests/tidy.rs");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 50, "only {} files found below {}", sources.len(), root().display());
    sources
}

fn sources_below(folder: &str) -> Vec<Source> {
    let below: Vec<Source> = sources().into_iter().filter(|source| source.path.starts_with(folder)).collect();
    assert!(!below.is_empty(), "nothing below {folder}");
    below
}

/// Fails with every place where one of the words stands in code.
fn forbid(sources: &[Source], words: &[(&str, &str)]) {
    let mut found = Vec::new();
    for source in sources {
        for (line, text) in source.code() {
            let hits = words.iter().filter(|(word, _)| contains_word(text, word));
            found.extend(hits.map(|(word, instead)| format!("{}:{line}: {word}: {instead}", source.path)));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Not as the tail or head of a longer name.
fn contains_word(text: &str, word: &str) -> bool {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(is_name) && word.starts_with(is_name);
        let after = text[at + word.len()..].chars().next().is_some_and(is_name) && word.ends_with(is_name);
        !before && !after
    })
}

/// Names below one `[header]` of a manifest.
fn manifest_names(path: &str, header: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let section = text.lines().skip_while(|line| line.trim() != header).skip(1).take_while(|line| !line.starts_with('['));
    let named = section.filter(|line| !line.trim_start().starts_with('#')).filter_map(|line| line.split(['.', '=', ' ']).next());
    named.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Each package of the lock file with what it is built or tested with.
fn lock() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is part of the workspace");
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in text.split("[[package]]").skip(1) {
        let name = package.lines().find_map(|line| line.strip_prefix("name = ")).expect("a name").trim_matches('"');
        let dependencies = package.lines().filter_map(|line| line.strip_prefix(" \"")).filter_map(|line| line.split(['"', ' ']).next());
        // Versions of one package are taken together: more is reachable then, never less.
        packages.entry(name.to_owned()).or_default().extend(dependencies.map(str::to_owned));
    }
    packages
}

#[test]
fn the_core_can_name_nothing_of_the_operating_system() {
    let library = fs::read_to_string(root().join("core/src/lib.rs")).expect("the crate's root");
    assert!(library.lines().any(|line| line == "#![no_std]"), "core/src/lib.rs: `#![no_std]` is what proves that core does no I/O");
    assert!(library.lines().any(|line| line == "#![forbid(unsafe_code)]"), "core/src/lib.rs: `#![forbid(unsafe_code)]` is missing");
    let words = [
        ("extern crate std", "tests that need std are in core/tests"),
        ("std::", "use core:: or alloc::"),
        ("HashMap", "iteration order is behaviour: use BTreeMap"),
        ("HashSet", "iteration order is behaviour: use BTreeSet"),
        ("Instant::now", "time is an argument: `Now`"),
        ("SystemTime", "time is an argument: `Now`"),
        ("thread_rng", "chance is an argument: a seeded ChaCha stream"),
        ("f32", "no floats in decisions"),
        ("f64", "no floats in decisions"),
        ("unsafe", "not in core"),
    ];
    let sources: Vec<Source> = sources_below("core/src/").into_iter().filter(|source| source.path != "core/src/lib.rs").collect();
    forbid(&sources, &words);
}

/// What only the pure member may decide: hosts carry out effects and move bytes.
#[test]
fn a_host_decides_nothing_that_the_member_decides() {
    let words = [
        ("RequestId {", "the log half gives ids"),
        ("ReadId {", "the log half gives ids"),
        ("Boot(", "recovery says which boot it is"),
        ("Refusal::TimedOut", "the member says how a request ends"),
        ("Refusal::OutcomeUnknown", "the member says how a request ends"),
        ("Refusal::NoSpace", "the member looks at the quota"),
        ("Refusal::NoLeader", "the member knows who leads"),
        ("Refusal::LeaderChanged", "the member asks again"),
        ("ConsensusInput", "a host speaks to the halves of a member only"),
        ("MachineInput", "a host speaks to the halves of a member only"),
    ];
    let hosts = [
        "node/src/actors/log.rs",
        "node/src/actors/state.rs",
        "sim/src/process.rs",
        "sim/src/log_disk.rs",
        "sim/src/state_store.rs",
        "sim/src/wire.rs",
        "web/tests/surfaces/local.rs",
    ];
    let hosting: Vec<Source> = sources().into_iter().filter(|source| hosts.contains(&source.path.as_str())).collect();
    assert_eq!(hosting.len(), hosts.len(), "a host has moved: name it here");
    forbid(&hosting, &words);
}

#[test]
fn the_core_depends_only_on_what_is_listed_here() {
    let allowed = CORE_DEPENDENCIES.map(str::to_owned).into();
    assert_eq!(manifest_names("core/Cargo.toml", "[dependencies]"), allowed, "a new dependency of core is a decision: list it above");
    let text = fs::read_to_string(root().join("core/Cargo.toml")).expect("its manifest");
    let sections = text.lines().filter(|line| line.starts_with('[') && line.contains("dependencies"));
    assert_eq!(sections.collect::<Vec<_>>(), ["[dependencies]", "[dev-dependencies]"], "no second list beside the one checked");
}

#[test]
fn no_package_reaches_what_it_must_not_know() {
    let packages = lock();
    for (from, forbidden) in UNREACHABLE {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(name) = open.pop() {
            let dependencies = packages.get(name).unwrap_or_else(|| panic!("{name} is not in the lock file"));
            open.extend(dependencies.iter().map(String::as_str).filter(|name| reached.insert(*name)));
        }
        for target in forbidden {
            assert!(packages.contains_key(*target), "{target} is not in the lock file: is it called otherwise now?");
            assert!(!reached.contains(target), "{from} reaches {target}: see `cargo tree -p {from} -i {target}`");
        }
    }
}

#[test]
fn no_member_turns_the_mutants_on() {
    for manifest in ["core", "web", "node", "sim", "sim/checker", "tests"] {
        let path = format!("{manifest}/Cargo.toml");
        let text = fs::read_to_string(root().join(&path)).expect("its manifest");
        let defaults = text.lines().find(|line| line.trim_start().starts_with("default ="));
        assert!(!defaults.is_some_and(|line| line.contains("mutants")), "{path}: features unify, so nothing may enable `mutants`");
        let enabling = text.lines().filter(|line| line.contains("features = [") && line.contains("mutants"));
        assert_eq!(enabling.collect::<Vec<_>>(), Vec::<&str>::new(), "{path}: campaigns pass `--features mutants` themselves");
    }
}

#[test]
fn nothing_that_is_built_with_the_product_turns_on_the_store_in_memory() {
    for manifest in ["Cargo.toml", "core/Cargo.toml", "web/Cargo.toml", "node/Cargo.toml", "tests/Cargo.toml", "sim/checker/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).expect("its manifest");
        let built = text.split("[dev-dependencies]").next().expect("the part before");
        assert!(!built.contains("\"memory-store\""), "{manifest}: features unify, so only what is built for tests may enable it");
    }
}

#[test]
fn nothing_is_left_undone_and_no_test_is_skipped() {
    let words = [
        ("todo!", "do it, or do not promise it"),
        ("unimplemented!", "do it, or do not promise it"),
        ("dbg!", "use a trace or a Display"),
        ("#[ignore", "a test runs, or it is not there"),
        ("allow(dead_code)", "remove what nobody uses"),
        ("allow(unused", "remove what nobody uses"),
    ];
    forbid(&sources(), &words);
}

#[test]
fn every_file_of_the_core_says_what_it_is() {
    let silent = sources_below("core/").into_iter().filter(|source| !source.text.starts_with("//! "));
    let silent: Vec<String> = silent.map(|source| source.path).collect();
    assert_eq!(silent, Vec::<String>::new(), "begin each file with `//! ` and one sentence");
}

#[test]
fn files_stay_short_enough_to_be_read() {
    let allowed: BTreeMap<&str, usize> = LONG_FILES.into();
    let sources = sources();
    for source in &sources {
        let lines = source.text.lines().count();
        let most = allowed.get(source.path.as_str()).copied().unwrap_or(LINES_MAX);
        assert!(lines <= most, "{} has {lines} lines of at most {most}: split it by what it is about", source.path);
    }
    for (path, most) in LONG_FILES {
        let source = sources.iter().find(|source| source.path == path).unwrap_or_else(|| panic!("{path} is gone: take it off the list"));
        let lines = source.text.lines().count();
        assert!(lines > LINES_MAX, "{path} has only {lines} lines now: take it off the list");
        assert!(lines == most, "{path} has {lines} lines now: lower its number from {most}");
    }
}

#[test]
fn words_are_found_whole() {
    assert!(contains_word("let map: HashMap<u8, u8>", "HashMap"));
    assert!(contains_word("use std::fmt", "std::"));
    assert!(!contains_word("let of64 = 1", "f64"));
    assert!(!contains_word("MyHashMapping", "HashMap"));
    assert!(!contains_word("no_std::", "std::"));
}
