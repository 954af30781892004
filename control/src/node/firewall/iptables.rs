//! What `iptables -S` and `iptables-save` say. Pure.

use super::leftovers::is_kube_proxys;
use super::{COMMENT, ChainVerdict};

/// Judges `iptables -S FORWARD`.
pub(super) fn verdict(text: &str, device: &str) -> ChainVerdict {
    let mut verdict = ChainVerdict::default();
    let mut number = 0;
    for line in text.lines() {
        if let Some(policy) = line.strip_prefix("-P FORWARD ") {
            verdict.drops = policy.trim() == "DROP";
        }
        let Some(rule) = line.strip_prefix("-A FORWARD ") else { continue };
        number += 1;
        // What stands behind a rule that drops everything is never asked.
        let asked = verdict.last.is_none();
        let words = words_without_comment(rule);
        match words.as_slice() {
            ["-j", "ACCEPT"] if asked => (verdict.accepts_in, verdict.accepts_out) = (true, true),
            ["-j", "DROP"] | ["-j", "REJECT", ..] if asked => {
                verdict.drops = true;
                verdict.last = Some(number.to_string());
            }
            ["-i", name, "-j", "ACCEPT"] if asked && names(name, device) => verdict.accepts_in = true,
            ["-o", name, "-j", "ACCEPT"] if asked && names(name, device) => verdict.accepts_out = true,
            _ => {}
        }
        for input in [true, false] {
            let ours = accept_rule(device, input).join(" ");
            if rule.trim() == ours {
                verdict.ours.push(ours);
            }
        }
    }
    verdict
}

/// Our rule, as `iptables -S` prints it after the chain's name.
pub(super) fn accept_rule(device: &str, input: bool) -> Vec<String> {
    let side = if input { "-i" } else { "-o" };
    [side, device, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"].map(str::to_owned).to_vec()
}

/// kube-proxy's chains in `iptables -t TABLE -S`.
pub(super) fn kube_proxy_chains(text: &str) -> Vec<String> {
    let chains = text.lines().filter_map(|line| line.strip_prefix("-N "));
    chains.map(str::trim).filter(|chain| is_kube_proxys(chain)).map(str::to_owned).collect()
}

/// For `iptables-restore --noflush`: takes kube-proxy's chains, and the jumps into them, out of one saved table.
/// `None` when it has none.
pub(super) fn removal_script(saved: &str) -> Option<String> {
    let table = saved.lines().find(|line| line.starts_with('*'))?;
    let declared = saved.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
    let chains: Vec<&str> = declared.filter(|chain| is_kube_proxys(chain)).collect();
    if chains.is_empty() {
        return None;
    }
    let mut script = vec![table.to_owned()];
    // Naming a chain empties it; then nothing in them jumps any more, and what jumps into them goes.
    script.extend(chains.iter().map(|chain| format!(":{chain} - [0:0]")));
    for rule in saved.lines().filter_map(|line| line.strip_prefix("-A ")) {
        let words: Vec<&str> = rule.split(' ').collect();
        let inside = words.first().is_some_and(|chain| chains.contains(chain));
        let jumps = words.windows(2).any(|pair| matches!(pair[0], "-j" | "-g") && chains.contains(&pair[1]));
        if jumps && !inside {
            script.push(format!("-D {rule}"));
        }
    }
    script.extend(chains.iter().map(|chain| format!("-X {chain}")));
    script.push("COMMIT".to_owned());
    Some(script.join("\n") + "\n")
}

fn words_without_comment(rule: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = rule.split_whitespace().peekable();
    while let Some(word) = rest.next() {
        if word == "-m" && rest.peek() == Some(&"comment") {
            let _ = (rest.next(), rest.next());
            // A comment of several words is quoted.
            let quoted = rest.next().is_some_and(|first| first.starts_with('"') && !first.ends_with('"'));
            if quoted {
                for word in rest.by_ref() {
                    if word.ends_with('"') {
                        break;
                    }
                }
            }
        } else {
            words.push(word);
        }
    }
    words
}

/// Whether an interface name of a rule means the device; a trailing + stands for anything.
fn names(pattern: &str, device: &str) -> bool {
    pattern.strip_suffix('+').map_or(pattern == device, |start| device.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropping_policy_or_last_rule_drops_unless_the_device_is_accepted() {
        let judge = |text: &str| {
            let verdict = verdict(text, "tunway0");
            (verdict.drops, verdict.accepts_in, verdict.accepts_out)
        };
        assert_eq!(judge("-P FORWARD ACCEPT\n"), (false, false, false));
        assert_eq!(judge("-P FORWARD DROP\n"), (true, false, false));
        assert_eq!(
            judge("-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-port-unreachable\n"),
            (true, false, false)
        );
        assert_eq!(
            judge("-P FORWARD DROP\n-A FORWARD -i tunway0 -j ACCEPT\n-A FORWARD -o tun+ -j ACCEPT\n"),
            (true, true, true)
        );
        assert_eq!(
            judge("-P FORWARD DROP\n-A FORWARD -i tunway0 -m comment --comment \"a b c\" -j ACCEPT\n"),
            (true, true, false)
        );
        assert_eq!(
            judge(
                "-P FORWARD DROP\n-A FORWARD -i tunway0 -p tcp -j ACCEPT\n-A FORWARD -o tunway01 -j ACCEPT\n"
            ),
            (true, false, false),
            "an accept with a condition, or for another device, is none"
        );
        assert_eq!(
            judge("-P FORWARD ACCEPT\n-A FORWARD -j DROP\n-A FORWARD -i tunway0 -j ACCEPT\n"),
            (true, false, false),
            "what stands behind a drop is never asked"
        );
    }

    #[test]
    fn the_rule_that_drops_everything_is_numbered_as_iptables_numbers_it() {
        let last = |text: &str| verdict(text, "tunway0").last;
        assert_eq!(last("-P FORWARD DROP\n-A FORWARD -j POLICIES\n"), None, "the policy drops: at the end");
        let text = "-P FORWARD ACCEPT\n-A FORWARD -j POLICIES\n-A FORWARD -s 10.1.0.2/32 -j DROP\n\
                    -A FORWARD -j REJECT --reject-with icmp-host-prohibited\n-A FORWARD -j DROP\n";
        assert_eq!(last(text).as_deref(), Some("3"), "behind the policies and the drop with a condition");
    }

    #[test]
    fn our_own_rule_is_known_by_its_comment() {
        let text = "-P FORWARD DROP\n-A FORWARD -i tunway0 -m comment --comment tunway -j ACCEPT\n\
                    -A FORWARD -o tunway0 -j ACCEPT\n";
        let verdict = verdict(text, "tunway0");
        assert_eq!(verdict.ours, ["-i tunway0 -m comment --comment tunway -j ACCEPT"]);
        assert!(verdict.accepts_in && verdict.accepts_out);
    }

    #[test]
    fn kube_proxys_chains_leave_in_one_transaction_and_nothing_else_does() {
        let saved = "# Generated by iptables-save\n*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n\
                     :KUBE-MARK-MASQ - [0:0]\n:KUBE-SVC-A - [0:0]\n:CUSTOM - [0:0]\n\
                     -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
                     -A PREROUTING -j CUSTOM\n-A CUSTOM -d 10.0.0.1/32 -j KUBE-SVC-A\n\
                     -A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-A\n-A KUBE-SVC-A -j KUBE-MARK-MASQ\nCOMMIT\n";
        assert_eq!(
            removal_script(saved).unwrap(),
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n\
             -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -D CUSTOM -d 10.0.0.1/32 -j KUBE-SVC-A\n-X KUBE-SERVICES\n-X KUBE-SVC-A\nCOMMIT\n"
        );
        assert_eq!(removal_script("*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\nCOMMIT\n"), None);
        assert_eq!(removal_script(""), None);
        assert_eq!(kube_proxy_chains("-P INPUT ACCEPT\n-N KUBE-SEP-1\n-N DOCKER\n"), ["KUBE-SEP-1"]);
    }
}
