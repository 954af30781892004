//! A hash map in chunks: the next snapshot is a clone of the last one with a few entries changed, and shares
//! every chunk it did not touch.
//!
//! A power of two of chunks is addressed by the low bits of the key's hash; a chunk is a small vector sorted by
//! the hash's high bits. Cloning is one reference count. The first change after a clone copies the array of
//! chunk pointers, every change copies the chunk it lands in, both only while somebody else holds them.
//! A look-up takes the same few steps at ten entries and at a hundred thousand, and allocates nothing.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Entries per chunk, on average, at which the number of chunks doubles: 4,096 chunks at 100,000 entries.
const GROW_AT: usize = 32;
/// Entries per chunk, on average, below which it halves. Far from `GROW_AT / 2`, so it does not swing.
const SHRINK_BELOW: usize = 4;
/// Chunks of an empty map.
const FEWEST: usize = 64;

/// A key that spreads over 64 bits. Keys come from the cluster's own objects, so nobody picks them to collide.
pub(super) trait ChunkKey: Copy + Ord {
    /// The spread key. Equal keys, equal hashes.
    fn spread(self) -> u64;
}

/// The map.
#[derive(Clone)]
pub(super) struct Chunked<K, V> {
    chunks: Chunks<K, V>,
    len: usize,
}

type Chunks<K, V> = Arc<[Arc<Vec<Entry<K, V>>>]>;

#[derive(Clone)]
struct Entry<K, V> {
    tag: u32,
    key: K,
    value: V,
}

impl<K: ChunkKey, V: Clone> Chunked<K, V> {
    /// An empty map.
    pub(super) fn new() -> Self {
        Self { chunks: chunks_of(FEWEST, std::iter::empty()), len: 0 }
    }

    /// The value of a key.
    pub(super) fn get(&self, key: K) -> Option<&V> {
        let (chunk, tag) = self.place(key);
        let chunk = &self.chunks[chunk];
        let found = position(chunk, tag, key).ok()?;
        Some(&chunk[found].value)
    }

    /// Sets a key's value and returns the one it replaces.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (chunk, tag) = self.place(key);
        let chunk = Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[chunk]);
        match position(chunk, tag, key) {
            Ok(found) => Some(std::mem::replace(&mut chunk[found].value, value)),
            Err(free) => {
                chunk.insert(free, Entry { tag, key, value });
                self.len += 1;
                if self.len > self.chunks.len() * GROW_AT {
                    self.resize(self.chunks.len() * 2);
                }
                None
            }
        }
    }

    /// Takes a key out and returns its value. A key that is not there copies nothing.
    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        let (chunk, tag) = self.place(key);
        let found = position(&self.chunks[chunk], tag, key).ok()?;
        let chunk = Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[chunk]);
        let entry = chunk.remove(found);
        self.len -= 1;
        if self.chunks.len() > FEWEST && self.len < self.chunks.len() * SHRINK_BELOW {
            self.resize(self.chunks.len() / 2);
        }
        Some(entry.value)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Every entry, in no order anyone may rely on.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|entry| (entry.key, &entry.value)))
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the chunk comes from the low bits, the tag from the high"
    )]
    fn place(&self, key: K) -> (usize, u32) {
        let hash = key.spread();
        (hash as usize & (self.chunks.len() - 1), (hash >> 32) as u32)
    }

    fn resize(&mut self, count: usize) {
        let entries = self.chunks.iter().flat_map(|chunk| chunk.iter().cloned());
        self.chunks = chunks_of(count, entries);
    }

    /// How many chunks are not the other's: what going from one to the other copied.
    #[cfg(test)]
    pub(super) fn copied_since(&self, other: &Self) -> usize {
        assert_eq!(self.chunks.len(), other.chunks.len(), "resized");
        self.chunks.iter().zip(other.chunks.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b)).count()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Chunked<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.chunks.iter().flat_map(|chunk| chunk.iter());
        f.debug_map().entries(entries.map(|entry| (&entry.key, &entry.value))).finish()
    }
}

/// Two multiplied halves folded into one word: a few cycles, and both ends of the word depend on every bit.
#[allow(clippy::cast_possible_truncation, reason = "the two halves of the product")]
pub(super) fn spread(high: u64, low: u64) -> u64 {
    let product = u128::from(high ^ 0x9e37_79b9_7f4a_7c15) * u128::from(low ^ 0xd6e8_feb8_6659_fd93);
    (product >> 64) as u64 ^ product as u64
}

fn position<K: ChunkKey, V>(chunk: &[Entry<K, V>], tag: u32, key: K) -> Result<usize, usize> {
    chunk.binary_search_by(|entry| match entry.tag.cmp(&tag) {
        Ordering::Equal => entry.key.cmp(&key),
        unequal @ (Ordering::Less | Ordering::Greater) => unequal,
    })
}

#[allow(clippy::cast_possible_truncation, reason = "only the low bits pick the chunk")]
fn chunks_of<K: ChunkKey, V>(count: usize, entries: impl Iterator<Item = Entry<K, V>>) -> Chunks<K, V> {
    let mut chunks: Vec<Vec<Entry<K, V>>> = (0..count).map(|_| Vec::new()).collect();
    for entry in entries {
        chunks[entry.key.spread() as usize & (count - 1)].push(entry);
    }
    for chunk in &mut chunks {
        chunk.sort_unstable_by_key(|entry| (entry.tag, entry.key));
    }
    chunks.into_iter().map(Arc::new).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Plain(u32);
    impl ChunkKey for Plain {
        fn spread(self) -> u64 {
            spread(0, u64::from(self.0))
        }
    }

    /// A key whose hashes collide: all chunks but four are empty, tags repeat.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Colliding(u32);
    impl ChunkKey for Colliding {
        fn spread(self) -> u64 {
            u64::from(self.0 % 4) | (u64::from(self.0 % 3) << 32)
        }
    }

    fn acts_like_a_map<K: ChunkKey + fmt::Debug>(steps: &[(bool, u32)], key: impl Fn(u32) -> K) {
        let (mut ours, mut model) = (Chunked::new(), BTreeMap::new());
        let mut kept: Vec<(Chunked<K, u32>, BTreeMap<K, u32>)> = Vec::new();
        for (n, &(put, k)) in (0_u32..).zip(steps) {
            if n % 64 == 0 {
                kept.push((ours.clone(), model.clone()));
            }
            if put {
                assert_eq!(ours.insert(key(k), n), model.insert(key(k), n));
            } else {
                assert_eq!(ours.remove(key(k)), model.remove(&key(k)));
            }
        }
        kept.push((ours, model));
        for (ours, model) in kept {
            assert_eq!(ours.len(), model.len());
            assert_eq!(ours.iter().map(|(k, v)| (k, *v)).collect::<BTreeMap<_, _>>(), model);
            assert!(model.iter().all(|(k, v)| ours.get(*k) == Some(v)));
        }
    }

    proptest! {
        #[test]
        fn a_map_and_every_earlier_clone_stay_what_they_were(
            steps in prop::collection::vec((prop::bool::weighted(0.7), 0_u32..300), 0..600)
        ) {
            acts_like_a_map(&steps, Plain);
            acts_like_a_map(&steps, Colliding);
        }
    }

    #[test]
    fn it_grows_and_shrinks_with_its_entries() {
        let mut map = Chunked::new();
        for k in 0..10_000 {
            map.insert(Plain(k), k);
        }
        assert_eq!(map.chunks.len(), 512);
        let longest = map.chunks.iter().map(|chunk| chunk.len()).max().unwrap();
        assert!(longest < 3 * GROW_AT, "{longest} entries in one chunk");
        for k in 0..10_000 {
            assert_eq!(map.remove(Plain(k)), Some(k));
        }
        assert_eq!((map.len(), map.chunks.len()), (0, FEWEST));
    }

    #[test]
    fn one_change_copies_one_chunk_and_a_miss_copies_none() {
        let mut first = Chunked::new();
        for k in 0..100_000 {
            first.insert(Plain(k), k);
        }
        let mut second = first.clone();
        assert_eq!(second.remove(Plain(100_001)), None);
        assert!(Arc::ptr_eq(&first.chunks, &second.chunks));
        second.insert(Plain(77), 0);
        assert_eq!(second.copied_since(&first), 1);
        assert_eq!((first.get(Plain(77)), second.get(Plain(77))), (Some(&77), Some(&0)));
    }
}
