//! CRC-32C, the checksum of WAL records and of `pg_control` (`src/include/port/pg_crc32c.h`).

use crc_fast::{CrcAlgorithm, Digest};

/// Records up to this length are copied, so that their checksum is one call over contiguous bytes. What
/// most records need is less time for calls, not more bytes at once.
const SHORT: usize = 256;

/// Room for a short record's bytes, to be used again and again.
#[derive(Debug)]
pub(crate) struct Scratch([u8; SHORT]);

impl Scratch {
    pub(crate) const fn new() -> Self {
        Self([0; SHORT])
    }
}

/// The CRC-32C of bytes.
#[inline]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The CRC-32C of bytes that follow those of which `crc` is the CRC-32C.
#[inline]
pub(crate) fn append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    // The algorithm has 32 bits.
    (digest.finalize() & 0xFFFF_FFFF) as u32
}

/// The CRC-32C of `rest` and then `head`: the order in which PostgreSQL sums up a record, whose header
/// comes last.
#[inline]
pub(crate) fn of_record(head: &[u8; 20], rest: &[u8], scratch: &mut Scratch) -> u32 {
    let buffer = &mut scratch.0;
    if let Some((body, behind)) = buffer.split_at_mut_checked(rest.len())
        && let Some(end) = behind.first_chunk_mut()
    {
        body.copy_from_slice(rest);
        *end = *head;
        return crc32c(buffer.get(..rest.len() + head.len()).unwrap_or_default());
    }
    append(crc32c(rest), head)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against another implementation, around every length and alignment at which ours changes its way.
    #[test]
    fn all_lengths_and_alignments() {
        let bytes: Vec<u8> =
            (0..70_000u32).map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let head: &[u8; 20] = bytes[3..].first_chunk().unwrap();
        let mut scratch = Scratch::new();
        let lengths = (0..1100).chain([2047, 2048, 4095, 4097, 8168, 8191, 8192, 16_400, 65_000]);
        for length in lengths {
            for start in [0, 1, 4, 7] {
                let part = &bytes[start..start + length];
                let expected = crc32c::crc32c(part);
                assert_eq!(crc32c(part), expected, "{length}");
                let (first, second) = part.split_at(length / 3);
                assert_eq!(append(crc32c(first), second), expected, "{length}");
                assert_eq!(
                    of_record(head, part, &mut scratch),
                    crc32c::crc32c_append(expected, head),
                    "{length}"
                );
            }
        }
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }
}
