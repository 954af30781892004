//! What `nft -j` says. Pure; what cannot be read counts as not there.

use serde_json::Value;

use super::leftovers::is_kube_proxys;
use super::{COMMENT, ChainVerdict};

/// Family, table, name of every base chain that filters forwarded IP packets, from `nft -j list chains`.
pub(super) fn forward_chains(json: &str) -> Vec<(String, String, String)> {
    objects(json, "chain")
        .iter()
        .filter(|chain| text(chain, "hook") == "forward" && text(chain, "type") == "filter")
        .filter(|chain| matches!(text(chain, "family").as_str(), "ip" | "ip6" | "inet"))
        .map(|chain| (text(chain, "family"), text(chain, "table"), text(chain, "name")))
        .collect()
}

/// Families that have a table `kube-proxy`, from `nft -j list tables`.
pub(super) fn kube_proxy_tables(json: &str) -> Vec<String> {
    let tables = objects(json, "table");
    tables
        .iter()
        .filter(|table| text(table, "name") == "kube-proxy")
        .map(|table| text(table, "family"))
        .collect()
}

/// Family, table, name of every chain kube-proxy's iptables modes make, from `nft -j list chains`.
pub(super) fn kube_proxy_chains(json: &str) -> Vec<(String, String, String)> {
    objects(json, "chain")
        .iter()
        .filter(|chain| is_kube_proxys(&text(chain, "name")))
        .map(|chain| (text(chain, "family"), text(chain, "table"), text(chain, "name")))
        .collect()
}

/// Judges `nft -a -j list chain …`.
pub(super) fn verdict(json: &str, device: &str) -> ChainVerdict {
    let mut verdict = ChainVerdict {
        drops: objects(json, "chain").iter().any(|chain| text(chain, "policy") == "drop"),
        ..ChainVerdict::default()
    };
    for rule in objects(json, "rule") {
        let expressions = rule.get("expr").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut matches = Vec::new();
        let (mut accepts, mut drops) = (false, false);
        for expression in expressions.iter().filter_map(Value::as_object) {
            for (kind, body) in expression {
                match kind.as_str() {
                    "counter" | "log" | "comment" => {}
                    "xt" if text(body, "name") == "comment" => {}
                    "accept" => accepts = true,
                    "drop" | "reject" => drops = true,
                    _ => matches.push((kind.as_str(), body)),
                }
            }
        }
        let by_device = |key: &str| match matches.as_slice() {
            [("match", body)] => {
                text(body, "op") == "=="
                    && body.pointer("/left/meta/key").and_then(Value::as_str) == Some(key)
                    && body.get("right").is_some_and(|right| names(right, device))
            }
            _ => false,
        };
        // What stands behind a rule that drops everything is never asked.
        let asked = verdict.last.is_none();
        verdict.accepts_in |= asked && accepts && (matches.is_empty() || by_device("iifname"));
        verdict.accepts_out |= asked && accepts && (matches.is_empty() || by_device("oifname"));
        if asked && drops && matches.is_empty() {
            verdict.drops = true;
            verdict.last = rule.get("handle").and_then(Value::as_u64).map(|handle| handle.to_string());
        }
        let ours = text(&rule, "comment") == COMMENT && (by_device("iifname") || by_device("oifname"));
        if let Some(handle) = rule.get("handle").and_then(Value::as_u64).filter(|_| ours && accepts) {
            verdict.ours.push(handle.to_string());
        }
    }
    verdict
}

/// Our rule, in nft's language.
pub(super) fn accept_rule(device: &str, input: bool) -> String {
    let side = if input { "iifname" } else { "oifname" };
    format!("{side} \"{device}\" accept comment \"{COMMENT}\"")
}

/// The bodies of all objects of a kind.
pub(super) fn objects(json: &str, kind: &str) -> Vec<Value> {
    let parsed: Value = serde_json::from_str(json).unwrap_or_default();
    let list = parsed.get("nftables").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|object| object.get(kind)).cloned().collect()
}

/// A field that is text; empty when it is not.
pub(super) fn text(object: &Value, key: &str) -> String {
    object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Whether the right side of an interface match means the device: its name, a pattern, or a set with one of them.
fn names(right: &Value, device: &str) -> bool {
    let one = |name: &str| name.strip_suffix('*').map_or(name == device, |start| device.starts_with(start));
    match right {
        Value::String(name) => one(name),
        Value::Object(set) => set
            .get("set")
            .and_then(Value::as_array)
            .is_some_and(|members| members.iter().filter_map(Value::as_str).any(one)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forward_chains_and_kube_proxys_things_are_found_in_a_real_listing() {
        assert_eq!(
            forward_chains(CHAINS),
            [
                ("ip".into(), "filter".into(), "FORWARD".into()),
                ("inet".into(), "filter".into(), "forward".into())
            ]
        );
        assert_eq!(kube_proxy_chains(CHAINS), [("ip".into(), "nat".into(), "KUBE-SERVICES".into())]);
        assert_eq!(kube_proxy_tables(TABLES), ["ip", "ip6"]);
        assert!(
            forward_chains("").is_empty()
                && forward_chains("{}").is_empty()
                && forward_chains("[1]").is_empty()
        );
    }

    #[test]
    fn a_chain_drops_by_policy_or_by_an_unconditional_last_rule() {
        let judge = |policy: &str, rules: &[&str]| {
            let verdict = verdict(&chain(policy, rules), "tunway0");
            (verdict.drops, verdict.accepts_in, verdict.accepts_out)
        };
        assert_eq!(judge("accept", &[]), (false, false, false));
        assert_eq!(judge("drop", &[]), (true, false, false));
        assert_eq!(
            judge("accept", &[r#"{"counter":{"packets":0,"bytes":0}},{"reject":null}"#]),
            (true, false, false)
        );
        let established =
            r#"{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":"invalid"}},{"drop":null}"#;
        assert_eq!(judge("accept", &[established]), (false, false, false), "a drop with a condition is none");
        let by_name = |key: &str, right: &str| {
            format!(
                r#"{{"match":{{"op":"==","left":{{"meta":{{"key":"{key}"}}}},"right":{right}}}}},{{"accept":null}}"#
            )
        };
        assert_eq!(judge("drop", &[&by_name("iifname", r#""tunway0""#)]), (true, true, false));
        assert_eq!(judge("drop", &[&by_name("oifname", r#""tun*""#)]), (true, false, true));
        assert_eq!(
            judge("drop", &[&by_name("oifname", r#"{"set":["eth0","tunway0"]}"#)]),
            (true, false, true)
        );
        assert_eq!(judge("drop", &[&by_name("iifname", r#""eth0""#)]), (true, false, false));
        assert_eq!(judge("drop", &[r#"{"accept":null}"#]), (true, true, true));
        let last = |policy: &str, rules: &[&str]| verdict(&chain(policy, rules), "tunway0").last;
        assert_eq!(last("accept", &[established, r#"{"drop":null}"#]).as_deref(), Some("7"));
        assert_eq!(last("drop", &[established]), None, "the policy drops: at the end");
    }

    #[test]
    fn our_rule_is_known_by_its_comment_and_deleted_by_its_handle() {
        let rule =
            r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"tunway0"}},{"accept":null}"#;
        assert_eq!(verdict(&chain("drop", &[rule]), "tunway0").ours, ["7"]);
        assert!(verdict(&chain("drop", &[rule]), "tunway1").ours.is_empty());
    }

    fn chain(policy: &str, rules: &[&str]) -> String {
        let rules = rules.iter().map(|expressions| {
            format!(
                r#",{{"rule":{{"family":"inet","table":"filter","chain":"forward","handle":7,
                "comment":"tunway","expr":[{expressions}]}}}}"#
            )
        });
        format!(
            r#"{{"nftables":[{{"metainfo":{{"json_schema_version":1}}}},{{"chain":{{"family":"inet","table":"filter",
            "name":"forward","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"{policy}"}}}}{}]}}"#,
            rules.collect::<String>()
        )
    }

    const CHAINS: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter",
         "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip", "table": "nat", "name": "KUBE-SERVICES", "handle": 1}},
        {"chain": {"family": "ip", "table": "nat", "name": "PREROUTING", "handle": 2, "type": "nat",
         "hook": "prerouting", "prio": -100, "policy": "accept"}},
        {"chain": {"family": "bridge", "table": "b", "name": "forward", "handle": 2, "type": "filter",
         "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "filter", "name": "forward", "handle": 1, "type": "filter",
         "hook": "forward", "prio": 0, "policy": "accept"}}]}"#;
    const TABLES: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "ip", "name": "filter", "handle": 1}},
        {"table": {"family": "ip", "name": "kube-proxy", "handle": 2}},
        {"table": {"family": "ip6", "name": "kube-proxy", "handle": 2}}]}"#;
}
