//! The binary as it is typed: exit codes, and what a person reads when something is wrong. Nothing here gets as far as
//! touching the host.

#![allow(clippy::unwrap_used, reason = "a test program")]

use std::process::Command;

/// Exit code, standard output, standard error.
fn tunway(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunway"));
    command.args(arguments).envs(environment.iter().copied());
    for of_a_pod in ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"] {
        command.env_remove(of_a_pod);
    }
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn help_is_an_answer_and_nonsense_is_a_usage_error() {
    let (code, out, _) = tunway(&["--help"], &[]);
    assert!(code == 0 && out.starts_with("A userspace Kubernetes Service dataplane"), "{code} {out}");
    for nonsense in [&[][..], &["fly"], &["run", "--workers", "many"], &["run", "--manifests", "m", "extra"]]
    {
        let (code, out, err) = tunway(nonsense, &[]);
        assert!(code == 64 && out.is_empty() && !err.is_empty(), "{nonsense:?}: {code} {out} {err}");
    }
}

#[test]
fn the_kubeconfig_of_the_environment_is_not_read() {
    let home = tempfile::tempdir().unwrap();
    let kubeconfig = home.path().join(".kube/config");
    std::fs::create_dir(kubeconfig.parent().unwrap()).unwrap();
    // Were it read, it would be complained about: no run can come of it.
    std::fs::write(&kubeconfig, "somebody: else's").unwrap();
    let (home, kubeconfig) = (home.path().to_str().unwrap(), kubeconfig.to_str().unwrap());
    for environment in [&[("HOME", home)][..], &[("HOME", home), ("KUBECONFIG", kubeconfig)]] {
        let (code, _, err) = tunway(&["run", "--snat-address", "192.0.2.1"], environment);
        assert_eq!(code, 64, "{err}");
        assert!(err.contains("no kubeconfig is given") && !err.contains(home), "{err}");
        for remedy in ["--kubeconfig FILE", "--manifests DIR", "service account"] {
            assert_eq!(err.matches(remedy).count(), if remedy == "service account" { 2 } else { 1 }, "{err}");
        }
    }
    let (code, _, err) = tunway(&["run", "--snat-address", "192.0.2.1", "--kubeconfig", kubeconfig], &[]);
    assert!(code == 64 && err.contains(kubeconfig), "{code} {err}");
}

#[test]
fn without_a_running_tunway_a_question_fails_and_says_where_it_asked() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    for command in ["flows", "services"] {
        let (code, out, err) = tunway(&[command, "--socket", socket.to_str().unwrap()], &[]);
        assert!(
            code == 1 && out.is_empty() && err.contains("none.sock") && err.contains("tunway run"),
            "{err}"
        );
    }
}

#[test]
fn a_name_no_service_can_have_is_a_usage_error() {
    let (code, _, err) = tunway(&["flows", "--service", "a b"], &[]);
    assert!(code == 64 && err.starts_with("tunway: --service: \"a b\""), "{code} {err}");
}
