//! The status of a pod, as its node reports it.

use std::net::IpAddr;
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::container::Container;

/// What the status is made of.
#[derive(Debug)]
pub(super) struct Report<'a> {
    /// The object as last seen.
    pub(super) pod: &'a Value,
    /// `Pending`, `Running`, `Succeeded`, `Failed`.
    pub(super) phase: &'a str,
    /// The pod's addresses, IPv4 first.
    pub(super) addresses: &'a [IpAddr],
    /// The node's addresses, IPv4 first.
    pub(super) node: &'a [IpAddr],
    pub(super) initialized: bool,
    pub(super) init: &'a [Container],
    pub(super) containers: &'a [Container],
    pub(super) started: SystemTime,
}

impl Report<'_> {
    /// A merge patch of the object's `status`. Conditions of others, readiness gates among them, stay as they are.
    pub(super) fn patch(&self, name: &str) -> Value {
        let list = |containers: &[Container]| -> Vec<Value> {
            containers.iter().map(|container| container.status(name)).collect()
        };
        let addresses = |all: &[IpAddr]| -> Vec<Value> { all.iter().map(|ip| json!({"ip": ip})).collect() };
        json!({"status": {
            "phase": self.phase,
            "conditions": self.conditions(),
            "podIP": self.addresses.first(), "podIPs": addresses(self.addresses),
            "hostIP": self.node.first(), "hostIPs": addresses(self.node),
            "startTime": stamp(self.started),
            "initContainerStatuses": list(self.init),
            "containerStatuses": list(self.containers),
        }})
    }

    fn conditions(&self) -> Vec<Value> {
        let containers = self.phase == "Running"
            && self.containers.iter().all(Container::is_ready)
            && self.init.iter().all(|one| one.exit_code() == Some(0) || one.is_ready());
        let old = self.pod["status"]["conditions"].as_array();
        let has = |kind: &str| old.into_iter().flatten().find(|condition| condition["type"] == *kind);
        let is_true = |kind: &str| has(kind).is_some_and(|condition| condition["status"] == "True");
        let gates = self.pod["spec"]["readinessGates"].as_array();
        let gates_open =
            gates.into_iter().flatten().all(|gate| is_true(gate["conditionType"].as_str().unwrap_or("")));
        let ours = [
            ("PodReadyToStartContainers", !self.addresses.is_empty()),
            ("Initialized", self.initialized),
            ("ContainersReady", containers),
            ("Ready", containers && gates_open),
        ];
        let mut all: Vec<Value> = old
            .into_iter()
            .flatten()
            .filter(|condition| ours.iter().all(|(kind, _)| condition["type"] != *kind))
            .cloned()
            .collect();
        for (kind, holds) in ours {
            let status = if holds { "True" } else { "False" };
            let since = has(kind)
                .filter(|before| before["status"] == status)
                .map(|b| b["lastTransitionTime"].clone());
            let since = since.unwrap_or_else(|| stamp(SystemTime::now()).into());
            all.push(json!({"type": kind, "status": status, "lastTransitionTime": since}));
        }
        all
    }
}

/// A moment as the API writes it, RFC 3339 in whole seconds.
pub(super) fn stamp(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    Timestamp::from_second(i64::try_from(seconds).unwrap_or(0)).unwrap_or_default().to_string()
}

/// Now, as leases have it: RFC 3339 with microseconds.
pub(super) fn precise_now() -> String {
    format!("{:.6}", Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report<'a>(pod: &'a Value, containers: &'a [Container]) -> Report<'a> {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        Report {
            pod,
            phase: "Running",
            addresses: &[],
            node: &[],
            initialized: true,
            init: &[],
            containers,
            started,
        }
    }

    fn condition(patch: &Value, kind: &str) -> Value {
        let all = patch["status"]["conditions"].as_array().unwrap();
        let found: Vec<&Value> = all.iter().filter(|condition| condition["type"] == kind).collect();
        assert!(found.len() <= 1, "{all:?}");
        found.first().map_or(Value::Null, |condition| condition["status"].clone())
    }

    #[test]
    fn a_gate_holds_readiness_back_and_conditions_of_others_stay() {
        let gate = |status: &str| {
            json!({
                "spec": {"readinessGates": [{"conditionType": "gate"}]},
                "status": {"conditions": [
                    {"type": "gate", "status": status}, {"type": "PodScheduled", "status": "True"},
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
                ]},
            })
        };
        for (status, ready) in [("True", "True"), ("False", "False")] {
            let pod = gate(status);
            let patch = report(&pod, &[]).patch("p");
            assert_eq!(condition(&patch, "Ready"), ready);
            assert_eq!(condition(&patch, "ContainersReady"), "True");
            assert_eq!(condition(&patch, "gate"), status);
            assert_eq!(condition(&patch, "PodScheduled"), "True");
        }
        let waiting = [Container::new(&json!({"name": "c"}), "/nowhere".into(), vec![])];
        assert_eq!(condition(&report(&gate("True"), &waiting).patch("p"), "Ready"), "False");
    }

    #[test]
    fn moments_are_written_as_the_api_does() {
        assert_eq!(
            stamp(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)),
            "2001-09-09T01:46:40Z"
        );
        let now = precise_now();
        assert!(now.ends_with('Z') && now.len() == "2001-09-09T01:46:40.000000Z".len(), "{now}");
    }
}
