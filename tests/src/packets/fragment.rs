//! Packets cut into fragments, and put together again by the most naive of all reassemblers.

use std::collections::BTreeMap;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header};

/// One fragment of the datagram that `packet` is the whole of: `data` at `offset`, which is a multiple of eight.
///
/// Everything behind the IP header is cut, IPv6 extension headers too; only hop-by-hop options stay in front.
///
/// # Panics
/// When there can be no such fragment.
#[must_use]
pub fn fragment(packet: &[u8], number: u32, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let units = u16::try_from(offset / 8).expect("an offset below 65,536");
    let units = IpFragOffset::try_new(units).expect("thirteen bits");
    if packet[0] >> 4 == 4 {
        let (mut header, _) = Ipv4Header::from_slice(packet).expect("an IPv4 packet");
        header.identification = u16::try_from(number & 0xffff).expect("sixteen bits");
        header.more_fragments = more;
        header.dont_fragment = false;
        header.fragment_offset = units;
        header.set_payload_len(data.len()).expect("a packet of at most 65,535 bytes");
        header.header_checksum = header.calc_header_checksum();
        return [header.to_bytes().as_slice(), data].concat();
    }
    let (mut header, _) = Ipv6Header::from_slice(packet).expect("an IPv6 packet");
    let mut front = packet[40..head(packet)].to_vec();
    let next = match front.first_mut() {
        Some(next) => std::mem::replace(next, IpNumber::IPV6_FRAGMENTATION_HEADER.0),
        None => std::mem::replace(&mut header.next_header, IpNumber::IPV6_FRAGMENTATION_HEADER).0,
    };
    let cut = Ipv6FragmentHeader::new(IpNumber(next), units, more, number);
    header.payload_length =
        u16::try_from(front.len() + 8 + data.len()).expect("a packet of at most 65,535 bytes");
    [&header.to_bytes()[..], &front, &cut.to_bytes(), data].concat()
}

/// The packet in fragments of `size` bytes, which is a multiple of eight.
#[must_use]
pub fn fragments(packet: &[u8], number: u32, size: usize) -> Vec<Vec<u8>> {
    let data = &packet[head(packet)..];
    let count = data.len().div_ceil(size);
    let cut = |(n, piece): (usize, &[u8])| fragment(packet, number, n * size, n + 1 < count, piece);
    data.chunks(size).enumerate().map(cut).collect()
}

/// Bytes of a packet that every fragment of it begins with.
#[must_use]
pub fn head(packet: &[u8]) -> usize {
    match packet[0] >> 4 {
        4 => usize::from(packet[0] & 15) * 4,
        _ if packet[6] == 0 => 40 + 8 * (usize::from(packet[41]) + 1),
        _ => 40,
    }
}

/// A fragment taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What all fragments of the datagram begin with, without what differs from one to another: lengths, offset,
    /// header checksum. In IPv6 the header names what follows the fragment header, as a whole packet's does.
    pub header: Vec<u8>,
    /// The identification.
    pub number: u32,
    /// Where the data belong.
    pub offset: usize,
    /// There is more behind them.
    pub more: bool,
    /// The data.
    pub data: Vec<u8>,
}

impl Cut {
    /// Reads a fragment that `etherparse` takes for one.
    ///
    /// # Errors
    /// It is none, or its lengths or its header checksum are wrong.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.first().is_none_or(|first| first >> 4 == 4) {
            let (header, data) = Ipv4Header::from_slice(bytes).map_err(|error| format!("{error:?}"))?;
            if header.header_checksum != header.calc_header_checksum() {
                return Err("IPv4 header checksum".into());
            }
            if !header.is_fragmenting_payload() || usize::from(header.total_len) != bytes.len() {
                return Err(format!("no fragment, or not its length: {header:?}"));
            }
            let number = u32::from(header.identification);
            let (offset, more) = (usize::from(header.fragment_offset.byte_offset()), header.more_fragments);
            let mut common = header.clone();
            (common.more_fragments, common.fragment_offset) = (false, IpFragOffset::ZERO);
            (common.total_len, common.header_checksum) = (0, 0);
            let header = common.to_bytes().to_vec();
            return Ok(Self { header, number, offset, more, data: data.to_vec() });
        }
        let (mut header, _) = Ipv6Header::from_slice(bytes).map_err(|error| format!("{error:?}"))?;
        if usize::from(header.payload_length) + 40 != bytes.len() {
            return Err("IPv6 payload length".into());
        }
        let start = head(bytes);
        let next = if start > 40 { bytes[40] } else { bytes[6] };
        if next != IpNumber::IPV6_FRAGMENTATION_HEADER.0 {
            return Err("no fragment".into());
        }
        let (cut, data) =
            Ipv6FragmentHeader::from_slice(&bytes[start..]).map_err(|error| format!("{error:?}"))?;
        let mut front = bytes[40..start].to_vec();
        match front.first_mut() {
            Some(next) => *next = cut.next_header.0,
            None => header.next_header = cut.next_header,
        }
        header.payload_length = 0;
        Ok(Self {
            header: [&header.to_bytes()[..], &front].concat(),
            number: cut.identification,
            offset: usize::from(cut.fragment_offset.byte_offset()),
            more: cut.more_fragments,
            data: data.to_vec(),
        })
    }
}

/// The parts of a datagram by offset: whether more follows, and the data.
type Parts = BTreeMap<usize, (bool, Vec<u8>)>;

/// Puts fragments together as they come; anything but disjoint parts of one length is an error.
#[derive(Debug, Default)]
pub struct Reassembler(BTreeMap<(Vec<u8>, u32), Parts>);

impl Reassembler {
    /// Takes a fragment; the whole packet when it was the one that was missing.
    ///
    /// # Errors
    /// It is no fragment, or it overlaps one that came before.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let cut = Cut::read(bytes)?;
        let key = (cut.header, cut.number);
        let parts = self.0.entry(key.clone()).or_default();
        let end = cut.offset + cut.data.len();
        if let Some((offset, (_, data))) =
            parts.iter().find(|(offset, (_, data))| **offset < end && cut.offset < **offset + data.len())
        {
            return Err(format!("{}..{end} overlaps {offset}..{}", cut.offset, offset + data.len()));
        }
        parts.insert(cut.offset, (cut.more, cut.data));
        let mut next = 0;
        let gapless = parts.iter().all(|(offset, (_, data))| {
            let fits = *offset == next;
            next = offset + data.len();
            fits
        });
        let ends = parts.values().filter(|(more, _)| !more).count();
        if !gapless || ends != 1 || parts.values().next_back().is_none_or(|(more, _)| *more) {
            return Ok(None);
        }
        let (mut packet, _) = key.clone();
        self.0.remove(&key).unwrap_or_default().values().for_each(|(_, data)| packet.extend_from_slice(data));
        let length = if packet[0] >> 4 == 4 { packet.len() } else { packet.len() - 40 };
        let length = u16::try_from(length).map_err(|_| "longer than a packet can be".to_owned())?;
        if packet[0] >> 4 == 4 {
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            let (header, _) = Ipv4Header::from_slice(&packet).map_err(|error| format!("{error:?}"))?;
            packet[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        } else {
            packet[4..6].copy_from_slice(&length.to_be_bytes());
        }
        Ok(Some(packet))
    }

    /// Datagrams that are not whole yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.0.len()
    }
}
