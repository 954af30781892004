//! Who writes the reasons of a decision down: each with the object and the field that says so.

use std::net::{IpAddr, SocketAddr};

use dataplane::service::{FrontendKind, LocalMap, Place, Policy, Reason, Reasons, Service};

use super::{Ground, Question, Step, key_of};
use crate::config::PRIVATE_SNAT;
use crate::config::detect::DetectLocal;
use crate::desired::Desired;

/// The steps so far.
#[derive(Debug)]
pub(super) struct Steps<'a> {
    desired: &'a Desired,
    steps: Vec<Step>,
    /// The Service whose frontend it is.
    service: Option<String>,
    /// What says what becomes of the packet.
    decisive: String,
    /// Where the packet goes to.
    dst: IpAddr,
    /// What tells local pods, if anything does.
    detector: Option<(String, &'static str)>,
    /// The next reason is about this endpoint alone.
    endpoint: Option<SocketAddr>,
}

/// What the configuration says.
const CONFIG: &str = "Config";

impl<'a> Steps<'a> {
    pub(super) const fn new(desired: &'a Desired, dst: IpAddr) -> Self {
        Self {
            desired,
            steps: Vec::new(),
            service: None,
            decisive: String::new(),
            dst,
            detector: None,
            endpoint: None,
        }
    }

    pub(super) fn push(
        &mut self,
        object: impl Into<String>,
        field: impl Into<String>,
        what: impl Into<String>,
    ) {
        self.steps.push(Step { object: object.into(), field: field.into(), what: what.into() });
    }

    /// What the owner of this object was told.
    pub(super) fn reported(&mut self, ground: &Ground<'_>, object: &str) {
        // A manifest's problem names file and document before the object.
        let in_a_file = format!(": {object}");
        let is_its = |place: &String| place == object || place.ends_with(&in_a_file);
        let all = ground.desired.problems().iter().chain(ground.compiler.problems());
        for problem in all.filter(|(place, _)| is_its(place)).flat_map(|(_, problems)| problems) {
            self.push(problem.object.clone(), problem.field.clone(), format!("reported: {}", problem.what));
        }
    }

    /// What follows is about one endpoint of several.
    pub(super) fn about(&mut self, endpoint: SocketAddr) {
        self.endpoint = Some(endpoint);
    }

    /// No more.
    pub(super) fn about_all(&mut self) {
        self.endpoint = None;
    }

    /// Why the packet gets what it gets.
    pub(super) fn decisive(&self) -> String {
        self.decisive.clone()
    }

    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    /// Where the packet comes from.
    pub(super) fn source(
        &mut self,
        question: &Question,
        place: Place,
        detect: &DetectLocal,
        local: &LocalMap,
    ) {
        let src = question.src;
        self.detector = match detect {
            DetectLocal::ClusterCidr(cidrs) if cidrs.is_empty() => None,
            DetectLocal::ClusterCidr(_) => Some((CONFIG.to_owned(), "clusterCIDR")),
            DetectLocal::NodeCidr => Some((self.node(), "spec.podCIDRs")),
            DetectLocal::Bridge(_) | DetectLocal::InterfacePrefix(_) => {
                Some((CONFIG.to_owned(), "detectLocal.interface"))
            }
        };
        let (object, field) = match place {
            Place::Host | Place::HostAmongPods => (self.node(), "status.addresses"),
            Place::LocalPod | Place::Elsewhere => self.detector.clone().unwrap_or_default(),
        };
        let by = match (&question.in_interface, detect.by_link()) {
            (Some(link), true) => format!(" ({link})"),
            (None, true) => " (by the route to it)".to_owned(),
            (_, false) => String::new(),
        };
        let what = match place {
            Place::Host => format!("{src} is an address of this node"),
            Place::HostAmongPods => {
                format!("{src} is an address of this node, among those of local pods")
            }
            Place::LocalPod => format!("{src} is a local pod{by}"),
            Place::Elsewhere if !local.detects(dataplane::packet::tuple::Family::of(src)) => {
                format!("{src} is not this node; nothing tells local pods of its family")
            }
            Place::Elsewhere => format!("{src} is neither this node nor a local pod{by}"),
        };
        self.push(object, field, what);
    }

    fn node(&self) -> String {
        format!("Node {}", self.desired.node().name)
    }

    fn of_service(&self) -> String {
        self.service.clone().unwrap_or_default()
    }

    fn decide(&mut self, object: impl Into<String>, field: impl Into<String>, what: impl Into<String>) {
        let what = what.into();
        self.decisive.clone_from(&what);
        self.push(object, field, what);
    }

    fn frontend(&mut self, kind: FrontendKind, addr: IpAddr, port: u16, service: &Service) {
        let object = format!("Service {}", key_of(&service.name).0);
        self.service = Some(object.clone());
        let field = match kind {
            FrontendKind::ClusterIp => "spec.clusterIPs",
            FrontendKind::LoadBalancer => "status.loadBalancer.ingress",
            FrontendKind::ExternalIp => "spec.externalIPs",
            FrontendKind::NodePort => "spec.ports[].nodePort",
        };
        let what =
            format!("{} {} is {kind} of {}", SocketAddr::new(addr, port), service.port.proto, service.name);
        self.decide(object, field, what);
    }
}

impl Reasons for Steps<'_> {
    fn note(&mut self, reason: Reason<'_>) {
        let text = match self.endpoint {
            Some(endpoint) => format!("{endpoint}: {reason}"),
            None => reason.to_string(),
        };
        match reason {
            Reason::Frontend { kind, addr, port, service } => self.frontend(kind, addr, port, service),
            Reason::Policy { external, policy } => {
                let field =
                    if external { "spec.externalTrafficPolicy" } else { "spec.internalTrafficPolicy" };
                let what = match policy {
                    Policy::Cluster => "Cluster: endpoints of any node",
                    Policy::Local => "Local: endpoints of this node only",
                };
                self.push(self.of_service(), field, what);
            }
            Reason::SourceRange { .. } => {
                self.decide(self.of_service(), "spec.loadBalancerSourceRanges", text);
            }
            Reason::NoEndpoint | Reason::NoLocalEndpoint => {
                let of_whom = self.service.as_ref().map_or(String::new(), |service| format!("{service}: "));
                self.decide(self.of_service(), "", format!("{of_whom}{text}"));
            }
            Reason::ShortCircuitPod
            | Reason::ShortCircuitHost
            | Reason::ExternalCluster
            | Reason::ExternalLocal => {
                self.push(self.of_service(), "spec.externalTrafficPolicy", text);
            }
            Reason::Affinity { .. } => self.push(self.of_service(), "spec.sessionAffinity", text),
            Reason::Set(..) | Reason::Picked { .. } | Reason::Hairpin => {
                self.push(self.of_service(), "", text)
            }
            // Nobody need have written returnPath, but there is no such flow without these.
            Reason::EveryFlow => self.push(CONFIG, "snatAddresses", text),
            Reason::MasqueradeAll => self.push(CONFIG, "masqueradeAll", text),
            Reason::NoDetector | Reason::LocalPod | Reason::NotLocalPod => {
                let (object, field) = self.detector.clone().unwrap_or_default();
                self.push(object, field, text);
            }
            Reason::HostEndpoint => self.push(self.node(), "status.addresses", text),
            // Nobody wrote the default one.
            Reason::SnatAddress if PRIVATE_SNAT.contains(&self.dst) => self.decide("", "", text),
            Reason::SnatAddress => self.decide(CONFIG, "snatAddresses", text),
            Reason::Unallocated => {
                let by = self.desired.cidr_object_around(self.dst).map(|name| format!("ServiceCIDR {name}"));
                let field = if by.is_some() { "spec.cidrs" } else { "serviceCIDRs" };
                self.decide(by.unwrap_or_else(|| CONFIG.to_owned()), field, text);
            }
            Reason::NoSuchPort | Reason::NotOurs => self.decide("", "", text),
            // What a later version says is said in its own words.
            _ => self.push(self.of_service(), "", text),
        }
    }
}
