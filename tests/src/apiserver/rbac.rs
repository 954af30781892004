//! What the documented ClusterRole allows, and what a server was asked for: the two must be the same.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::Request;

/// One thing a ClusterRole allows, or a request does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// The API group; "" is the core group.
    pub group: String,
    /// The resource's plural name.
    pub resource: String,
    /// The verb.
    pub verb: String,
}

/// What `control/rbac.yaml` allows.
#[must_use]
pub fn allowed() -> BTreeSet<Permission> {
    permissions(&rbac_yaml())
}

/// The text of `control/rbac.yaml`.
#[must_use]
pub fn rbac_yaml() -> String {
    read("control/rbac.yaml")
}

/// The text of the README.
#[must_use]
pub fn readme() -> String {
    read("README.md")
}

/// What the one ClusterRole in the README allows.
#[must_use]
pub fn rbac_rules_from_readme() -> BTreeSet<Permission> {
    let text = readme();
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let is_role = |block: &&str| block.lines().any(|line| line == "kind: ClusterRole");
    let roles: Vec<&str> = blocks.filter(is_role).collect();
    assert_eq!(roles.len(), 1, "the README has exactly one yaml block with a ClusterRole");
    permissions(roles[0])
}

/// What these requests needed. A request for something unknown to RBAC fails the test.
#[must_use]
pub fn used(requests: &[Request]) -> BTreeSet<Permission> {
    let permission = |request: &Request| {
        let resource =
            request.resource.unwrap_or_else(|| panic!("a request outside the resources: {request:?}"));
        let (group, plural) = (resource.group().to_owned(), resource.plural().to_owned());
        Permission { group, resource: plural, verb: request.verb.to_owned() }
    };
    requests.iter().map(permission).collect()
}

fn permissions(yaml: &str) -> BTreeSet<Permission> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("a ClusterRole is YAML");
    let role = documents.iter().find(|document| document["kind"] == "ClusterRole").expect("a ClusterRole");
    let texts = |rule: &Value, field: &str| -> Vec<String> {
        let list = rule[field].as_array().unwrap_or_else(|| panic!("{field} of {rule}"));
        list.iter().map(|text| text.as_str().expect("a string").to_owned()).collect()
    };
    let mut all = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                let verbs = texts(rule, "verbs").into_iter();
                all.extend(verbs.map(|verb| Permission {
                    group: group.clone(),
                    resource: resource.clone(),
                    verb,
                }));
            }
        }
    }
    all
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
