//! Which document of a file is kube-proxy's.

use serde_json::Value;

use super::{Checked, ConfigError, KUBE_PROXY_API, KUBE_PROXY_KIND};

/// The one `KubeProxyConfiguration` of the text, or of the `ConfigMap` in it. kubeadm's files have others beside it.
pub(super) fn find(text: &str) -> Checked<Value> {
    let value = one_of(documents(text)?)?;
    if value["kind"] != "ConfigMap" {
        return Ok(value);
    }
    let inner = value["data"]["config.conf"].as_str().ok_or_else(|| {
        ConfigError::new("data", "the ConfigMap has no config.conf", "name kube-proxy's, as kubeadm makes it")
    })?;
    one_of(documents(inner)?).and_then(of_this_version)
}

fn one_of(mut documents: Vec<Value>) -> Checked<Value> {
    let remedy = "name kube-proxy's file";
    if documents.len() == 1
        && let Some(only) = documents.pop()
    {
        return if only["kind"] == "ConfigMap" { Ok(only) } else { of_this_version(only) };
    }
    let (ours, others): (Vec<_>, Vec<_>) =
        documents.into_iter().partition(|value| value["kind"] == KUBE_PROXY_KIND);
    // A list of objects as kubectl prints them has the ConfigMap beside others.
    let maps = others.into_iter().filter(|value| value["data"]["config.conf"].is_string());
    let mut found: Vec<_> = ours.into_iter().chain(maps).collect();
    match (found.pop(), found.len()) {
        (Some(value), 0) if value["kind"] == KUBE_PROXY_KIND => of_this_version(value),
        (Some(value), 0) => Ok(value),
        (None, _) => {
            Err(ConfigError::new("kind", format_args!("no document is a {KUBE_PROXY_KIND}"), remedy))
        }
        (Some(_), more) => {
            let what = format_args!("{} documents are a {KUBE_PROXY_KIND}", more + 1).to_string();
            Err(ConfigError::new("kind", what, "keep the one that is in use"))
        }
    }
}

fn of_this_version(value: Value) -> Checked<Value> {
    for (field, wanted) in [("apiVersion", KUBE_PROXY_API), ("kind", KUBE_PROXY_KIND)] {
        if value[field] != wanted {
            let what = format_args!("{} is not {wanted:?}", value[field]).to_string();
            return Err(ConfigError::new(field, what, "name kube-proxy's file"));
        }
    }
    Ok(value)
}

/// Those that have something in them.
fn documents(text: &str) -> Checked<Vec<Value>> {
    let read: Result<Vec<Value>, _> = serde_saphyr::from_multiple(text);
    let documents = read.map_err(|error| {
        let words = error.without_snippet().to_string();
        let words = words.lines().next().unwrap_or_default().to_owned();
        ConfigError::new("FILE", words, "give YAML or JSON documents")
    })?;
    Ok(documents.into_iter().filter(|value| !value.is_null()).collect())
}
