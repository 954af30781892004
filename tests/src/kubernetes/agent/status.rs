//! The status of a pod, as its node reports it.

use std::collections::BTreeMap;
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

/// Since when each condition is as it is.
#[derive(Debug, Default)]
pub(super) struct Transitions {
    all: BTreeMap<&'static str, (bool, SystemTime)>,
}

impl Transitions {
    fn since(&mut self, kind: &'static str, holds: bool) -> SystemTime {
        let entry = self.all.entry(kind).or_insert_with(|| (holds, SystemTime::now()));
        if entry.0 != holds {
            *entry = (holds, SystemTime::now());
        }
        entry.1
    }
}

/// Conditions the agent reports.
const OURS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

/// Whether somebody took conditions of the agent out of an object it had reported on.
pub(super) fn lacks_ours(pod: &Value) -> bool {
    let Some(there) = pod["status"]["conditions"].as_array() else { return false };
    OURS.iter().any(|kind| there.iter().all(|condition| condition["type"] != *kind))
}

impl Report<'_> {
    /// A strategic merge patch of the object's status: conditions of others, readiness gates among them, are not in it
    /// and stay as they are. It is refused when the object of this name is another pod's.
    pub(super) fn patch(&self, transitions: &mut Transitions) -> Value {
        let name = self.pod["metadata"]["name"].as_str().unwrap_or_default();
        let list = |containers: &[Container]| -> Vec<Value> {
            containers.iter().map(|container| container.status(name)).collect()
        };
        let addresses = |all: &[IpAddr]| -> Vec<Value> { all.iter().map(|ip| json!({"ip": ip})).collect() };
        json!({"metadata": {"uid": self.pod["metadata"]["uid"]}, "status": {
            "phase": self.phase,
            "conditions": self.conditions(transitions),
            "podIP": self.addresses.first(), "podIPs": addresses(self.addresses),
            "hostIP": self.node.first(), "hostIPs": addresses(self.node),
            "startTime": stamp(self.started),
            "initContainerStatuses": list(self.init),
            "containerStatuses": list(self.containers),
        }})
    }

    fn conditions(&self, transitions: &mut Transitions) -> Vec<Value> {
        let containers = self.phase == "Running"
            && self.containers.iter().all(Container::is_ready)
            && self.init.iter().all(|one| one.exit_code() == Some(0) || one.is_ready());
        let there = self.pod["status"]["conditions"].as_array();
        let is_true = |kind: &str| {
            let mut all = there.into_iter().flatten();
            all.any(|condition| condition["type"] == *kind && condition["status"] == "True")
        };
        let gates = self.pod["spec"]["readinessGates"].as_array();
        let open =
            gates.into_iter().flatten().all(|gate| is_true(gate["conditionType"].as_str().unwrap_or("")));
        let holds = [!self.addresses.is_empty(), self.initialized, containers, containers && open];
        let ours = OURS.into_iter().zip(holds).map(|(kind, holds)| {
            let status = if holds { "True" } else { "False" };
            let since = stamp(transitions.since(kind, holds));
            json!({"type": kind, "status": status, "lastTransitionTime": since})
        });
        // The scheduler's; whoever replaces all conditions takes it away, and it holds for every pod that is here.
        ours.chain([json!({"type": "PodScheduled", "status": "True"})]).collect()
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
    use super::super::action::Target;
    use super::super::sandbox::Shell;
    use super::*;
    use std::time::Duration;

    fn patch(pod: &Value, phase: &str, containers: &[Container], transitions: &mut Transitions) -> Value {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let addresses = ["10.244.0.3", "fd00::3"].map(|ip| ip.parse().unwrap());
        let report = Report {
            pod,
            phase,
            addresses: &addresses,
            node: &[],
            initialized: true,
            init: &[],
            containers,
            started,
        };
        report.patch(transitions)
    }

    fn condition(patch: &Value, kind: &str, field: &str) -> Value {
        let all = patch["status"]["conditions"].as_array().unwrap();
        let found: Vec<&Value> = all.iter().filter(|condition| condition["type"] == kind).collect();
        assert!(found.len() <= 1, "{all:?}");
        found.first().map_or(Value::Null, |condition| condition[field].clone())
    }

    #[test]
    fn a_gate_holds_readiness_back_and_is_not_ours_to_write() {
        for (status, ready) in [("True", "True"), ("False", "False")] {
            let pod = json!({
                "metadata": {"uid": "u"},
                "spec": {"readinessGates": [{"conditionType": "gate"}]},
                "status": {"conditions": [{"type": "gate", "status": status}]},
            });
            let patch = patch(&pod, "Running", &[], &mut Transitions::default());
            let of = |kind: &str| condition(&patch, kind, "status");
            assert_eq!((of("Ready"), of("ContainersReady")), (ready.into(), "True".into()));
            assert_eq!((of("gate"), of("PodScheduled")), (Value::Null, "True".into()));
            assert_eq!(patch["metadata"]["uid"], "u");
            assert_eq!(patch["status"]["podIPs"], json!([{"ip": "10.244.0.3"}, {"ip": "fd00::3"}]));
        }
    }

    #[test]
    fn a_container_that_waits_is_not_ready() {
        let shell =
            Shell { namespace: String::new(), hostname: "p".into(), environment: vec![], applets: None };
        let target = Target { node: String::new(), shell, address: [127, 0, 0, 1].into() };
        let waiting = [Container::new(&json!({"name": "c"}), "/nowhere".into(), target)];
        let patch = patch(&json!({}), "Running", &waiting, &mut Transitions::default());
        assert_eq!(condition(&patch, "Ready", "status"), "False");
        assert_eq!(
            patch["status"]["containerStatuses"][0]["state"]["waiting"]["reason"],
            "ContainerCreating"
        );
    }

    #[test]
    fn a_condition_is_dated_from_its_change() {
        let mut transitions = Transitions::default();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        transitions.all.insert("Ready", (false, long_ago));
        let of = |phase: &str, transitions: &mut Transitions| {
            condition(&patch(&json!({}), phase, &[], transitions), "Ready", "lastTransitionTime")
        };
        assert_eq!(of("Pending", &mut transitions), "2001-09-09T01:46:40Z");
        assert_ne!(of("Running", &mut transitions), "2001-09-09T01:46:40Z");
    }

    #[test]
    fn conditions_that_somebody_took_away_are_missed() {
        let with = |kinds: &[&str]| {
            let all: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            json!({"status": {"conditions": all}})
        };
        assert!(!lacks_ours(&with(&OURS)) && !lacks_ours(&json!({"status": {}})));
        assert!(lacks_ours(&with(&["gate"])));
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
