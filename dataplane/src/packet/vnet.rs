//! The virtio-net header a TUN with `IFF_VNET_HDR` puts before every packet, and whether it agrees with it.
//!
//! Header lengths do not change under NAT, so a header that agreed when the packet was read is right when
//! it is written back. What the kernel (6.x) sends with `TUNSETOFFLOAD(CSUM|TSO4|TSO6|TSO_ECN|USO4|USO6)`:
//! `NEEDS_CSUM` on TCP and UDP, GSO or not; `DATA_VALID` where a NIC checked a packet; GSO only together
//! with `NEEDS_CSUM`. ICMP is always summed by whoever builds it, and SCTP's CRC32c is finished before the
//! device, as its super-packets are cut (`skb_csum_hwoffload_help`: a TUN has neither `NETIF_F_SCTP_CRC` nor
//! `NETIF_F_GSO_SCTP`, and `TUNSETOFFLOAD` no flag for them). An unfinished one is therefore nobody's who knows SCTP,
//! and a counted drop. A tunnel's packet (IPIP, GRE) may
//! have an unfinished checksum of an inner header.

use super::checksum::field;
use super::layout::{Csum, Kind, Layout};
use super::tuple::{Family, Proto};
use crate::verdict::DropReason;

/// Bytes of `struct virtio_net_hdr`.
pub const VNET_LEN: usize = 10;

/// `struct virtio_net_hdr` (linux/virtio_net.h), native byte order on a TUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHdr {
    /// [`VnetHdr::NEEDS_CSUM`], [`VnetHdr::DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_` constants, and [`VnetHdr::GSO_ECN`].
    pub gso_type: u8,
    /// The kernel's hint of the headers' length, bytes: that of the first buffer. Nothing may rely on it.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where the checksummed bytes start, from the IP header.
    pub csum_start: u16,
    /// Where the checksum is, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// The checksum at `csum_start + csum_offset` holds the pseudo-header's sum only.
    pub const NEEDS_CSUM: u8 = 1;
    /// Whoever handed the packet over has verified its checksum.
    pub const DATA_VALID: u8 = 2;
    /// One packet, one segment.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// UDP, to be cut into IP fragments (UFO).
    pub const GSO_UDP: u8 = 3;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP, to be cut into datagrams (USO).
    pub const GSO_UDP_L4: u8 = 5;
    /// Added to a TCP type: CWR is for the first segment only.
    pub const GSO_ECN: u8 = 0x80;

    /// Reads a header.
    #[inline]
    #[must_use]
    pub fn read(bytes: &[u8; VNET_LEN]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    /// The header's bytes.
    #[inline]
    #[must_use]
    pub fn write(&self) -> [u8; VNET_LEN] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        for (at, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            at.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Checks the header against the packet it came with, `bytes`.
    ///
    /// On TCP and UDP an unfinished checksum must be exactly theirs. An inner one of a [`Kind::Other`] or
    /// [`Kind::Icmp`] packet is none of our business as long as it is inside: we never rewrite those, so it
    /// passes as [`Csum::Full`]. On SCTP and ICMP errors, whose checksums we work on, it contradicts; and on
    /// fragments, as does segmentation: who cuts a datagram has its whole checksum.
    ///
    /// # Errors
    /// `BadVnetHeader` when it points outside the packet or to a checksum not ours, when its segmentation is
    /// not of this family and protocol or has no size, and on flags and types we do not know.
    #[inline]
    pub fn check(&self, layout: &Layout, bytes: &[u8]) -> Result<Csum, DropReason> {
        // The usual header of a packet that is one segment and complete.
        if self.flags & !Self::DATA_VALID == 0 && self.gso_type == Self::GSO_NONE && self.hdr_len == 0 {
            return Ok(Csum::Full);
        }
        let known = self.flags & !(Self::NEEDS_CSUM | Self::DATA_VALID) == 0;
        let whole = self.flags & Self::NEEDS_CSUM == 0 && self.gso_type == Self::GSO_NONE;
        if layout.is_fragment() && !whole {
            return Err(DropReason::BadVnetHeader);
        }
        if known && usize::from(self.hdr_len) <= bytes.len() && self.segmentation_fits(layout, bytes) {
            self.csum(layout, bytes).ok_or(DropReason::BadVnetHeader)
        } else {
            Err(DropReason::BadVnetHeader)
        }
    }

    fn segmentation_fits(&self, layout: &Layout, bytes: &[u8]) -> bool {
        let fits = match self.gso_type & !Self::GSO_ECN {
            // Without segments there is no first one.
            Self::GSO_NONE => return self.gso_type == Self::GSO_NONE,
            Self::GSO_TCPV4 => layout.kind() == Kind::Flow(Proto::Tcp) && layout.family() == Family::V4,
            Self::GSO_TCPV6 => layout.kind() == Kind::Flow(Proto::Tcp) && layout.family() == Family::V6,
            Self::GSO_UDP | Self::GSO_UDP_L4 => {
                // Bytes behind the datagram would be in no segment's checksum.
                let full = layout.l4_end(bytes) == layout.total_len();
                layout.kind() == Kind::Flow(Proto::Udp) && self.gso_type & Self::GSO_ECN == 0 && full
            }
            _ => false,
        };
        fits && self.gso_size != 0
    }

    fn csum(&self, layout: &Layout, bytes: &[u8]) -> Option<Csum> {
        if self.flags & Self::NEEDS_CSUM == 0 {
            return Some(Csum::Full);
        }
        let (start, offset) = (usize::from(self.csum_start), usize::from(self.csum_offset));
        match layout.kind() {
            Kind::Flow(proto) => {
                (start == layout.l4_offset() && Some(offset) == field(proto)).then_some(Csum::Partial)
            }
            Kind::Icmp | Kind::Other => (start + offset + 2 <= bytes.len()).then_some(Csum::Full),
            Kind::IcmpError => None,
        }
    }
}

#[cfg(test)]
mod tests;
