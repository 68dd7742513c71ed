//! Encoded bytes in pieces of one size. One buffer for a whole row group would double again and again, copying what it
//! has into memory that the kernel must clear first.

use std::io::{Result, Write};

use bytes::Bytes;

/// Encoded bytes go to the store in chunks of this size.
pub const CHUNK_BYTES: usize = 1 << 20;

/// A growing list of chunks.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    full: Vec<Bytes>,
    /// Never longer than `CHUNK_BYTES`.
    last: Vec<u8>,
}

impl Chunks {
    /// Bytes in all chunks.
    pub fn len(&self) -> usize {
        self.full.len() * CHUNK_BYTES + self.last.len()
    }

    /// All chunks in order; only the last is shorter than `CHUNK_BYTES`. None is empty.
    pub fn take(&mut self) -> Vec<Bytes> {
        let mut chunks = std::mem::take(&mut self.full);
        if !self.last.is_empty() {
            chunks.push(std::mem::take(&mut self.last).into());
        }
        chunks
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.last.capacity() == 0 {
            // Small files stay small; after a full chunk more is to come.
            self.last.reserve_exact(if self.full.is_empty() { bytes.len().min(CHUNK_BYTES) } else { CHUNK_BYTES });
        }
        let count = bytes.len().min(CHUNK_BYTES - self.last.len());
        self.last.extend_from_slice(&bytes[..count]);
        if self.last.len() == CHUNK_BYTES {
            self.full.push(std::mem::take(&mut self.last).into());
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_what_was_written_in_pieces_of_one_size() {
        let bytes: Vec<u8> = (0..2 * CHUNK_BYTES + 5).map(|i| (i % 251) as u8).collect();
        let mut chunks = Chunks::default();
        for piece in bytes.chunks(300_007) {
            chunks.write_all(piece).unwrap();
        }
        assert_eq!(chunks.len(), bytes.len());
        let taken = chunks.take();
        assert_eq!(taken.iter().map(Bytes::len).collect::<Vec<_>>(), [CHUNK_BYTES, CHUNK_BYTES, 5]);
        assert_eq!(taken.concat(), bytes);
        assert_eq!((chunks.len(), chunks.take().len()), (0, 0));
    }
}
