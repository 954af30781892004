//! A client of the Kubernetes API: from a kubeconfig file or from inside the cluster, never through a Service.

use std::net::IpAddr;
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use hyper::{Request, Response};
use kube::client::ClientBuilder;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use thiserror::Error;
use tower::{Layer, Service};

use super::health::Board;
use crate::model::ip;
use crate::source::Kind;

/// Which API server, and as which Node.
#[derive(Clone, Debug, Default)]
pub struct ClientConfig {
    /// The kubeconfig file; none = the service account of the pod we run in. `KUBECONFIG` and `~/.kube/config` are for
    /// people's programs: what a node serves must not hang on who started it.
    pub kubeconfig: Option<PathBuf>,
    /// The context to use of it; none = its current one.
    pub context: Option<String>,
    /// Our Node's name.
    pub node_name: String,
    /// Service CIDRs, address and prefix length. A server inside them is refused.
    pub service_cidrs: Vec<(IpAddr, u8)>,
}

/// Why there is no client. All of them need a person; an API that does not answer is none of them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path} cannot be used: {}", unquoted(.source))]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why not.
        source: Box<KubeconfigError>,
    },
    /// No kubeconfig and not in a cluster.
    #[error("no kubeconfig is given, and there is no pod's service account: {0}")]
    Nowhere(Box<InClusterError>),
    /// The server is a Service, so tunway would need itself to be reached.
    #[error(
        "the API server {server} is {addr}, inside the Service CIDR {network}/{prefix}, and would only be reachable through tunway itself: name a control-plane node's own address as the kubeconfig's server{in_cluster_hint}"
    )]
    ServerInServiceCidr {
        /// The server's URL.
        server: String,
        /// Its address.
        addr: IpAddr,
        /// The Service CIDR's address.
        network: IpAddr,
        /// Its prefix length.
        prefix: u8,
        /// What to do when the configuration came from the cluster itself.
        in_cluster_hint: &'static str,
    },
    /// The server is the Service this pod was told of: tunway would need itself to reach it.
    #[error(
        "the API server {server} is the cluster's own Service `kubernetes`, and would only be reachable through tunway itself: name a control-plane node's own address as its server{in_cluster_hint}"
    )]
    ServerIsService {
        /// The server's URL.
        server: String,
        /// What to do when the configuration came from the cluster itself.
        in_cluster_hint: &'static str,
    },
    /// Certificates, tokens or the URL cannot be used.
    #[error("no client for the API server {server}: {source}")]
    Client {
        /// The server's URL.
        server: String,
        /// Why not.
        source: Box<kube::Error>,
    },
}

impl ApiError {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Kubeconfig { .. } | Self::Client { .. } => {
                "name one that can be used with --kubeconfig FILE, or take Services from --manifests DIR"
            }
            Self::Nowhere(_) => {
                "name one with --kubeconfig FILE, take Services from --manifests DIR, or run in a pod with a \
                 service account"
            }
            Self::ServerIsService { .. } => "name a control-plane node's own address there",
            Self::ServerInServiceCidr { .. } => {
                "change it there, or --service-cidr if that is no Service CIDR of this cluster"
            }
        }
    }
}

/// Why a kubeconfig cannot be used, less its path, which is said already.
fn unquoted(error: &KubeconfigError) -> String {
    if let KubeconfigError::ReadConfig(error, _) = error { error.to_string() } else { error.to_string() }
}

/// A server that does not answer is tried again soon instead of waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than a watch lives ([`super::WATCH_SECONDS`]), so that only a dead connection meets it.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

const IN_CLUSTER_HINT: &str =
    " (in the cluster: set KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT to it)";

/// A client and its server's URL. Nothing is asked of the server yet.
pub(super) async fn client(
    config: &ClientConfig,
    board: Board,
) -> Result<(kube::Client, String, Vec<IpAddr>), ApiError> {
    let (mut kube, hint) = kube_config(config).await?;
    let server = kube.cluster_url.to_string().trim_end_matches('/').to_owned();
    let addresses = addresses(&kube).await;
    if let Some((addr, (network, prefix))) = behind_a_service(&addresses, &config.service_cidrs) {
        return Err(ApiError::ServerInServiceCidr { server, addr, network, prefix, in_cluster_hint: hint });
    }
    if addresses.iter().any(|addr| Some(*addr) == kubernetes_service()) {
        return Err(ApiError::ServerIsService { server, in_cluster_hint: hint });
    }
    // A proxy of the environment is for people's programs; a node talks to its API server directly. One that the
    // kubeconfig itself asks for stays, and is refused by name.
    let environment = ["HTTPS_PROXY", "https_proxy"].iter().find_map(|name| std::env::var(name).ok());
    if kube.proxy_url.as_ref().map(ToString::to_string)
        == environment.and_then(|url| Some(url.parse::<hyper::Uri>().ok()?.to_string()))
    {
        kube.proxy_url = None;
    }
    kube.connect_timeout = Some(CONNECT_TIMEOUT);
    kube.read_timeout = Some(READ_TIMEOUT);
    // The watcher's back-off is all the retrying there should be: retries below it hide a failing server from us.
    kube.default_retry = false;
    let builder = ClientBuilder::try_from(kube);
    let builder =
        builder.map_err(|source| ApiError::Client { server: server.clone(), source: Box::new(source) })?;
    Ok((builder.with_layer(&Witness(board)).build(), server, addresses))
}

async fn kube_config(config: &ClientConfig) -> Result<(kube::Config, &'static str), ApiError> {
    if let Some(path) = &config.kubeconfig {
        let options = KubeConfigOptions { context: config.context.clone(), ..KubeConfigOptions::default() };
        let refused =
            |source| ApiError::Kubeconfig { path: path.display().to_string(), source: Box::new(source) };
        let file = Kubeconfig::read_from(path).map_err(refused)?;
        let config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(refused)?;
        return Ok((config, ""));
    }
    match kube::Config::incluster() {
        Ok(config) => Ok((config, IN_CLUSTER_HINT)),
        Err(error) => Err(ApiError::Nowhere(Box::new(error))),
    }
}

/// The server's addresses. A name that does not resolve now has none and is not judged: the resolver may be behind a
/// Service we do not serve yet.
async fn addresses(config: &kube::Config) -> Vec<IpAddr> {
    let url = &config.cluster_url;
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    if let Some(addr) = ip::parse(host) {
        return vec![addr];
    }
    let lookup = tokio::net::lookup_host((host, url.port_u16().unwrap_or(443)));
    match tokio::time::timeout(CONNECT_TIMEOUT, lookup).await {
        Ok(Ok(found)) => found.map(|addr| addr.ip().to_canonical()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// The ClusterIP of the Service `kubernetes` as the kubelet tells every pod. Where `KUBERNETES_SERVICE_HOST` was set to
/// a node's address, as it has to be here, this variable still says the Service's.
fn kubernetes_service() -> Option<IpAddr> {
    std::env::var("KUBERNETES_PORT_443_TCP_ADDR").ok().and_then(|addr| ip::parse(&addr))
}

/// The first of the server's addresses that is in a Service CIDR.
fn behind_a_service(addresses: &[IpAddr], cidrs: &[(IpAddr, u8)]) -> Option<(IpAddr, (IpAddr, u8))> {
    addresses.iter().find_map(|addr| {
        let cidr = cidrs.iter().find(|cidr| ip::contains(**cidr, *addr))?;
        Some((*addr, *cidr))
    })
}

/// Sees every answer of the server and notes watches that began. The watcher itself says nothing when it resumes
/// after an error and nothing has changed meanwhile.
#[derive(Clone, Debug)]
struct Witness(Board);

/// [`Witness`] around a client's services.
#[derive(Clone, Debug)]
struct Witnessed<S> {
    inner: S,
    board: Board,
}

impl<S> Layer<S> for Witness {
    type Service = Witnessed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Witnessed { inner, board: self.0.clone() }
    }
}

impl<S, Req, Res> Service<Request<Req>> for Witnessed<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let watch =
            request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
        let kind = kind_of(request.uri().path()).filter(|_| watch);
        let board = self.board.clone();
        let answer = self.inner.call(request);
        async move {
            let response = answer.await?;
            if let Some(kind) = kind.filter(|_| response.status().is_success()) {
                board.succeeded(kind);
            }
            Ok(response)
        }
        .boxed()
    }
}

fn kind_of(path: &str) -> Option<Kind> {
    match path.rsplit('/').next() {
        Some("services") => Some(Kind::Service),
        Some("endpointslices") => Some(Kind::Slice),
        Some("nodes") => Some(Kind::Node),
        Some("servicecidrs") => Some(Kind::ServiceCidr),
        Some(_) | None => None,
    }
}
