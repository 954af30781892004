//! The manifest the demo deploys: Deployments and Services, the rest skipped with a note.

use std::path::Path;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::ConfigError;

/// The embedded walkthrough.
pub const WALKTHROUGH: &str = include_str!("../../manifests/walkthrough.yaml");

/// What is to be deployed.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// How it is called in the story.
    pub name: String,
    /// The Deployments.
    pub deployments: Vec<Deployment>,
    /// The Services.
    pub services: Vec<Service>,
    /// Objects the demo does not play: kind and name.
    pub skipped: Vec<String>,
}

/// Reads the manifest at `path`, or the embedded one.
///
/// # Errors
/// It cannot be read, or has nothing for the demo.
pub fn read(path: Option<&Path>) -> Result<Manifest, ConfigError> {
    let wrong = |what: String| {
        ConfigError::new(
            "--manifest",
            what,
            "give a YAML file with a Deployment and a ClusterIP Service that selects its pods",
        )
    };
    let Some(path) = path else {
        return parse("walkthrough.yaml", WALKTHROUGH).map_err(wrong);
    };
    let text =
        std::fs::read_to_string(path).map_err(|error| wrong(format!("{}: {error}", path.display())))?;
    parse(&path.display().to_string(), &text).map_err(|what| wrong(format!("{}: {what}", path.display())))
}

/// Reads a manifest's text.
///
/// # Errors
/// In words for its author.
pub fn parse(name: &str, text: &str) -> Result<Manifest, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    let mut manifest = Manifest { name: name.to_owned(), ..Manifest::default() };
    for (at, document) in documents.into_iter().enumerate().filter(|(_, document)| !document.is_null()) {
        let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let named = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let place = format!("document {}", at + 1);
        match (text("apiVersion").as_str(), text("kind").as_str()) {
            ("apps/v1", "Deployment") => manifest.deployments.push(object(document, &place, &named)?),
            ("v1", "Service") => manifest.services.push(object(document, &place, &named)?),
            (_, "") => return Err(format!("{place} has no kind")),
            (_, kind) => manifest.skipped.push(format!("{} {named}", kind.to_lowercase())),
        }
    }
    if manifest.deployments.is_empty() || manifest.services.is_empty() {
        return Err("it takes at least one Deployment (apps/v1) and one Service (v1)".to_owned());
    }
    Ok(manifest)
}

fn object<T: DeserializeOwned>(document: Value, place: &str, name: &str) -> Result<T, String> {
    if name.is_empty() {
        return Err(format!("{place} has no metadata.name"));
    }
    serde_json::from_value(document).map_err(|error| format!("{place}, {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walkthrough_is_two_replicas_and_a_cluster_ip_service_on_port_80() {
        let manifest = read(None).unwrap();
        assert_eq!((manifest.deployments.len(), manifest.services.len()), (1, 1));
        assert_eq!(manifest.deployments[0].spec.as_ref().unwrap().replicas, Some(2));
        let service = manifest.services[0].spec.as_ref().unwrap();
        assert_eq!(service.type_.as_deref(), Some("ClusterIP"));
        assert_eq!(service.cluster_ip, None);
        assert_eq!(service.ports.as_ref().unwrap()[0].port, 80);
        assert!(manifest.skipped.is_empty());
    }

    #[test]
    fn what_cannot_be_played_is_named() {
        let error = |text: &str| parse("m", text).unwrap_err();
        assert!(error("").contains("Deployment"));
        assert!(error("apiVersion: v1\n").contains("document 1 has no kind"));
        assert!(error("apiVersion: v1\nkind: Service\n").contains("metadata.name"));
        let bad = format!(
            "{WALKTHROUGH}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: x}}\nspec: {{ports: 7}}\n"
        );
        assert!(error(&bad).starts_with("document 3, x:"), "{}", error(&bad));
        let more = format!("{WALKTHROUGH}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\n");
        assert_eq!(parse("m", &more).unwrap().skipped, ["configmap c"]);
        let missing = read(Some(Path::new("/nonexistent.yaml"))).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent.yaml"), "{missing}");
    }
}
