//! SCTP: packets of plain chunks, and the CRC32c from its definition.

use std::net::SocketAddr;

/// Chunk types, RFC 9260 section 3.2.
pub mod chunks {
    /// Payload data.
    pub const DATA: u8 = 0;
    /// Initiation.
    pub const INIT: u8 = 1;
    /// Initiation acknowledgment.
    pub const INIT_ACK: u8 = 2;
    /// Selective acknowledgment.
    pub const SACK: u8 = 3;
    /// Heartbeat request.
    pub const HEARTBEAT: u8 = 4;
    /// Heartbeat acknowledgment.
    pub const HEARTBEAT_ACK: u8 = 5;
    /// Abort.
    pub const ABORT: u8 = 6;
    /// Shutdown.
    pub const SHUTDOWN: u8 = 7;
    /// Shutdown acknowledgment.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Operation error.
    pub const ERROR: u8 = 9;
    /// State cookie.
    pub const COOKIE_ECHO: u8 = 10;
    /// Cookie acknowledgment.
    pub const COOKIE_ACK: u8 = 11;
    /// Shutdown complete.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// The verification tag of every packet but an INIT.
const TAG: u32 = 0x1234_5678;

/// CRC32c by polynomial division, a bit at a time (RFC 9260, appendix A): x^32 times the message, its first 32 bits
/// inverted, divided by 0x1EDC6F41; mirrored, as each byte goes in mirrored, and inverted.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut rest: u32 = !0;
    for byte in bytes {
        rest ^= u32::from(byte.reverse_bits()) << 24;
        for _ in 0..8 {
            let carry = rest & 0x8000_0000 != 0;
            rest <<= 1;
            if carry {
                rest ^= 0x1edc_6f41;
            }
        }
    }
    !rest.reverse_bits()
}

/// A packet of chunks of these types; the last has the payload, the others nothing.
pub(super) fn build(src: SocketAddr, dst: SocketAddr, types: &[u8], payload: &[u8]) -> Vec<u8> {
    let tag = if types == [chunks::INIT] { 0 } else { TAG };
    let mut out = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    out.extend_from_slice(&tag.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    for (n, number) in types.iter().enumerate() {
        let value = if n + 1 == types.len() { payload } else { &[] };
        out.extend_from_slice(&[*number, 0]);
        out.extend_from_slice(&super::fit(4 + value.len()).to_be_bytes());
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    let crc = crc32c(&out);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The verification tag and the types of the chunks of a packet, all of it well formed.
///
/// # Errors
/// A length or the checksum is wrong.
pub fn read(packet: &[u8]) -> Result<(u32, Vec<u8>), String> {
    let Some((header, mut rest)) = packet.split_at_checked(12) else {
        return Err("SCTP shorter than its header".into());
    };
    let blank = [&header[..8], &[0; 4], rest].concat();
    if header[8..] != crc32c(&blank).to_le_bytes() {
        return Err(format!("SCTP checksum {:02x?} is wrong", &header[8..]));
    }
    let mut types = Vec::new();
    while let [number, _, high, low, ..] = *rest {
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len < 4 || len > rest.len() {
            return Err(format!("an SCTP chunk of {len} bytes where {} are", rest.len()));
        }
        types.push(number);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    if types.is_empty() || !rest.is_empty() {
        return Err("SCTP without chunks, or with a piece of one".into());
    }
    Ok((u32::from_be_bytes([header[4], header[5], header[6], header[7]]), types))
}
