//! Variable-length integers and a reader that never runs past its bytes.

use super::MetricsError;

/// Appends `value`, seven bits a byte, low bits first.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number so that small magnitudes are short.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Reads forward over bytes; every failure is [`MetricsError::Corrupt`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], MetricsError> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or_else(|| corrupt("cut short"))?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], MetricsError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or_else(|| corrupt("cut short"))?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, MetricsError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, MetricsError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, MetricsError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn varint(&mut self) -> Result<u64, MetricsError> {
        let mut value = 0_u64;
        for (position, &byte) in self.bytes.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if position == 9 && bits > 1 {
                break;
            }
            value |= bits << (7 * position);
            if byte & 0x80 == 0 {
                self.bytes = &self.bytes[position + 1..];
                return Ok(value);
            }
        }
        Err(corrupt("a number is cut short or too long"))
    }

    pub(super) fn signed(&mut self) -> Result<i64, MetricsError> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A count of things of at least `least_bytes` each: refused where the bytes that are left could
    /// not hold them, so that it is safe to allocate for.
    pub(super) fn count(&mut self, least_bytes: usize) -> Result<usize, MetricsError> {
        let count = usize::try_from(self.varint()?).map_err(|_| corrupt("a count is too large"))?;
        if count.checked_mul(least_bytes).is_none_or(|bytes| bytes > self.bytes.len()) {
            return Err(corrupt("a count is larger than its bytes"));
        }
        Ok(count)
    }
}

pub(super) fn corrupt(what: &str) -> MetricsError {
    MetricsError::Corrupt(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_survive_and_overlong_numbers_are_refused() {
        for value in [0, 1, 127, 128, 1 << 35, u64::MAX] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(Reader::new(&out).varint().expect("read"), value);
            assert!(Reader::new(&out[..out.len() - 1]).varint().is_err());
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            let mut out = Vec::new();
            put_signed(&mut out, value);
            assert_eq!(Reader::new(&out).signed().expect("read"), value);
        }
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        assert!(Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02]).varint().is_err());
    }
}
