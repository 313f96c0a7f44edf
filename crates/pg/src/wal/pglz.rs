//! PostgreSQL's own compression, as far as reading needs it.
//!
//! PostgreSQL source: `pglz_decompress` in `src/common/pg_lzcompress.c`.

/// The length of a match that says that one more byte of length follows.
const LONG_MATCH: usize = 18;

/// Fills `plain` with what `packed` holds, which must be exactly as much; `None` if it is not, or is no
/// such data.
pub(crate) fn decompress(packed: &[u8], plain: &mut [u8]) -> Option<()> {
    let mut input = packed.iter().copied();
    let mut at = 0;
    while at < plain.len() {
        // Eight bits, each for a byte as it is or for a match with bytes before.
        let mut control = input.next()?;
        for _ in 0..8 {
            if at == plain.len() {
                break;
            }
            if control & 1 == 0 {
                *plain.get_mut(at)? = input.next()?;
                at += 1;
            } else {
                let [high, low] = [input.next()?, input.next()?];
                let offset = usize::from(high & 0xF0) << 4 | usize::from(low);
                let mut length = usize::from(high & 0x0F) + 3;
                if length == LONG_MATCH {
                    length += usize::from(input.next()?);
                }
                at = copy_match(plain, at, offset, length)?;
            }
            control >>= 1;
        }
    }
    input.next().is_none().then_some(())
}

/// Repeats bytes that are `offset` before `at`, which can overlap with what they become. Returns the
/// position after them.
fn copy_match(plain: &mut [u8], at: usize, offset: usize, length: usize) -> Option<usize> {
    let from = at.checked_sub(offset).filter(|&from| from < at)?;
    let end = plain.len().min(at + length);
    for (source, target) in (from..).zip(at..end) {
        let byte = *plain.get(source)?;
        *plain.get_mut(target)? = byte;
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(packed: &[u8], length: usize) -> Option<Vec<u8>> {
        let mut plain = vec![0xEE; length];
        decompress(packed, &mut plain).map(|()| plain)
    }

    #[test]
    fn bytes_and_matches() {
        assert_eq!(plain(&[], 0).unwrap(), b"");
        assert_eq!(plain(&[0, b'a', b'b'], 2).unwrap(), b"ab");
        // A match of 5, two bytes back, repeats itself.
        assert_eq!(plain(&[0b100, b'a', b'b', 0x02, 2], 7).unwrap(), b"abababa");
        // The longest match, and one that the output's end cuts off.
        assert_eq!(plain(&[0b10, b'x', 0x0F, 1, 255], 274).unwrap(), vec![b'x'; 274]);
        assert_eq!(plain(&[0b10, b'x', 0x0F, 1, 255], 100).unwrap(), vec![b'x'; 100]);
        // An offset of more than eight bits.
        let mut packed: Vec<u8> = Vec::new();
        let bytes: Vec<u8> = (0..=255).chain(0..=47).collect();
        for chunk in bytes.chunks(8) {
            packed.push(0);
            packed.extend_from_slice(chunk);
        }
        packed.extend_from_slice(&[1, 0x11, 44]);
        assert_eq!(plain(&packed, 308).unwrap(), [&bytes[..], &[4, 5, 6, 7]].concat());
    }

    #[test]
    fn what_is_no_such_data_is_refused() {
        assert_eq!(plain(&[], 1), None);
        assert_eq!(plain(&[0, b'a'], 2), None, "too little");
        assert_eq!(plain(&[0, b'a', b'b', b'c'], 2), None, "too much");
        assert_eq!(plain(&[0b10, b'a', 0x00, 0], 4), None, "offset 0");
        assert_eq!(plain(&[0b10, b'a', 0x00, 2], 4), None, "before the beginning");
        assert_eq!(plain(&[0b10, b'a', 0x0F, 1], 30), None, "no length");
        assert_eq!(plain(&[0b10, b'a', 0x00], 4), None, "half a match");
    }

    /// What `pglz_compress` could have made: every byte as it is, or matched where `matches` allow it.
    fn pack(bytes: &[u8], matches: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let mut at = 0;
        let mut wanted = matches.iter().cycle();
        while at < bytes.len() {
            let control = packed.len();
            packed.push(0);
            for bit in 0..8 {
                if at == bytes.len() {
                    break;
                }
                let offset = usize::from(*wanted.next().unwrap_or(&1)).max(1);
                let same = (at..bytes.len())
                    .take(273)
                    .take_while(|&index| index >= offset && bytes[index] == bytes[index - offset])
                    .count();
                if same >= 3 {
                    packed[control] |= 1 << bit;
                    let nibble = (same - 3).min(15);
                    packed.push(u8::try_from(offset >> 8 << 4 | nibble).unwrap());
                    packed.push(u8::try_from(offset & 0xFF).unwrap());
                    if nibble == 15 {
                        packed.push(u8::try_from(same - 18).unwrap());
                    }
                    at += same;
                } else {
                    packed.push(bytes[at]);
                    at += 1;
                }
            }
        }
        packed
    }

    proptest! {
        #[test]
        fn packed_bytes_come_out_again(
            bytes in prop::collection::vec(0u8..3, 0..3000),
            matches in prop::collection::vec(any::<u8>(), 1..20),
        ) {
            prop_assert_eq!(plain(&pack(&bytes, &matches), bytes.len()), Some(bytes));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(packed in prop::collection::vec(any::<u8>(), 0..400), length in 0usize..9000) {
            let _ = plain(&packed, length);
        }
    }
}
