//! A gateway between a client's link and a server's, both TUN devices the test holds the other end of: every packet
//! that is written comes in, and every packet that leaves is read. No neighbour discovery, no other host's kernel.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use control::socket::client::ask_blocking;
use control::socket::wire::{Query, Status};
use dataplane::io::{Device, DeviceConfig, Queue, TunQueue, Waker};
use dataplane::packet::frame::Batch;
use dataplane::packet::vnet::VnetHdr;
use dataplane::verdict::Verdict;
use tempfile::TempDir;
use tests::check::completed;
use tests::netns::{Namespace, Process, wait_for};
use tests::packets::Wire;

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The ClusterIPs.
pub(crate) const VIP: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
/// The one endpoint.
pub(crate) const SERVER: [&str; 2] = ["10.2.0.2", "fd00:2::2"];
/// The SNAT addresses, where there are any.
const SNAT: [&str; 2] = ["10.255.0.1", "fd00:ff::1"];
/// Service ports and the endpoint's: protocol, port, target port.
pub(crate) const PORTS: [(&str, u16, u16); 4] =
    [("TCP", 80, 8_080), ("TCP", 443, 443), ("UDP", 53, 5_353), ("UDP", 514, 514)];

/// Who translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Kernel,
    Tunway,
}

/// Whose address the server sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Kept,
    Masqueraded,
}

/// One end of a link.
pub(crate) struct Link {
    queue: TunQueue,
    batch: Batch,
    waker: Waker,
}

impl Link {
    fn new(gateway: &Namespace, name: &str, dir: &TempDir) -> Self {
        let config = DeviceConfig {
            name: name.into(),
            persist: false,
            lock_dir: dir.path().join("locks"),
            mtu: 1_500,
            ..DeviceConfig::default()
        };
        let device = gateway.enter(|| {
            let device = Device::open(&config).unwrap();
            device.up().unwrap();
            device
        });
        let queue = device.unwrap().into_queues().remove(0);
        Self { queue, batch: Batch::default(), waker: Waker::new().unwrap() }
    }

    /// A packet comes from this link.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        self.batch.clear();
        let frame = self.batch.spare().unwrap();
        frame.fill(VnetHdr::default(), packet);
        frame.verdict = Some(Verdict::Passed);
        self.batch.push();
        self.queue.send(&mut self.batch, &mut |_| panic!("the kernel does not take a packet")).unwrap();
    }

    /// What the gateway sent out until a packet that `last` knows; without that one, and without what hosts say to
    /// their neighbours.
    pub(crate) fn until(&mut self, last: impl Fn(&[u8]) -> bool) -> Option<Vec<Vec<u8>>> {
        let begun = SystemTime::now();
        let mut seen = Vec::new();
        while begun.elapsed().unwrap_or_default() < PATIENCE {
            self.batch.clear();
            if self.queue.recv(&mut self.batch).unwrap() == 0 {
                self.queue.wait(&self.waker, Duration::from_millis(100)).unwrap();
            }
            let mut found = false;
            for frame in self.batch.frames() {
                let wire = Wire { vnet: frame.vnet().unwrap(), bytes: frame.packet().to_vec() };
                let packet = completed(&wire);
                found |= last(&packet);
                if !last(&packet) && !is_neighbourly(&packet) {
                    seen.push(packet);
                }
            }
            if found {
                return Some(seen);
            }
        }
        None
    }
}

/// Router solicitations, multicast reports: of link-local addresses, or to groups.
fn is_neighbourly(packet: &[u8]) -> bool {
    packet.first().is_none_or(|first| first >> 4 == 6)
        && packet.len() >= 40
        && (packet[24] == 0xff || packet[8..10] == [0xfe, 0x80])
}

/// A gateway and its links. Dropping it takes everything away.
pub(crate) struct Site {
    pub(crate) by: By,
    pub(crate) client: Link,
    pub(crate) server: Link,
    tunway: Option<Process>,
    dir: TempDir,
    gateway: Namespace,
}

impl Site {
    pub(crate) fn new(by: By, style: Style) -> Self {
        // Before there is anything to clean up: it refuses a stale one.
        let binary = tests::bin::tunway();
        let dir = tempfile::tempdir().unwrap();
        let gateway = Namespace::new(if by == By::Kernel { "kernel" } else { "tunway" }).unwrap();
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.icmp_ratelimit", "0"),
            ("net.ipv6.icmp.ratelimit", "0"),
        ] {
            gateway.sysctl(key, value).unwrap();
        }
        let (client, server) = (Link::new(&gateway, "c0", &dir), Link::new(&gateway, "s0", &dir));
        for (link, net) in [("c0", 1), ("s0", 2)] {
            gateway.ip(&format!("addr add 10.{net}.0.1/24 dev {link}")).unwrap();
            gateway.ip(&format!("addr add fd00:{net}::1/64 dev {link} nodad")).unwrap();
        }
        let mut site = Self { by, client, server, tunway: None, dir, gateway };
        match by {
            By::Kernel => site.install_rules(style),
            By::Tunway => site.start(binary, style),
        }
        site
    }

    /// kube-proxy's rules as far as they touch these packets. The kernel is told not to look at checksums and TCP
    /// windows first: it would leave such packets alone, which is no translation to compare with.
    fn install_rules(&self, style: Style) {
        let mut text = String::new();
        for (family, v6) in [("ip", false), ("ip6", true)] {
            let at = usize::from(v6);
            let (vip, server) = (VIP[at], SERVER[at]);
            let server = if v6 { format!("[{server}]") } else { server.to_owned() };
            let dnat: String = PORTS
                .iter()
                .map(|(proto, port, target)| {
                    let proto = proto.to_lowercase();
                    format!("{family} daddr {vip} {proto} dport {port} dnat to {server}:{target}\n")
                })
                .collect();
            let snat = match style {
                Style::Kept => String::new(),
                Style::Masqueraded => format!("ct status dnat snat to {}\n", SNAT[at]),
            };
            text += &format!(
                "table {family} nat {{\n chain pre {{ type nat hook prerouting priority dstnat;\n{dnat} }}\n\
                 chain post {{ type nat hook postrouting priority srcnat;\n{snat} }}\n}}\n"
            );
        }
        self.gateway.nft(&text).unwrap();
        for key in ["nf_conntrack_checksum=0", "nf_conntrack_tcp_be_liberal=1"] {
            let (key, value) = key.split_once('=').unwrap();
            self.gateway.sysctl(&format!("net.netfilter.{key}"), value).unwrap();
        }
    }

    fn start(&mut self, binary: PathBuf, style: Style) {
        let dir = self.dir.path();
        fs::create_dir(dir.join("manifests")).unwrap();
        fs::write(dir.join("manifests/web.yaml"), manifest()).unwrap();
        let path = match style {
            Style::Kept => "returnPath: connmark\ndetectLocal: {mode: clusterCIDR, clusterCIDRs: \
                            [10.1.0.0/16, 'fd00:1::/64']}"
                .to_owned(),
            Style::Masqueraded => {
                format!("returnPath: masquerade\nsnatAddresses: [{}, '{}']", SNAT[0], SNAT[1])
            }
        };
        let config = format!(
            "apiVersion: tunway.dev/v1alpha1\nkind: Config\ndevice: kn{}\nworkers: 1\ntcpLoose: true\nnodeName: n1\n\
             serviceCIDRs: [10.96.0.0/16, 'fd00:96::/112']\nrepliesPerSecond: 1000000\n{path}\n\
             source: {{manifests: {}}}\nsocket: {}\n",
            std::process::id(),
            dir.join("manifests").display(),
            dir.join("s").display()
        );
        fs::write(dir.join("config.yaml"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = self.gateway.command(&binary.to_string_lossy());
        command.arg("run").arg("--config").arg(dir.join("config.yaml")).stdin(Stdio::null()).stderr(log);
        self.tunway = Some(self.gateway.spawn(&mut command).unwrap());
        let socket = dir.join("s");
        wait_for("tunway is ready", PATIENCE, || {
            let answer = ask_blocking(&socket, &Query::Status).ok();
            let status: Option<Status> = answer.and_then(|answer| serde_json::from_slice(&answer).ok());
            status.is_some_and(|status| status.ready)
        });
    }

    /// What tunway said; nothing where the kernel translates.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() && self.by == By::Tunway {
            println!("tunway said:\n{}", self.log());
        }
        let config = self.dir.path().join("config.yaml");
        if self.tunway.take().is_some() {
            let mut cleanup = self.gateway.command(&tests::bin::tunway().to_string_lossy());
            let _ = cleanup.arg("cleanup").arg("--config").arg(config).output();
        }
    }
}

fn manifest() -> String {
    let name = |proto: &str, port: u16| format!("{}-{port}", proto.to_lowercase());
    let ports: String = PORTS
        .iter()
        .map(|(proto, port, _)| {
            format!("{{name: {}, protocol: {proto}, port: {port}}}, ", name(proto, *port))
        })
        .collect();
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n  \
         clusterIP: {}\n  clusterIPs: ['{}', '{}']\n  ipFamilies: [IPv4, IPv6]\n  ports: [{ports}]\n",
        VIP[0], VIP[0], VIP[1]
    );
    let targets: String = PORTS
        .iter()
        .map(|(proto, port, target)| {
            format!("{{name: {}, protocol: {proto}, port: {target}}}, ", name(proto, *port))
        })
        .collect();
    for (family, server) in ["IPv4", "IPv6"].iter().zip(SERVER) {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-{}\n  \
             namespace: default\n  labels: {{kubernetes.io/service-name: web}}\naddressType: {family}\n\
             ports: [{targets}]\nendpoints: [{{addresses: ['{server}'], conditions: {{ready: true}}}}]\n",
            family.to_lowercase()
        );
    }
    text
}
