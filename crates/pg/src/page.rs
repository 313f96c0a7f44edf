//! Data pages and their checksums.
//!
//! PostgreSQL source: `src/include/storage/{bufpage.h,checksum_impl.h}`.

use crate::error::Error;
use crate::le;
use crate::lsn::Lsn;

/// How many partial sums run side by side (`N_SUMS`).
const LANES: usize = 32;
/// The bytes of one word for every lane.
const ROW: usize = LANES * 4;
/// `FNV_PRIME`
const PRIME: u32 = 16_777_619;
/// What the lanes start with (`checksumBaseOffsets`).
const SEEDS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What checking a page's checksum told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageVerdict {
    /// The page was never initialised, so it has no checksum. See [`DataPage::is_zero`].
    New,
    /// The checksum matches.
    Good,
    /// The checksum does not match: the page is damaged, or was read while it was being written.
    Bad {
        /// The checksum in the page.
        stored: u16,
        /// The checksum of the page's bytes at its place.
        computed: u16,
        /// The position in the page's header. In an online backup a bad page with a position at or
        /// after the backup's start is repaired by replay.
        lsn: Lsn,
    },
}

/// A view of one page of a relation's file.
#[derive(Debug, Clone, Copy)]
pub struct DataPage<'a>(&'a [u8]);

impl<'a> DataPage<'a> {
    /// The usual size of a page, in bytes.
    pub const USUAL_SIZE: usize = 8192;

    /// A view of `bytes`, which are exactly one page.
    ///
    /// # Errors
    /// [`Error::ImpossibleValue`] unless the length is a possible page size, a power of two from 1 to
    /// 32 KiB.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let size = bytes.len();
        if size.is_power_of_two() && (1024..=32 * 1024).contains(&size) {
            return Ok(Self(bytes));
        }
        Err(Error::ImpossibleValue { what: "a data page", field: "size", value: size as u64 })
    }

    /// The position after the last record that changed the page (`pd_lsn`).
    pub fn lsn(self) -> Lsn {
        let half = |offset| u64::from(le::u32_at(self.0, offset).unwrap_or_default());
        Lsn::new(half(0) << 32 | half(4))
    }

    /// The checksum in the page's header (`pd_checksum`).
    pub fn stored_checksum(self) -> u16 {
        le::u16_at(self.0, 8).unwrap_or_default()
    }

    /// Whether the page was never initialised (`PageIsNew`: `pd_upper` is 0). Such pages have no
    /// checksum.
    pub fn is_new(self) -> bool {
        le::u16_at(self.0, 14).unwrap_or_default() == 0
    }

    /// Whether every byte is 0. A new page that is not all zero is damaged.
    pub fn is_zero(self) -> bool {
        self.0.iter().fold(0, |all, byte| all | byte) == 0
    }

    /// The checksum that the page must have as block `block` of its fork (`pg_checksum_page`). The
    /// number counts through all segments of the fork: in the file `<n>.2` the first block is
    /// 2 x 131072.
    pub fn compute_checksum(self, block: u32) -> u16 {
        let mut lanes = SEEDS;
        // The checksum is computed with its own field as 0; the field is in the first row.
        let mut first = [0; ROW];
        let (head, rest) = self.0.split_at_checked(ROW).unwrap_or((self.0, &[]));
        for (to, from) in first.iter_mut().zip(head) {
            *to = *from;
        }
        if let Some(field) = first.get_mut(8..10) {
            field.fill(0);
        }
        mix_row(&mut lanes, &first);
        let (rows, _) = rest.as_chunks::<ROW>();
        for row in rows {
            mix_row(&mut lanes, row);
        }
        for _ in 0..2 {
            mix_row(&mut lanes, &[0; ROW]);
        }
        let sum = lanes.iter().fold(0, |sum, lane| sum ^ lane) ^ block;
        // The remainder is below 65535, so that the result is 1 to 65535.
        u16::try_from(sum % 65_535 + 1).unwrap_or(u16::MAX)
    }

    /// Checks the page's checksum as block `block` of its fork, for clusters that have checksums.
    pub fn verify(self, block: u32) -> PageVerdict {
        if self.is_new() {
            return PageVerdict::New;
        }
        let (stored, computed) = (self.stored_checksum(), self.compute_checksum(block));
        if stored == computed {
            PageVerdict::Good
        } else {
            PageVerdict::Bad { stored, computed, lsn: self.lsn() }
        }
    }
}

/// One round of every lane. Fixed-size arrays and no branches, so that the compiler turns the loop
/// into vector instructions.
#[inline]
fn mix_row(lanes: &mut [u32; LANES], row: &[u8; ROW]) {
    let (words, _) = row.as_chunks::<4>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        let mixed = *lane ^ u32::from_le_bytes(*word);
        *lane = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures;

    /// The algorithm as `checksum_impl.h` tells it, one word at a time.
    fn naive(page: &[u8], block: u32) -> u16 {
        let mut bytes = page.to_vec();
        bytes[8..10].fill(0);
        let mut sums = SEEDS;
        let words: Vec<u32> = bytes.chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
        let round = |sum: &mut u32, word: u32| {
            let mixed = *sum ^ word;
            *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
        };
        for (index, word) in words.iter().enumerate() {
            round(&mut sums[index % LANES], *word);
        }
        for sum in &mut sums {
            round(sum, 0);
            round(sum, 0);
        }
        let all = sums.iter().fold(0, |a, b| a ^ b) ^ block;
        u16::try_from(all % 65_535 + 1).unwrap()
    }

    #[test]
    fn real_pages_verify_at_their_own_block_only() {
        for bytes in fixtures::HEAP_PAGES {
            let page = DataPage::new(bytes).unwrap();
            assert_eq!(page.verify(3), PageVerdict::Good);
            assert!(matches!(page.verify(4), PageVerdict::Bad { .. }));
            assert!(!page.is_new() && !page.is_zero());
            assert!(page.lsn().is_valid());
        }
    }

    #[test]
    fn new_pages_have_no_checksum() {
        let zero = [0; 8192];
        let page = DataPage::new(&zero).unwrap();
        assert_eq!(page.verify(0), PageVerdict::New);
        assert!(page.is_zero());
        let mut odd = zero;
        odd[8191] = 1;
        let page = DataPage::new(&odd).unwrap();
        assert_eq!(page.verify(0), PageVerdict::New);
        assert!(!page.is_zero());
    }

    #[test]
    fn a_changed_bit_is_seen() {
        // 16 bits cannot see every change; of these 5,000 a good checksum overlooks hardly any.
        let mut overlooked = 0;
        for bit in (0..8192 * 8).step_by(13) {
            let mut bytes = fixtures::HEAP_PAGES[0].to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if DataPage::new(&bytes).unwrap().verify(3) == PageVerdict::Good {
                overlooked += 1;
            }
        }
        assert!(overlooked <= 2, "{overlooked}");
    }

    #[test]
    fn only_page_sizes_are_pages() {
        for size in [1024usize, 2048, 4096, 8192, 16384, 32768] {
            assert!(DataPage::new(&vec![0; size]).is_ok());
        }
        for size in [0, 1, 512, 8191, 8193, 12288, 65536] {
            assert!(DataPage::new(&vec![0; size]).is_err());
        }
    }

    proptest! {
        #[test]
        fn checksums_are_those_of_the_plain_algorithm(
            seed: u64,
            bits in 10u32..=15,
            block: u32,
        ) {
            let mut state = seed;
            let bytes: Vec<u8> = (0..1usize << bits)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    state.to_be_bytes()[0]
                })
                .collect();
            prop_assert_eq!(DataPage::new(&bytes).unwrap().compute_checksum(block), naive(&bytes, block));
        }
    }
}
