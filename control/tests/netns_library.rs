//! The namespace library on the real kernel: what it makes works and what it made is gone afterwards, also after a
//! panic, a kill, and for a user who is not root.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program; the harness is its own")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use control::netns::{self, Namespace, NetnsError};
use control::node::{self, Host, HostConfig};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

#[path = "root/runner.rs"]
mod runner;

fn main() -> ExitCode {
    // The unprivileged test starts this program again; user namespaces must be entered before any thread starts.
    if std::env::args().nth(1).as_deref() == Some(UNPRIVILEGED) {
        return unprivileged_part();
    }
    runner::main(&[
        ("a_namespace_has_a_name_and_loses_it", a_namespace_has_a_name_and_loses_it),
        ("a_panic_leaves_nothing", a_panic_leaves_nothing),
        ("two_namespaces_talk_tcp_over_a_veth_pair", two_namespaces_talk_tcp_over_a_veth_pair),
        ("a_taken_name_is_an_error_and_stays", a_taken_name_is_an_error_and_stays),
        ("a_left_over_namespace_can_be_removed_by_name", a_left_over_namespace_can_be_removed_by_name),
        ("wrong_devices_and_addresses_are_errors", wrong_devices_and_addresses_are_errors),
        ("an_unprivileged_user_gets_the_same", an_unprivileged_user_gets_the_same),
    ])
}

fn a_namespace_has_a_name_and_loses_it() {
    let name = unique("name");
    let outside = own_namespace();
    let namespace = Namespace::create(&name).unwrap();
    let listed = run("ip", &["netns", "list"]);
    assert!(listed.lines().any(|line| line.split_whitespace().next() == Some(&name)), "{listed}");
    assert!(
        run("ip", &["netns", "exec", &name, "ip", "-o", "link"]).contains("LOOPBACK,UP"),
        "loopback is up"
    );
    // Work goes to the namespace, the caller stays where it was.
    let inside = namespace.run(own_namespace).unwrap();
    assert_ne!(inside, outside);
    assert_eq!(own_namespace(), outside);
    // A child process started inside is inside.
    let child = namespace.run(|| run("readlink", &["/proc/self/ns/net"])).unwrap();
    assert_eq!(child.trim(), inside);
    drop(namespace);
    assert!(!Path::new("/run/netns").join(&name).exists());
    assert!(!run("ip", &["netns", "list"]).contains(&name));
}

fn a_panic_leaves_nothing() {
    let name = unique("panic");
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let namespace = Namespace::create(&name).unwrap();
        namespace.run(|| panic!("inside")).unwrap();
    }));
    assert_eq!(
        caught.unwrap_err().downcast_ref::<&str>(),
        Some(&"inside"),
        "the panic goes on in the caller"
    );
    assert!(!Path::new("/run/netns").join(&name).exists());

    // Where nothing is dropped (abort on panic) a hook can still take everything away.
    let forgotten = Namespace::create(&name).unwrap();
    netns::remove_all_made();
    assert!(!Path::new("/run/netns").join(&name).exists());
    drop(forgotten);
}

fn two_namespaces_talk_tcp_over_a_veth_pair() {
    let (left, right) =
        (Namespace::create(&unique("left")).unwrap(), Namespace::create(&unique("right")).unwrap());
    left.connect("toright", &right, "toleft", 1500).unwrap();
    for (ours, theirs, prefix) in [("10.9.0.1", "10.9.0.2", 24), ("fd00:9::1", "fd00:9::2", 64)] {
        let (ours, theirs): (IpAddr, IpAddr) = (ours.parse().unwrap(), theirs.parse().unwrap());
        left.add_address("toright", ours, prefix).unwrap();
        right.add_address("toleft", theirs, prefix).unwrap();
        exchange(&left, &right, theirs);
    }
    // A route through the neighbour to an address behind it, both ways.
    let behind: IpAddr = "10.77.0.1".parse().unwrap();
    right.add_address("lo", behind, 32).unwrap();
    left.add_route((Ipv4Addr::UNSPECIFIED.into(), 0), Some("10.9.0.2".parse().unwrap()), None).unwrap();
    exchange(&left, &right, behind);

    right.set_sysctl("net/ipv4/ip_forward", "1").unwrap();
    assert_eq!(
        right.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()).unwrap().trim(),
        "1"
    );
    assert_eq!(
        left.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()).unwrap().trim(),
        "0"
    );

    // When one namespace goes, the other end of its pair goes.
    drop(right);
    runner::wait_for("the veth pair ends with its namespace", Duration::from_secs(10), || {
        !left.run(|| run("ip", &["-o", "link"])).unwrap().contains("toright")
    });
}

fn a_taken_name_is_an_error_and_stays() {
    let name = unique("taken");
    let first = Namespace::create(&name).unwrap();
    let second = Namespace::create(&name);
    assert!(matches!(&second, Err(NetnsError::Exists(taken)) if *taken == name), "{second:?}");
    assert!(Path::new("/run/netns").join(&name).exists(), "the first one is not touched");
    drop(first);
    assert!(matches!(Namespace::create("../outside"), Err(NetnsError::Name(_))));
}

fn a_left_over_namespace_can_be_removed_by_name() {
    let name = unique("kept");
    let mut namespace = Namespace::create(&name).unwrap();
    namespace.keep();
    drop(namespace);
    netns::remove_all_made();
    assert!(Path::new("/run/netns").join(&name).exists(), "kept means kept");
    netns::remove(&name).unwrap();
    assert!(!Path::new("/run/netns").join(&name).exists());
    netns::remove(&name).unwrap(); // nothing to do is no error
}

fn wrong_devices_and_addresses_are_errors() {
    let namespace = Namespace::create(&unique("wrong")).unwrap();
    let other = Namespace::create(&unique("wrong2")).unwrap();
    assert!(matches!(namespace.set_up("nothere"), Err(NetnsError::NoDevice { .. })));
    let missing = namespace.add_route(("10.0.0.0".parse().unwrap(), 8), None, Some("nothere"));
    assert!(matches!(missing, Err(NetnsError::NoDevice { .. })), "{missing:?}");
    let unreachable =
        namespace.add_route(("10.0.0.0".parse().unwrap(), 8), Some("192.0.2.1".parse().unwrap()), None);
    assert!(matches!(unreachable, Err(NetnsError::Step { .. })), "{unreachable:?}");
    namespace.connect("one", &other, "two", 1500).unwrap();
    let twice = namespace.connect("one", &other, "three", 1500);
    assert!(matches!(twice, Err(NetnsError::Step { .. })), "{twice:?}");
}

fn an_unprivileged_user_gets_the_same() {
    // As udev makes it; on some machines only root may open the real one.
    open_tun_to_everybody();
    // Neither the build directory nor its parents need be open to other users.
    let copy = std::env::temp_dir().join(unique("unprivileged"));
    std::fs::copy("/proc/self/exe", &copy).unwrap();
    std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new(&copy).arg(UNPRIVILEGED).uid(65_534).gid(65_534).current_dir("/").output();
    std::fs::remove_file(&copy).unwrap();
    let output = output.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("exchanged") && out.contains("installed"), "{out}{err}");
    assert!(!Path::new("/run/netns/tw-inner-left").exists(), "nothing of it is seen outside");
}

/// What user 65534 does in a process of its own.
fn unprivileged_part() -> ExitCode {
    assert!(!nix::unistd::geteuid().is_root(), "started as root");
    if let Err(error) = netns::enter_user_namespace() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    assert!(nix::unistd::geteuid().is_root(), "root inside");
    let (left, right) =
        (Namespace::create("tw-inner-left").unwrap(), Namespace::create("tw-inner-right").unwrap());
    left.connect("toright", &right, "toleft", 1500).unwrap();
    left.add_address("toright", "10.9.0.1".parse().unwrap(), 24).unwrap();
    right.add_address("toleft", "10.9.0.2".parse().unwrap(), 24).unwrap();
    right.set_sysctl("net/ipv4/ip_forward", "1").unwrap();
    exchange(&left, &right, "10.9.0.2".parse().unwrap());
    println!("exchanged");
    right.run(|| runtime().block_on(host_plan_inside())).unwrap();
    println!("installed");
    ExitCode::SUCCESS
}

/// The whole host plan, for a user who is root here only.
async fn host_plan_inside() {
    let config = HostConfig {
        queue_length: 1000,
        device: "tunway0".into(),
        steering: node::Steering::Snat,
        snat: vec!["10.200.0.1".parse().unwrap()],
        service_cidrs: vec![("10.96.0.0".parse().unwrap(), 12)],
        take_over: false,
        forward_accept: false,
        max_flows: 1024,
        node_port_range: (30_000, 32_767),
    };
    let found = node::preflight(&config).await;
    assert!(found.iter().all(|finding| !finding.fatal), "{found:?}");
    let mut configuration = tun::Configuration::default();
    configuration.tun_name("tunway0").platform_config(|linux| {
        linux.ensure_root_privileges(true);
    });
    let _device = tun::create(&configuration).unwrap();
    let mut host = Host::install(config.clone()).await.unwrap();
    host.attract(&["203.0.113.9".parse().unwrap()].into()).await.unwrap();
    let routes = || run("ip", &["route", "show", "table", "local", "proto", "77"]);
    let whole = routes();
    assert_eq!(whole.matches("src 10.9.0.2").count(), 3, "{whole}");
    run("ip", &["route", "del", "203.0.113.9", "dev", "tunway0", "table", "local"]);
    let done = tokio::time::timeout(Duration::from_secs(2), host.repair()).await.unwrap().unwrap();
    assert_eq!(done, ["route 203.0.113.9/32 table local dev tunway0"]);
    assert_eq!(routes(), whole);
    assert!(!node::cleanup(&config).await.unwrap().is_empty());
    assert_eq!((run("ip", &["rule"]).lines().count(), routes().as_str()), (3, ""));
}

/// In a mount namespace of this thread, which its children inherit.
fn open_tun_to_everybody() {
    let nothing = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
    run("mknod", &["-m", "0666", "/dev/net/tun", "c", "10", "200"]);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A kernel TCP connection from one namespace to a server in the other, both in a thread each.
fn exchange(client: &Namespace, server: &Namespace, at: IpAddr) {
    let listener = server.run(|| TcpListener::bind(SocketAddr::new(at, 0)).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = server
        .spawn("server", move || {
            let (mut stream, peer) = listener.accept().unwrap();
            let mut word = String::new();
            stream.read_to_string(&mut word).unwrap();
            stream.write_all(word.to_uppercase().as_bytes()).unwrap();
            peer
        })
        .unwrap();
    let (answer, own) = client
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.write_all(b"hello").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            (answer, stream.local_addr().unwrap())
        })
        .unwrap();
    assert_eq!(answer, "HELLO");
    assert_eq!(runner::join(serving), own);
}

fn own_namespace() -> String {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap().display().to_string()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn unique(name: &str) -> String {
    format!("tw-{}-{name}", std::process::id())
}

const UNPRIVILEGED: &str = "--as-unprivileged-user";
