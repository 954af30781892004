//! The buffers a worker owns: a frame is a virtio-net header and one IP packet of up to 64 KiB, a batch is
//! the frames of one turn. Allocated once, then only swapped, never copied.

use super::layout::{Csum, Layout};
use super::vnet::{VNET_LEN, VnetHdr};
use crate::verdict::Verdict;

/// The longest IP packet, bytes.
pub const MAX_PACKET: usize = 65_535;
/// Frames of a batch.
pub const BATCH: usize = 32;
/// Reply frames of a batch: ICMP errors and RSTs the engine makes.
pub const REPLIES: usize = 8;

/// One packet with its virtio-net header in front, as a TUN queue with `IFF_VNET_HDR` reads and writes it.
#[derive(Debug)]
pub struct Frame {
    buf: Box<[u8; VNET_LEN + MAX_PACKET]>,
    /// Bytes in `buf` that are valid, virtio-net header included.
    len: usize,
    /// What validation found; meaningful once the engine's first stage accepted the frame.
    pub layout: Layout,
    /// How the layer-4 checksum stands; as `layout`.
    pub csum: Csum,
    /// The frame's end, once it has one.
    pub verdict: Option<Verdict>,
}

impl Default for Frame {
    fn default() -> Self {
        let zeros = vec![0; VNET_LEN + MAX_PACKET].into_boxed_slice();
        // The slice was made with exactly this length.
        #[allow(clippy::expect_used, reason = "length stated one line above")]
        let buf = zeros.try_into().expect("a slice of the array's length");
        Self { buf, len: 0, layout: Layout::default(), csum: Csum::Full, verdict: None }
    }
}

impl Frame {
    /// The whole buffer, for a reader to fill; follow with [`Frame::set_len`].
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        self.buf.as_mut_slice()
    }

    /// Says how many bytes of the buffer are valid, header included, and forgets what was known of the last packet.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.buf.len());
        self.verdict = None;
    }

    /// Valid bytes, header included: what is written to the device.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }

    /// The virtio-net header, or `None` when there are fewer bytes than one.
    #[must_use]
    pub fn vnet(&self) -> Option<VnetHdr> {
        self.buf[..self.len].first_chunk().map(VnetHdr::read)
    }

    /// The IP packet; empty when there is none.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        self.buf[..self.len].get(VNET_LEN..).unwrap_or_default()
    }

    /// The IP packet; empty when there is none.
    pub fn packet_mut(&mut self) -> &mut [u8] {
        self.buf[..self.len].get_mut(VNET_LEN..).unwrap_or_default()
    }

    /// Fills the frame with a header and a packet; the packet is cut to [`MAX_PACKET`].
    pub fn fill(&mut self, vnet: VnetHdr, packet: &[u8]) {
        let packet = &packet[..packet.len().min(MAX_PACKET)];
        self.buf[..VNET_LEN].copy_from_slice(&vnet.write());
        self.buf[VNET_LEN..VNET_LEN + packet.len()].copy_from_slice(packet);
        self.set_len(VNET_LEN + packet.len());
    }
}

/// The frames of one turn of a worker: those read, and those the engine made in answer.
#[derive(Debug)]
pub struct Batch {
    frames: Vec<Frame>,
    filled: usize,
    replies: Vec<Frame>,
    replied: usize,
}

impl Default for Batch {
    fn default() -> Self {
        let frames = |n| (0..n).map(|_| Frame::default()).collect();
        Self { frames: frames(BATCH), filled: 0, replies: frames(REPLIES), replied: 0 }
    }
}

impl Batch {
    /// Forgets all frames; their memory stays.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.replied = 0;
    }

    /// The next empty frame for a reader, or `None` when the batch is full. Call [`Batch::push`] to keep it.
    pub fn spare(&mut self) -> Option<&mut Frame> {
        self.frames.get_mut(self.filled)
    }

    /// Keeps the frame last returned by [`Batch::spare`].
    pub fn push(&mut self) {
        self.filled = (self.filled + 1).min(self.frames.len());
    }

    /// Frames read this turn.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames[..self.filled]
    }

    /// Frames read this turn.
    pub fn frames_mut(&mut self) -> &mut [Frame] {
        &mut self.frames[..self.filled]
    }

    /// Frames the engine made this turn.
    #[must_use]
    pub fn replies(&self) -> &[Frame] {
        &self.replies[..self.replied]
    }

    /// What is to be written: frames translated or passed, and answers.
    pub fn written_mut(&mut self) -> impl Iterator<Item = &mut Frame> {
        let going = |frame: &&mut Frame| matches!(frame.verdict, Some(Verdict::Translated | Verdict::Passed));
        let frames = self.frames[..self.filled].iter_mut().filter(going);
        frames.chain(self.replies[..self.replied].iter_mut())
    }

    /// The next empty reply frame, or `None` when there is none left this turn. Call [`Batch::push_reply`] to keep it.
    pub fn spare_reply(&mut self) -> Option<&mut Frame> {
        self.replies.get_mut(self.replied)
    }

    /// Keeps the frame last returned by [`Batch::spare_reply`].
    pub fn push_reply(&mut self) {
        self.replied = (self.replied + 1).min(self.replies.len());
    }

    /// One frame and the reply frames, borrowed together: an answer is made from the frame it answers.
    pub fn frame_and_reply(&mut self, index: usize) -> Option<(&mut Frame, Option<&mut Frame>)> {
        let frame = self.frames[..self.filled].get_mut(index)?;
        Some((frame, self.replies.get_mut(self.replied)))
    }
}

const _: () = assert!((BATCH + REPLIES + 16) * (VNET_LEN + MAX_PACKET) <= 3_700_000, "buffers per worker");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::DropReason;

    #[test]
    fn a_frame_is_a_header_and_a_packet() {
        let mut frame = Frame::default();
        assert_eq!((frame.vnet(), frame.packet(), frame.bytes()), (None, &[][..], &[][..]));
        let vnet = VnetHdr { flags: VnetHdr::NEEDS_CSUM, ..VnetHdr::default() };
        frame.fill(vnet, &[4, 5, 6]);
        assert_eq!((frame.vnet(), frame.packet()), (Some(vnet), &[4, 5, 6][..]));
        assert_eq!(frame.bytes(), [&vnet.write()[..], &[4, 5, 6]].concat());
        frame.packet_mut()[0] = 9;
        assert_eq!(frame.packet(), [9, 5, 6]);
    }

    #[test]
    fn a_short_read_has_no_header_and_no_packet() {
        let mut frame = Frame::default();
        frame.buffer_mut().fill(0x45);
        for len in [0, VNET_LEN - 1] {
            frame.set_len(len);
            assert_eq!((frame.vnet(), frame.packet().len(), frame.packet_mut().len()), (None, 0, 0));
        }
        frame.set_len(VNET_LEN);
        assert!(frame.vnet().is_some() && frame.packet().is_empty());
        frame.set_len(usize::MAX);
        assert_eq!(frame.packet().len(), MAX_PACKET);
    }

    #[test]
    fn a_new_packet_has_no_verdict_yet() {
        let mut frame = Frame { verdict: Some(Verdict::Dropped(DropReason::Martian)), ..Frame::default() };
        frame.fill(VnetHdr::default(), &[0; MAX_PACKET + 1]);
        assert_eq!((frame.verdict, frame.packet().len()), (None, MAX_PACKET));
    }

    #[test]
    fn a_batch_has_room_for_so_many_and_is_reused() {
        let mut batch = Batch::default();
        for _ in 0..2 {
            for n in 0..BATCH {
                batch.spare().unwrap().fill(VnetHdr::default(), &[u8::try_from(n).unwrap()]);
                batch.push();
            }
            assert!(batch.spare().is_none());
            batch.push();
            assert!(batch.frames().iter().map(Frame::packet).eq((0..32).map(|n| [n])));
            for n in 0..REPLIES {
                let (frame, reply) = batch.frame_and_reply(n).unwrap();
                reply.unwrap().fill(VnetHdr::default(), frame.packet());
                batch.push_reply();
            }
            assert!(batch.spare_reply().is_none() && batch.frame_and_reply(0).unwrap().1.is_none());
            assert!(batch.frame_and_reply(BATCH).is_none());
            assert_eq!((batch.frames_mut().len(), batch.replies().len()), (BATCH, REPLIES));
            assert_eq!(batch.replies()[3].packet(), [3]);
            batch.clear();
            assert!(batch.frames().is_empty() && batch.replies().is_empty());
        }
    }
}
