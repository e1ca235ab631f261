//! Randomness for names, jitter and uids. Keys and tokens come from `ring`'s system source in `pki`, never from here.

use std::sync::{Mutex, PoisonError};

/// A shared random number generator, seeded once.
#[derive(Debug)]
pub struct Rng(Mutex<fastrand::Rng>);

/// The characters upstream uses for generated name suffixes: no vowels and nothing easily misread.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

impl Rng {
    /// Seeded by the operating system.
    #[must_use]
    pub fn from_entropy() -> Self {
        Self(Mutex::new(fastrand::Rng::new()))
    }

    /// Repeats the same numbers for the same `seed`.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    fn with<T>(&self, f: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 {
            0
        } else {
            self.with(|r| r.u64(0..bound))
        }
    }

    /// A number in `0.0..1.0`.
    #[must_use]
    pub fn unit(&self) -> f64 {
        self.with(fastrand::Rng::f64)
    }

    /// A random version 4 UUID in its usual text form: the `metadata.uid` of objects.
    #[must_use]
    pub fn uuid(&self) -> String {
        let mut b = self.with(|r| r.u128(..)).to_be_bytes();
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        let hex: String = b.iter().map(|x| format!("{x:02x}")).collect();
        format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        )
    }

    /// A suffix of `len` characters as upstream appends to `generateName`.
    #[must_use]
    pub fn suffix(&self, len: usize) -> String {
        self.with(|r| {
            (0..len)
                .map(|_| char::from(SUFFIX_ALPHABET[r.usize(0..SUFFIX_ALPHABET.len())]))
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_names() {
        let (a, b) = (Rng::from_seed(7), Rng::from_seed(7));
        assert_eq!(a.uuid(), b.uuid());
        assert_eq!(a.suffix(5), b.suffix(5));
        assert_eq!(
            a.uuid().as_bytes()[14],
            b'4',
            "uuids say they are version 4"
        );
    }
}
