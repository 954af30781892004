use proptest::prelude::*;

use super::*;
use crate::packet::samples;

/// A packet with this tag and these chunks: type, and bytes behind the chunk's header.
fn packet(tag: u32, chunks: &[(u8, usize)]) -> Vec<u8> {
    let mut out = [&[0x9c, 0x40, 0, 80][..], &tag.to_be_bytes(), &[0; 4]].concat();
    for (number, value) in chunks {
        let len = u16::try_from(CHUNK_HEADER + value).unwrap().to_be_bytes();
        out.extend([*number, 0, len[0], len[1]]);
        out.resize(out.len() + value.next_multiple_of(4), 0xee);
    }
    let crc = samples::crc32c(&out);
    out[CHECKSUM..HEADER].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The CRC of bytes, complemented, as the code under test computes it.
fn whole(bytes: &[u8]) -> u32 {
    !crc32c(u32::MAX, bytes)
}

#[test]
fn the_published_vectors_come_out() {
    let up: Vec<u8> = (0..32).collect();
    let down: Vec<u8> = (0..32).rev().collect();
    // RFC 3720, appendix B.4: the last is an iSCSI read command.
    let mut read = [0; 48];
    for (at, byte) in [(0, 1), (1, 0xc0), (16, 0x14), (22, 4), (27, 0x14), (31, 0x18), (32, 0x28), (40, 2)] {
        read[at] = byte;
    }
    for (bytes, crc) in [
        (&b"123456789"[..], 0xe306_9283),
        (&[0; 32], 0x8a91_36aa),
        (&[0xff; 32], 0x62a8_ab43),
        (&up, 0x46dd_794e),
        (&down, 0x113f_db5c),
        (&read, 0xd996_3a56),
        (&[], 0),
    ] {
        assert_eq!(whole(bytes), crc, "{bytes:02x?}");
        assert_eq!(samples::crc32c(bytes), crc, "{bytes:02x?}");
    }
}

#[test]
fn the_least_significant_byte_goes_first() {
    let bytes = packet(0, &[(1, 16)]);
    let mut blank = bytes.clone();
    blank[8..12].fill(0);
    assert_eq!(bytes[8..12], samples::crc32c(&blank).to_le_bytes());
    assert!(is_intact(&bytes));
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_intact(&bytes), "bit {bit}");
    }
    assert!((0..HEADER).all(|len| !is_intact(&bytes[..len])));
}

#[test]
fn the_chunk_that_matters_is_found() {
    for (tag, chunks, found) in [
        (0, &[(1, 16)][..], Chunk::Init),
        (7, &[(1, 16)], Chunk::Other),
        (7, &[(2, 100)], Chunk::InitAck),
        (7, &[(0, 13)], Chunk::Other),
        (7, &[(3, 12)], Chunk::Other),
        (7, &[(4, 20)], Chunk::Heartbeat),
        (7, &[(5, 20)], Chunk::HeartbeatAck),
        (7, &[(6, 0)], Chunk::Abort),
        (7, &[(7, 4)], Chunk::Shutdown),
        (7, &[(8, 0)], Chunk::ShutdownAck),
        (7, &[(9, 9)], Chunk::Error),
        (7, &[(10, 33)], Chunk::CookieEcho),
        (7, &[(11, 0)], Chunk::CookieAck),
        (7, &[(12, 4)], Chunk::Other),
        (7, &[(14, 0)], Chunk::ShutdownComplete),
        (7, &[(0x82, 3)], Chunk::Other),
        // Several, as they are sent together.
        (7, &[(10, 33), (0, 5)], Chunk::CookieEcho),
        (7, &[(11, 0), (3, 12), (0, 5)], Chunk::CookieAck),
        (7, &[(11, 0), (9, 4)], Chunk::CookieAck),
        (7, &[(3, 13), (7, 4)], Chunk::Shutdown),
        (7, &[(9, 5), (8, 0)], Chunk::ShutdownAck),
        (7, &[(4, 7), (3, 12)], Chunk::Heartbeat),
        (7, &[(9, 5), (6, 2)], Chunk::Abort),
        (7, &[(7, 4), (6, 2)], Chunk::Abort),
        // What must be the first and is not; and what hides behind data, or behind more than is looked at.
        (0, &[(3, 12), (1, 16)], Chunk::Other),
        (7, &[(3, 12), (10, 16)], Chunk::Other),
        (7, &[(4, 12), (14, 0)], Chunk::Heartbeat),
        (7, &[(0, 1), (6, 0)], Chunk::Other),
        (7, &[(64, 1), (6, 0)], Chunk::Other),
        (7, &[(3, 0), (3, 0), (3, 0), (3, 0), (3, 0), (3, 0), (3, 0), (6, 0)], Chunk::Abort),
        (7, &[(3, 0), (3, 0), (3, 0), (3, 0), (3, 0), (3, 0), (3, 0), (3, 0), (6, 0)], Chunk::Other),
    ] {
        let bytes = packet(tag, chunks);
        assert_eq!(read(&bytes, false), Some(found), "{tag} {chunks:?}");
        assert_eq!(Chunk::of(found.flags()), found);
    }
}

#[test]
fn a_first_chunk_must_be_there_and_fit() {
    let good = packet(7, &[(4, 12)]);
    assert!((0..HEADER + CHUNK_HEADER).all(|len| read(&good[..len], false).is_none()));
    assert!((0..HEADER + CHUNK_HEADER).all(|len| read(&good[..len], true).is_none()));
    for (len, fits) in
        [(0, false), (3, false), (4, true), (15, true), (16, true), (17, false), (65_535, false)]
    {
        let mut bytes = good.clone();
        bytes[14..16].copy_from_slice(&u16::to_be_bytes(len));
        assert_eq!(read(&bytes, false).is_some(), fits, "{len}");
        assert_eq!(read(&bytes, true).is_some(), len >= 4, "{len}, of a fragment");
    }
    // A later one is nobody's reason to drop the packet: it is not read.
    for len in [0, 3, 9] {
        let mut bytes = packet(7, &[(4, 12), (6, 4)]);
        bytes[30..32].copy_from_slice(&u16::to_be_bytes(len));
        assert_eq!(read(&bytes, false), Some(Chunk::Heartbeat), "{len}");
    }
}

#[test]
fn lengths_of_every_size_have_their_power() {
    for len in [4_usize, 12, 255, 256, 257, 511, 512, 4_095, 65_279, 65_280, 65_535] {
        let mut bytes = vec![0; len];
        let zero = whole(&bytes);
        bytes[3] = 0x80;
        // The highest bit of the fourth byte is x^0 before it is moved up.
        assert_eq!(zero ^ whole(&bytes), moved_up(1 << 31, len), "{len}");
        bytes[..4].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(
            zero ^ whole(&bytes),
            moved_up(u32::from_le_bytes([0xde, 0xad, 0xbe, 0xef]), len),
            "{len}"
        );
    }
}

#[test]
fn ports_that_stay_and_checksums_that_are_not_here_change_nothing() {
    let mut bytes = packet(7, &[(0, 100)]);
    let before = bytes.clone();
    follow(&mut bytes, 116, [0x9c, 0x40, 0, 80]);
    assert_eq!(bytes, before);
    let mut cut = before[..11].to_vec();
    follow(&mut cut, 116, [1, 2, 3, 4]);
    assert_eq!(cut, before[..11]);
}

proptest! {
    #[test]
    fn law_of_following_is_computing_anew(
        mut bytes in proptest::collection::vec(any::<u8>(), 12..3_000), ports: [u8; 4], corrupt: bool,
    ) {
        bytes[8..12].fill(0);
        let crc = samples::crc32c(&bytes) ^ u32::from(corrupt);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        prop_assert_eq!(is_intact(&bytes), !corrupt);
        let before = bytes.clone();
        let old: [u8; 4] = before[..4].try_into().unwrap();
        bytes[..4].copy_from_slice(&ports);
        let len = bytes.len();
        follow(&mut bytes, len, old);
        prop_assert_eq!(is_intact(&bytes), !corrupt, "right stays right, wrong stays wrong");
        // The beginning alone is enough.
        let mut beginning = before[..12].to_vec();
        beginning[..4].copy_from_slice(&ports);
        follow(&mut beginning, len, old);
        prop_assert_eq!(&beginning, &bytes[..12]);
        bytes[..4].copy_from_slice(&old);
        follow(&mut bytes, len, ports);
        prop_assert_eq!(bytes, before, "and back");
    }

    #[test]
    fn law_of_both_computations(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(whole(&bytes), samples::crc32c(&bytes));
    }
}
