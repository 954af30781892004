//! The plan in place: routes of the local table and one nftables table; no rule, no mark.
//!
//! Virtual addresses and the ranges of aliases ([`dataplane::packet::alias`]) are routed to the device in the local
//! table, which is asked before everybody's rules; behind each route stands a blackhole, so that nothing leaks while the
//! device is away. One nftables table tells what must go up there by an alias, and turns back what the device emits
//! ([`table`] has the rules and their reasons).
//!
//! All of it is looked after by one thread of its own, synchronously and step by step ([`work`]): whatever hangs there
//! hangs there, and the loop that asks for changes waits for a bounded time. [`Host`] is its end of the channel.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::netlink::Netlink;
use super::rt::Family;
use super::view::HostView;
use super::{HostConfig, LocalFrontends, NodeError};

mod routes;
mod table;
mod work;

pub(super) use routes::{aliases as alias_ranges, belongs_to_another, with_backstop as route_with_backstop};
pub(super) use table::{NAME as NFT_TABLE, check as check_table, remove as remove_table};

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
pub struct Host {
    /// Until this is dropped.
    asks: Option<mpsc::Sender<Asked>>,
    repairs: mpsc::Receiver<Repaired>,
    /// Closed when the thread ends.
    ended: std::sync::mpsc::Receiver<()>,
    cidrs: Option<BTreeSet<(IpAddr, u8)>>,
    /// What was asked for and done last.
    attracted: Option<BTreeSet<IpAddr>>,
    served: Option<LocalFrontends>,
}

impl Host {
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
        let (alive, ended_at) = std::sync::mpsc::channel();
        thread::Builder::new()
            .name("host-plan".to_owned())
            .spawn(move || {
                work::run(config, installed, asked, &tell);
                drop::<std::sync::mpsc::Sender<()>>(alive);
            })
            .map_err(refused("start a thread for the host plan"))?;
        told.await.map_err(|_| ended())??;
        Ok(Self { asks: Some(asks), repairs, ended: ended_at, cidrs: None, attracted: None, served: None })
    }

    /// The Service CIDRs are now these: the next [`Host::attract`] routes them, and no others.
    pub fn set_service_cidrs(&mut self, cidrs: &BTreeSet<(IpAddr, u8)>) {
        if self.cidrs.as_ref() != Some(cidrs) {
            self.cidrs = Some(cidrs.clone());
            self.attracted = None;
        }
    }

    /// Routes for the Service CIDRs and for exactly those of `vips` that lie outside them. New routes come before old
    /// ones go. A virtual address that is an address of this host gets none: [`Host::serve`] has its ports.
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
    /// As [`Host::attract`].
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
            let asks = self.asks.as_ref().ok_or_else(ended)?;
            asks.send((ask, answer)).await.map_err(|_| ended())?;
            answered.await.map_err(|_| ended())?
        };
        timeout(PATIENCE, asked).await.map_err(|_| late())?
    }
}

impl Drop for Host {
    /// The next one may install right away: the nftables table has no owner any more.
    fn drop(&mut self) {
        self.asks = None;
        self.repairs.close();
        // Only ever closed. A thread that hangs is left behind.
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

fn ended() -> NodeError {
    NodeError::Other("the thread of the host plan ended".to_owned())
}

/// The host as it is now.
pub(super) fn read(
    netlink: &mut Netlink,
    config: &HostConfig,
    vips: Option<&BTreeSet<IpAddr>>,
) -> Result<HostView, NodeError> {
    let mut ours = config.service_cidrs.clone();
    let hosts = config.snat.iter().chain(vips.into_iter().flatten());
    ours.extend(hosts.map(|address| (*address, Family::of(*address).bits())));
    HostView::read(netlink, &config.device, &ours).map_err(refused("read links and addresses"))
}

/// Turns the kernel's word into an error that says what was being done.
pub(super) fn refused(doing: &str) -> impl FnOnce(io::Error) -> NodeError {
    let doing = doing.to_owned();
    move |source| NodeError::Refused { doing, source }
}

/// A change takes milliseconds; what takes longer hangs, and is asked for again.
const PATIENCE: Duration = Duration::from_secs(5);
