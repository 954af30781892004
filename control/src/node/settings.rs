//! Settings of the whole host that the return path `conntrack` needs: connection tracking's, and that bridged packets
//! pass it. They are kernel files, with no other way to set them.

use std::fs;
use std::io;

use super::rt::Family;
use super::view::HostView;

/// A file below /proc/sys and the value it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) path: &'static str,
    pub(crate) value: u64,
    /// More is as good.
    at_least: bool,
    /// What goes wrong with another value.
    pub(crate) why: &'static str,
}

/// What connection tracking must do for as many flows. Set where it can be, as kube-proxy does.
pub(crate) fn conntrack(max_flows: u64) -> [Setting; 4] {
    let exactly = |path, value, why| Setting { path, value, at_least: false, why };
    [
        exactly(
            LIBERAL,
            1,
            "an out-of-window reply would not be recognized, and reach the client with the endpoint's address",
        ),
        exactly(
            "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
            3600,
            "a connection closed on one side would lose its way back after a minute",
        ),
        exactly(
            "net/netfilter/nf_conntrack_tcp_timeout_established",
            86_400,
            "the kernel would keep connections longer, or shorter, than tunway does",
        ),
        Setting {
            path: "net/netfilter/nf_conntrack_max",
            // Each flow is two connections to the kernel.
            value: max_flows.saturating_mul(2),
            at_least: true,
            why: "each flow takes two entries; once they are used up, the kernel drops new connections",
        },
    ]
}

/// Sets what can be set of [`conntrack`]; what was set. Preflight tells of the rest, with the remedy: it is nothing this
/// process could do again and again.
pub(crate) fn set_conntrack(max_flows: u64) -> Vec<String> {
    let mut done = Vec::new();
    for setting in conntrack(max_flows) {
        if setting.read().is_none_or(|value| setting.accepts(value)) {
            continue;
        }
        match setting.write() {
            Err(error) => tracing::debug!(setting = setting.text(), %error, "left as it is"),
            Ok(()) => done.push(setting.text()),
        }
    }
    done
}

/// The first setting that bridges need and that is not so, with the reason.
pub(crate) fn bridges_wrong(families: &[Family], view: &HostView) -> Option<String> {
    let settings = families.iter().filter(|_| !view.bridges().is_empty()).map(|family| bridges(*family));
    let mut wrong = settings.filter(|setting| !setting.read().is_some_and(|value| setting.accepts(value)));
    wrong.next().map(|setting| format!("{} is needed for bridges: else {}", setting.text(), setting.why))
}

/// What bridges need: packets they pass on must go through the IP hooks, which recognize replies.
pub(crate) fn bridges(family: Family) -> Setting {
    let path = match family {
        Family::V4 => "net/bridge/bridge-nf-call-iptables",
        Family::V6 => "net/bridge/bridge-nf-call-ip6tables",
    };
    let why = "two pods of one bridge answer each other without passing the IP layer, and the client gets a reply \
               from the wrong address";
    Setting { path, value: 1, at_least: false, why }
}

impl Setting {
    /// Its value now; `None` when the kernel has no such setting (yet).
    pub(crate) fn read(&self) -> Option<u64> {
        fs::read_to_string(self.file()).ok()?.trim().parse().ok()
    }

    /// This value is as good as it must be. 0 is "no limit" where more is as good.
    pub(crate) fn accepts(&self, value: u64) -> bool {
        value == self.value || self.at_least && (value == 0 || value > self.value)
    }

    /// Sets it.
    pub(crate) fn write(&self) -> io::Result<()> {
        fs::write(self.file(), self.value.to_string())
    }

    /// Whether it could be set from here: not in a container with a read-only /proc/sys, and not the whole machine's
    /// limits from inside a network namespace.
    pub(crate) fn is_writable(&self) -> bool {
        fs::File::options().write(true).open(self.file()).is_ok()
    }

    /// Without it flows would break; without the others they are less well off.
    pub(crate) fn is_vital(&self) -> bool {
        self.path == LIBERAL
    }

    /// It is a limit, which more flows than fit run into.
    pub(crate) fn limits(&self) -> bool {
        self.at_least
    }

    /// `net.netfilter.nf_conntrack_max=786432`.
    pub(crate) fn text(&self) -> String {
        format!("{}={}", self.path.replace('/', "."), self.value)
    }

    fn file(&self) -> String {
        format!("/proc/sys/{}", self.path)
    }
}

const LIBERAL: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";
