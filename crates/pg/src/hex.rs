//! Strict numbers in text: no sign, no spaces, no letters of the wrong case.

/// Parses exactly eight upper-case hexadecimal digits.
pub(crate) fn parse_upper8(text: &str) -> Option<u32> {
    let bytes = text.as_bytes();
    if bytes.len() != 8 || !bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')) {
        return None;
    }
    u32::from_str_radix(text, 16).ok()
}

/// Parses one to eight hexadecimal digits of either case, as PostgreSQL's `pg_lsn` does.
pub(crate) fn parse_up_to8(text: &str) -> Option<u32> {
    if text.is_empty() || text.len() > 8 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(text, 16).ok()
}

/// Parses a decimal number of at most 20 digits, and nothing but digits.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_are_numbers() {
        assert_eq!(parse_upper8("0000000A"), Some(10));
        for bad in ["0000000a", "+000000A", "000000A", "00000000A", "", "0000000G", "０000"] {
            assert_eq!(parse_upper8(bad), None, "{bad}");
        }
        assert_eq!(parse_up_to8("fF"), Some(255));
        for bad in ["", "+1", "123456789", "-1", " 1"] {
            assert_eq!(parse_up_to8(bad), None, "{bad}");
        }
        assert_eq!(parse_decimal("18446744073709551615"), Some(u64::MAX));
        for bad in ["18446744073709551616", "+1", "", "0x10", "1 ", "000000000000000000001"] {
            assert_eq!(parse_decimal(bad), None, "{bad}");
        }
    }
}
