//! Three namespaces in a row, and four ways from the first to the last, all in place at once: whichever address the
//! client asks for decides the way, so nothing is set up or torn down between two samples.

use std::io;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use tests::netns::{Namespace, Process};

use super::load::{COUNT, ECHO, SINK};
use super::report::Path;

/// The client's own address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// The server's own address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 2);
/// The address nftables translates.
pub const NFT_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 2);
/// The address the null forwarder rewrites.
pub const NULL_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 3);
/// tunway's ClusterIP.
pub const TUNWAY_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 4);
/// Where replies to the null forwarder go.
pub const NULL_SNAT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 3);
/// Where replies to tunway go.
pub const TUNWAY_SNAT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 4);
/// The null forwarder's device.
pub const NULL_DEVICE: &str = "null0";
/// tunway's device.
pub const TUNWAY_DEVICE: &str = "tunway0";

/// The address a client asks for to go this way.
#[must_use]
pub const fn address(path: Path) -> Ipv4Addr {
    match path {
        Path::Routing => SERVER,
        Path::NftDnat => NFT_VIP,
        Path::Null => NULL_VIP,
        Path::Tunway => TUNWAY_VIP,
    }
}

/// The namespaces. Dropping it removes them and every process in them.
#[derive(Debug)]
pub struct Topology {
    /// Where the client runs.
    pub client: Namespace,
    /// Where packets are translated.
    pub gateway: Namespace,
    /// Where the server runs.
    pub server: Namespace,
}

impl Topology {
    /// Builds namespaces, links, routes and the nftables translation.
    ///
    /// # Errors
    /// When `ip` or `nft` is missing or refuses; the error says which command.
    pub fn new(mtu: u32) -> io::Result<Self> {
        let (client, gateway, server) =
            (Namespace::new("client")?, Namespace::new("gateway")?, Namespace::new("server")?);
        client.veth("eth0", &gateway, "left", mtu)?;
        server.veth("eth0", &gateway, "right", mtu)?;
        client.ip("addr add 192.168.1.2/24 dev eth0")?;
        gateway.ip("addr add 192.168.1.1/24 dev left")?;
        gateway.ip("addr add 192.168.2.1/24 dev right")?;
        server.ip("addr add 192.168.2.2/24 dev eth0")?;
        client.ip("route add default via 192.168.1.1")?;
        server.ip("route add default via 192.168.2.1")?;
        gateway.sysctl("net.ipv4.ip_forward", "1")?;
        // Connections follow each other faster than TIME_WAIT ends.
        client.sysctl("net.ipv4.tcp_tw_reuse", "1")?;
        client.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
        gateway.nft(&dnat())?;
        Ok(Self { client, gateway, server })
    }

    /// Routes an address and a SNAT address into a device of the gateway, and what it emits past that route.
    ///
    /// # Errors
    /// When the device does not exist.
    pub fn steer(&self, device: &str, table: u32, vip: Ipv4Addr, snat: Ipv4Addr) -> io::Result<()> {
        let gateway = &self.gateway;
        gateway.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")?;
        gateway.ip(&format!("link set {device} up mtu 65535 txqueuelen 1000"))?;
        gateway.ip(&format!("rule add pref {table} iif {device} lookup main"))?;
        gateway.ip(&format!("route add {vip}/32 dev {device} mtu 1500 table {}", table + 100))?;
        gateway.ip(&format!("route add {snat}/32 dev {device} mtu 1500 table {}", table + 100))?;
        gateway.ip(&format!("rule add pref {} lookup {}", table + 100, table + 100))?;
        Ok(())
    }

    /// Starts this program in a namespace as one of its own roles, pinned by itself.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn role(&self, namespace: &Namespace, args: &[&str]) -> io::Result<Process> {
        let program = std::env::current_exe()?;
        let mut command: Command = namespace.command(&program.to_string_lossy());
        namespace.spawn(command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()))
    }
}

/// The translation kube-proxy's nftables mode would make for one ClusterIP with one endpoint: a verdict map from
/// address, protocol and port.
fn dnat() -> String {
    let entry = |proto: &str, port: u16| format!("{NFT_VIP} . {proto} . {port} : goto to-server");
    let entries = [entry("tcp", SINK), entry("tcp", ECHO), entry("udp", COUNT)].join(", ");
    format!(
        "table ip services {{\n\
         map frontends {{ type ipv4_addr . inet_proto . inet_service : verdict; }}\n\
         chain to-server {{ dnat to {SERVER}; }}\n\
         chain dispatch {{ ip daddr . meta l4proto . th dport vmap @frontends; }}\n\
         chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump dispatch; }}\n\
         }}\n\
         add element ip services frontends {{ {entries} }}\n"
    )
}
