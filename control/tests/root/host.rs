//! A made-up host: the calling thread gets a network namespace with one Ethernet device, default routes and
//! forwarding, and a mount namespace with an empty /run. Both end with the thread.

use std::fs;
use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, SystemTime};

use control::node::{Host, HostConfig, Steering};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::runner::wait_for;

/// Enters a fresh host without our device.
pub(crate) fn enter() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
    sysctl("net.ipv4.ip_forward", "1");
    sysctl("net.ipv6.conf.all.forwarding", "1");
    // No duplicate address detection: addresses can be used at once.
    sysctl("net.ipv6.conf.default.accept_dad", "0");
    for command in [
        "link set lo up",
        "link add eth0 type veth peer name wire0",
        "link set eth0 up",
        "link set wire0 up",
        "addr add 192.168.77.1/24 dev eth0",
        "addr add fd00:77::1/64 dev eth0 nodad",
        "route add default via 192.168.77.254",
        "-6 route add default via fd00:77::fe",
    ] {
        ip(command);
    }
    // The kernel notes a carrier, and finishes an IPv6 address, a little later; until then the host looks different.
    wait_for("devices have a carrier and addresses", REPAIRED, || {
        ip("-o link").matches("state UP").count() == 2
            && !ip("-6 -o addr").contains("tentative")
            && ip("-6 route show table local").contains("local fd00:77::1 ")
    });
}

/// Enters a fresh host that has a TUN device, as one whose dataplane has just opened or left it.
pub(crate) fn enter_with_device() {
    enter();
    ip("tuntap add dev tunway0 mode tun");
}

/// The configuration the tests use.
pub(crate) fn config() -> HostConfig {
    HostConfig {
        queue_length: 1000,
        device: "tunway0".into(),
        steering: Steering::Snat,
        snat: vec![addr("10.200.0.1"), addr("fd00:fffe:77::1")],
        service_cidrs: vec![(addr("10.96.0.0"), 12), (addr("fd00:96::"), 108)],
        take_over: false,
        forward_accept: false,
        max_flows: 1024,
        node_port_range: (30_000, 32_767),
    }
}

/// The same where sources are kept.
pub(crate) fn conntrack() -> HostConfig {
    HostConfig {
        steering: Steering::Alias,
        snat: vec![addr("169.254.77.1"), addr("fd00:fffe:77::1")],
        ..config()
    }
}

/// A runtime on this thread, so that what it opens belongs to this host.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs a future on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    runtime().block_on(work)
}

/// Installs and attracts.
pub(crate) async fn installed(config: HostConfig, vips: &[&str]) -> Host {
    let mut host = Host::install(config).await.unwrap();
    host.attract(&vips.iter().map(|vip| addr(vip)).collect()).await.unwrap();
    host
}

/// Waits for a repair, at most `limit`; `None` when there is none.
pub(crate) async fn repair(host: &mut Host, limit: Duration) -> Option<Vec<String>> {
    tokio::time::timeout(limit, host.repair()).await.ok().map(Result::unwrap)
}

/// Everything of this host that tunway may touch, as `ip`, `nft` and /run show it.
pub(crate) fn everything() -> String {
    let mut all = state();
    for command in
        ["rule", "-6 rule", "-o link", "-o addr", "route show table all", "-6 route show table all"]
    {
        all += &ip(command);
    }
    all += &run("nft", &["list", "ruleset"]);
    let files = fs::read_dir("/run/tunway").into_iter().flatten().flatten().map(|file| file.path());
    all + &format!("{:?}", files.collect::<Vec<_>>())
}

/// Waits until what a repair puts back, or what follows a change of this host, is as it was; what was told meanwhile.
pub(crate) async fn until(host: &mut Host, what: &str, mut right: impl FnMut() -> bool) -> Vec<String> {
    let (start, mut done) = (SystemTime::now(), Vec::new());
    while !right() {
        done.extend(repair(host, Duration::from_millis(20)).await.unwrap_or_default());
        assert!(start.elapsed().unwrap_or_default() < REPAIRED, "{what}: so far {done:?}\n{}", state());
    }
    done
}

/// Panics with the lines that differ.
pub(crate) fn assert_same(now: &str, before: &str, when: &str) {
    let only = |one: &str, other: &str| -> Vec<String> {
        one.lines().filter(|line| !other.lines().any(|there| there == *line)).map(str::to_owned).collect()
    };
    let (more, less) = (only(now, before), only(before, now));
    assert!(now == before, "{when}: more than before: {more:#?}; less than before: {less:#?}");
}

/// Our part of the host.
pub(crate) fn state() -> String {
    let mut state = String::new();
    for command in [
        "rule",
        "-6 rule",
        "route show table local proto 77",
        "-6 route show table local proto 77",
        "route show table 7701",
        "-6 route show table 7701",
        "route show table 7702",
        "-6 route show table 7702",
    ] {
        state += &ip_or_nothing(command);
    }
    state += &run("nft", &["list", "ruleset"]);
    state += &ip_or_nothing("addr show dev tunway0");
    for setting in
        ["ipv4/conf/tunway0/rp_filter", "ipv4/conf/tunway0/accept_local", "ipv6/conf/tunway0/accept_ra"]
    {
        state += &fs::read_to_string(format!("/proc/sys/net/{setting}")).unwrap_or_default();
    }
    // How long an address stays valid is printed in seconds, and IPv6 gives routes no stable order in a table.
    // Whether a device that was never without a carrier is "UP" or "UNKNOWN" is the kernel's own affair.
    let state = [" state UP", " state UNKNOWN"].iter().fold(state, |state, word| state.replace(word, ""));
    // Whose a table is changes with the process, the rest of it does not.
    let lines =
        state.lines().filter(|line| !line.trim_start().starts_with("flags owner") && line.trim() != "flags");
    let lines = lines.map(|line| line.split_once(" # progname").map_or(line, |(line, _)| line));
    let mut lines: Vec<&str> = lines.map(str::trim_end).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// `ip` with these words; it must succeed.
pub(crate) fn ip(words: &str) -> String {
    run("ip", &words.split_whitespace().collect::<Vec<_>>())
}

/// `ip` with these words; nothing where it complains (a table that does not exist).
pub(crate) fn ip_or_nothing(words: &str) -> String {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    if output.status.success() { String::from_utf8(output.stdout).unwrap() } else { String::new() }
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A command line of any kind.
pub(crate) fn shell(line: &str) -> String {
    run("sh", &["-ec", line])
}

/// Writes a sysctl.
pub(crate) fn sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value).unwrap();
}

/// An address.
pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The longest a repair may take; it takes well under a tenth of a second.
pub(crate) const REPAIRED: Duration = Duration::from_secs(2);
/// Long enough for a repair that should not happen to happen.
pub(crate) const QUIET: Duration = Duration::from_millis(250);
