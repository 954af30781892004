//! What became of a packet. Every packet gets exactly one verdict and moves exactly one counter.

/// The end of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a packet without its verdict is a packet lost"]
pub enum Verdict {
    /// Translated; written back.
    Translated,
    /// None of ours; written back unchanged.
    Passed,
    /// Consumed: the answer (ICMP error or RST) is in a reply frame.
    Replied,
    /// Dropped, for this reason.
    Dropped(DropReason),
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])+ $name:ident = $label:literal,)+) => {
        /// Why a packet was dropped. The number indexes the counters; a new reason is a new counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])+ $name,)+ }

        impl DropReason {
            /// Every reason, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason's stable name, as counters and tables print it.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Fewer bytes than a virtio-net header, or than an IP header.
    Truncated = "truncated",
    /// The IP version is neither 4 nor 6.
    BadVersion = "bad_version",
    /// IPv4 IHL below 5 or beyond the packet.
    BadHeaderLength = "bad_header_length",
    /// The IP total length is below the headers or beyond the buffer.
    BadTotalLength = "bad_total_length",
    /// The IPv4 header checksum is wrong.
    BadHeaderChecksum = "bad_header_checksum",
    /// The layer-4 header does not fit the packet, or its own length field lies.
    BadL4Header = "bad_l4_header",
    /// IPv6 extension headers that never end, are too many, or run out of the packet.
    BadExtensionHeader = "bad_extension_header",
    /// An IPv6 routing header with segments left: the address in the header is not the destination.
    RoutingHeader = "routing_header",
    /// The virtio-net header contradicts the packet: checksum start, offset or GSO fields are not ours.
    BadVnetHeader = "bad_vnet_header",
    /// A source or destination that must not be on the wire: loopback, unspecified, broadcast source.
    Martian = "martian",
    /// Multicast, broadcast or link-local destination: never Service traffic.
    NotUnicast = "not_unicast",
    /// A fragment without bytes, beyond 65,535, not the last and no multiple of 8 long, or one that contradicts
    /// the end of its datagram.
    BadFragment = "bad_fragment",
    /// A first fragment without all headers, or a later one where headers must have been (RFC 1858, RFC 7112).
    TinyFragment = "tiny_fragment",
    /// A fragment whose bytes were all seen before.
    FragmentDuplicate = "fragment_duplicate",
    /// A fragment that overlaps others of its datagram, and every later one of that (RFC 5722).
    FragmentOverlap = "fragment_overlap",
    /// A fragment of a datagram that arrives in more disorder than is kept track of.
    FragmentDisorder = "fragment_disorder",
    /// A fragment that waited for its datagram's first one, and not long enough.
    FragmentTimeout = "fragment_timeout",
    /// A fragment that could not wait, or not go on waiting, because too many did.
    FragmentsFull = "fragments_full",
    /// A later fragment of a datagram that was refused.
    FragmentRefused = "fragment_refused",
    /// A fragment of an SCTP packet whose ports would change, or that would open a flow: its checksum cannot follow.
    SctpFragment = "sctp_fragment",
    /// SCTP of no known association that begins none: data, ABORT, COOKIE ACK, SHUTDOWN COMPLETE (RFC 9260, section 8.4).
    OutOfTheBlue = "out_of_the_blue",
    /// An ICMP error whose embedded packet cannot be read.
    BadIcmpError = "bad_icmp_error",
    /// An ICMP error to one of our addresses about no known flow, or about one it does not belong to.
    UnmatchedIcmpError = "unmatched_icmp_error",
    /// An ICMP redirect about a translated flow.
    IcmpRedirect = "icmp_redirect",
    /// A new flow while no complete snapshot has been published yet.
    NotReady = "not_ready",
    /// To a SNAT address, or to an alias, and no flow knows it.
    NoFlow = "no_flow",
    /// To an address that leads to the device alone and that no Service has (any more): it cannot go on.
    NotServed = "not_served",
    /// A policy of `Local` finds no endpoint on this node.
    NoLocalEndpoint = "no_local_endpoint",
    /// `loadBalancerSourceRanges` do not have the client.
    SourceRange = "source_range",
    /// An unallocated address of a Service CIDR.
    UnallocatedVip = "unallocated_vip",
    /// An answer was due, but the limiter of answers was empty.
    ReplyLimited = "reply_limited",
    /// An answer was due, but the packet is one that must never be answered, or there was no room for it.
    NotAnswerable = "not_answerable",
    /// No free flow record, and nothing that may be evicted.
    TableFull = "table_full",
    /// Both home buckets of the tuple are full of live flows.
    BucketFull = "bucket_full",
    /// No source port makes the reply tuple unique.
    PortsExhausted = "ports_exhausted",
    /// A raced open that stayed unresolved for 20 ms, or found no room to wait.
    Raced = "raced",
    /// A UDP packet from a withdrawn endpoint.
    StaleEndpoint = "stale_endpoint",
    /// The device did not take the packet.
    WriteFailed = "write_failed",
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_its_counters_index_and_its_label_is_unique() {
        let mut labels = std::collections::BTreeSet::new();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(labels.insert(reason.label()), "{} twice", reason.label());
        }
    }
}
