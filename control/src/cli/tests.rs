use super::*;

fn machine() -> Machine {
    Machine { node_name: None, host_name: "host".into(), cores: 2 }
}

fn run(args: &[&str]) -> RunArgs {
    let cli = Cli::try_parse_from(["tunway", "run"].iter().chain(args)).unwrap();
    let Command::Run(args) = cli.command else { panic!("not run") };
    args
}

#[test]
fn the_command_line_is_consistent() {
    <Cli as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn flags_become_configuration() {
    let config = run(&[
        "--manifests",
        "/etc/m",
        "--snat-address",
        "192.0.2.1",
        "--snat-address",
        "2001:db8::1",
        "--service-cidr",
        "10.0.0.0/16",
        "--cluster-cidr",
        "10.244.0.0/16",
        "--device",
        "tw1",
        "--take-over",
        "--max-flows-v4",
        "9000",
    ])
    .config(&machine())
    .unwrap();
    assert_eq!(config.source, crate::config::SourceConfig::Manifests { dir: "/etc/m".into() });
    assert_eq!(config.snat.len(), 2);
    assert_eq!(config.service_cidrs, [("10.0.0.0".parse().unwrap(), 16)]);
    let pods = vec![("10.244.0.0".parse().unwrap(), 16)];
    assert_eq!(config.detect_local, crate::config::detect::DetectLocal::ClusterCidr(pods));
    assert_eq!(config.socket, PathBuf::from("/run/tunway/tw1.sock"));
    assert_eq!((config.max_flows_v4, config.max_flows_v6), (9000, crate::config::DEFAULT_FLOWS_V6));
    assert!(config.take_over && !config.forward_accept);
}

#[test]
fn the_help_says_what_tunway_is_for() {
    let about = <Cli as clap::CommandFactory>::command().get_about().map(ToString::to_string);
    assert!(about.as_ref().is_some_and(|about| about.contains("Service dataplane")), "{about:?}");
}

#[test]
fn cleanup_finds_the_files_run_was_told_to_make() {
    let args = ["tunway", "cleanup", "--device", "tw1", "--flow-file", "/mnt/f", "--socket", "/tmp/t.sock"];
    let Command::Cleanup(args) = Cli::try_parse_from(args).unwrap().command else { panic!("not cleanup") };
    let files = crate::run::place::files(&args.config(&machine()).unwrap());
    for file in ["/mnt/f/tw1.flows", "/tmp/t.sock"] {
        assert!(files.contains(&PathBuf::from(file)), "{files:?}");
    }
}

#[test]
fn two_sources_are_a_usage_error() {
    let args = ["tunway", "run", "--manifests", "d", "--kubeconfig", "f"];
    assert!(Cli::try_parse_from(args).is_err());
    assert_eq!(Failure::Usage(ConfigError::new("a", "b", "c")).exit_code(), 64);
    assert_eq!(Failure::Failed(anyhow::anyhow!("x")).exit_code(), 1);
}

#[test]
fn a_cause_is_said_once() {
    let inner = anyhow::anyhow!("permission denied");
    let said = inner.context("cannot open x: permission denied (run as root)").context("no start");
    let failure = Failure::Failed(said);
    assert_eq!(failure.to_string(), "no start: cannot open x: permission denied (run as root)");
}

#[test]
fn the_socket_follows_the_device() {
    let at = AtArgs { device: Some("tw7".into()), ..AtArgs::default() };
    assert_eq!(at.path(), PathBuf::from("/run/tunway/tw7.sock"));
    assert_eq!(AtArgs::default().path(), PathBuf::from("/run/tunway/tunway0.sock"));
}

#[test]
fn a_cluster_cidr_by_flag_wins_over_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tunway.yaml");
    std::fs::write(&file, "apiVersion: tunway.dev/v1alpha1\nkind: Config\nclusterCIDR: 10.0.0.0/8\n")
        .unwrap();
    let path = file.to_str().unwrap();
    let config = run(&["--config", path, "--cluster-cidr", "10.244.0.0/16"]).config(&machine()).unwrap();
    let pods = vec![("10.244.0.0".parse().unwrap(), 16)];
    assert_eq!(config.detect_local, crate::config::detect::DetectLocal::ClusterCidr(pods));
}
