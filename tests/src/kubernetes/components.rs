//! Where the programs of Kubernetes are: what `tests/kubernetes/build` built, or what somebody has already.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// The directory `tests/kubernetes/build` printed; `tests/run` sets it.
pub const BUILT: &str = "TUNWAY_KUBERNETES_BIN";
/// The directory of a test environment of other Kubernetes projects; what is in it comes first.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The programs of a cluster.
#[derive(Clone, Debug)]
pub struct Components {
    /// Debian's, from the search path, unless `KUBEBUILDER_ASSETS` has one.
    pub etcd: PathBuf,
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// Its controllers: ReplicaSets, EndpointSlices, namespaces, node CIDRs and the others.
    pub kube_controller_manager: PathBuf,
    /// The scheduler.
    pub kube_scheduler: PathBuf,
    /// The other proxy.
    pub kube_proxy: PathBuf,
    /// The command line.
    pub kubectl: PathBuf,
    /// The cluster's name server.
    pub coredns: PathBuf,
}

impl Components {
    /// Finds all of them.
    ///
    /// # Errors
    /// One is nowhere; the error says where it was looked for and how to get it.
    pub fn find() -> io::Result<Self> {
        let places = Places {
            assets: env::var_os(ASSETS).map(PathBuf::from),
            built: env::var_os(BUILT).map(PathBuf::from),
            path: env::var_os("PATH").unwrap_or_default(),
        };
        places.all().map_err(io::Error::other)
    }
}

/// Where programs are looked for.
struct Places {
    assets: Option<PathBuf>,
    built: Option<PathBuf>,
    path: OsString,
}

impl Places {
    fn all(&self) -> Result<Components, String> {
        Ok(Components {
            etcd: self.etcd()?,
            kube_apiserver: self.built("kube-apiserver")?,
            kube_controller_manager: self.built("kube-controller-manager")?,
            kube_scheduler: self.built("kube-scheduler")?,
            kube_proxy: self.built("kube-proxy")?,
            kubectl: self.built("kubectl")?,
            coredns: self.built("coredns")?,
        })
    }

    fn etcd(&self) -> Result<PathBuf, String> {
        let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let mut places = self.assets.iter().cloned().chain(env::split_paths(&self.path)).chain(sbin);
        let found = places.find_map(|place| program(&place, "etcd"));
        found.ok_or_else(|| {
            format!("no etcd in the search path or in {ASSETS}: install Debian's package etcd-server")
        })
    }

    fn built(&self, name: &str) -> Result<PathBuf, String> {
        let found = [&self.assets, &self.built].into_iter().flatten().find_map(|place| program(place, name));
        found.ok_or_else(|| {
            let looked = match &self.built {
                Some(place) => format!("{BUILT}={} has no {name}", place.display()),
                None => format!("no {name}: {BUILT} is not set"),
            };
            format!("{looked}; run this through tests/run, or set it to what tests/kubernetes/build prints")
        })
    }
}

fn program(place: &Path, name: &str) -> Option<PathBuf> {
    Some(place.join(name)).filter(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_one_has_comes_before_what_was_built() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            path
        };
        let (own, built) = (folder.path().join("own"), folder.path().join("built"));
        let mut places = Places { assets: Some(own), built: Some(built), path: OsString::new() };
        let names = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl"];
        for name in names {
            let missing = places.built(name).unwrap_err();
            assert!(missing.contains(name) && missing.contains("tests/kubernetes/build"), "{missing}");
            put(&format!("built/{name}"));
        }
        put("built/coredns");
        let (etcd, kubectl) = (put("own/etcd"), put("own/kubectl"));
        let all = places.all().unwrap();
        assert_eq!((&all.etcd, &all.kubectl), (&etcd, &kubectl));
        assert_eq!(all.kube_proxy, folder.path().join("built/kube-proxy"));
        places.built = None;
        assert!(places.all().unwrap_err().contains(BUILT), "says which variable");
    }
}
