//! Memory for fragments that wait: blocks of one allocation, chained. Nothing is allocated afterwards.

use crate::verdict::Verdict;

/// Bytes of a block: a fragment of an Ethernet link takes one.
const BLOCK: usize = 2_048;
/// 4 MiB of them, as the kernel gives its own reassembly.
const BLOCKS: u16 = 2_048;
/// No block.
const NONE: u16 = u16::MAX;

/// Blocks, and what each frame in them is. A frame goes by its first block.
#[derive(Debug)]
pub(super) struct Pool {
    bytes: Box<[u8]>,
    /// The block that follows: of the same frame, or of the free ones.
    next: Box<[u16]>,
    frames: Box<[Meta]>,
    free: u16,
    free_blocks: u16,
}

#[derive(Clone, Copy, Debug)]
struct Meta {
    len: usize,
    /// The frame that follows in its queue.
    next: u16,
    verdict: Verdict,
}

/// Frames in the order they came. It does not free them when it is dropped: give it back to its pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    first: u16,
    last: u16,
    len: u16,
}

impl Default for Queue {
    fn default() -> Self {
        Self { first: NONE, last: NONE, len: 0 }
    }
}

impl Queue {
    /// How many frames.
    pub(super) const fn len(&self) -> u16 {
        self.len
    }
}

impl Default for Pool {
    fn default() -> Self {
        let next = (1..BLOCKS).chain([NONE]).collect();
        let unused = Meta { len: 0, next: NONE, verdict: Verdict::Passed };
        Self {
            // Zeros are not touched before they are used.
            bytes: vec![0; usize::from(BLOCKS) * BLOCK].into_boxed_slice(),
            next,
            frames: vec![unused; usize::from(BLOCKS)].into_boxed_slice(),
            free: 0,
            free_blocks: BLOCKS,
        }
    }
}

impl Pool {
    /// Whether a frame of so many bytes has room.
    pub(super) fn has_room(&self, len: usize) -> bool {
        len.div_ceil(BLOCK).max(1) <= usize::from(self.free_blocks)
    }

    /// Puts a copy of a frame at the end of a queue. False when there is no room.
    pub(super) fn push(&mut self, queue: &mut Queue, frame: &[u8]) -> bool {
        if !self.has_room(frame.len()) {
            return false;
        }
        let first = self.allocate();
        let mut block = first;
        for (n, chunk) in frame.chunks(BLOCK).enumerate() {
            if n > 0 {
                let following = self.allocate();
                self.next[usize::from(block)] = following;
                block = following;
            }
            self.block(block)[..chunk.len()].copy_from_slice(chunk);
        }
        self.frames[usize::from(first)] = Meta { len: frame.len(), next: NONE, verdict: Verdict::Passed };
        self.append(queue, Queue { first, last: first, len: 1 });
        true
    }

    /// Gives every frame of a queue its verdict, after `change` saw the frame's beginning, as much of it as a block
    /// holds, and its length.
    pub(super) fn settle(
        &mut self,
        queue: &Queue,
        verdict: Verdict,
        mut change: impl FnMut(&mut [u8], usize),
    ) {
        let mut frame = queue.first;
        for _ in 0..queue.len {
            let Meta { len, next, .. } = self.frames[usize::from(frame)];
            change(&mut self.block(frame)[..len.min(BLOCK)], len);
            self.frames[usize::from(frame)].verdict = verdict;
            frame = next;
        }
    }

    /// Puts the frames of one queue behind those of another.
    pub(super) fn append(&mut self, queue: &mut Queue, more: Queue) {
        if queue.len == 0 {
            *queue = more;
        } else if more.len > 0 {
            self.frames[usize::from(queue.last)].next = more.first;
            *queue = Queue { first: queue.first, last: more.last, len: queue.len + more.len };
        }
    }

    /// Copies the oldest frame into `out`, which is long enough for any, and frees it: its length and verdict.
    pub(super) fn pop(&mut self, queue: &mut Queue, out: &mut [u8]) -> Option<(usize, Verdict)> {
        let Meta { len, verdict, .. } = self.free_first(queue, |n, bytes| {
            let at = n * BLOCK;
            out[at..at + bytes.len()].copy_from_slice(bytes);
        })?;
        Some((len, verdict))
    }

    /// Frees all frames of a queue; how many there were.
    pub(super) fn clear(&mut self, queue: &mut Queue) -> u16 {
        let cleared = queue.len;
        while self.free_first(queue, |_, _| {}).is_some() {}
        cleared
    }

    /// Takes the oldest frame out, shows its bytes block by block, and frees them.
    fn free_first(&mut self, queue: &mut Queue, mut show: impl FnMut(usize, &[u8])) -> Option<Meta> {
        if queue.len == 0 {
            return None;
        }
        let meta = self.frames[usize::from(queue.first)];
        let mut block = queue.first;
        for n in 0..meta.len.div_ceil(BLOCK).max(1) {
            let used = (meta.len - n * BLOCK).min(BLOCK);
            show(n, &self.block(block)[..used]);
            let following = self.next[usize::from(block)];
            self.next[usize::from(block)] = self.free;
            self.free = block;
            self.free_blocks += 1;
            block = following;
        }
        *queue = Queue { first: meta.next, last: queue.last, len: queue.len - 1 };
        Some(meta)
    }

    /// A free block; the caller has made sure that there is one.
    fn allocate(&mut self) -> u16 {
        let block = self.free;
        self.free = self.next[usize::from(block)];
        self.free_blocks -= 1;
        block
    }

    fn block(&mut self, block: u16) -> &mut [u8] {
        let at = usize::from(block) * BLOCK;
        &mut self.bytes[at..at + BLOCK]
    }
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;

    fn frame(n: u8, len: usize) -> Vec<u8> {
        (0..len).map(|at| n.wrapping_add(at.to_le_bytes()[0])).collect()
    }

    #[test]
    fn frames_of_any_length_come_out_as_they_went_in() {
        let mut pool = Pool::default();
        let mut queue = Queue::default();
        let lens = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 65_545];
        for (n, len) in (0..).zip(lens) {
            assert!(pool.push(&mut queue, &frame(n, len)));
        }
        pool.settle(&queue, Verdict::Translated, |bytes, len| {
            assert_eq!(bytes.len(), len.min(BLOCK));
            if let Some(first) = bytes.first_mut() {
                *first = 99;
            }
        });
        let mut out = vec![0; 65_545];
        for (n, len) in (0..).zip(lens) {
            assert_eq!(pool.pop(&mut queue, &mut out), Some((len, Verdict::Translated)));
            let mut expected = frame(n, len);
            if let Some(first) = expected.first_mut() {
                *first = 99;
            }
            assert_eq!(out[..len], expected);
        }
        assert_eq!(pool.pop(&mut queue, &mut out), None);
        assert_eq!(pool.free_blocks, BLOCKS);
    }

    #[test]
    fn four_mebibytes_are_the_limit_and_come_back() {
        let mut pool = Pool::default();
        let mut out = vec![0; 65_545];
        for _ in 0..3 {
            let mut queues = [Queue::default(); 2];
            let mut held = 0;
            while pool.push(&mut queues[held % 2], &frame(1, 1_500)) {
                held += 1;
            }
            assert_eq!(held, usize::from(BLOCKS));
            assert!(!pool.has_room(0));
            let [mut one, mut two] = queues;
            assert_eq!(pool.clear(&mut two), BLOCKS / 2);
            assert!(pool.has_room(1_024 * BLOCK) && !pool.has_room(1_024 * BLOCK + 1));
            let mut long = Queue::default();
            assert!(pool.push(&mut long, &frame(7, 65_545)));
            pool.append(&mut long, one);
            one = Queue::default();
            assert_eq!((pool.clear(&mut one), long.len()), (0, BLOCKS / 2 + 1));
            assert_eq!(pool.pop(&mut long, &mut out), Some((65_545, Verdict::Passed)));
            assert_eq!(out, frame(7, 65_545));
            assert_eq!(pool.clear(&mut long), BLOCKS / 2);
            assert_eq!(pool.free_blocks, BLOCKS);
        }
    }
}
