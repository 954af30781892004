//! A configuration as a file that says everything: what was given, and every default in force.

use std::net::IpAddr;

use dataplane::service::{HashBy, ReturnPath};

use super::detect::DetectLocal;
use super::file::{
    API_VERSION, ConfigFile, DetectLocalFile, DetectMode, KIND, KubernetesFile, LoadBalancingFile, MaxFlows,
    RejectWith, ReturnPathName, SourceFile, Timeouts,
};
use super::node_ports::NodePortAddresses;
use super::{Config, FlowPlace, SourceConfig};
use crate::model::service::balance::Algorithm;

impl Config {
    /// The file that gives this configuration on any machine. `given` is the file it was made of.
    #[must_use]
    pub fn effective(&self, given: ConfigFile) -> ConfigFile {
        // `clusterCIDR` is short for the other, and beside it an error.
        let detect_local = given.cluster_cidr.is_none().then(|| detect_local(&self.detect_local));
        let from_here = ConfigFile {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(KIND.to_owned()),
            device: Some(self.device.clone()),
            workers: Some(self.workers),
            queue_length: Some(self.queue_length),
            max_flows: Some(MaxFlows { ipv4: Some(self.max_flows_v4), ipv6: Some(self.max_flows_v6) }),
            max_affinity: u32::try_from(self.max_affinity).ok(),
            flow_file: match &self.flows {
                FlowPlace::Dir(dir) => Some(dir.clone()),
                FlowPlace::Auto | FlowPlace::Memory => None,
            },
            service_cidrs: (!self.service_cidrs.is_empty()).then(|| texts(&self.service_cidrs)),
            snat_addresses: Some(self.snat.clone()),
            detect_local,
            cluster_cidr: None,
            node_port_addresses: Some(match &self.node_port_addresses {
                NodePortAddresses::Primary => vec!["primary".to_owned()],
                NodePortAddresses::Cidrs(cidrs) => texts(cidrs),
                NodePortAddresses::PrimaryAnd(cidrs) => [vec!["primary".to_owned()], texts(cidrs)].concat(),
            }),
            node_port_range: Some(format!("{}-{}", self.node_port_range.0, self.node_port_range.1)),
            external_ips: None,
            load_balancing: Some(self.load_balancing()),
            masquerade_all: Some(self.masquerade_all),
            return_path: Some(match self.return_path {
                ReturnPath::Masquerade => ReturnPathName::Masquerade,
                ReturnPath::ConnMark => ReturnPathName::Conntrack,
            }),
            marks: None,
            tcp_loose: Some(self.tcp_loose),
            reject_with: Some(if self.reject_with_rst { RejectWith::Rst } else { RejectWith::Icmp }),
            replies_per_second: Some(self.replies_per_second),
            flow_accounting: Some(self.accounting),
            timeouts: Some(self.timeouts_file()),
            source: Some(match &self.source {
                SourceConfig::Manifests { dir } => {
                    SourceFile { manifests: Some(dir.clone()), kubernetes: None }
                }
                SourceConfig::Kubernetes { kubeconfig } => SourceFile {
                    manifests: None,
                    kubernetes: Some(KubernetesFile { kubeconfig: kubeconfig.clone() }),
                },
            }),
            node_name: Some(self.node_name.clone()),
            node: None,
            socket: Some(self.socket.clone()),
            take_over: Some(self.take_over),
            forward_accept: Some(self.forward_accept),
            drain_seconds: Some(self.drain.as_secs()),
        };
        let mut all = from_here.over(given);
        all.marks = None;
        all.external_ips.get_or_insert_default().allow.get_or_insert_default();
        all
    }

    fn load_balancing(&self) -> LoadBalancingFile {
        let rules = &self.rules;
        let named = Algorithm::NAMES.iter().find(|(_, algorithm)| *algorithm == rules.algorithm);
        LoadBalancingFile {
            algorithm: named.map(|(name, _)| (*name).to_owned()),
            hash_by: Some(match rules.hash_by {
                HashBy::Tuple => "tuple".to_owned(),
                HashBy::Client => "client".to_owned(),
            }),
            maglev_memory: u64::try_from(rules.maglev_memory).ok(),
        }
    }

    fn timeouts_file(&self) -> Timeouts {
        let ttls = &self.timeouts;
        Timeouts {
            tcp_syn_sent: Some(ttls.tcp_syn_sent),
            tcp_syn_recv: Some(ttls.tcp_syn_recv),
            tcp_established: Some(ttls.tcp_established),
            tcp_half_closed: Some(ttls.tcp_half_closed),
            tcp_last_ack: Some(ttls.tcp_last_ack),
            tcp_time_wait: Some(ttls.tcp_time_wait),
            tcp_reset: Some(ttls.tcp_reset),
            tcp_unacknowledged: Some(ttls.tcp_unacknowledged),
            udp: Some(ttls.udp),
            udp_stream: Some(ttls.udp_stream),
            sctp_closed: Some(ttls.sctp_closed),
            sctp_cookie: Some(ttls.sctp_cookie),
            sctp_established: Some(ttls.sctp_established),
            sctp_shutdown: Some(ttls.sctp_shutdown),
            sctp_heartbeat: Some(ttls.sctp_heartbeat),
        }
    }
}

fn detect_local(detect: &DetectLocal) -> DetectLocalFile {
    let (mode, cluster_cidrs, interface) = match detect {
        DetectLocal::ClusterCidr(cidrs) => (DetectMode::ClusterCidr, Some(texts(cidrs)), None),
        DetectLocal::NodeCidr => (DetectMode::NodeCidr, None, None),
        DetectLocal::Bridge(name) => (DetectMode::Bridge, None, Some(name.clone())),
        DetectLocal::InterfacePrefix(prefix) => (DetectMode::InterfacePrefix, None, Some(prefix.clone())),
    };
    DetectLocalFile { mode: Some(mode), cluster_cidrs, interface }
}

fn texts(cidrs: &[(IpAddr, u8)]) -> Vec<String> {
    cidrs.iter().map(|(addr, len)| format!("{addr}/{len}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Machine;
    use super::super::read::parse;
    use super::super::write::to_yaml;
    use super::*;

    fn machine(name: &str, cores: usize) -> Machine {
        Machine { node_name: None, host_name: name.into(), cores }
    }

    #[test]
    fn what_is_printed_means_the_same_on_any_machine_and_prints_the_same() {
        let head = "apiVersion: tunway.dev/v1alpha1\nkind: Config\n";
        for lines in [
            "",
            "clusterCIDR: 10.244.0.0/16,fd00:244::/48\nmasqueradeAll: true\ndrainSeconds: 7\n",
            "detectLocal: {mode: bridge, interface: cni0}\nnodePortAddresses: [192.168.0.0/16, '::/0']\n",
            "serviceCIDRs: [10.96.0.0/16]\nexternalIPs: {allow: [203.0.113.0/24]}\nworkers: 2\n",
            "returnPath: masquerade\nsnatAddresses: [192.0.2.1]\nsource: {manifests: /etc/m}\nflowFile: /dev/shm/x\n",
            "node: {name: n1, addresses: [192.168.0.2], labels: {topology.kubernetes.io/zone: a}}\nmaxFlows: {ipv4: 100000}\n",
            "timeouts: {udp: 5, sctpEstablished: 99}\nloadBalancing: {algorithm: maglev, hashBy: client}\n",
            "marks: {packet: 0x10000}\nrejectWith: rst\ntcpLoose: true\nrepliesPerSecond: 9\nflowAccounting: false\n",
        ] {
            let given = parse(&format!("{head}{lines}")).unwrap();
            let config = Config::resolve(given.clone(), &machine("here", 4)).unwrap();
            let printed = to_yaml(&config.effective(given)).unwrap();
            let read = parse(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
            let mut again = Config::resolve(read.clone(), &machine("elsewhere", 1)).unwrap();
            assert_eq!(again.node_name, config.node_name);
            // The name of a node that is only thought of is the same, given or not.
            again.node.name.clone_from(&config.node.name);
            assert_eq!(again, config, "{printed}");
            assert_eq!(to_yaml(&again.effective(read)).unwrap(), printed);
        }
    }

    #[test]
    fn every_default_is_printed() {
        let given = ConfigFile::default();
        let config = Config::resolve(given.clone(), &machine("here", 4)).unwrap();
        let printed = to_yaml(&config.effective(given)).unwrap();
        for line in [
            "apiVersion: tunway.dev/v1alpha1\nkind: Config\n",
            "nodeName: here",
            "  udpStream: 120",
            "algorithm: random",
            "allow: []",
            "drainSeconds: 1",
            "returnPath: conntrack",
        ] {
            assert!(printed.contains(line), "{line} is not in\n{printed}");
        }
    }

    #[test]
    fn old_names_are_printed_as_what_they_mean() {
        let old =
            "apiVersion: tunway.dev/v1alpha1\nkind: Config\nreturnPath: connmark\nmarks: {packet: 0x3000}\n";
        let given = parse(old).unwrap();
        let told = given.obsolete();
        assert!(told.len() == 2 && told[0].contains("conntrack") && told[1].contains("marks"), "{told:?}");
        let printed =
            to_yaml(&Config::resolve(given.clone(), &machine("here", 4)).unwrap().effective(given)).unwrap();
        assert!(printed.contains("returnPath: conntrack") && !printed.contains("marks"), "{printed}");
        assert_eq!(parse(&printed).unwrap().obsolete(), [""; 0]);
    }
}
