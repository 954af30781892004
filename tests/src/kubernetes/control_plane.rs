//! The control plane: etcd, the API server, the controller manager and the scheduler as processes in the hub.
//!
//! etcd listens on the hub's loopback only; the rest of the cluster sees the API server at the hub's address on the
//! link, as on a real control-plane node.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::api::{Api, ApiError};
use super::certs::{self, Authority, Identity};
use super::components::Components;
use super::process::Daemon;
use crate::netns::Namespace;

mod etcd;

/// The hub's addresses on the link between the nodes: where the API server is.
pub const ADDRESSES: [&str; 2] = ["192.168.77.1", "fd00:77::1"];
/// The API server's port.
pub const PORT: u16 = 6443;
/// The ranges ClusterIPs are taken from.
pub const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];
/// The ranges pods' addresses are taken from: a /24 and a /64 a node.
pub const POD_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:244::/56"];
/// The API server's own Service, `kubernetes`.
pub const KUBERNETES: &str = "10.96.0.1";

/// Starting takes this long at most on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// The control plane. Dropping it ends its processes.
#[derive(Debug)]
pub struct ControlPlane {
    // In the order they end: nobody complains about one that is gone.
    scheduler: Daemon,
    controllers: Daemon,
    server: Daemon,
    etcd: Daemon,
    api: Api,
    authority: Authority,
    components: Components,
    hub: String,
}

impl ControlPlane {
    /// Starts everything in the namespace `hub`, with certificates, data and logs in `folder`. The API server is
    /// ready when this returns, and the controllers and the scheduler work. The hub has its [`ADDRESSES`] already.
    ///
    /// # Errors
    /// A program is missing, ended by itself, or was not ready in a minute: with the end of its log.
    pub fn start(hub: &Namespace, folder: &Path) -> io::Result<Self> {
        let components = Components::find()?;
        let authority = Authority::new(&folder.join("pki"))?;
        let mut names = vec!["localhost", "127.0.0.1", "::1", KUBERNETES, "fd00:96::1"];
        names.extend(ADDRESSES);
        names.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"]);
        names.push("kubernetes.default.svc.cluster.local");
        authority.server("apiserver", &names)?;
        authority.key_pair("accounts")?;
        let admin = authority.kubeconfig(certs::ADMIN, &url())?;
        let start =
            Start { hub: hub.name().to_owned(), folder, authority: &authority, components: &components };

        let etcd = start.etcd()?;
        etcd.wait("etcd listens", PATIENCE, || listens(hub, etcd::PORT))?;
        let server = start.api_server()?;
        let api = Api::connect(hub, &admin).map_err(io::Error::other)?;
        ready(&server, &api)?;
        let controllers = start.controllers()?;
        let scheduler = start.scheduler()?;
        // They give up when the API server goes away before they have begun.
        controllers.wait("the controllers run", PATIENCE, || listens(hub, 10257) && has_account(&api))?;
        scheduler.wait("the scheduler runs", PATIENCE, || listens(hub, 10259))?;
        let hub = hub.name().to_owned();
        Ok(Self { scheduler, controllers, server, etcd, api, authority, components, hub })
    }

    /// The API, as its administrator.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The programs of this cluster.
    #[must_use]
    pub fn components(&self) -> &Components {
        &self.components
    }

    /// A kubeconfig for somebody, of the API server at its address on the link.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn kubeconfig(&self, identity: Identity) -> io::Result<PathBuf> {
        self.authority.kubeconfig(identity, &url())
    }

    /// The same, of the API server behind its ClusterIP: what a pod would use.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn kubeconfig_for_pods(&self, identity: Identity) -> io::Result<PathBuf> {
        self.authority.kubeconfig(identity, &format!("https://{KUBERNETES}:443"))
    }

    /// The kubeconfig of the administrator.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.authority.file("admin.conf")
    }

    /// Ends the API server with SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn stop_api_server(&self) -> io::Result<()> {
        self.server.stop(Signal::SIGKILL).map(drop)
    }

    /// Starts it again and waits until it is ready.
    ///
    /// # Errors
    /// It runs, or was not ready in a minute.
    pub fn start_api_server(&self) -> io::Result<()> {
        self.server.resume()?;
        ready(&self.server, &self.api)?;
        // What a node's kubelet does for a control plane whose programs gave up meanwhile.
        self.controllers.revive()?;
        self.scheduler.revive()
    }

    /// Stops it in the middle of whatever it does (SIGSTOP): connections stay, nothing is answered.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause_api_server(&self) -> io::Result<()> {
        self.server.pause()
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume_api_server(&self) -> io::Result<()> {
        self.server.signal(Signal::SIGCONT)
    }

    /// Makes etcd forget all history before now; the revision it begins with then. A watch that resumes from before it
    /// has expired, unless the API server still remembers: one that was started since does not.
    ///
    /// # Errors
    /// etcd does not answer, or refuses.
    pub fn compact_etcd(&self) -> io::Result<u64> {
        etcd::compact(&self.hub)
    }

    /// Its processes.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        [&self.etcd, &self.server, &self.controllers, &self.scheduler].into_iter()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.api.close();
    }
}

/// The API server's URL.
#[must_use]
pub fn url() -> String {
    format!("https://{}:{PORT}", ADDRESSES[0])
}

/// The API server's addresses, IPv4 first.
#[must_use]
pub fn servers() -> Vec<SocketAddr> {
    ADDRESSES.iter().filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, PORT))).collect()
}

/// Waits until the server says so, and for what it makes itself at its first start.
fn ready(server: &Daemon, api: &Api) -> io::Result<()> {
    let mut said = None;
    let waited = server.wait("the API server is ready", PATIENCE, || {
        let answer = api.text("/readyz");
        let ready = answer.as_ref().is_ok_and(|text| text == "ok");
        said = answer.err();
        ready
    });
    waited.map_err(|error| match said {
        Some(ApiError { code, message }) => io::Error::other(format!("{error}\nit said: {code} {message}")),
        None => error,
    })
}

/// Whether somebody takes connections on this port of the namespace's loopback.
fn listens(inside: &Namespace, port: u16) -> bool {
    let connect = || TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), Duration::from_secs(5));
    inside.enter(|| connect().is_ok()).unwrap_or(false)
}

/// Whether pods can be made: every pod has its namespace's account, which a controller makes.
fn has_account(api: &Api) -> bool {
    api.get(&Api::path("v1", "ServiceAccount", Some("default"), "default")).is_ok()
}

/// What starting a process takes.
struct Start<'a> {
    hub: String,
    folder: &'a Path,
    authority: &'a Authority,
    components: &'a Components,
}

impl Start<'_> {
    fn etcd(&self) -> io::Result<Daemon> {
        let data = self.folder.join("etcd");
        let mut flags = vec![format!("--data-dir={}", data.display())];
        // The data need not survive the machine; everything else waits for the disk a hundred times a second.
        flags.push("--unsafe-no-fsync".to_owned());
        flags.push(format!("--listen-client-urls={}", etcd::URL));
        flags.push(format!("--advertise-client-urls={}", etcd::URL));
        flags.push("--listen-peer-urls=http://127.0.0.1:2380".to_owned());
        // It has nobody to wait for before it leads.
        flags.extend(
            ["--heartbeat-interval=10", "--election-timeout=100", "--log-level=warn"].map(str::to_owned),
        );
        self.daemon("etcd", &self.components.etcd, flags)
    }

    fn api_server(&self) -> io::Result<Daemon> {
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.authority.file(name).display());
        let mut flags = vec![
            file("client-ca-file", "ca.crt"),
            file("tls-cert-file", "apiserver.crt"),
            file("tls-private-key-file", "apiserver.key"),
            file("requestheader-client-ca-file", "ca.crt"),
            file("service-account-key-file", "accounts.pub"),
            file("service-account-signing-key-file", "accounts.key"),
            format!("--etcd-servers={}", etcd::URL),
            format!("--advertise-address={}", ADDRESSES[0]),
            format!("--secure-port={PORT}"),
            format!("--service-cluster-ip-range={}", SERVICE_CIDRS.join(",")),
        ];
        flags.extend(
            [
                "--bind-address=::",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                "--authorization-mode=Node,RBAC",
                // Nobody stands in front of it; but its clients look for the setting, again and again.
                "--requestheader-allowed-names=nobody",
                "--requestheader-username-headers=X-Remote-User",
                "--allow-privileged=true",
                "--profiling=false",
            ]
            .map(str::to_owned),
        );
        self.daemon("kube-apiserver", &self.components.kube_apiserver, flags)
    }

    fn controllers(&self) -> io::Result<Daemon> {
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.authority.file(name).display());
        let mut flags = vec![
            file("root-ca-file", "ca.crt"),
            file("cluster-signing-cert-file", "ca.crt"),
            file("cluster-signing-key-file", "ca.key"),
            file("service-account-private-key-file", "accounts.key"),
            format!("--cluster-cidr={}", POD_CIDRS.join(",")),
            format!("--service-cluster-ip-range={}", SERVICE_CIDRS.join(",")),
        ];
        flags.extend(
            [
                "--allocate-node-cidrs=true",
                "--node-cidr-mask-size-ipv4=24",
                "--node-cidr-mask-size-ipv6=64",
                // Each controller with the rights of its own account: the rights of the process itself are too few.
                "--use-service-account-credentials=true",
                // A machine that is busy with tests is late; nodes are not lost for it.
                "--node-monitor-grace-period=5m",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ]
            .map(str::to_owned),
        );
        flags.extend(self.client(certs::CONTROLLERS)?);
        self.daemon("kube-controller-manager", &self.components.kube_controller_manager, flags)
    }

    fn scheduler(&self) -> io::Result<Daemon> {
        let mut flags = vec!["--kube-api-qps=200".to_owned(), "--kube-api-burst=400".to_owned()];
        flags.extend(self.client(certs::SCHEDULER)?);
        self.daemon("kube-scheduler", &self.components.kube_scheduler, flags)
    }

    /// What the controller manager and the scheduler have in common.
    fn client(&self, identity: Identity) -> io::Result<Vec<String>> {
        let kubeconfig = self.authority.kubeconfig(identity, &url())?;
        let own = self.folder.join(identity.name);
        fs::create_dir_all(&own)?;
        let mut flags = vec![format!("--cert-dir={}", own.display())];
        for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            flags.push(format!("--{flag}={}", kubeconfig.display()));
        }
        // One of each: nobody to agree with about who leads.
        flags.extend(
            ["--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false"].map(str::to_owned),
        );
        Ok(flags)
    }

    fn daemon(&self, name: &str, program: &Path, flags: Vec<String>) -> io::Result<Daemon> {
        let (hub, program) = (self.hub.clone(), program.to_owned());
        Daemon::start(name, &self.folder.join("logs"), move || {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &hub]).arg(&program).args(&flags);
            command
        })
    }
}
