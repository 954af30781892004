//! Where the stories happen: namespaces, addresses, manifests, nginx, and a tunway to ask.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use control::socket::client::ask_blocking;
use control::socket::wire::{Counters, Query, Services};
use tempfile::TempDir;
use tests::netns::{Namespace, Process, wait_for};

/// The ClusterIPs of Service `web`: port 80 (nginx), port 7 UDP (echo), port 5201 (iperf3, backend 0 alone).
pub(crate) const WEB: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
/// The ClusterIPs of Service `dead`, which has no endpoint; port 80, TCP and UDP.
pub(crate) const DEAD: [&str; 2] = ["10.96.0.11", "fd00:96::11"];
/// The SNAT addresses.
pub(crate) const SNAT: [&str; 2] = ["10.255.0.1", "fd00:ff::1"];
/// How long a condition may take to come true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A site. Dropping it ends everything in it and takes everything away.
pub(crate) struct Site {
    pub(crate) client: Namespace,
    pub(crate) gateway: Namespace,
    pub(crate) backends: [Namespace; 2],
    pub(crate) device: String,
    pub(crate) dir: TempDir,
    binary: PathBuf,
    processes: Vec<Process>,
}

impl Site {
    /// Namespaces, links and nginx; no tunway yet.
    pub(crate) fn new(mtu: u32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Before there is anything to clean up: it refuses a stale one.
        let binary = tests::bin::tunway();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let space = |label| Namespace::new(label).unwrap();
        let mut site = Self {
            client: space("client"),
            gateway: space("gateway"),
            backends: [space("backend0"), space("backend1")],
            device: format!("tw{}x{number}", std::process::id()),
            dir: tempfile::tempdir().unwrap(),
            binary,
            processes: Vec::new(),
        };
        site.gateway.sysctl("net.ipv4.ip_forward", "1").unwrap();
        site.gateway.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
        join(&site.client, &site.gateway, "c", "1.0", mtu);
        for n in 0..2 {
            join(&site.backends[n], &site.gateway, &format!("b{n}"), &format!("2.{n}"), mtu);
            site.start_nginx(n);
        }
        fs::create_dir(site.manifests()).unwrap();
        site.write("web.yaml", &web(&[0, 1]));
        site.write("dead.yaml", &service("dead", DEAD, &[("tcp", "TCP", 80), ("udp", "UDP", 80)]));
        site
    }

    /// A site with tunway serving its manifests.
    pub(crate) fn serving(mtu: u32) -> Self {
        let mut site = Self::new(mtu);
        site.start(&["--manifests", &site.manifests().to_string_lossy()]);
        site.wait_until_served();
        site
    }

    /// Starts tunway in the gateway with these flags added.
    pub(crate) fn start(&mut self, flags: &[&str]) {
        let mut command = self.tunway("run");
        command.args(["--socket", &self.socket().to_string_lossy(), "--workers", "2"]);
        command.args(["--service-cidr", "10.96.0.0/16", "--service-cidr", "fd00:96::/112"]);
        command.args(["--snat-address", SNAT[0], "--snat-address", SNAT[1]]);
        command.args(["--max-flows-v4", "16384", "--max-flows-v6", "16384"]).args(flags);
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stderr(log);
        self.processes.push(self.gateway.spawn(&mut command).unwrap());
    }

    /// `tunway COMMAND --device …` in the gateway, to be run or spawned.
    pub(crate) fn tunway(&self, command: &str) -> Command {
        let mut tunway = self.gateway.command(&self.binary.to_string_lossy());
        tunway.args([command, "--device", &self.device]);
        tunway
    }

    /// What `tunway COMMAND` printed, of one of the commands that ask the running instance.
    pub(crate) fn told(&self, command: &str) -> String {
        let output = self.tunway(command).arg("--socket").arg(self.socket()).output().unwrap();
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Sends this signal to the process started last.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.processes.last().unwrap().child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Ends the process started last, by this signal, and gives its exit code (none when the signal killed it).
    pub(crate) fn end(&mut self, signal: &str) -> Option<i32> {
        let mut process = self.processes.pop().unwrap();
        // `ip netns exec` becomes the program it runs: the child is tunway itself.
        let pid = process.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let mut status = None;
        wait_for("tunway ends", PATIENCE, || {
            status = process.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    pub(crate) fn wait_until_served(&self) {
        for vip in WEB {
            let url = url(vip, 80);
            wait_for(&format!("{url} is served; log: {}", self.log()), PATIENCE, || self.curl(&url).is_ok());
        }
    }

    /// The page at a URL, as curl in the client gets it.
    pub(crate) fn curl(&self, url: &str) -> io::Result<String> {
        self.client.run(&format!("curl -sS -m 5 {url}"))
    }

    pub(crate) fn counters(&self) -> Counters {
        let answer = ask_blocking(&self.socket(), &Query::Counters).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    pub(crate) fn services(&self) -> Services {
        let answer = ask_blocking(&self.socket(), &Query::Services).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// Every frame read has exactly one end.
    pub(crate) fn assert_nothing_uncounted(&self) {
        let Counters { counters, drops } = self.counters();
        let ends = counters["translated"] + counters["passed"] + counters["replied"];
        assert_eq!(counters["received"], ends + drops.values().sum::<u64>(), "{counters:?} {drops:?}");
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// Puts a manifest in place in one step.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let draft = self.dir.path().join("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.manifests().join(name)).unwrap();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Whether the control socket answers.
    pub(crate) fn socket_answers(&self) -> bool {
        ask_blocking(&self.socket(), &Query::Status).is_ok()
    }

    /// Keeps a process for as long as the site.
    pub(crate) fn keep(&mut self, process: Process) {
        self.processes.push(process);
    }

    fn start_nginx(&mut self, n: usize) {
        let home = self.dir.path().join(format!("nginx{n}"));
        fs::create_dir(&home).unwrap();
        fs::write(home.join("index.html"), format!("<title>backend {n}</title>\n")).unwrap();
        let home = home.to_string_lossy();
        let conf = format!(
            "user root; daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; client_body_temp_path {home}/t1; proxy_temp_path {home}/t2;\n\
             fastcgi_temp_path {home}/t3; uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5;\n\
             server {{ listen 8080; listen [::]:8080; root {home}; }} }}\n"
        );
        let path = format!("{home}/conf");
        fs::write(&path, conf).unwrap();
        let mut nginx = self.backends[n].command("nginx");
        nginx.args(["-e", &format!("{home}/error"), "-c", &path]).stderr(Stdio::null());
        let process = self.backends[n].spawn(&mut nginx).unwrap();
        self.processes.insert(0, process);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("tunway said:\n{}", self.log());
        }
        self.processes.clear();
        let _ = self.tunway("cleanup").output();
    }
}

/// `http://ADDRESS:PORT/`, brackets and all.
pub(crate) fn url(address: &str, port: u16) -> String {
    format!("http://{}/", at(address, port))
}

/// An address and a port.
pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}

/// Runs a command to its end.
pub(crate) fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// The manifest of `web` with these backends.
pub(crate) fn web(backends: &[usize]) -> String {
    let mut text = service("web", WEB, &[("http", "TCP", 80), ("echo", "UDP", 7), ("bulk", "TCP", 5201)]);
    for (family, kind) in [("IPv4", "10.2"), ("IPv6", "fd00:2")] {
        text += &slice(
            family,
            "many",
            "{name: http, port: 8080, protocol: TCP}, {name: echo, port: 7777, protocol: UDP}",
            kind,
            backends,
        );
        text += &slice(family, "one", "{name: bulk, port: 5201, protocol: TCP}", kind, &[0]);
    }
    text
}

/// A dual-stack Service.
pub(crate) fn service(name: &str, addresses: [&str; 2], ports: &[(&str, &str, u16)]) -> String {
    let [v4, v6] = addresses;
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         clusterIP: \"{v4}\"\n  clusterIPs: [\"{v4}\", \"{v6}\"]\n  ipFamilies: [IPv4, IPv6]\n  ports:\n"
    );
    for (port_name, proto, port) in ports {
        text += &format!("  - {{name: {port_name}, protocol: {proto}, port: {port}}}\n");
    }
    text
}

fn slice(family: &str, part: &str, ports: &str, kind: &str, backends: &[usize]) -> String {
    let mut text = format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-{part}-{}\n  \
         namespace: default\n  labels: {{kubernetes.io/service-name: web}}\naddressType: {family}\n\
         ports: [{ports}]\nendpoints:\n",
        family.to_lowercase()
    );
    for n in backends {
        let address = if family == "IPv4" { format!("{kind}.{n}.2") } else { format!("{kind}:{n}::2") };
        text += &format!("- {{addresses: [\"{address}\"], conditions: {{ready: true}}}}\n");
    }
    if backends.is_empty() {
        text += "  []\n";
    }
    text
}

/// Joins a namespace to the gateway: `10.NET.2/24` here, `.1` there, and the same in IPv6; the gateway is the way out.
fn join(host: &Namespace, gateway: &Namespace, there: &str, net: &str, mtu: u32) {
    let v6 = net.replace('.', ":");
    host.veth("eth0", gateway, there, mtu).unwrap();
    host.ip(&format!("addr add 10.{net}.2/24 dev eth0")).unwrap();
    host.ip(&format!("addr add fd00:{v6}::2/64 dev eth0 nodad")).unwrap();
    gateway.ip(&format!("addr add 10.{net}.1/24 dev {there}")).unwrap();
    gateway.ip(&format!("addr add fd00:{v6}::1/64 dev {there} nodad")).unwrap();
    host.ip(&format!("route add default via 10.{net}.1")).unwrap();
    host.ip(&format!("-6 route add default via fd00:{v6}::1")).unwrap();
}
