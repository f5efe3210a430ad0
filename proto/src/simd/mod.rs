//! WebSocket masking at the width of the machine: the only folder of this crate with `unsafe`.
//!
//! **Runs on: any.** One safe loop is compiled twice, for the baseline target and for AVX2, and the
//! compiler turns it into vector code; the `unsafe` is the call that relies on AVX2 being there.
//! Masking and unmasking are the same operation (RFC 6455 §5.3).
#![allow(unsafe_code)]

/// Applies the masking key to `bytes` in place; the first byte meets the key's first byte
/// (RFC 6455 §5.3).
pub fn mask(bytes: &mut [u8], key: [u8; 4]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // Below two vectors the wider loop has nothing to win.
    if bytes.len() >= 64 && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as the line above just asked; the function has no other
        // requirement.
        unsafe { mask_avx2(bytes, key) };
        return;
    }
    mask_wide::<16>(bytes, key);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn mask_avx2(bytes: &mut [u8], key: [u8; 4]) {
    mask_wide::<64>(bytes, key);
}

/// The loop over blocks of `BLOCK` bytes, a multiple of four, so that every block meets the key at
/// its first byte. Blocks may lie at any alignment.
#[inline(always)]
fn mask_wide<const BLOCK: usize>(bytes: &mut [u8], key: [u8; 4]) {
    const { assert!(BLOCK.is_multiple_of(4)) };
    let (blocks, tail) = bytes.as_chunks_mut::<BLOCK>();
    let mut wide = [0; BLOCK];
    for (index, byte) in wide.iter_mut().enumerate() {
        *byte = key[index % 4];
    }
    for block in blocks {
        for (byte, key) in block.iter_mut().zip(wide) {
            *byte ^= key;
        }
    }
    for (byte, key) in tail.iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(bytes: &mut [u8], key: [u8; 4]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte ^= key[index % 4];
        }
    }

    /// Every start within a cache line and every length, through one implementation.
    fn same_as_naive(implementation: impl Fn(&mut [u8], [u8; 4])) {
        let step = if cfg!(miri) { 13 } else { 1 };
        let source: Vec<u8> = (0..400_usize).map(|n| (n * 31 + 7) as u8).collect();
        let key = [0xa5, 0x01, 0xff, 0x3c];
        for start in (0..64).step_by(step) {
            for len in (0..=300).step_by(step) {
                let mut got = source.clone();
                let mut want = source.clone();
                implementation(&mut got[start..start + len], key);
                naive(&mut want[start..start + len], key);
                assert_eq!(got, want, "start {start}, length {len}");
            }
        }
    }

    #[test]
    fn simd_chosen_path_is_the_naive_loop() {
        same_as_naive(mask);
    }

    #[test]
    fn simd_plain_path_is_the_naive_loop() {
        same_as_naive(mask_wide::<16>);
        same_as_naive(mask_wide::<64>);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn simd_avx2_path_is_the_naive_loop() {
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, as the line above just asked.
            same_as_naive(|bytes, key| unsafe { mask_avx2(bytes, key) });
        }
    }
}
