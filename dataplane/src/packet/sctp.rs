//! SCTP (RFC 9260): the chunk of a packet that matters to its flow, and the checksum of the packet.
//!
//! The checksum is a CRC32c over header and chunks, without a pseudo-header: other addresses need nothing, other
//! ports need another CRC. It is not computed anew but follows from the old one. A CRC is linear: those of two
//! packets of one length differ by what the difference of the packets leaves, and that is 32 bits of ports, moved
//! up by the length of the packet. So the cost is that of two multiplications whatever the length, and a packet that
//! was corrupt stays corrupt, as with the other checksums. The price is that the length must be known: of a packet in
//! fragments the first one, which has ports and checksum, does not know it. See `nat/fragment.rs`.

use super::layout::L4Flags;

/// Bytes of the common header: ports, verification tag, checksum.
pub(super) const HEADER: usize = 12;
/// Bytes of a chunk's header: type, flags, length.
pub(super) const CHUNK_HEADER: usize = 4;
/// Where in the common header the checksum is.
pub(super) const CHECKSUM: usize = 8;
/// Chunks that are looked at. Those that matter come before all data (section 6.10), hardly ever more than two.
const MAX_CHUNKS: usize = 8;
/// The types of chunks that carry data: DATA, and I-DATA of RFC 8260.
const DATA: [u8; 2] = [0, 64];
/// The polynomial of CRC32c (RFC 9260, appendix A), the bit of the highest power last.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The one chunk of a packet that moves its association, by RFC 9260's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Chunk {
    /// Data, their acknowledgments, and whatever else changes no state.
    Other = 0,
    /// Opens an association; the verification tag is 0, as it must be (section 8.5.1).
    Init = 1,
    /// Answers it.
    InitAck = 2,
    /// Asks whether the other end is there.
    Heartbeat = 4,
    /// It is.
    HeartbeatAck = 5,
    /// Ends the association at once.
    Abort = 6,
    /// No more data from the sender.
    Shutdown = 7,
    /// Nor from the one who says this.
    ShutdownAck = 8,
    /// Something was wrong; a stale cookie, for instance.
    Error = 9,
    /// The client's second step.
    CookieEcho = 10,
    /// The server's: the association is there.
    CookieAck = 11,
    /// The association is over.
    ShutdownComplete = 14,
}

impl Chunk {
    /// The chunk a layout was found to have; [`Chunk::Other`] for numbers that mean nothing.
    #[must_use]
    pub const fn of(flags: L4Flags) -> Self {
        match flags.0 {
            1 => Self::Init,
            2 => Self::InitAck,
            4 => Self::Heartbeat,
            5 => Self::HeartbeatAck,
            6 => Self::Abort,
            7 => Self::Shutdown,
            8 => Self::ShutdownAck,
            9 => Self::Error,
            10 => Self::CookieEcho,
            11 => Self::CookieAck,
            14 => Self::ShutdownComplete,
            _ => Self::Other,
        }
    }

    /// As a layout keeps it.
    #[must_use]
    pub const fn flags(self) -> L4Flags {
        L4Flags(self as u8)
    }

    /// Whether a packet with it opens a flow where none is known: what the kernel's connection tracking takes for
    /// new (`sctp_new`). The endpoint answers what it does not know (section 8.4). Data cannot be the beginning,
    /// and to the others nobody may answer.
    #[must_use]
    pub const fn opens(self) -> bool {
        !matches!(self, Self::Other | Self::Abort | Self::ShutdownComplete | Self::CookieAck)
    }

    /// Whether it comes alone, or before all others (sections 3.3.11, 3.3.12, 6.10).
    const fn must_be_first(self) -> bool {
        matches!(
            self,
            Self::Init | Self::InitAck | Self::CookieEcho | Self::CookieAck | Self::ShutdownComplete
        )
    }

    /// What of several chunks in one packet matters more.
    const fn weight(self) -> u8 {
        match self {
            Self::Other => 0,
            Self::Heartbeat | Self::HeartbeatAck | Self::Error => 1,
            Self::Init
            | Self::InitAck
            | Self::CookieEcho
            | Self::CookieAck
            | Self::Shutdown
            | Self::ShutdownAck
            | Self::ShutdownComplete => 2,
            Self::Abort => 3,
        }
    }
}

/// The chunk that matters of a packet; `cut` says that only its beginning is here. `None` when it has no whole
/// common header, no chunk, or a first chunk that is shorter than its header or longer than the packet.
pub(super) fn read(packet: &[u8], cut: bool) -> Option<Chunk> {
    let tagged = packet.get(4..8)? != [0; 4];
    let mut rest = packet.get(HEADER..)?;
    let mut found = None;
    for _ in 0..MAX_CHUNKS {
        let Some(&[number, _, high, low]) = rest.first_chunk() else { break };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len < CHUNK_HEADER || (len > rest.len() && !cut) {
            break;
        }
        let mut chunk = Chunk::of(L4Flags(number));
        let out_of_place = found.is_some() && chunk.must_be_first();
        if out_of_place || (chunk == Chunk::Init && tagged) {
            chunk = Chunk::Other;
        }
        if found.is_none_or(|before: Chunk| before.weight() < chunk.weight()) {
            found = Some(chunk);
        }
        if DATA.contains(&number) {
            break;
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Makes the checksum follow ports that were `old`, in network order, and have been replaced. `packet` is the beginning
/// of one that is `len` bytes long; a checksum that is not in it is left to whoever has it.
///
/// # Panics
/// There are fewer than four bytes.
#[inline]
pub(super) fn follow(packet: &mut [u8], len: usize, old: [u8; 4]) {
    let new = [packet[0], packet[1], packet[2], packet[3]];
    if old == new {
        return;
    }
    if let Some(field) = packet.get_mut(CHECKSUM..HEADER) {
        let change = moved_up(u32::from_le_bytes(old) ^ u32::from_le_bytes(new), len);
        let checksum = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
        field.copy_from_slice(&(checksum ^ change).to_le_bytes());
    }
}

/// Whether a whole packet's checksum is right.
pub(super) fn is_intact(packet: &[u8]) -> bool {
    let Some((header, chunks)) = packet.split_at_checked(HEADER) else { return false };
    let crc = [&header[..CHECKSUM], &[0; 4], chunks].iter().fold(u32::MAX, |crc, bytes| crc32c(crc, bytes));
    // The least significant byte goes first: appendix A.
    header[CHECKSUM..] == (!crc).to_le_bytes()
}

/// CRC32c of more bytes, from the register's value before them; not complemented.
fn crc32c(register: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(register, |crc, byte| BYTES[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ crc >> 8)
}

/// What a difference in the first 32 bits of `len` bytes leaves in the CRC: the difference times x^(8·len).
#[inline]
fn moved_up(difference: u32, len: usize) -> u32 {
    times(times(difference, POWERS[0][len & 0xff]), POWERS[1][len >> 8 & 0xff])
}

/// Multiplies polynomials modulo that of the CRC. The highest bit is the one of x^0.
const fn times(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    while a != 0 {
        product ^= b & 0_u32.wrapping_sub(a >> 31);
        a <<= 1;
        b = by_x(b);
    }
    product
}

const fn by_x(a: u32) -> u32 {
    a >> 1 ^ (POLYNOMIAL & 0_u32.wrapping_sub(a & 1))
}

/// x^(8·n), and x^(8·256·n).
static POWERS: [[u32; 256]; 2] = {
    let mut powers = [[1 << 31; 256]; 2];
    let mut n = 1;
    while n < 256 {
        powers[0][n] = times(powers[0][n - 1], 1 << 23);
        n += 1;
    }
    let step = times(powers[0][255], 1 << 23);
    n = 1;
    while n < 256 {
        powers[1][n] = times(powers[1][n - 1], step);
        n += 1;
    }
    powers
};

/// What a byte leaves in the register: the byte times x^8.
static BYTES: [u32; 256] = {
    let mut bytes = [0; 256];
    let mut byte: u32 = 0;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = by_x(crc);
            bit += 1;
        }
        bytes[byte as usize] = crc;
        byte += 1;
    }
    bytes
};

#[cfg(test)]
mod tests;
