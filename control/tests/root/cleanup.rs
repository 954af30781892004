//! Taking everything away again.

use std::fs;
use std::process::Command;

use control::node::{Host, NodeError, cleanup};
use dataplane::io::{Device, DeviceConfig};
use nix::fcntl::{Flock, FlockArg};

use crate::host::{
    QUIET, assert_same, block_on, config, enter, enter_with_device, everything, installed, ip, repair, shell,
    state,
};

pub(crate) fn the_host_is_as_it_was() {
    enter();
    let before = everything();
    ip("tuntap add dev tunway0 mode tun");
    leave_files();
    // Nothing runs when a process is killed, and nothing runs when a `Host` is dropped.
    block_on(async { drop(installed(config(), &["203.0.113.10", "fd00:203::10"]).await) });
    assert!(state().contains("203.0.113.10"), "a crash leaves everything");

    let removed = block_on(cleanup(&config())).unwrap();
    assert_same(&everything(), &before, "afterwards");
    for what in [
        "route 10.96.0.0/12",
        "route fd00:203::10/128",
        "route blackhole 10.96.0.0/12",
        "device tunway0",
        "/run/tunway/tunway0.flows",
    ] {
        assert!(removed.iter().any(|text| text.starts_with(what)), "{what}: {removed:?}");
    }
    assert!(!fs::exists("/run/tunway").unwrap());

    assert_eq!(block_on(cleanup(&config())).unwrap(), [""; 0], "there is nothing any more");
    assert_same(&everything(), &before, "afterwards");
}

pub(crate) fn it_refuses_while_an_instance_runs() {
    enter_with_device();
    leave_files();
    block_on(async { drop(installed(config(), &[]).await) });
    let before = everything();
    let file = fs::File::options().write(true).open("/run/tunway/tunway0.lock").unwrap();
    fs::write("/run/tunway/tunway0.lock", "4242\n").unwrap();
    let held = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    let error = block_on(cleanup(&config())).unwrap_err();
    // The number in the file is whatever its owner is in a PID namespace of its own.
    let me = std::process::id();
    assert!(matches!(&error, NodeError::Busy { holder: Some(pid), .. } if *pid == me), "{error}");
    assert!(error.to_string().contains(&format!("kill {me}")), "{error}");
    // Seen from another PID namespace, as from another container, the owner has no number, and 1 is somebody else's.
    fs::write("/run/tunway/tunway0.lock", "1\n").unwrap();
    let elsewhere = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", env!("CARGO_BIN_EXE_tunway"), "cleanup"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&elsewhere.stderr);
    assert!(!elsewhere.status.success() && said.contains("another PID namespace"), "{said}");
    assert!(!said.contains("kill"), "{said}");
    assert_same(&everything(), &before, "nothing was touched");
    drop(held);
    assert!(!block_on(cleanup(&config())).unwrap().is_empty());
}

pub(crate) fn with_the_dataplanes_own_device() {
    enter();
    let before = everything();
    let open = || Device::open(&DeviceConfig { queues: 2, ..DeviceConfig::default() }).unwrap();
    let device = open();
    block_on(async {
        let mut host = installed(config(), &["203.0.113.10"]).await;
        let link = ip("-o link show tunway0");
        assert!(link.contains(",UP,LOWER_UP") && link.contains("mtu 65535"), "{link}");
        while repair(&mut host, QUIET).await.is_some() {}
        let good = state();

        // The process ends: the device stays without a carrier, and every route over it with it.
        drop(device);
        assert!(!ip("-o link show tunway0").contains("LOWER_UP"));
        assert!(ip("route show table local proto 77").contains("linkdown"));
        assert!(
            ip("route get 10.96.0.10").contains("dev tunway0")
                && ip("-6 route get fd00:96::1").contains("tunway0")
        );
        assert_eq!(repair(&mut host, QUIET).await, None, "a lost carrier is nothing to repair");

        // The next one attaches, and finds everything.
        let device = open();
        let mut next = installed(config(), &["203.0.113.10"]).await;
        assert_eq!(repair(&mut next, QUIET).await, None);
        assert_same(&state(), &good, "afterwards");
        assert!(
            matches!(cleanup(&config()).await, Err(NodeError::Busy { holder: Some(pid), .. }) if pid == std::process::id())
        );
        drop(device);
        cleanup(&config()).await.unwrap();
    });
    assert_same(&everything(), &before, "afterwards");
}

pub(crate) fn it_finishes_what_was_begun() {
    // Whatever part is there, from a start that failed half way or a hand that helped: it goes.
    for damage in [
        "ip link del tunway0",
        "ip route flush table local proto 77",
        "ip route del 10.96.0.0/12 dev tunway0 table local; ip -6 route del blackhole fd00:96::/108 table local",
        "rm -r /run/tunway",
    ] {
        let work = std::thread::spawn(move || {
            enter();
            let before = everything();
            ip("tuntap add dev tunway0 mode tun");
            leave_files();
            block_on(async { drop(installed(config(), &["203.0.113.10"]).await) });
            shell(damage);
            assert!(!block_on(cleanup(&config())).unwrap().is_empty());
            assert_same(&everything(), &before, damage);
        });
        crate::runner::join(work);
    }
    // An installation without attraction, too.
    enter();
    let before = everything();
    ip("tuntap add dev tunway0 mode tun");
    block_on(async { drop(Host::install(config()).await.unwrap()) });
    block_on(cleanup(&config())).unwrap();
    assert_same(&everything(), &before, "afterwards");
}

pub(crate) fn what_is_not_ours_stays() {
    enter();
    shell(
        "ip link add tunway0 type bridge; ip link set tunway0 up; ip rule add preference 110 lookup 7701
         ip route add 10.5.0.0/16 via 192.168.77.254 table 7701; ip route add 10.6.0.0/16 via 192.168.77.254 table local; 
         nft add table inet tunway; nft add chain inet tunway mine; mkdir -p /run/tunway
         touch /run/tunway/tunway0 /run/tunway/tunway01.lock /run/tunway/other.sock",
    );
    let before = everything();
    assert_eq!(block_on(cleanup(&config())).unwrap(), [""; 0]);
    assert_same(
        &everything(),
        &before,
        "a bridge of that name, a foreign rule, routes and nft table, other devices' files",
    );
}

fn leave_files() {
    fs::create_dir_all("/run/tunway").unwrap();
    for file in ["tunway0.lock", "tunway0.sock", "tunway0.flows"] {
        fs::write(format!("/run/tunway/{file}"), "").unwrap();
    }
}
