//! Rules of others that drop what does not come in by the way back to its source (reverse path filters, strict ones),
//! from `iptables-save` and `nft -j list ruleset`. Pure; what cannot be read counts as not there.
//!
//! What the device emits with its source kept does come in another way, and the way back of a packet with our mark
//! leads to the device. The kernel's own check (`rp_filter`) can be told so; such a rule cannot.

use serde_json::Value;

use super::nft::{objects, text};

/// A rule that drops by the way back alone: one with more conditions may mean other packets than ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceCheck {
    /// Where it is and what it says.
    pub(crate) rule: String,
    /// The command that deletes it.
    pub(crate) remedy: String,
}

/// The rules of `iptables-save` (`tool` is `iptables` or its like).
pub(super) fn of_iptables(saved: &str, tool: &str) -> Vec<SourceCheck> {
    let mut table = "";
    let mut found = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        let Some(rule) = line.strip_prefix("-A PREROUTING ") else { continue };
        if drops_by_way_back(rule) {
            found.push(SourceCheck {
                rule: format!("{tool} -t {table}: -A PREROUTING {rule}"),
                remedy: format!("{tool} -t {table} -D PREROUTING {rule}"),
            });
        }
    }
    found
}

fn drops_by_way_back(rule: &str) -> bool {
    // Of a comment in quotes the middle is text; the rest are words.
    let plain: String = rule.split('"').step_by(2).collect();
    let mut words: Vec<&str> = plain.split_whitespace().collect();
    words.retain(|word| !matches!(*word, "--validmark" | "--accept-local"));
    let comment =
        words.windows(3).position(|words| words[..2] == ["-m", "comment"] && words[2] == "--comment");
    if let Some(at) = comment {
        // One without quotes is a single word.
        let end = at + 3 + usize::from(!rule.contains('"'));
        words.drain(at..end.min(words.len()));
    }
    words == ["-m", "rpfilter", "--invert", "-j", "DROP"]
}

/// The rules of `nft -a -j list ruleset`, without the tables for which `is_known` says that an iptables tool has
/// described them.
pub(super) fn of_nft(json: &str, is_known: &dyn Fn(&str, &str) -> bool) -> Vec<SourceCheck> {
    let mut found = Vec::new();
    for rule in objects(json, "rule") {
        let [family, table, chain] = ["family", "table", "chain"].map(|key| text(&rule, key));
        if is_known(&family, &table) {
            continue;
        }
        let expressions = rule.get("expr").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let drops = expressions.iter().any(|expression| expression.get("drop").is_some());
        if drops && expressions.iter().any(is_strict) && expressions.iter().all(is_plain) {
            let handle = rule.get("handle").and_then(Value::as_u64).unwrap_or_default();
            found.push(SourceCheck {
                rule: format!("nft rule {family} {table} {chain} handle {handle}"),
                remedy: format!("nft delete rule {family} {table} {chain} handle {handle}"),
            });
        }
    }
    found
}

/// `fib saddr . iif oif missing`, with or without the mark.
fn is_strict(expression: &Value) -> bool {
    let Some(test) = expression.get("match") else { return false };
    let fib = |key: &str| test.get("left")?.get("fib")?.get(key);
    let flags = fib("flags").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let has = |flag: &str| flags.iter().any(|known| known == flag);
    let right = test.get("right");
    let missing = right.is_some_and(|right| *right == false || *right == 0 || right == "0");
    fib("result").is_some_and(|result| result == "oif")
        && has("saddr")
        && has("iif")
        && missing
        && text(test, "op") == "=="
}

/// Says nothing about which packets, but for their family.
fn is_plain(expression: &Value) -> bool {
    let of_family = expression.pointer("/match/left/meta/key").is_some_and(|key| key == "nfproto");
    let does = ["drop", "counter", "log"].iter().any(|kind| expression.get(kind).is_some());
    is_strict(expression) || of_family || does
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iptables_rules_that_drop_by_the_way_back_alone_are_found() {
        let is_found =
            |rule: &str| !of_iptables(&format!("*raw\n-A {rule}\nCOMMIT\n"), "ip6tables").is_empty();
        for strict in [
            "PREROUTING -m rpfilter --invert -j DROP",
            "PREROUTING -m rpfilter --validmark --invert -m comment --comment \"a -i b\" -j DROP",
            "PREROUTING -m comment --comment strict -m rpfilter --accept-local --invert -j DROP",
        ] {
            assert!(is_found(strict), "{strict}");
        }
        for other in [
            "PREROUTING -m rpfilter --loose --invert -j DROP",
            "PREROUTING -m rpfilter -j ACCEPT",
            "PREROUTING -i eth0 -m rpfilter --invert -j DROP",
            "cali-PREROUTING -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP",
            "PREROUTING -j DROP",
        ] {
            assert!(!is_found(other), "{other}");
        }
        let found = &of_iptables("*mangle\n-A PREROUTING -m rpfilter --invert -j DROP\n", "ip6tables")[0];
        assert_eq!(found.remedy, "ip6tables -t mangle -D PREROUTING -m rpfilter --invert -j DROP");
    }

    #[test]
    fn nft_rules_that_drop_by_the_way_back_alone_are_found() {
        let of = |expressions: &str, known: bool| {
            let json = format!(
                r#"{{"nftables":[{{"rule":{{"family":"inet","table":"firewalld","chain":"filter_PREROUTING",
                "handle":4,"expr":[{expressions}]}}}}]}}"#
            );
            of_nft(&json, &|_, _| known)
        };
        let fib = |flags: &str, right: &str| {
            format!(
                r#"{{"match":{{"op":"==","left":{{"fib":{{"result":"oif","flags":[{flags}]}}}},"right":{right}}}}}"#
            )
        };
        let strict = fib(r#""saddr","mark","iif""#, "false");
        let family = r#"{"match":{"op":"==","left":{"meta":{"key":"nfproto"}},"right":"ipv6"}}"#;
        let found = of(&format!("{family},{strict},{{\"drop\":null}}"), false);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].rule, "nft rule inet firewalld filter_PREROUTING handle 4");
        assert_eq!(found[0].remedy, "nft delete rule inet firewalld filter_PREROUTING handle 4");
        let counted = format!("{},{{\"counter\":{{}}}},{{\"drop\":null}}", fib(r#""saddr","iif""#, "\"0\""));
        assert_eq!(of(&counted, false).len(), 1);

        assert_eq!(of(&counted, true), [], "iptables has told of it");
        let loose = fib(r#""saddr","mark""#, "false");
        let by_link = r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"eth0"}}"#;
        for other in [
            format!("{loose},{{\"drop\":null}}"),
            format!("{strict},{{\"accept\":null}}"),
            format!("{by_link},{strict},{{\"drop\":null}}"),
            format!("{},{{\"drop\":null}}", fib(r#""saddr","iif""#, "true")),
            "{\"drop\":null}".to_owned(),
        ] {
            assert_eq!(of(&other, false), [], "{other}");
        }
        assert_eq!(of_nft("", &|_, _| false), []);
    }
}
