//! Which bits of marks other people's rules use, from `iptables-save` and `nft -j list ruleset`. Pure; what cannot be
//! read counts as not there.

use serde_json::Value;

use super::nft::{objects, text};
use crate::node::table::NAME;

/// A rule that has to do with marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MarkUse {
    /// Where it is and what it says.
    pub(crate) rule: String,
    /// The command that deletes it.
    pub(crate) remedy: String,
    /// Bits of packets it tests or sets.
    pub(crate) packet: u32,
    /// Bits of connections it tests or sets.
    pub(crate) connection: u32,
    /// It overwrites the whole mark of packets, bits of others with it.
    pub(crate) wipes: bool,
}

impl MarkUse {
    fn is_some(&self) -> bool {
        self.packet != 0 || self.connection != 0 || self.wipes
    }
}

/// The rules of `iptables-save` (`tool` is `iptables` or its like).
pub(super) fn of_iptables(saved: &str, tool: &str) -> Vec<MarkUse> {
    let mut table = "";
    let mut found = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        let Some(rule) = line.strip_prefix("-A ") else { continue };
        let used = iptables_rule(rule);
        if used.is_some() {
            found.push(MarkUse {
                rule: format!("{tool} -t {table}: -A {rule}"),
                remedy: format!("{tool} -t {table} -D {rule}"),
                ..used
            });
        }
    }
    found
}

fn iptables_rule(rule: &str) -> MarkUse {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let mut used = MarkUse::default();
    let (mut module, mut masks) = ("", [u32::MAX; 2]);
    let after = |option: &str| words.iter().position(|word| *word == option).and_then(|at| words.get(at + 1));
    for (at, option) in [(0, "--nfmask"), (1, "--ctmask")] {
        masks[at] = after(option).and_then(|mask| number(mask)).unwrap_or(u32::MAX);
    }
    for pair in words.windows(2) {
        match *pair {
            ["-m" | "-j", name] => module = name,
            ["--mark", value] => {
                let (value, mask) = with_mask(value);
                let bits = if mask == u32::MAX { value } else { mask };
                if module == "connmark" { used.connection |= bits } else { used.packet |= bits }
            }
            ["--set-xmark" | "--set-mark", value] => {
                let (value, mask) = with_mask(value);
                if module == "CONNMARK" {
                    used.connection |= value | mask;
                } else if mask == u32::MAX {
                    (used.wipes, used.packet) = (true, used.packet | value);
                } else {
                    used.packet |= value | mask;
                }
            }
            _ => {}
        }
    }
    if words.contains(&"--save-mark") {
        used.connection |= masks[1];
    }
    if words.contains(&"--restore-mark") {
        if masks[0] == u32::MAX { used.wipes = true } else { used.packet |= masks[0] }
    }
    used
}

/// `0x1000/0xf000`; the mask is everything when there is none.
fn with_mask(text: &str) -> (u32, u32) {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    (number(value).unwrap_or(0), number(mask).unwrap_or(u32::MAX))
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The rules of `nft -a -j list ruleset`, without ours and without the tables for which `is_known` says that an
/// iptables tool has described them.
pub(super) fn of_nft(json: &str, is_known: &dyn Fn(&str, &str) -> bool) -> Vec<MarkUse> {
    let mut found = Vec::new();
    for rule in objects(json, "rule") {
        let [family, table, chain] = ["family", "table", "chain"].map(|key| text(&rule, key));
        if (matches!(family.as_str(), "inet" | "bridge") && table == NAME) || is_known(&family, &table) {
            continue;
        }
        let mut used = MarkUse::default();
        for expression in rule.get("expr").and_then(Value::as_array).into_iter().flatten() {
            if let Some(test) = expression.get("match") {
                tested(test, &mut used);
            } else if let Some(set) = expression.get("mangle") {
                written(set, &mut used);
            }
        }
        if used.is_some() {
            let handle = rule.get("handle").and_then(Value::as_u64).unwrap_or_default();
            found.push(MarkUse {
                rule: format!("nft rule {family} {table} {chain} handle {handle}"),
                remedy: format!("nft delete rule {family} {table} {chain} handle {handle}"),
                ..used
            });
        }
    }
    found
}

fn tested(test: &Value, used: &mut MarkUse) {
    let Some(left) = test.get("left") else { return };
    let (mark, bits) = match left.get("&").and_then(Value::as_array).map(Vec::as_slice) {
        Some([mark, mask]) => (mark, as_bits(mask)),
        // The whole mark is compared: its bits are those of the value it is compared with.
        _ => (left, test.get("right").and_then(as_bits)),
    };
    match kind(mark) {
        Some(Mark::Packet) => used.packet |= bits.unwrap_or(0),
        Some(Mark::Connection) => used.connection |= bits.unwrap_or(0),
        None => {}
    }
}

fn written(set: &Value, used: &mut MarkUse) {
    let (Some(mark), Some(value)) = (set.get("key").and_then(kind), set.get("value")) else { return };
    match (mark, bits_written(mark, value)) {
        (Mark::Packet, Some(bits)) => used.packet |= bits,
        (Mark::Packet, None) => (used.wipes, used.packet) = (true, used.packet | as_bits(value).unwrap_or(0)),
        (Mark::Connection, bits) => used.connection |= bits.unwrap_or(u32::MAX),
    }
}

/// The bits that a value made from the mark itself differs in; `None` for another value.
fn bits_written(mark: Mark, value: &Value) -> Option<u32> {
    if kind(value) == Some(mark) {
        return Some(0);
    }
    let (operator, operands) = value.as_object()?.iter().next()?;
    let [inner, operand] = operands.as_array()?.as_slice() else { return None };
    let (before, operand) = (bits_written(mark, inner)?, as_bits(operand)?);
    match operator.as_str() {
        "|" | "^" => Some(before | operand),
        "&" => Some(before | !operand),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Packet,
    Connection,
}

fn kind(value: &Value) -> Option<Mark> {
    let key = |of: &str| value.get(of)?.get("key")?.as_str();
    match (key("meta"), key("ct")) {
        (Some("mark"), _) => Some(Mark::Packet),
        (_, Some("mark")) => Some(Mark::Connection),
        _ => None,
    }
}

fn as_bits(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|bits| u32::try_from(bits).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iptables_marks_are_read_with_their_masks() {
        let of = |rule: &str| {
            let used = of_iptables(&format!("*mangle\n-A PREROUTING {rule}\nCOMMIT\n"), "iptables");
            used.first().map(|used| (used.packet, used.connection, used.wipes))
        };
        for (rule, used) in [
            ("-j ACCEPT", None),
            ("-j MARK --set-xmark 0x4000/0x4000", Some((0x4000, 0, false))),
            ("-j MARK --set-xmark 0x1000/0x0", Some((0x1000, 0, false))),
            ("-j MARK --set-xmark 0x5/0xffffffff", Some((5, 0, true))),
            ("-m mark --mark 0x2000/0x2000 -j MASQUERADE", Some((0x2000, 0, false))),
            ("-m mark ! --mark 0x2000 -j MASQUERADE", Some((0x2000, 0, false))),
            ("-m connmark --mark 0x0/0xf000 -j DROP", Some((0, 0xf000, false))),
            ("-j CONNMARK --set-xmark 0x80/0x80", Some((0, 0x80, false))),
            ("-j CONNMARK --save-mark --nfmask 0x80 --ctmask 0x80", Some((0, 0x80, false))),
            ("-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff", Some((0, u32::MAX, false))),
            ("-j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80", Some((0x80, 0, false))),
            ("-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", Some((0, 0, true))),
        ] {
            assert_eq!(of(rule), used, "{rule}");
        }
        let found = &of_iptables("*nat\n-A A -j MARK --set-xmark 0x1/0x1\n", "ip6tables")[0];
        assert_eq!(found.remedy, "ip6tables -t nat -D A -j MARK --set-xmark 0x1/0x1");
    }

    #[test]
    fn nft_marks_are_read_with_their_masks() {
        let of = |expression: &str| {
            let json = format!(
                r#"{{"nftables":[{{"rule":{{"family":"inet","table":"fw","chain":"c","handle":7,"expr":[{expression}]}}}}]}}"#
            );
            let used = of_nft(&json, &|_, _| false);
            used.first().map(|used| (used.packet, used.connection, used.wipes))
        };
        let set = |key: &str, value: &str| format!(r#"{{"mangle":{{"key":{key},"value":{value}}}}}"#);
        let test =
            |left: &str, right: &str| format!(r#"{{"match":{{"op":"==","left":{left},"right":{right}}}}}"#);
        let (packet, connection) = (r#"{"meta":{"key":"mark"}}"#, r#"{"ct":{"key":"mark"}}"#);
        assert_eq!(of(r#"{"accept":null}"#), None);
        assert_eq!(of(&test(r#"{"meta":{"key":"iifname"}}"#, "\"x\"")), None);
        for (expression, used) in [
            (test(packet, "4096"), (4096, 0, false)),
            (test(&format!(r#"{{"&":[{packet},61440]}}"#), "8192"), (61440, 0, false)),
            (test(&format!(r#"{{"&":[{connection},128]}}"#), "128"), (0, 128, false)),
            (set(packet, "1"), (1, 0, true)),
            (set(packet, connection), (0, 0, true)),
            (set(packet, &format!(r#"{{"|":[{packet},32768]}}"#)), (32768, 0, false)),
            (set(packet, &format!(r#"{{"&":[{packet},4294963199]}}"#)), (4096, 0, false)),
            (set(packet, &format!(r#"{{"^":[{{"&":[{packet},4294967040]}},3]}}"#)), (255, 0, false)),
            (set(connection, &format!(r#"{{"|":[{connection},128]}}"#)), (0, 128, false)),
            (set(connection, "5"), (0, u32::MAX, false)),
            (set(connection, r#"{"map":{}}"#), (0, u32::MAX, false)),
        ] {
            assert_eq!(of(&expression), Some(used), "{expression}");
        }
        let ours = r#"{"nftables":[{"rule":{"family":"inet","table":"tunway","chain":"c","handle":7,
            "expr":[{"mangle":{"key":{"ct":{"key":"mark"}},"value":1}}]}}]}"#;
        assert_eq!(of_nft(ours, &|_, _| false), []);
        assert_eq!(
            of_nft(&ours.replace("tunway", "mangle"), &|family, table| (family, table) == ("inet", "mangle")),
            []
        );
    }
}
