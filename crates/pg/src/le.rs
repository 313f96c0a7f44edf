//! Little-endian numbers at offsets, without panics.
//!
//! PostgreSQL writes its files in the byte order of the machine. Walden reads those of little-endian
//! machines (x86-64, arm64), which is every machine that PostgreSQL is commonly run on.

/// `N` bytes at `offset`, if they are there.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk::<N>().copied()
}

pub(crate) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

pub(crate) fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    array_at(bytes, offset).map(i32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

pub(crate) fn i64_at(bytes: &[u8], offset: usize) -> Option<i64> {
    array_at(bytes, offset).map(i64::from_le_bytes)
}

/// Takes numbers and lists off the front of bytes; `None` once there are too few.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    start: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, start: bytes.len() }
    }

    /// How many bytes were taken.
    #[inline]
    pub(crate) const fn consumed(&self) -> usize {
        self.start - self.rest.len()
    }

    /// How many bytes were taken; too many for 32 bits count as the most that they can tell.
    #[inline]
    pub(crate) fn consumed_u32(&self) -> u32 {
        u32::try_from(self.consumed()).unwrap_or(u32::MAX)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(head)
    }

    /// `count` elements of `N` bytes each.
    pub(crate) fn list<const N: usize>(&mut self, count: usize) -> Option<&'a [[u8; N]]> {
        let bytes = self.bytes(count.checked_mul(N)?)?;
        Some(bytes.as_chunks::<N>().0)
    }

    /// A list that begins with the number of its elements, an `int` that is never negative.
    pub(crate) fn counted_list<const N: usize>(&mut self) -> Option<&'a [[u8; N]]> {
        let count = usize::try_from(self.i32()?).ok()?;
        self.list(count)
    }

    /// The bytes before the next NUL, which is taken too.
    pub(crate) fn c_string(&mut self) -> Option<&'a [u8]> {
        let length = self.rest.iter().position(|&byte| byte == 0)?;
        let text = self.bytes(length)?;
        self.u8()?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_past_the_end_are_none() {
        let bytes = [1, 2, 3, 4, 5];
        assert_eq!(u32_at(&bytes, 1), Some(0x0504_0302));
        assert_eq!(u32_at(&bytes, 2), None);
        assert_eq!(u32_at(&bytes, usize::MAX), None);
        assert_eq!(u8_at(&bytes, 5), None);
        assert_eq!(u64_at(&bytes, 0), None);
        assert_eq!(u16_at(&bytes, 3), Some(0x0504));
    }
}
