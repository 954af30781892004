//! In what tunway and kernel NAT may differ, and why. A difference that is not here fails the test.

use tests::packets::flags;

use crate::generate::{LARGE_MSS, Odd};

/// A difference that is meant.
pub(crate) struct Exception {
    /// Its name in the summary.
    pub(crate) name: &'static str,
    /// Why it is right, or what stands against its being otherwise.
    pub(crate) reason: &'static str,
    /// The packets it is about.
    pub(crate) of: fn(&Odd) -> bool,
}

/// Every packet that may end otherwise than with kernel NAT.
pub(crate) const EXCEPTIONS: &[Exception] = &[
    Exception {
        name: "flags no segment has",
        reason: "connection tracking calls them invalid and the rules never see them (tcp_valid_flags); tunway \
                 leaves them to the endpoint, or answers with a RST where there is no flow",
        of: |odd| odd.flags.is_some_and(|flags| !is_segment(flags)),
    },
    Exception {
        name: "a segment that opens no connection",
        reason: "connection tracking takes up ACKs in the middle but neither RST, FIN nor SYN-ACK of no flow; tunway \
                 answers these with a RST or drops them",
        of: |odd| {
            odd.flags.is_some_and(|all| {
                all & (flags::RST | flags::FIN) != 0 || all & flags::SYN != 0 && all & flags::ACK != 0
            })
        },
    },
    Exception {
        name: "an IPv6 fragment header on a whole datagram",
        reason: "connection tracking reassembles and so takes it away; tunway leaves what is none of its business",
        of: |odd| odd.atomic,
    },
    Exception {
        name: "fragments of a datagram with IPv6 extension headers",
        reason: "connection tracking reassembles and cuts again in other places: a routing header stays in front of \
                 its fragment header; tunway passes fragments as they came",
        of: |odd| odd.fragments > 0 && !odd.extensions.is_empty(),
    },
    Exception {
        name: "IPv6 fragments of a datagram no longer than one of them",
        reason: "connection tracking reassembles it and has no reason to cut it again; tunway passes fragments as they \
                 came",
        of: |odd| odd.joins,
    },
    Exception {
        name: "UDP length below the IP payload",
        reason: "may go once such datagrams are served (RFC 9868)",
        of: |odd| odd.short_udp,
    },
    Exception {
        name: "a SYN whose MSS is too large for the path",
        reason: "the host plan of the return path `connmark` lowers it to the route's MTU (node/table.rs)",
        of: |odd| odd.flags.is_some_and(|all| all & flags::SYN != 0) && odd.tcp_options == LARGE_MSS,
    },
];

/// As `tcp_valid_flags` of the kernel: what is left without ECE, CWR and PSH.
fn is_segment(all: u8) -> bool {
    use flags::{ACK, FIN, RST, SYN};
    const URG: u8 = 0x20;
    let all = all & (FIN | SYN | RST | ACK | URG);
    [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG].contains(&all)
}
