//! What brings packets here, as the loop sees it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::node::alias::AliasHost;
use crate::node::{self, Host, HostConfig, LocalFrontends, NodeError};

/// Installs routes and steering. [`Steered`] in earnest.
pub trait Steering {
    /// The Service CIDRs, for the next [`Steering::attract`].
    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<(IpAddr, u8)>);
    /// Routes for the Service CIDRs, and for exactly those of these addresses that lie outside them.
    fn attract(&mut self, vips: &BTreeSet<IpAddr>) -> impl Future<Output = Result<(), NodeError>>;
    /// Exactly these addresses and ports of this host lead here.
    fn serve(&mut self, local: &LocalFrontends) -> impl Future<Output = Result<(), NodeError>>;
    /// Waits until something had to be put back, and says what. May be dropped at any time.
    fn repair(&mut self) -> impl Future<Output = Result<Vec<String>, NodeError>>;
}

/// The host plan in place, by how it steers.
#[derive(Debug)]
pub enum Steered {
    /// By marks, and rules that look at them.
    Rules(Box<Host>),
    /// By routes of the local table, with alias destinations if sources are kept.
    Alias(AliasHost),
}

impl Steered {
    /// Sets up the host as the configuration wants it.
    ///
    /// # Errors
    /// The device is missing, or the kernel refuses something.
    pub async fn install(config: HostConfig) -> Result<Self, NodeError> {
        match config.steering {
            node::Steering::Alias | node::Steering::Snat => AliasHost::install(config).await.map(Self::Alias),
            node::Steering::Marks(_) => Ok(Self::Rules(Box::new(Host::install(config).await?))),
        }
    }
}

impl Steering for Steered {
    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<(IpAddr, u8)>) {
        match self {
            Self::Rules(host) => host.set_service_cidrs(cidrs),
            Self::Alias(host) => host.set_service_cidrs(cidrs),
        }
    }

    async fn attract(&mut self, vips: &BTreeSet<IpAddr>) -> Result<(), NodeError> {
        match self {
            Self::Rules(host) => host.attract(vips).await,
            Self::Alias(host) => host.attract(vips).await,
        }
    }

    async fn serve(&mut self, local: &LocalFrontends) -> Result<(), NodeError> {
        match self {
            Self::Rules(host) => host.serve(local).await,
            Self::Alias(host) => host.serve(local).await,
        }
    }

    async fn repair(&mut self) -> Result<Vec<String>, NodeError> {
        match self {
            Self::Rules(host) => host.repair().await,
            Self::Alias(host) => host.repair().await,
        }
    }
}
