//! The numbers of a TCP segment.

use super::layout::Layout;

/// Sequence and acknowledgment number of a TCP segment. Without its ACK flag the latter means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Of its first byte.
    pub seq: u32,
    /// The next byte its sender expects.
    pub ack: u32,
}

impl Numbers {
    /// Of a packet of TCP whose layout was found; zero if `bytes` is not that packet.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of 64 bits")]
    pub fn of(bytes: &[u8], layout: &Layout) -> Self {
        let found = bytes.get(layout.l4_offset() + 4..).and_then(<[u8]>::first_chunk);
        let both = found.map_or(0, |both| u64::from_be_bytes(*both));
        Self { seq: (both >> 32) as u32, ack: both as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{v4, v6};
    use super::super::tuple::Proto;
    use super::*;

    #[test]
    fn both_numbers_are_read_in_either_family() {
        for mut bytes in [v4(Proto::Tcp).build(), v6(Proto::Tcp).build()] {
            let layout = Layout::of(&bytes).unwrap();
            let at = layout.l4_offset() + 4;
            bytes[at..at + 8].copy_from_slice(&[1, 2, 3, 4, 0xff, 6, 7, 8]);
            assert_eq!(Numbers::of(&bytes, &layout), Numbers { seq: 0x0102_0304, ack: 0xff06_0708 });
        }
    }
}
