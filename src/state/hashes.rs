//! Keys of rows by their hashes. Two keys of one hash are as good as never there, and then a row comes that nobody asked
//! for; none is missing.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

use arrow::array::ArrayRef;
use datafusion::common::hash_utils::{RandomState, create_hashes};

use crate::error::Result;

/// Keys that are wanted.
#[derive(Debug)]
pub struct KeyHashes {
    hashes: HashSet<u64, BuildHasherDefault<Hashed>>,
    keys_max: usize,
    /// There were more.
    all: bool,
}

impl KeyHashes {
    /// None so far. If there will be more than `keys_max`, every key is wanted.
    pub fn new(keys_max: usize) -> Self {
        Self { hashes: HashSet::default(), keys_max, all: false }
    }

    /// Adds the keys of such hashes.
    pub fn extend(&mut self, hashes: impl IntoIterator<Item = u64>) {
        if !self.all {
            self.hashes.extend(hashes);
        }
        if self.hashes.len() > self.keys_max {
            (self.hashes, self.all) = (HashSet::default(), true);
        }
    }

    /// Is the key wanted?
    pub fn contains(&self, hash: u64) -> bool {
        self.all || self.hashes.contains(&hash)
    }
}

/// A hash of each row of `columns`; without columns all of the `rows` rows have the same.
///
/// # Errors
/// `Internal`: a defect.
pub fn hash_rows(columns: &[ArrayRef], rows: usize) -> Result<Vec<u64>> {
    let mut hashes = vec![0; rows];
    if !columns.is_empty() && rows > 0 {
        create_hashes(columns, &RandomState::with_seed(0), &mut hashes)?;
    }
    Ok(hashes)
}

/// What is hashed already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_keys_all_are_wanted() {
        let mut keys = KeyHashes::new(3);
        keys.extend(0..3);
        assert!(keys.contains(0) && keys.contains(2) && !keys.contains(3));
        keys.extend([3]);
        assert!(keys.contains(3) && keys.contains(4));
        keys.extend([0]);
        assert!(keys.hashes.is_empty());
    }
}
