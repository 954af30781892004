//! What brings packets here, as the loop sees it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::node::{Host, LocalFrontends, NodeError};

/// Installs routes and steering. [`Host`] in earnest.
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

impl Steering for Host {
    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<(IpAddr, u8)>) {
        Self::set_service_cidrs(self, cidrs);
    }

    async fn attract(&mut self, vips: &BTreeSet<IpAddr>) -> Result<(), NodeError> {
        Self::attract(self, vips).await
    }

    async fn serve(&mut self, local: &LocalFrontends) -> Result<(), NodeError> {
        Self::serve(self, local).await
    }

    async fn repair(&mut self) -> Result<Vec<String>, NodeError> {
        Self::repair(self).await
    }
}
