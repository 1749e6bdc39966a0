//! Pseudo-random input. The same seed gives the same input on every machine and in every version, as
//! the checksums depend on it; it must never draw from the system.

/// SplitMix64: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `count` numbers from `low` up to, not including, `high` (save for rounding).
    pub fn floats(&mut self, count: usize, low: f32, high: f32) -> Vec<f32> {
        let width = high - low;
        (0..count)
            .map(|_| {
                // The upper 24 bits: all that a float's significand holds.
                let unit = (self.next() >> 40) as f32 / 16_777_216.0;
                low + width * unit
            })
            .collect()
    }

    /// `count` numbers of 32 bits.
    pub fn words(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| (self.next() >> 32) as u32).collect()
    }

    /// `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count.next_multiple_of(8));
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64() {
        // The reference implementation's first outputs for the seed 1234567.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn floats_fill_their_range() {
        let floats = Random::new(7).floats(10_000, -2.0, 3.0);
        assert!(floats.iter().all(|x| (-2.0..=3.0).contains(x)));
        assert!(floats.iter().any(|x| *x < -1.99) && floats.iter().any(|x| *x > 2.99));
    }

    #[test]
    fn bytes_come_in_any_number() {
        for count in [0, 1, 7, 8, 9] {
            assert_eq!(Random::new(7).bytes(count).len(), count);
        }
    }
}
