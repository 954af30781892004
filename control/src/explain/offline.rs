//! A world out of manifests, on a node that need not exist.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataplane::service::{BuildError, Snapshot, World};

use super::name::Named;
use super::{Explanation, Ground, Question, explain};
use crate::compile::{Compiler, Rules};
use crate::config::Config;
use crate::config::detect::DetectLocal;
use crate::desired::Desired;
use crate::model::{Node, Problem};
use crate::node::Surroundings;
use crate::run::fabric::Parts;
use crate::source::manifests;

/// A node as the configuration describes it.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name, addresses and zone. What is empty here is taken from its Node object, if the manifests have it.
    pub node: Node,
    /// What snapshots know besides Services, as far as it is configured.
    pub parts: Parts,
    /// What Services may have.
    pub rules: Rules,
    /// How local pods are told.
    pub detect: DetectLocal,
}

impl Site {
    /// The node of this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            node: Node { name: config.node_name.clone(), ..config.node.clone() },
            parts: Parts::new(config, Vec::new()),
            rules: config.rules.clone(),
            detect: config.detect_local.clone(),
        }
    }
}

/// Manifests, compiled.
#[derive(Debug)]
pub struct Offline {
    desired: Desired,
    compiler: Compiler,
    world: Arc<World>,
    parts: Parts,
    detect: DetectLocal,
}

/// Why manifests make no world.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The directory cannot be read.
    #[error("cannot read the manifests in {path}: {source}")]
    Manifests {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What was configured contradicts itself, or the objects do.
    #[error("the objects make no world: {0}")]
    Build(#[from] BuildError),
    /// Nothing came of a complete list, which is a bug.
    #[error("the objects made no world")]
    Nothing,
}

impl Offline {
    /// Reads a directory as a run does, and compiles its objects for this node.
    ///
    /// # Errors
    /// The directory cannot be read, or what is configured cannot be.
    pub fn load(directory: &Path, site: Site) -> Result<Self, OfflineError> {
        Self::load_here(directory, site, None)
    }

    /// The same, on a host that is like this.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_here(directory: &Path, site: Site, here: Option<Surroundings>) -> Result<Self, OfflineError> {
        let mut desired = Desired::on(site.node);
        let events = manifests::read_once(directory, &desired.node().name)
            .map_err(|source| OfflineError::Manifests { path: directory.to_owned(), source })?;
        events.into_iter().for_each(|event| desired.apply(event));
        let node = desired.node();

        let mut parts = site.parts;
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let assumed = || {
            let hosts = node.addresses.iter().copied().chain(loopback).collect();
            Surroundings { hosts, ..Surroundings::default() }
        };
        parts.surround(here.unwrap_or_else(assumed));
        let mut compiler = Compiler::new(parts.fabric(&desired));
        compiler.set_rules(site.rules);
        // No flow is older than this world.
        let world = compiler.compile(&mut desired, &mut || 1)?.ok_or(OfflineError::Nothing)?;
        Ok(Self { desired, compiler, world, parts, detect: site.detect })
    }

    /// Explains what a new flow would get here.
    #[must_use]
    pub fn explain(&self, question: &Question) -> Option<Explanation> {
        let World::Ready(world) = &*self.world else { return None };
        Some(explain(&self.ground(world), question))
    }

    /// What is wrong with the objects, as a run would tell.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        let Self { desired, compiler, parts, .. } = self;
        let found = [
            compiler.problems().clone(),
            desired.problems().clone(),
            parts.left_out(desired),
            parts.spared(desired, compiler.frontends()),
        ];
        let waits = parts.waits_for(desired.node());
        found.into_iter().flat_map(BTreeMap::into_values).flatten().chain(waits)
    }

    /// Every service port by its name.
    #[must_use]
    pub fn named(&self) -> Vec<Named> {
        let World::Ready(world) = &*self.world else { return Vec::new() };
        let named = world.services().map(|service| Named {
            name: service.name.to_string(),
            proto: service.port.proto.to_string(),
            at: SocketAddr::new(service.cluster_ip, service.port.port),
        });
        named.collect()
    }

    /// Service ports with endpoints, in words.
    #[must_use]
    pub fn served(&self) -> Vec<String> {
        let World::Ready(world) = &*self.world else { return Vec::new() };
        let with_endpoints = world.services().filter(|service| !service.backends.is_empty());
        let mut served: Vec<_> = with_endpoints
            .map(|service| {
                let at = SocketAddr::new(service.cluster_ip, service.port.port);
                let endpoints = super::count(service.backends.len(), "endpoint");
                format!(
                    "Service {}: {at} {}, {endpoints}",
                    super::key_of(&service.name).0,
                    service.port.proto
                )
            })
            .collect();
        served.sort();
        served
    }

    fn ground<'a>(&'a self, world: &'a Snapshot) -> Ground<'a> {
        let Self { desired, compiler, detect, parts, .. } = self;
        Ground { world, desired, compiler, detect, hosts: parts.addresses() }
    }
}
