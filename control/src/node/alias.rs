//! The host plan by alias destinations: no rule, no mark, rule 0 in its place.
//!
//! Virtual addresses and the ranges of aliases ([`dataplane::packet::alias`]) are routed to the device in the local
//! table, which is asked before everybody's rules; behind each route stands a blackhole, so that nothing leaks while the
//! device is away. One nftables table tells what must go up there by an alias, and turns back what the device emits
//! ([`table`] has the rules and their reasons).
//!
//! All of it is looked after by one thread of its own, synchronously and step by step ([`work`]): whatever hangs there
//! hangs there, and the loop that asks for changes waits for a bounded time. [`AliasHost`] is its end of the channel.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{HostConfig, LocalFrontends, NodeError};

mod convert;
mod routes;
pub(super) mod table;
mod work;

pub(super) use routes::{aliases as alias_ranges, belongs_to_another};

/// What the loop asks for.
#[derive(Debug)]
enum Ask {
    Attract { cidrs: Option<BTreeSet<(IpAddr, u8)>>, vips: BTreeSet<IpAddr> },
    Serve(LocalFrontends),
}

/// A question and where its answer goes.
type Asked = (Ask, oneshot::Sender<Result<(), NodeError>>);
/// What was put back, or why it could not be looked at.
type Repaired = Result<Vec<String>, NodeError>;

/// The plan in place, on a thread that watches and repairs it.
///
/// It belongs to the network namespace of the thread that installs it, and ends when this is dropped; what it put in
/// place stays.
#[derive(Debug)]
pub struct AliasHost {
    asks: mpsc::Sender<Asked>,
    repairs: mpsc::Receiver<Repaired>,
    cidrs: Option<BTreeSet<(IpAddr, u8)>>,
    /// What was asked for and done last.
    attracted: Option<BTreeSet<IpAddr>>,
    served: Option<LocalFrontends>,
}

impl AliasHost {
    /// Device settings, the nftables table, the routes of the aliases and SNAT addresses; not yet those of virtual
    /// addresses. What an earlier process left is taken over, and what one left that steered by rules goes. Idempotent.
    ///
    /// The device must exist.
    ///
    /// # Errors
    /// The device is missing, a SNAT address cannot work on this host, another process owns the table, or the kernel
    /// refuses something.
    pub async fn install(config: HostConfig) -> Result<Self, NodeError> {
        let (asks, asked) = mpsc::channel(1);
        let (tell, repairs) = mpsc::channel(1);
        let (installed, told) = oneshot::channel();
        thread::Builder::new()
            .name("host-plan".to_owned())
            .spawn(move || work::run(config, installed, asked, &tell))
            .map_err(super::host::refused("start a thread for the host plan"))?;
        told.await.map_err(|_| ended())??;
        Ok(Self { asks, repairs, cidrs: None, attracted: None, served: None })
    }

    /// The Service CIDRs are now these: the next [`AliasHost::attract`] routes them, and no others.
    pub fn set_service_cidrs(&mut self, cidrs: &BTreeSet<(IpAddr, u8)>) {
        if self.cidrs.as_ref() != Some(cidrs) {
            self.cidrs = Some(cidrs.clone());
            self.attracted = None;
        }
    }

    /// Routes for the Service CIDRs and for exactly those of `vips` that lie outside them. New routes come before old
    /// ones go. A virtual address that is an address of this host gets none: [`AliasHost::serve`] has its ports.
    ///
    /// # Errors
    /// The device is gone, the kernel refuses something, or the plan's thread does not answer in time; what could be
    /// done is done. The next call tries again, also with the same addresses.
    pub async fn attract(&mut self, vips: &BTreeSet<IpAddr>) -> Result<(), NodeError> {
        if self.attracted.as_ref() == Some(vips) {
            return Ok(());
        }
        self.attracted = None;
        self.ask(Ask::Attract { cidrs: self.cidrs.clone(), vips: vips.clone() }).await?;
        self.attracted = Some(vips.clone());
        Ok(())
    }

    /// Serves exactly these addresses and ports of this host, and keeps what is to be kept.
    ///
    /// # Errors
    /// As [`AliasHost::attract`].
    pub async fn serve(&mut self, local: &LocalFrontends) -> Result<(), NodeError> {
        if self.served.as_ref() == Some(local) {
            return Ok(());
        }
        self.served = None;
        self.ask(Ask::Serve(local.clone())).await?;
        self.served = Some(local.clone());
        Ok(())
    }

    /// Waits until somebody changed something of ours and it was put back; says what. Cancel-safe.
    ///
    /// # Errors
    /// The device is gone, or the kernel cannot be asked any more.
    pub async fn repair(&mut self) -> Repaired {
        self.repairs.recv().await.unwrap_or_else(|| Err(ended()))
    }

    async fn ask(&self, ask: Ask) -> Result<(), NodeError> {
        let (answer, answered) = oneshot::channel();
        let late =
            || NodeError::Other(format!("the host plan is busy for more than {} s", PATIENCE.as_secs()));
        let asked = async {
            self.asks.send((ask, answer)).await.map_err(|_| ended())?;
            answered.await.map_err(|_| ended())?
        };
        timeout(PATIENCE, asked).await.map_err(|_| late())?
    }
}

fn ended() -> NodeError {
    NodeError::Other("the thread of the host plan ended".to_owned())
}

/// A change takes milliseconds; what takes longer hangs, and is asked for again.
const PATIENCE: Duration = Duration::from_secs(5);
