//! Which server we talk to, and which we refuse to talk to.

use super::*;
use control::watch::ApiError;
use tests::apiserver::rbac;

async fn refused(kubeconfig: std::path::PathBuf, cidrs: &[(&str, u8)]) -> Option<ApiError> {
    let service_cidrs = cidrs.iter().map(|(network, prefix)| (network.parse().unwrap(), *prefix)).collect();
    let kubeconfig = Some(kubeconfig);
    let config =
        ClientConfig { kubeconfig, service_cidrs, node_name: "n1".to_owned(), ..ClientConfig::default() };
    Api::new(&config).await.err()
}

#[tokio::test]
async fn a_server_behind_a_service_is_refused_with_the_remedy() {
    let api = FakeApi::start().await;
    let cidrs = [("10.96.0.0", 12), ("fd00:10:96::", 112)];
    for url in [
        "https://10.96.0.1",
        "https://10.96.0.1:6443/prefix",
        "https://[fd00:10:96::1]:443",
        "https://[::ffff:10.96.0.1]",
    ] {
        let error = refused(api.kubeconfig_for(url), &cidrs).await.expect(url);
        assert!(matches!(error, ApiError::ServerInServiceCidr { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(url.trim_end_matches('/')) && text.contains("control-plane node's own address"),
            "{text}"
        );
    }
    // A name is what it resolves to.
    let error = refused(api.kubeconfig_for("https://localhost:6443"), &[("127.0.0.0", 8), ("::1", 128)])
        .await
        .unwrap();
    assert!(matches!(error, ApiError::ServerInServiceCidr { .. }), "{error}");
    for url in [
        "https://192.168.0.1:6443",
        "https://[fd00:10:97::1]",
        "https://10.112.0.1",
        "https://no-such-host.invalid",
    ] {
        assert!(refused(api.kubeconfig_for(url), &cidrs).await.is_none(), "{url}");
    }
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let error = refused(missing.clone(), &[]).await.unwrap();
    assert!(
        matches!(error, ApiError::Kubeconfig { .. }) && error.to_string().contains(missing.to_str().unwrap()),
        "{error}"
    );
    for text in ["", "{", "apiVersion: v1\nkind: Config\n", "current-context: x\ncontexts: []\n"] {
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, text).unwrap();
        let error = refused(path, &[]).await.unwrap();
        assert!(matches!(error, ApiError::Kubeconfig { .. }), "{text:?}: {error}");
    }
}

#[tokio::test]
async fn a_context_can_be_chosen() {
    let api = FakeApi::start().await;
    let chosen = |context: &str| ClientConfig {
        kubeconfig: Some(api.kubeconfig()),
        context: Some(context.to_owned()),
        node_name: "n1".to_owned(),
        ..ClientConfig::default()
    };
    assert_eq!(Api::new(&chosen("fake")).await.unwrap().server(), format!("http://{}", api.address()));
    assert!(matches!(Api::new(&chosen("other")).await, Err(ApiError::Kubeconfig { .. })));
}

#[test]
fn the_cluster_role_names_only_what_is_read() {
    let permissions = rbac::allowed();
    assert_eq!(permissions.len(), 8);
    assert!(permissions.iter().all(|permission| ["list", "watch"].contains(&permission.verb.as_str())));
}

#[test]
fn the_readme_s_cluster_role_is_the_one_tested_here() {
    assert_eq!(rbac::rbac_rules_from_readme(), rbac::allowed());
    assert!(rbac::readme().contains(&rbac::rbac_yaml()), "README.md holds control/rbac.yaml word for word");
}
