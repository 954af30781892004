//! What the demo prints: the cluster, each request, the flow table, the counters.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1::Service;

use super::client::Page;
use super::cluster::{CLIENT, CLIENT_ADDR, SNAT};
use super::controllers::Cluster;
use super::manifest::Manifest;
use super::stage::Stage;
use crate::cli::table::{Table, bytes};
use crate::socket::wire::{Counters, Flow};

/// The teller.
pub struct Story<'a> {
    out: Listener<'a>,
}

/// Where the story goes, and whether anybody is left there.
struct Listener<'a> {
    out: &'a mut dyn Write,
    left: bool,
}

impl<'a> Story<'a> {
    /// Told to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out: Listener { out, left: false } }
    }

    /// Whoever read it has closed the pipe, as `head` does: then there is nobody to tell the rest to.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        self.out.left
    }

    /// Who plays.
    pub fn opening(&mut self, manifest: &Manifest, cluster: &Cluster) -> io::Result<()> {
        writeln!(self.out, "tunway demo: {}, on real packets between network namespaces\n", manifest.name)?;
        let client = format!("  {CLIENT} {CLIENT_ADDR} ---- gateway: tunway ----");
        for (number, pod) in cluster.pods.iter().enumerate() {
            let before = if number == 0 { client.clone() } else { " ".repeat(client.len()) };
            writeln!(self.out, "{before}+---- {} {}", pod.name, pod.addr)?;
        }
        self.heading("Applied, and what the controllers made of it")?;
        for deployment in &manifest.deployments {
            let name = deployment.metadata.name.as_deref().unwrap_or_default();
            writeln!(self.out, "  deployment.apps/{name} created")?;
        }
        for service in &cluster.services {
            writeln!(self.out, "  service/{} created", service.metadata.name.as_deref().unwrap_or_default())?;
        }
        for skipped in &manifest.skipped {
            writeln!(self.out, "  {skipped} skipped: the demo has no use for it")?;
        }
        self.heading("Pods")?;
        self.table(&pods(cluster))?;
        self.heading("Services")?;
        self.table(&services(&cluster.services))
    }

    /// tunway is at work.
    pub fn gateway_ready(&mut self) -> io::Result<()> {
        self.heading("tunway runs on the gateway")?;
        writeln!(self.out, "  device tunway0 up; 10.96.0.0/12 is routed to it; pods will see {SNAT}")?;
        self.out.flush()
    }

    /// The requests begin.
    pub fn requests(&mut self, address: SocketAddr) -> io::Result<()> {
        self.heading(&format!("{CLIENT} asks http://{address} until every pod has answered"))?;
        self.out.flush()
    }

    /// One answer.
    pub fn answer(&mut self, number: usize, page: &Page) -> io::Result<()> {
        let took = page.took.as_secs_f64() * 1000.0;
        writeln!(self.out, "  {number:>2}  \"{}\"  from {}  in {took:.1} ms", page.title, page.pod)?;
        self.out.flush()
    }

    /// A page in full.
    pub fn page(&mut self, page: &Page) -> io::Result<()> {
        self.heading(&format!("The page, as {} sent it", page.pod))?;
        for line in page.body.lines() {
            writeln!(self.out, "  {line}")?;
        }
        Ok(())
    }

    /// The flow table.
    pub fn flows(&mut self, flows: &[Flow]) -> io::Result<()> {
        self.heading("The flow table: what the client sees, and what the pod sees")?;
        let mut table =
            Table::new(&["PROTO", "CLIENT > SERVICE", "POD > SNAT", "STATE", ">PACKETS", ">BYTES"]);
        for flow in flows {
            table.row([
                flow.proto.clone(),
                format!("{} > {}", flow.client, flow.vip),
                format!("{} > {}", flow.endpoint, flow.snat),
                flow.state.clone(),
                format!("{}/{}", flow.packets[0], flow.packets[1]),
                format!("{}/{}", bytes(flow.bytes[0]), bytes(flow.bytes[1])),
            ]);
        }
        self.table(&table)
    }

    /// Where every packet went.
    pub fn counters(&mut self, counters: &Counters) -> io::Result<()> {
        let get = |name: &str| counters.counters.get(name).copied().unwrap_or_default();
        let dropped: u64 = counters.drops.values().sum();
        self.heading("Counters: every packet has one end")?;
        writeln!(
            self.out,
            "  {} received = {} translated + {} passed on + {} answered + {dropped} dropped; {} flows opened",
            get("received"),
            get("translated"),
            get("passed"),
            get("replied"),
            get("flows_opened"),
        )?;
        for (reason, n) in &counters.drops {
            writeln!(self.out, "  dropped: {reason} {n}")?;
        }
        Ok(())
    }

    /// How it ended.
    pub fn ending(&mut self, requests: usize, pods: usize) -> io::Result<()> {
        writeln!(self.out, "\n{requests} requests to one address, answered by {pods} pods.")?;
        self.out.flush()
    }

    /// What to try while it runs.
    pub fn explore(
        &mut self,
        stage: &Stage,
        socket: &std::path::Path,
        address: SocketAddr,
    ) -> io::Result<()> {
        let program = std::env::current_exe().map_or("tunway".to_owned(), |path| path.display().to_string());
        let manifests = stage.dir().join("manifests");
        self.heading("It stays until Ctrl-C. From another terminal")?;
        writeln!(self.out, "  {} curl -i http://{address}", stage.way_into(CLIENT))?;
        writeln!(self.out, "  {program} flows --socket {}", socket.display())?;
        writeln!(self.out, "  {program} services --socket {}", socket.display())?;
        writeln!(
            self.out,
            "  {} ip route show table local proto 77",
            stage.way_into(super::cluster::GATEWAY)
        )?;
        writeln!(self.out, "  edit a file in {}: it is watched", manifests.display())?;
        self.out.flush()
    }

    fn heading(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "\n{text}")
    }

    fn table(&mut self, table: &Table) -> io::Result<()> {
        for line in table.to_string().lines() {
            writeln!(self.out, "  {line}")?;
        }
        Ok(())
    }
}

impl Listener<'_> {
    fn note<T>(&mut self, written: io::Result<T>) -> io::Result<T> {
        self.left |= written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        written
    }
}

impl Write for Listener<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.note(flushed)
    }
}

/// As `kubectl get pods -o wide` prints, less what a demo has not.
fn pods(cluster: &Cluster) -> Table {
    let mut table = Table::new(&["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP"]);
    let mut row = |name: &str, addr: Ipv4Addr| {
        let fixed = ["1/1", "Running", "0", "0s"].map(str::to_owned);
        table.row([name.to_owned()].into_iter().chain(fixed).chain([addr.to_string()]));
    };
    cluster.pods.iter().for_each(|pod| row(&pod.name, pod.addr));
    row(CLIENT, CLIENT_ADDR);
    table
}

/// As `kubectl get services` prints.
fn services(services: &[Service]) -> Table {
    let mut table = Table::new(&["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    for service in services {
        let spec = service.spec.as_ref();
        let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
        let ports: Vec<_> = ports
            .map(|port| format!("{}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP")))
            .collect();
        table.row([
            service.metadata.name.clone().unwrap_or_default(),
            "ClusterIP".to_owned(),
            spec.and_then(|spec| spec.cluster_ip.clone()).unwrap_or_default(),
            "<none>".to_owned(),
            ports.join(","),
            "0s".to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::{controllers, manifest, names::Names};
    use super::*;

    fn told(tell: impl FnOnce(&mut Story<'_>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        tell(&mut Story::new(&mut out)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_opening_shows_the_cluster() {
        let manifest = manifest::read(None).unwrap();
        let cluster = controllers::reconcile(&manifest, &mut Names::seeded(5)).unwrap();
        let text = told(|story| story.opening(&manifest, &cluster));
        for pod in &cluster.pods {
            assert!(text.contains(&format!("+---- {} {}\n", pod.name, pod.addr)), "{text}");
            assert!(text.contains(&format!("  {}  1/1    Running", pod.name)), "{text}");
        }
        let ip = cluster.services[0].spec.as_ref().unwrap().cluster_ip.clone().unwrap();
        assert!(text.contains(&format!("  my-service  ClusterIP  {ip}")), "{text}");
        assert!(text.contains("  deployment.apps/my-app created\n  service/my-service created\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }

    #[test]
    fn a_flow_is_one_line_with_both_tuples_state_and_bytes() {
        let flow = Flow {
            proto: "TCP".into(),
            client: "10.244.0.2:40112".parse().unwrap(),
            vip: "10.96.144.131:80".parse().unwrap(),
            endpoint: "10.244.1.2:80".parse().unwrap(),
            snat: "192.0.2.1:40112".parse().unwrap(),
            state: "ESTABLISHED".into(),
            packets: [5, 4],
            bytes: [334, 1673],
            idle: 0,
            expires: 86_400,
            service: "default/my-service".into(),
        };
        let text = told(|story| story.flows(&[flow]));
        let line = "  TCP    10.244.0.2:40112 > 10.96.144.131:80  10.244.1.2:80 > 192.0.2.1:40112  ESTABLISHED      5/4  334/1.6k";
        assert_eq!(text.lines().last(), Some(line));
    }

    #[test]
    fn a_reader_who_left_is_noticed_and_another_error_is_one() {
        struct Fails(io::ErrorKind);
        impl Write for Fails {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for (kind, unheard) in [(io::ErrorKind::BrokenPipe, true), (io::ErrorKind::StorageFull, false)] {
            let mut out = Fails(kind);
            let mut story = Story::new(&mut out);
            assert!(!story.is_unheard());
            assert_eq!(story.gateway_ready().unwrap_err().kind(), kind);
            assert_eq!(story.is_unheard(), unheard);
        }
    }

    #[test]
    fn every_packet_is_accounted_for() {
        let counters = Counters {
            counters: [
                ("received", 9),
                ("translated", 6),
                ("passed", 1),
                ("replied", 1),
                ("flows_opened", 2),
            ]
            .map(|(name, n)| (name.to_owned(), n))
            .into(),
            drops: [("martian".to_owned(), 1)].into(),
        };
        let text = told(|story| story.counters(&counters));
        assert!(
            text.contains("9 received = 6 translated + 1 passed on + 1 answered + 1 dropped; 2 flows opened")
        );
        assert!(text.contains("dropped: martian 1"), "{text}");
    }
}
