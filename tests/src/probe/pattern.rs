//! Bytes of which each position has its own, so that a lost, doubled or moved byte is seen, without keeping what was sent.

/// Length of the repeated block: a prime, so that no power of two of buffers falls on the same phase.
const PERIOD: usize = 1_048_573;

/// The endless sequence.
pub struct Pattern {
    /// Two periods, so that a run of up to one period is one slice wherever it begins.
    block: Vec<u8>,
}

impl Default for Pattern {
    fn default() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                // xorshift64: no pattern within the period.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        Self {
            block: [period.as_slice(), period.as_slice()].concat(),
        }
    }
}

impl Pattern {
    /// Up to `length` bytes (at most one period) from a position on.
    pub fn at(&self, position: u64, length: usize) -> &[u8] {
        let period = PERIOD as u64;
        let phase = usize::try_from(position % period).unwrap_or_default();
        &self.block[phase..phase + length.min(PERIOD)]
    }

    /// Whether these bytes are those from a position on.
    pub fn matches(&self, position: u64, bytes: &[u8]) -> bool {
        let mut position = position;
        bytes.chunks(PERIOD).all(|chunk| {
            let equal = self.at(position, chunk.len()) == chunk;
            position += chunk.len() as u64;
            equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{PERIOD, Pattern};

    #[test]
    fn notices_what_is_missing_moved_or_changed() {
        let pattern = Pattern::default();
        let bytes = pattern.at(12_345, 4_096).to_vec();
        assert!(pattern.matches(12_345, &bytes));
        assert!(!pattern.matches(12_346, &bytes), "moved by one");
        assert!(!pattern.matches(12_345, &bytes[1..]), "one missing");
        let mut changed = bytes;
        changed[4_000] ^= 1;
        assert!(!pattern.matches(12_345, &changed), "one bit changed");
    }

    #[test]
    fn goes_on_over_the_end_of_its_period() {
        let pattern = Pattern::default();
        let end = PERIOD as u64 - 10;
        let over = pattern.at(end, 20);
        assert_eq!(over[10..], *pattern.at(0, 10));
        assert!(pattern.matches(end, over));
    }
}
