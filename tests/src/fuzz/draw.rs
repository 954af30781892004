//! Bytes as a sequence of choices.

/// What is left of an input. Behind its end everything is 0, so that every prefix of an input is one, too.
#[derive(Clone, Debug)]
pub struct Draw<'a>(&'a [u8]);

impl<'a> Draw<'a> {
    /// All of an input.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// The next byte, below `n`.
    ///
    /// # Panics
    /// `n` is 0.
    pub fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    /// One of these, by the next byte.
    ///
    /// # Panics
    /// There are none.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    /// A coin, by the next byte.
    pub fn flip(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// The next two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next eight bytes.
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// So many bytes, or as many as there are.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_end_everything_is_zero() {
        let mut draw = Draw::new(&[1, 2, 3, 4]);
        assert_eq!((draw.word(), draw.take(1), draw.is_empty()), (0x0201, &[3][..], false));
        assert_eq!((draw.word(), draw.is_empty(), draw.long(), draw.take(9)), (4, true, 0, &[][..]));
        assert_eq!(Draw::new(&[5]).one_of(&['a', 'b', 'c']), 'c');
    }
}
