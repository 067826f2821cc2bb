use super::*;
use crate::flags::UsageError;

fn read(arguments: &[&str]) -> Result<Config, UsageError> {
    read_with(arguments, &[])
}

fn read_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Config, UsageError> {
    Config::read(arguments.iter().map(OsString::from), environment.iter().map(|(name, value)| (name.into(), value.into())))
}

fn error(arguments: &[&str]) -> String {
    read(arguments).unwrap_err().message
}

#[test]
fn no_flag_at_all_is_a_whole_configuration() {
    let config = read(&[]).unwrap();
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(config.listen_client_urls, [Url::parse("http://localhost:2379").unwrap()]);
    assert_eq!(config.listen_peer_urls, [Url::parse("http://localhost:2380").unwrap()]);
    assert_eq!(config.initial_cluster["default"], [Url::parse("http://localhost:2380").unwrap()]);
    assert_eq!(config.quota_bytes, Some(QUOTA_DEFAULT_BYTES));
    assert_eq!(config.election_timeout, Duration::from_secs(1));
    assert!(config.warnings.is_empty());
}

#[test]
fn a_flag_may_have_one_dash_or_two_and_equals_or_space() {
    for form in [&["-name=a"][..], &["--name=a"], &["-name", "a"], &["--name", "a"]] {
        let config = read(form).unwrap();
        assert_eq!((config.name.as_str(), config.data_dir), ("a", PathBuf::from("a.etcd")), "{form:?}");
    }
}

#[test]
fn a_boolean_may_be_bare_or_have_a_value() {
    for (form, expected) in [("--pre-vote", true), ("-pre-vote=true", true), ("--pre-vote=false", false), ("--pre-vote=0", false)] {
        assert_eq!(read(&[form]).unwrap().pre_vote, expected, "{form}");
    }
    assert_eq!(error(&["--pre-vote=maybe"]), "invalid boolean value \"maybe\" for -pre-vote: parse error");
}

#[test]
fn of_a_repeated_flag_the_last_wins() {
    assert_eq!(read(&["--name=a", "-name", "b", "--name=c"]).unwrap().name, "c");
}

#[test]
fn the_environment_sets_what_no_flag_sets() {
    let config = read_with(&[], &[("ETCD_NAME", "e"), ("ETCD_DATA_DIR", ""), ("ETCD_HEARTBEAT_INTERVAL", "50")]).unwrap();
    assert_eq!((config.name.as_str(), config.heartbeat_interval), ("e", Duration::from_millis(50)));
    assert_eq!(config.data_dir, PathBuf::from("e.etcd"), "an empty variable is no setting");
}

#[test]
fn one_option_as_flag_and_variable_is_fatal() {
    let usage = read_with(&["--name=a"], &[("ETCD_NAME", "a")]).unwrap_err();
    assert_eq!(usage.exit, 1);
    assert_eq!(
        usage.message,
        "conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding command-line flag (either unset environment variable or disable flag)"
    );
}

#[test]
fn an_unknown_variable_is_only_a_warning() {
    let config = read_with(&[], &[("ETCD_NONSENSE", "1")]).unwrap();
    assert_eq!(config.warnings, ["unrecognized environment variable ETCD_NONSENSE=1"]);
}

#[test]
fn an_unknown_flag_exits_2_with_a_suggestion() {
    let usage = read(&["--data-dri=/x"]).unwrap_err();
    assert_eq!(usage.exit, 2);
    assert!(usage.message.contains("--data-dri") && usage.message.contains("--data-dir"), "{}", usage.message);
}

#[test]
fn a_positional_argument_is_not_a_valid_flag() {
    let usage = read(&["serve"]).unwrap_err();
    assert_eq!((usage.message.as_str(), usage.exit), ("\"serve\" is not a valid flag", 1));
}

#[test]
fn a_flag_without_its_value_is_named() {
    assert_eq!(error(&["--name"]), "flag needs an argument: -name");
}

#[test]
fn a_part_that_is_not_served_is_refused_by_name() {
    for (flag, name) in [
        ("--cert-file=x", "--cert-file"),
        ("--client-cert-auth", "--client-cert-auth"),
        ("--auth-token=jwt", "--auth-token"),
        ("--discovery-srv=x", "--discovery-srv"),
        ("--auto-compaction-retention=1", "--auto-compaction-retention"),
        ("--unsafe-no-fsync", "--unsafe-no-fsync"),
        ("--force-new-cluster", "--force-new-cluster"),
    ] {
        let message = error(&[flag]);
        assert!(message.starts_with(&format!("{name} is not supported")), "{message}");
    }
    assert!(error(&["--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379"]).contains("TLS"));
}

#[test]
fn such_a_part_at_its_default_is_taken() {
    read(&["--auth-token=simple", "--client-cert-auth=false", "--auto-compaction-retention=0", "--corrupt-check-time=0s"]).unwrap();
}

#[test]
fn a_flag_that_means_nothing_here_is_taken_with_a_warning() {
    let config = read(&["--max-snapshots=5", "--backend-batch-interval", "100ms"]).unwrap();
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
}

#[test]
fn feature_gates_of_known_names_are_taken_and_others_refused() {
    let config = read(&["--feature-gates=InitialCorruptCheck=true,CompactHashCheck=false"]).unwrap();
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    for (given, why) in [
        ("Nonsense=true", "unrecognized feature gate: Nonsense"),
        ("InitialCorruptCheck", "missing bool value for InitialCorruptCheck"),
        (
            "InitialCorruptCheck=maybe",
            "invalid value of InitialCorruptCheck=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
        ),
    ] {
        let usage = read(&["--feature-gates", given]).unwrap_err();
        assert_eq!((usage.message, usage.exit), (format!("invalid value {given:?} for flag -feature-gates: {why}"), 2));
    }
}

#[test]
fn a_value_of_the_wrong_kind_exits_2_from_the_command_line_and_1_from_the_environment() {
    for wrong in
        ["--snapshot-count=many", "--pre-vote=maybe", "--watch-progress-notify-interval=soon", "--listen-peer-urls=x", "--max-snapshots=x"]
    {
        assert_eq!(read(&[wrong]).unwrap_err().exit, 2, "{wrong}");
    }
    let usage = read_with(&[], &[("ETCD_SNAPSHOT_COUNT", "many")]).unwrap_err();
    assert_eq!((usage.message.as_str(), usage.exit), ("invalid value \"many\" for ETCD_SNAPSHOT_COUNT: parse error", 1));
    for unfit in ["--heartbeat-interval=0", "--log-level=loud", "--election-timeout=50001"] {
        assert_eq!(read(&[unfit]).unwrap_err().exit, 1, "{unfit}");
    }
}

#[test]
fn origins_are_any_or_those_named() {
    assert_eq!(read(&[]).unwrap().cors, Cors::Any);
    let named = Cors::Only(["http://a.b:80".to_owned(), "https://c:1".to_owned()].into());
    assert_eq!(read(&["--cors=http://a.b:80,https://c:1"]).unwrap().cors, named);
    for (wrong, why) in [
        ("a.b", "URL scheme must be http, https, unix, or unixs: a.b"),
        ("http://a.b", "URL address does not have the form \"host:port\": http://a.b"),
        ("http://a.b:80,*", "URL scheme must be http, https, unix, or unixs: *"),
    ] {
        let usage = read(&["--cors", wrong]).unwrap_err();
        assert_eq!((usage.message, usage.exit), (format!("invalid value {wrong:?} for flag -cors: {why}"), 2));
    }
}

#[test]
fn logs_are_json_unless_the_console_is_asked_for() {
    assert_eq!(read(&[]).unwrap().log.format, LogFormat::Json);
    assert_eq!(read(&["--log-format=console"]).unwrap().log.format, LogFormat::Console);
}

#[test]
fn version_is_etcds_line_and_then_our_own() {
    let usage = read(&["-version"]).unwrap_err();
    assert!(usage.asked && usage.exit == 0);
    assert!(usage.message.starts_with("etcd Version: 3.7.1\nQuorate Version: "), "{}", usage.message);
}

#[test]
fn help_names_every_served_flag_and_hides_the_others() {
    let usage = read(&["--help"]).unwrap_err();
    assert!(usage.asked && usage.exit == 0);
    for flag in flags::FLAGS {
        assert_eq!(
            usage.message.contains(&format!("--{} ", flag.name)) || usage.message.contains(&format!("--{}=", flag.name)),
            flag.support == flags::Support::Served,
            "{}",
            flag.name
        );
    }
}

#[test]
fn wrong_values_are_refused_in_etcds_words() {
    let long = "--election-timeout=50001";
    for (arguments, expected) in [
        (&["--heartbeat-interval=0"][..], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (&["--election-timeout=499"], "--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]"),
        (&[long], "--election-timeout[50001ms] is too long, and should be set less than 50000ms"),
        (&["--initial-cluster-state=old"], "invalid value \"old\" for flag -initial-cluster-state: invalid value"),
        (&["--v2-deprecation=not-yet"], "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\""),
        (&["--snapshot-count=many"], "invalid value \"many\" for flag -snapshot-count: parse error"),
        (&["--snapshot-catchup-entries=-1"], "invalid value \"-1\" for flag -snapshot-catchup-entries: parse error"),
        (&["--log-level=loud"], "unrecognized level: \"loud\" (--log-level takes debug, info, warn, error, panic, fatal)"),
        (&["--listen-client-urls=http://127.0.0.1:1"], "--advertise-client-urls is required when --listen-client-urls is set explicitly"),
        (&["--listen-peer-urls=http://example.com:2380"], "expected IP in URL for binding (http://example.com:2380) (--listen-peer-urls)"),
        (
            &["--listen-peer-urls=http://127.0.0.1"],
            "invalid value \"http://127.0.0.1\" for flag -listen-peer-urls: URL address does not have the form \"host:port\": http://127.0.0.1",
        ),
        (
            &["--initial-cluster=a=http://localhost:2380"],
            "couldn't find local name \"default\" in the initial cluster configuration (--name is \"default\", --initial-cluster names a)",
        ),
        (
            &["--initial-cluster=default=http://localhost:9"],
            "--initial-cluster has default=http://localhost:9 but --initial-advertise-peer-urls=http://localhost:2380; they must be equal",
        ),
    ] {
        assert_eq!(error(arguments), expected);
    }
}

#[test]
fn a_request_limit_above_what_members_can_receive_is_refused_with_the_limit() {
    assert_eq!(read(&["--max-request-bytes=125829120"]).unwrap().max_request_bytes, 125_829_120);
    let message = error(&["--max-request-bytes=125829121"]);
    assert!(message.contains("--max-request-bytes 125829121 is over 125829120"), "{message}");
}

#[test]
fn two_members_may_not_share_a_peer_url() {
    let message = error(&["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"]);
    assert!(message.starts_with("duplicate URL http://localhost:2380"), "{message}");
}

#[test]
fn durations_are_gos() {
    for (text, expected) in [
        ("100ms", Some(Duration::from_millis(100))),
        ("1h0m0s", Some(Duration::from_secs(3_600))),
        ("1.5s", Some(Duration::from_millis(1_500))),
        ("1µs", Some(Duration::from_micros(1))),
        ("0", Some(Duration::ZERO)),
        ("", None),
        ("10", None),
        ("s", None),
        ("1d", None),
        ("1..5s", None),
    ] {
        assert_eq!(parse_duration(text), expected, "{text:?}");
    }
}
