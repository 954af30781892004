//! Where a pod's processes run: its network namespace with its addresses and name servers, its host name.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;

use super::Shared;
use crate::kubernetes::podnet::{Addresses, Link};
use crate::netns::Namespace;

/// Where images have their programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Debian's, with all its applets.
pub(super) const BUSYBOX: &str = "/usr/bin/busybox";

/// The pod's network namespace, its addresses and its name servers. All of it goes when it is dropped.
#[derive(Debug)]
pub(super) struct Sandbox {
    shared: Arc<Shared>,
    pub(super) namespace: Namespace,
    pub(super) addresses: Addresses,
    link: Option<Link>,
    resolver: PathBuf,
}

impl Sandbox {
    pub(super) fn make(shared: &Arc<Shared>, pod: &Value) -> io::Result<Self> {
        let namespace = Namespace::new("pod")?;
        let addresses = shared.network.take()?;
        let resolver = PathBuf::from(format!("/etc/netns/{}", namespace.name()));
        // Made before anything can fail, so that its drop gives all of it back.
        let mut sandbox = Self { shared: Arc::clone(shared), namespace, addresses, link: None, resolver };
        if let Some(text) = resolv_conf(pod) {
            fs::create_dir_all(&sandbox.resolver)?;
            fs::write(sandbox.resolver.join("resolv.conf"), text)?;
        }
        sandbox.link = Some(shared.network.attach(&sandbox.namespace, addresses)?);
        Ok(sandbox)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // At once, and the routes with it: the kernel takes its time with what is in a namespace.
        if let Some(link) = &self.link {
            self.shared.network.detach(link);
        }
        self.shared.network.give_back(self.addresses);
        let _ = fs::remove_dir_all(&self.resolver);
    }
}

/// As the kubelet writes it for `dnsPolicy: ClusterFirst`; none: the machine's own.
fn resolv_conf(pod: &Value) -> Option<String> {
    if pod["spec"]["dnsPolicy"] == "Default" {
        return None;
    }
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or("default");
    let server = crate::kubernetes::cluster::KUBE_DNS[0];
    Some(format!(
        "nameserver {server}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    ))
}

/// What a container's image has in place of the machine's programs.
pub(super) type Applets = Arc<BTreeSet<String>>;

/// How a command runs in a container: the pod's namespaces, the container's environment.
#[derive(Clone, Debug)]
pub(crate) struct Shell {
    pub(super) namespace: String,
    pub(super) hostname: String,
    pub(super) environment: Vec<(String, String)>,
    /// The image is busybox.
    pub(super) applets: Option<Applets>,
}

impl Shell {
    /// The command, ready to be started. Nothing of the environment of the test gets there.
    pub(crate) fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new("ip");
        command.env_clear().env("PATH", PATH).env("HOME", "/root").env("HOSTNAME", &self.hostname);
        command.envs(self.environment.iter().cloned());
        command.args(["netns", "exec", &self.namespace, BUSYBOX, "unshare", "--uts", "/bin/sh", "-c"]);
        // Each of them makes way for the next: the process that is started is the one that is waited for.
        command.arg(format!("{BUSYBOX} hostname \"$0\" && exec \"$@\"")).arg(&self.hostname);
        command.args(self.words(words));
        command
    }

    fn words(&self, words: &[String]) -> Vec<String> {
        let program = words.first().map_or("", String::as_str);
        let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_applet = self.applets.as_ref().is_some_and(|applets| applets.contains(name));
        if is_applet { [&[BUSYBOX.to_owned()], words].concat() } else { words.to_vec() }
    }
}

/// Busybox's applets.
///
/// # Errors
/// There is no busybox.
pub(super) fn applets() -> io::Result<Applets> {
    let said = Command::new(BUSYBOX).arg("--list").output();
    let said = said.map_err(|error| {
        io::Error::other(format!("{BUSYBOX}: {error}; install Debian's package busybox-static"))
    })?;
    Ok(Arc::new(String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_looked_for_in_the_pods_namespace() {
        let of = |policy: &str| {
            resolv_conf(&json!({"metadata": {"namespace": "shop"}, "spec": {"dnsPolicy": policy}}))
        };
        let text = of("ClusterFirst").unwrap();
        assert!(text.starts_with("nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc."), "{text}");
        assert_eq!(of("Default"), None);
    }

    #[test]
    fn a_busybox_image_has_applets_and_nothing_hides_them() {
        let mut shell = Shell {
            namespace: "tw-1".into(),
            hostname: "web-1".into(),
            environment: vec![("A".into(), "1".into())],
            applets: Some(Arc::new(["sh", "wget"].map(str::to_owned).into())),
        };
        let of = |shell: &Shell, line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            shell.words(&words).join(" ")
        };
        assert_eq!(of(&shell, "wget -qO- http://web"), "/usr/bin/busybox wget -qO- http://web");
        assert_eq!(of(&shell, "/bin/sh -c true"), "/usr/bin/busybox /bin/sh -c true");
        assert_eq!(of(&shell, "curl x"), "curl x");
        shell.applets = None;
        assert_eq!(of(&shell, "wget x"), "wget x");
        let command = shell.command(&["true".to_owned()]);
        assert!(command.get_args().take(3).eq(["netns", "exec", "tw-1"]));
        assert!(command.get_envs().any(|(key, value)| key == "A" && value == Some("1".as_ref())));
        assert!(command.get_envs().any(|(key, value)| key == "HOSTNAME" && value == Some("web-1".as_ref())));
    }
}
