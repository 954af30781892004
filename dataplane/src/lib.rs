//! tunway's dataplane: packets, flows, Services, NAT, TUN queues and workers. No runtime, no Kubernetes, no clock
//! below [`plane`].
//!
//! # The way of one packet
//!
//! A worker drains its queue into a batch of frames ([`io`]), pins the current world ([`service`]), and gives both to
//! its [`engine`]. There each frame is validated once ([`packet`]), its tuple is looked up in the shared flow table
//! ([`flow`]), and then:
//!
//! - a known flow: two tuples and two checksum differences are applied, nothing else ([`packet::Packet::apply`]);
//! - no flow, a Service's address: decide, choose an endpoint, find a source port, open the flow ([`nat`]);
//! - an ICMP error about a flow: translated inside and outside;
//! - anything else: refused, dropped with its reason ([`verdict`]), or written back unchanged.
//!
//! Every packet gets one verdict and moves one counter ([`stats`]). `ARCHITECTURE.md` has the same walk with file names.

pub mod clock;
pub mod engine;
pub mod flow;
pub mod ids;
pub mod io;
pub mod nat;
pub mod packet;
pub mod plane;
pub mod service;
pub mod stats;
pub mod verdict;

mod sync;
mod worker;
