//! A directory of manifests, everything that is made of it, and what must hold of that: compiled in steps it is what
//! it is compiled at once, and every address it serves has an explanation that says what a packet would get.

use std::collections::BTreeSet;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use control::compile::{Compiler, Health, Rules};
use control::config::detect::DetectLocal;
use control::desired::Desired;
use control::explain::{Ground, Question, Verdict, explain};
use control::model::{Node, ObjectKey, Problem};
use control::source::manifests::Scanner;
use control::source::{Event, Kind};
use dataplane::ids::ServiceId;
use dataplane::packet::tuple::Proto;
use dataplane::service::{
    Decision, Fabric, NoReasons, Origin, Prefixes, ReturnPath, Service, Snapshot, SvcPort, World as Compiled,
    decide,
};

/// The node everything is seen from.
pub(super) const HERE: &str = "here";

/// Clients that ask: a pod, a host outside, an endpoint.
const CLIENTS: [&str; 5] = ["10.244.0.9", "192.0.2.9", "10.1.0.1", "fd24::9", "fd00:1::1"];

/// Objects and what was made of them so far.
pub(super) struct World {
    scanner: Scanner,
    desired: Desired,
    compiler: Compiler,
    fabric: Fabric,
    rules: Rules,
    world: Option<Arc<Compiled>>,
    epoch: u16,
}

impl World {
    /// Of a directory; `choice` varies what is configured.
    pub(super) fn new(directory: &Path, choice: u8) -> Self {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let path = [ReturnPath::ConnMark, ReturnPath::Masquerade][usize::from(choice & 1)];
        let fabric = Fabric {
            return_path: path,
            snat: vec![ip("169.254.77.1"), ip("fd00:fffe:77::1")],
            service_cidrs: vec![(ip("10.96.0.0"), 16), (ip("fd96::"), 112)],
            node_addresses: [ip("192.168.0.2"), ip("fd00:192::2")].into(),
            masquerade_all: choice & 2 != 0,
            ..Fabric::default()
        };
        let anywhere = [(ip("0.0.0.0"), 0), (ip("::"), 0)];
        let allowed = if choice & 4 == 0 { &[][..] } else { &anywhere };
        let external_ips = Prefixes::new(allowed).expect("prefixes that exist");
        // Room for some of the tables only.
        let rules = Rules { external_ips, maglev_memory: 700_000, ..Rules::default() };
        let compiler = compiler(&fabric, &rules);
        let (scanner, desired) = (Scanner::new(directory, HERE), Desired::new(HERE));
        Self { scanner, desired, compiler, fabric, rules, world: None, epoch: 0 }
    }

    /// Reads the directory again, and judges what comes of it.
    pub(super) fn step(&mut self) {
        let events = self.scanner.scan().expect("a directory that is there");
        events.into_iter().for_each(|event| self.desired.apply(event));
        let epoch = &mut self.epoch;
        let compiled = self.compiler.compile(&mut self.desired, &mut || {
            *epoch = *epoch % 16_000 + 1;
            *epoch
        });
        if let Some(next) = compiled.expect("a world, whatever the objects") {
            self.world = Some(next);
        }
        let Some(Compiled::Ready(snapshot)) = self.world.as_deref() else { panic!("no world") };
        let (expected, problems, health) = self.at_once();
        assert_eq!(plain(snapshot), expected, "compiled in steps it is another world");
        assert_eq!(self.compiler.problems(), &problems, "compiled in steps there are other problems");
        assert_eq!(self.compiler.health(), &health, "compiled in steps nodes are asked for others");
        self.ask(snapshot);
    }

    fn at_once(&self) -> (Plain, BTreeMap<String, Vec<Problem>>, BTreeMap<ObjectKey, Health>) {
        let mut desired = Desired::new(HERE);
        for kind in [Kind::Service, Kind::Slice] {
            desired.apply(Event::Restart(kind));
        }
        for service in self.desired.services().values() {
            desired.apply(Event::Service(Box::new(service.clone())));
            for slice in self.desired.slices(&service.key) {
                desired.apply(Event::Slice(Box::new(slice.clone())));
            }
        }
        for kind in [Kind::Service, Kind::Slice] {
            desired.apply(Event::Done(kind));
        }
        desired.apply(Event::Node(Box::new(Node::clone(self.desired.node()))));
        let mut compiler = compiler(&self.fabric, &self.rules);
        let world = compiler.compile(&mut desired, &mut || 1).expect("a world").expect("the first world");
        let Compiled::Ready(snapshot) = &*world else { panic!("no world") };
        (plain(snapshot), compiler.problems().clone(), compiler.health().clone())
    }

    /// Every way in, asked from everywhere.
    fn ask(&self, world: &Snapshot) {
        let detect = DetectLocal::default();
        let ground = Ground {
            world,
            desired: &self.desired,
            compiler: &self.compiler,
            detect: &detect,
            hosts: &BTreeSet::new(),
        };
        for service in world.services().take(40) {
            let SvcPort { port, proto } = service.port;
            let fronts = service.frontends.iter().map(|front| (front.addr, port));
            let nodes = world.fabric().node_addresses.iter();
            let nodes =
                service.node_port.into_iter().flat_map(|port| nodes.clone().map(move |at| (*at, port)));
            for (dst, dport) in fronts.chain(nodes) {
                for client in CLIENTS {
                    let src: IpAddr = client.parse().expect("an address");
                    if src.is_ipv4() == dst.is_ipv4() {
                        ask_one(&ground, src, dst, dport, proto);
                    }
                }
            }
        }
    }
}

fn ask_one(ground: &Ground<'_>, src: IpAddr, dst: IpAddr, dport: u16, proto: Proto) {
    let question = Question { src, sport: 4_000, dst, dport, proto: Some(proto), in_interface: None };
    let explanation = explain(ground, &question);
    let tuple = question.tuple().expect("a protocol with ports");
    let decision = decide(ground.world, &tuple, &Origin::default(), &mut NoReasons);
    let verdict = match decision {
        Decision::Serve { service, set, .. } => {
            let members: Vec<_> =
                service.members(set).iter().map(|n| &service.backends[*n as usize]).collect();
            assert!(!members.is_empty(), "{question:?} is served by nobody");
            assert_eq!(explanation.endpoints.len(), members.len(), "{explanation:?}");
            Verdict::Dnat
        }
        Decision::Reject => Verdict::Reject,
        Decision::Drop(_) => Verdict::Drop,
        Decision::NotOurs => Verdict::Pass,
    };
    assert_eq!(explanation.verdict, verdict, "{question:?}: {explanation:?}");
    assert!(!explanation.steps.is_empty() && !explanation.reason.is_empty(), "{explanation:?}");
}

fn compiler(fabric: &Fabric, rules: &Rules) -> Compiler {
    let mut compiler = Compiler::new(fabric.clone());
    compiler.set_rules(rules.clone());
    compiler
}

type Plain = BTreeMap<(Box<str>, bool, SvcPort), Service>;

/// A world by service port, without ids and epochs, which tell how it came about.
fn plain(world: &Snapshot) -> Plain {
    let bare = |service: &Arc<Service>| {
        let mut service = Service::clone(service);
        (service.id, service.purge_epoch) = (ServiceId(0), 0);
        service.backends.iter_mut().for_each(|backend| backend.id.0 = 0);
        ((service.name.clone(), service.cluster_ip.is_ipv4(), service.port), service)
    };
    world.services().map(bare).collect()
}
