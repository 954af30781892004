//! IPv6 extension headers, RFC 8200 section 4: from the fixed header to the one a NAT cares about. Never on
//! the way of a plain packet.

use crate::verdict::DropReason;

/// Headers a chain may have. RFC 8200 knows six, one of them twice.
const MAX_HEADERS: usize = 8;
/// Where the chain starts.
const FIXED_HEADER: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Where a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// The protocol the last header names. ESP, "no next header" and everything unknown end a chain.
    pub(super) protocol: u8,
    /// Where that protocol's header starts, bytes from the IPv6 header.
    pub(super) offset: usize,
    /// The fragment header, if it says that there is more of the datagram than this packet. An atomic fragment
    /// (RFC 6946) is a whole packet.
    pub(super) fragment: Option<FragmentHeader>,
}

/// What an IPv6 fragment header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FragmentHeader {
    /// Where it stands, bytes from the IPv6 header. What follows its eight bytes is the fragment.
    pub(super) at: usize,
    /// Which bytes of the datagram follow, from its start.
    pub(super) offset: u16,
    /// They are not the last ones.
    pub(super) more: bool,
}

impl FragmentHeader {
    /// Its length, bytes.
    pub(super) const LEN: usize = 8;

    /// None for an atomic fragment. The two reserved bits say nothing.
    fn read(header: &[u8; 8], at: usize) -> Option<Self> {
        let bits = u16::from_be_bytes([header[2], header[3]]);
        (bits & 0xfff9 != 0).then_some(Self { at, offset: bits & 0xfff8, more: bits & 1 != 0 })
    }
}

impl Chain {
    /// It is a fragment other than the first: what follows is payload, no header.
    pub(super) fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|header| header.offset != 0)
    }
}

/// Walks the chain of a packet whose fixed header is there and names `protocol`. A fragment other than the
/// first ends it.
///
/// # Errors
/// `BadExtensionHeader` when it leaves the packet, has more than eight headers, two fragment headers, or
/// hop-by-hop options elsewhere than in front; `TinyFragment` when it leaves a first fragment, which must hold the
/// whole chain (RFC 7112); `RoutingHeader` when segments are left.
#[cold]
pub(super) fn walk(packet: &[u8], mut protocol: u8) -> Result<Chain, DropReason> {
    let mut offset = FIXED_HEADER;
    let (mut fragment, mut fragment_headers) = (None, 0);
    for _ in 0..=MAX_HEADERS {
        if !matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            return Ok(Chain { protocol, offset, fragment });
        }
        // Nothing but a first fragment has a fragment header behind it here.
        let cut = if fragment.is_some() { DropReason::TinyFragment } else { DropReason::BadExtensionHeader };
        // No header is shorter than eight bytes.
        let header: &[u8; 8] = packet.get(offset..).and_then(<[u8]>::first_chunk).ok_or(cut)?;
        let units = usize::from(header[1]);
        let len = match protocol {
            FRAGMENT => {
                fragment_headers += 1;
                // RFC 8200 has it once. Of two, the second would hide what the first says.
                if fragment_headers > 1 {
                    return Err(DropReason::BadExtensionHeader);
                }
                fragment = FragmentHeader::read(header, offset);
                FragmentHeader::LEN
            }
            AUTHENTICATION => 4 * (units + 2),
            HOP_BY_HOP if offset != FIXED_HEADER => return Err(DropReason::BadExtensionHeader),
            ROUTING if header[3] != 0 => return Err(DropReason::RoutingHeader),
            _ => 8 * (units + 1),
        };
        protocol = header[0];
        offset += len;
        if offset > packet.len() {
            return Err(cut);
        }
        let chain = Chain { protocol, offset, fragment };
        if chain.is_later_fragment() {
            return Ok(chain);
        }
    }
    Err(DropReason::BadExtensionHeader)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of a blank fixed header and these bytes.
    fn packet(chain: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0; FIXED_HEADER];
        packet.extend(chain.concat());
        packet
    }

    fn options(next: u8) -> [u8; 8] {
        [next, 0, 1, 4, 0, 0, 0, 0]
    }

    fn end(protocol: u8, offset: usize) -> Result<Chain, DropReason> {
        Ok(Chain { protocol, offset, fragment: None })
    }

    #[test]
    fn every_walked_header_is_stepped_over_by_its_own_length() {
        assert_eq!(walk(&packet(&[]), 6), end(6, 40));
        assert_eq!(walk(&packet(&[&options(6)]), HOP_BY_HOP), end(6, 48));
        let long = [&[17, 2][..], &[0; 22]].concat();
        assert_eq!(walk(&packet(&[&long]), DESTINATION), end(17, 64));
        let spent = [6, 2, 4, 0, 0, 0, 0, 0];
        assert_eq!(walk(&packet(&[&spent, &[0; 16]]), ROUTING), end(6, 64));
        // The authentication header counts words of four bytes, less two.
        let auth = [&[132, 4][..], &[0; 22]].concat();
        assert_eq!(walk(&packet(&[&auth]), AUTHENTICATION), end(132, 64));
        let all =
            [&options(DESTINATION)[..], &options(ROUTING), &[51, 0, 0, 0, 0, 0, 0, 0], &auth[..]].concat();
        assert_eq!(walk(&packet(&[&all]), HOP_BY_HOP), end(132, 88));
    }

    #[test]
    fn esp_nothing_and_unknown_protocols_end_a_chain() {
        for protocol in [50, 59, 47, 135, 255] {
            assert_eq!(walk(&packet(&[&options(protocol)]), DESTINATION), end(protocol, 48));
        }
    }

    #[test]
    fn segments_left_are_refused() {
        assert_eq!(walk(&packet(&[&[6, 0, 0, 1, 0, 0, 0, 0]]), ROUTING), Err(DropReason::RoutingHeader));
    }

    #[test]
    fn an_atomic_fragment_is_a_whole_packet_and_others_are_named() {
        let fragment =
            |bits: [u8; 2]| walk(&packet(&[&[6, 0, bits[0], bits[1], 1, 2, 3, 4]]), FRAGMENT).unwrap();
        assert_eq!(Ok(fragment([0, 0])), end(6, 48));
        // The two reserved bits say nothing.
        assert_eq!(Ok(fragment([0, 6])), end(6, 48));
        let header = |offset, more| Some(FragmentHeader { at: 40, offset, more });
        assert_eq!(
            (fragment([0, 1]).fragment, fragment([0, 1]).is_later_fragment()),
            (header(0, true), false)
        );
        assert_eq!(
            (fragment([0, 8]).fragment, fragment([0, 8]).is_later_fragment()),
            (header(8, false), true)
        );
    }

    #[test]
    fn a_first_fragment_holds_the_whole_chain_and_one_fragment_header() {
        let first = [DESTINATION, 0, 0, 1, 0, 0, 0, 9];
        let chain = walk(&packet(&[&first, &options(17)]), FRAGMENT).unwrap();
        assert_eq!((chain.protocol, chain.offset, chain.fragment.unwrap().at), (17, 56, 40));
        for short in [
            &first[..],
            &[&first[..], &options(17)[..7]].concat(),
            &[&first[..], &[17, 1, 0, 0, 0, 0, 0, 0]].concat(),
        ] {
            assert_eq!(walk(&packet(&[short]), FRAGMENT), Err(DropReason::TinyFragment));
        }
        // An inner header that says "whole" does not undo an outer one that says "first".
        for outer in [first, [DESTINATION, 0, 0, 0, 0, 0, 0, 9]] {
            let nested = [FRAGMENT, outer[1], outer[2], outer[3], 0, 0, 0, 9];
            let bytes = packet(&[&nested, &[17, 0, 0, 0, 0, 0, 0, 9], &[0; 8]]);
            assert_eq!(walk(&bytes, FRAGMENT), Err(DropReason::BadExtensionHeader));
        }
    }

    #[test]
    fn what_follows_a_later_fragment_is_no_header() {
        let later = [DESTINATION, 0, 1, 0, 0, 0, 0, 0];
        assert_eq!(walk(&packet(&[&later, &[0xff; 8]]), FRAGMENT).unwrap().offset, 48);
    }

    #[test]
    fn chains_that_leave_the_packet_are_refused() {
        assert_eq!(walk(&packet(&[]), HOP_BY_HOP), Err(DropReason::BadExtensionHeader));
        assert_eq!(walk(&packet(&[&options(6)[..7]]), HOP_BY_HOP), Err(DropReason::BadExtensionHeader));
        assert_eq!(
            walk(&packet(&[&[6, 255, 0, 0, 0, 0, 0, 0]]), DESTINATION),
            Err(DropReason::BadExtensionHeader)
        );
        assert_eq!(walk(&packet(&[&[0; 8]]), HOP_BY_HOP), Err(DropReason::BadExtensionHeader));
    }

    #[test]
    fn chains_without_end_are_refused() {
        let step = options(DESTINATION);
        let chain = |n: usize| [&step.repeat(n - 1)[..], &options(6)].concat();
        assert_eq!(walk(&packet(&[&chain(MAX_HEADERS)]), DESTINATION), end(6, 40 + 8 * MAX_HEADERS));
        assert_eq!(
            walk(&packet(&[&chain(MAX_HEADERS + 1)]), DESTINATION),
            Err(DropReason::BadExtensionHeader)
        );
        assert_eq!(walk(&packet(&[&step.repeat(8000)]), DESTINATION), Err(DropReason::BadExtensionHeader));
    }
}
