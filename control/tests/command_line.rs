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

/// Nothing but visible text and the ends of lines.
fn assert_plain(what: &str, text: &str) {
    let bad = |c: &char| {
        (c.is_control() && *c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert_eq!(text.chars().find(bad), None, "{what}: {text:?}");
}

#[test]
fn no_command_lets_control_characters_through() {
    // Turns red, moves the cursor, forges a line, turns the direction, and clears the screen by one C1 byte.
    const NASTY: &str = "x\u{1b}[31m\u{7}\rforged\u{202e}\u{9b}2J";
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let json = |name: &str, value: serde_json::Value| {
        // YAML has no raw C1 character, but reads the escaped one.
        std::fs::write(at(name), value.to_string().replace('\u{9b}', "\\u009b")).unwrap();
    };
    let manifests = at("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let service = serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "d"},
        "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"name": NASTY, "port": 80}]}});
    json("manifests/a.json", service);
    let slice = serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": NASTY, "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": NASTY, "namespace": "d"}},
            {"addresses": [NASTY]}]});
    json("manifests/b.json", slice);
    json(
        "manifests/c.json",
        serde_json::json!({"apiVersion": NASTY, "kind": NASTY, "metadata": {"name": NASTY}}),
    );
    std::fs::write(at("manifests/d.yaml"), format!("{NASTY}: [")).unwrap();
    json(
        "config.json",
        serde_json::json!({"apiVersion": "tunway.dev/v1alpha1", "kind": "Config", NASTY: 1, "device": NASTY}),
    );
    json(
        "proxy.json",
        serde_json::json!({"apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration", NASTY: NASTY, "hostnameOverride": "n", "featureGates": {NASTY: true}}),
    );
    json(
        "mode.json",
        serde_json::json!({"apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration", "mode": NASTY}),
    );
    let nowhere = at(NASTY);
    let explain = ["explain", "--manifests", &manifests, "--src", "10.0.0.7", "--dst", "10.96.0.9:80"];
    for (arguments, wanted) in [
        (&explain[..], 0),
        (&[&explain[..], &["--format", "json"]].concat(), 0),
        (&["services", "--socket", &nowhere], 1),
        (&["flows", "--socket", &nowhere], 1),
        (&["flows", "--service", NASTY], 64),
        (&["explain", "--socket", &nowhere, "--src", "10.0.0.7", "--dst", "10.96.0.9:80"], 1),
        (&["explain", "--manifests", &nowhere, "--src", "10.0.0.7", "--dst", "10.96.0.9:80"], 1),
        (&["explain", "--src", NASTY, "--dst", NASTY], 64),
        (&["config", "check", &at("config.json")], 64),
        (&["config", "print", &nowhere], 64),
        (&["config", "from-kube-proxy", &at("proxy.json")], 0),
        (&["config", "from-kube-proxy", &at("mode.json")], 64),
        (&["check", "--config", &at("config.json")], 64),
        (&["cleanup", "--config", &at("config.json")], 64),
        (&["cleanup", "--device", NASTY], 64),
        (&["run", "--config", &at("config.json")], 64),
        (&["run", "--snat-address", "192.0.2.1", "--kubeconfig", &nowhere], 64),
        (&["demo", "--manifest", &nowhere], 64),
    ] {
        let (code, out, err) = tunway(arguments, &[]);
        let what = format!("{arguments:?} ({code})");
        assert_eq!(code, wanted, "{what}: {out}{err}");
        assert!(!(out.is_empty() && err.is_empty()), "{what} says something");
        assert_plain(&what, &out);
        assert_plain(&what, &err);
        assert!(!err.lines().chain(out.lines()).any(|line| line.starts_with("forged")), "{what}: {out}{err}");
    }
    let (_, json, _) = tunway(&[&explain[..], &["--format", "json"]].concat(), &[]);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["verdict"], "dnat", "JSON stays JSON: {json}");
}
