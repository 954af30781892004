//! Volumes: directories below the pod's folder. There is no file system of the pod's own, so that the path a volume is
//! mounted at is replaced by the directory's wherever it stands in the container's command line and environment.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::kubernetes::Api;

/// Where mounted paths are instead.
#[derive(Clone, Debug, Default)]
pub(super) struct Mounts {
    /// The longest path first.
    all: Vec<(String, String)>,
}

impl Mounts {
    /// Writes what a container mounts below `folder`: `configMap`, `emptyDir`, `hostPath`.
    ///
    /// # Errors
    /// There is no such volume or ConfigMap, or it is of another kind.
    pub(super) fn make(api: &Api, pod: &Value, container: &Value, folder: &Path) -> Result<Self, String> {
        let mut all = Vec::new();
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let name = mount["name"].as_str().unwrap_or_default();
            // The account's token, which the API server mounts into every pod: no program here wants it.
            if name.starts_with("kube-api-access-") {
                continue;
            }
            let volumes = pod["spec"]["volumes"].as_array();
            let volume = volumes.into_iter().flatten().find(|volume| volume["name"] == mount["name"]);
            let volume = volume.ok_or_else(|| format!("there is no volume {name}"))?;
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
            let mut place = provide(api, namespace, volume, &folder.join("volumes").join(name))?;
            if let Some(below) = mount["subPath"].as_str() {
                place.push(below);
            }
            let path = mount["mountPath"].as_str().unwrap_or_default().trim_end_matches('/');
            all.push((path.to_owned(), place.to_string_lossy().into_owned()));
        }
        Ok(Self::new(all))
    }

    fn new(mut all: Vec<(String, String)>) -> Self {
        all.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Self { all }
    }

    /// The text with every mounted path in it replaced.
    pub(super) fn relocate(&self, text: &str) -> String {
        let mut done = String::with_capacity(text.len());
        let mut rest = text;
        // What comes before decides whether a path begins here.
        let mut before = ' ';
        while let Some(next) = rest.chars().next() {
            let begins = !(before.is_alphanumeric() || "/._-".contains(before));
            let found = self.all.iter().find(|(path, _)| {
                let after = rest.strip_prefix(path.as_str()).map(|after| after.chars().next());
                begins && after.is_some_and(ends_a_name)
            });
            match found {
                Some((path, place)) => {
                    done.push_str(place);
                    rest = &rest[path.len()..];
                    before = 'x';
                }
                None => {
                    done.push(next);
                    rest = &rest[next.len_utf8()..];
                    before = next;
                }
            }
        }
        done
    }
}

fn ends_a_name(next: Option<char>) -> bool {
    next.is_none_or(|next| !(next.is_alphanumeric() || "._-".contains(next)))
}

fn provide(api: &Api, namespace: &str, volume: &Value, place: &Path) -> Result<PathBuf, String> {
    if let Some(path) = volume["hostPath"]["path"].as_str() {
        return Ok(path.into());
    }
    fs::create_dir_all(place).map_err(|error| format!("{}: {error}", place.display()))?;
    if let Some(name) = volume["configMap"]["name"].as_str() {
        let map = api.get(&Api::path("v1", "ConfigMap", Some(namespace), name));
        let map = map.map_err(|error| format!("ConfigMap {namespace}/{name}: {error}"))?;
        write(&map, volume["configMap"]["items"].as_array().map(Vec::as_slice), place)?;
    } else if volume.get("emptyDir").is_none() {
        return Err(format!(
            "volume {}: only configMap, emptyDir and hostPath can be mounted",
            volume["name"]
        ));
    }
    Ok(place.to_owned())
}

/// Writes a ConfigMap's files: all, or the items, each under its own name.
fn write(map: &Value, items: Option<&[Value]>, place: &Path) -> Result<(), String> {
    let text = |key: &str| map["data"][key].as_str();
    let files: Vec<(&str, Option<&str>)> = match items {
        Some(items) => items
            .iter()
            .map(|item| {
                (item["path"].as_str().unwrap_or_default(), text(item["key"].as_str().unwrap_or_default()))
            })
            .collect(),
        None => map["data"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect(),
    };
    for (name, text) in files {
        let text =
            text.ok_or_else(|| format!("ConfigMap {} has no key for {name}", map["metadata"]["name"]))?;
        let path = place.join(name);
        let parent = path.parent().unwrap_or(place);
        let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, text));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mounted_paths_are_replaced_where_they_are_paths() {
        let mounts =
            Mounts::new(vec![("/etc/app".into(), "/p/app".into()), ("/etc/app/tls".into(), "/p/tls".into())]);
        for (text, wanted) in [
            ("/etc/app", "/p/app"),
            ("-conf=/etc/app/main.conf", "-conf=/p/app/main.conf"),
            ("cat /etc/app/tls/a '/etc/app/b'", "cat /p/tls/a '/p/app/b'"),
            ("/etc/apple /x/etc/app /etc/app.d", "/etc/apple /x/etc/app /etc/app.d"),
            ("é/etc", "é/etc"),
        ] {
            assert_eq!(mounts.relocate(text), wanted);
        }
    }

    #[test]
    fn files_are_the_keys_or_the_items() {
        let folder = tempfile::tempdir().unwrap();
        let map = json!({"metadata": {"name": "m"}, "data": {"a": "1", "b": "2"}});
        write(&map, None, folder.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("b")).unwrap(), "2");
        write(&map, Some(&[json!({"key": "a", "path": "sub/c"})]), folder.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("sub/c")).unwrap(), "1");
        let missing = write(&map, Some(&[json!({"key": "x", "path": "d"})]), folder.path()).unwrap_err();
        assert!(missing.contains("has no key for d"), "{missing}");
    }
}
