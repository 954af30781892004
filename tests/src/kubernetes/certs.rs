//! A cluster's certificate authority, what it signs, and the kubeconfigs made of it.
//!
//! Every process has an identity of its own, so that the API server's own rules decide what it may do.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};

/// Who a client is: a user, and the group it is in.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The name of its files.
    pub name: &'static str,
    /// The user, `system:kube-scheduler`.
    pub user: &'static str,
    /// A group, `system:masters`.
    pub group: Option<&'static str>,
}

/// May do everything: tests, kubectl, the node agent.
pub const ADMIN: Identity = Identity { name: "admin", user: "admin", group: Some("system:masters") };
/// The controller manager; the API server binds its role at its first start.
pub const CONTROLLERS: Identity = Identity::system("controllers", "system:kube-controller-manager");
/// The scheduler, likewise.
pub const SCHEDULER: Identity = Identity::system("scheduler", "system:kube-scheduler");
/// kube-proxy, likewise.
pub const KUBE_PROXY: Identity = Identity::system("kube-proxy", "system:kube-proxy");
/// tunway: bound to the role in `control/rbac.yaml` and nothing else.
pub const TUNWAY: Identity = Identity::system("tunway", "tunway");
/// CoreDNS.
pub const COREDNS: Identity = Identity::system("coredns", "system:coredns");

impl Identity {
    const fn system(name: &'static str, user: &'static str) -> Self {
        Self { name, user, group: None }
    }
}

/// What gives [`TUNWAY`] the role in `control/rbac.yaml`.
#[must_use]
pub fn tunway_binding() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "tunway"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tunway"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": TUNWAY.user}],
    })
}

/// The authority and the folder of its files.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one; its certificate is `ca.crt` in `folder`, its key `ca.key`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut params = named("tunway-tests", None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        fs::write(folder.join("ca.crt"), certificate.pem())?;
        fs::write(folder.join("ca.key"), key.serialize_pem())?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// The path of one of its files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A server's certificate `NAME.crt` and key `NAME.key`, good for these names and addresses.
    ///
    /// # Errors
    /// As [`Authority::new`].
    pub fn server(&self, name: &str, hosts: &[&str]) -> io::Result<()> {
        let mut params = named(name, None)?;
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*host).try_into().map_err(io::Error::other)?),
            });
        }
        self.sign(name, params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate and key, and the kubeconfig `NAME.conf` that uses them at `server`; its path. They are
    /// made once.
    ///
    /// # Errors
    /// As [`Authority::new`].
    pub fn kubeconfig(&self, identity: Identity, server: &str) -> io::Result<PathBuf> {
        let Identity { name, user, group } = identity;
        let path = self.file(&format!("{name}.conf"));
        // Somebody may be reading the files.
        if path.exists() {
            return Ok(path);
        }
        self.sign(name, named(user, group)?, ExtendedKeyUsagePurpose::ClientAuth)?;
        let file = |suffix: &str| self.file(&format!("{name}.{suffix}"));
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {
                "server": server, "certificate-authority": self.file("ca.crt"),
            }}],
            "users": [{"name": name, "user": {
                "client-certificate": file("crt"), "client-key": file("key"),
            }}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": name}}],
        });
        fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// The key service account tokens are signed with, `NAME.key`, and its public half, `NAME.pub`.
    ///
    /// # Errors
    /// As [`Authority::new`].
    pub fn key_pair(&self, name: &str) -> io::Result<()> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem())?;
        fs::write(self.file(&format!("{name}.pub")), key.public_key_pem())
    }

    fn sign(
        &self,
        name: &str,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> io::Result<()> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        fs::write(self.file(&format!("{name}.crt")), certificate.pem())?;
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem())
    }
}

fn named(common: &str, organization: Option<&str>) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, common);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_names_files_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path()).unwrap();
        let path = authority.kubeconfig(ADMIN, "https://192.168.77.1:6443").unwrap();
        let config: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let cluster = &config["clusters"][0]["cluster"];
        assert_eq!(cluster["server"], "https://192.168.77.1:6443");
        let user = &config["users"][0]["user"];
        let files = [&cluster["certificate-authority"], &user["client-certificate"], &user["client-key"]]
            .map(|path| {
                let path = path.as_str().unwrap();
                fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
            });
        assert!(files[0].contains("BEGIN CERTIFICATE") && files[1].contains("BEGIN CERTIFICATE"));
        assert!(files[2].contains("PRIVATE KEY") && files[0] != files[1]);
        authority.server("apiserver", &["fd00:77::1", "10.96.0.1", "kubernetes.default.svc"]).unwrap();
        authority.key_pair("accounts").unwrap();
        assert!(fs::read_to_string(authority.file("accounts.pub")).unwrap().contains("PUBLIC KEY"));
    }
}
