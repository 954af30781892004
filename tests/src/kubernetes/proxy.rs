//! What serves Services on a node: `tunway run`, or the real kube-proxy in nftables mode. Either gets a kubeconfig of
//! its own, the node's name and the cluster's ranges, and nothing else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::certs;
use super::cluster::{Node, Proxy};
use super::control_plane::{ControlPlane, POD_CIDRS, SERVICE_CIDRS};
use super::process::Daemon;

/// A node's proxy. Dropping it ends it, and takes away what it left on the node and in the file system.
#[derive(Debug)]
pub struct NodeProxy {
    daemon: Daemon,
    /// What takes away the rest.
    cleanup: Option<(String, PathBuf, PathBuf)>,
}

impl NodeProxy {
    /// Starts it on a node whose Node object exists. `device` is the name of tunway's: its lock and socket are named
    /// after it, so that no two on this machine may have the same.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        proxy: Proxy,
        node: &Node,
        device: &str,
        plane: &ControlPlane,
        folder: &Path,
    ) -> io::Result<Self> {
        let own = folder.join(&node.name);
        fs::create_dir_all(&own)?;
        let config = own.join("proxy.yaml");
        let namespace = node.namespace.name().to_owned();
        let (program, word, text, cleanup) = match proxy {
            Proxy::Tunway => {
                let program = crate::bin::tunway();
                let text = tunway(node, device, &plane.kubeconfig(certs::TUNWAY)?);
                let cleanup = Some((namespace.clone(), program.clone(), config.clone()));
                (program, Some("run"), text, cleanup)
            }
            Proxy::KubeProxy => {
                let text = kube_proxy(node, &plane.kubeconfig(certs::KUBE_PROXY)?);
                (plane.components().kube_proxy.clone(), None, text, None)
            }
        };
        // JSON is YAML.
        fs::write(&config, format!("{text:#}\n"))?;
        let daemon = Daemon::start(&format!("{}-proxy", node.name), &folder.join("logs"), move || {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &namespace]).arg(&program).args(word);
            command.arg("--config").arg(&config);
            command
        })?;
        Ok(Self { daemon, cleanup })
    }

    /// Ends it with SIGKILL (`kill`) or SIGTERM, and starts it again. It has not served anything yet when this returns.
    ///
    /// # Errors
    /// It did not run, did not obey SIGTERM, or cannot be started.
    pub fn restart(&self, kill: bool) -> io::Result<()> {
        self.stop(kill)?;
        self.resume()
    }

    /// Ends it with SIGKILL (`kill`) or SIGTERM.
    ///
    /// # Errors
    /// It did not run, or did not obey SIGTERM.
    pub fn stop(&self, kill: bool) -> io::Result<()> {
        self.daemon.stop(if kill { Signal::SIGKILL } else { Signal::SIGTERM }).map(drop)
    }

    /// Starts it again.
    ///
    /// # Errors
    /// It runs, or cannot be started.
    pub fn resume(&self) -> io::Result<()> {
        self.daemon.resume()
    }

    /// Its process.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }
}

impl Drop for NodeProxy {
    fn drop(&mut self) {
        let _ = self.daemon.stop(Signal::SIGKILL);
        if let Some((namespace, program, config)) = &self.cleanup {
            let mut command = Command::new("ip");
            command
                .args(["netns", "exec", namespace])
                .arg(program)
                .arg("cleanup")
                .arg("--config")
                .arg(config);
            let _ = command.stdin(Stdio::null()).output();
        }
    }
}

fn tunway(node: &Node, device: &str, kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": control::config::file::API_VERSION, "kind": control::config::file::KIND,
        "device": device,
        "nodeName": node.name,
        "serviceCIDRs": SERVICE_CIDRS,
        "detectLocal": {"mode": "clusterCIDR", "clusterCIDRs": POD_CIDRS},
        // As kube-proxy: whatever a Service names.
        "externalIPs": {"allow": ["0.0.0.0/0", "::/0"]},
        "source": {"kubernetes": {"kubeconfig": kubeconfig}},
        // Several nodes share this machine's cores and memory.
        "workers": 2,
        "maxFlows": {"ipv4": 65_536, "ipv6": 65_536},
    })
}

fn kube_proxy(node: &Node, kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.name,
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": POD_CIDRS.join(","),
        "detectLocalMode": "ClusterCIDR",
        // The table's size is the whole machine's, not a namespace's.
        "conntrack": {"maxPerCore": 0, "min": 0},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    })
}
