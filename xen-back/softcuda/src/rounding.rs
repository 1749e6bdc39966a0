//! The processor's floating-point modes while device work runs: those that the ABI starts a thread
//! with, whatever the program set in its own threads (`-ffast-math` makes them flush denormals to
//! zero). Must never leave them changed.

/// Runs `body` in the initial modes: rounding to nearest, denormals kept, no exception trapped.
pub fn with_default_modes<R>(body: impl FnOnce() -> R) -> R {
    struct Restore(Modes);
    impl Drop for Restore {
        fn drop(&mut self) {
            set(self.0);
        }
    }
    let _restore = Restore(get());
    set(DEFAULT);
    body()
}

#[cfg(target_arch = "x86_64")]
type Modes = u32;
/// All exceptions masked, everything else off.
#[cfg(target_arch = "x86_64")]
const DEFAULT: Modes = 0x1f80;

#[cfg(target_arch = "x86_64")]
fn get() -> Modes {
    let mut modes = 0;
    // SAFETY: stores the register's 32 bits in `modes`.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &mut modes, options(nostack, preserves_flags));
    }
    modes
}

#[cfg(target_arch = "x86_64")]
fn set(modes: Modes) {
    // SAFETY: `modes` came from `get` or is the default, so no reserved bit is set. Rust code that
    // computes in other modes than it assumes runs only inside `with_default_modes`, which sets those.
    unsafe {
        std::arch::asm!("ldmxcsr [{}]", in(reg) &modes, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(target_arch = "aarch64")]
type Modes = u64;
#[cfg(target_arch = "aarch64")]
const DEFAULT: Modes = 0;

#[cfg(target_arch = "aarch64")]
fn get() -> Modes {
    let modes;
    // SAFETY: reads a register.
    unsafe {
        std::arch::asm!("mrs {}, fpcr", out(reg) modes, options(nostack, nomem, preserves_flags));
    }
    modes
}

#[cfg(target_arch = "aarch64")]
fn set(modes: Modes) {
    // SAFETY: `modes` came from `get` or is the default. Rust code that computes in other modes than it
    // assumes runs only inside `with_default_modes`, which sets those.
    unsafe {
        std::arch::asm!("msr fpcr, {}", in(reg) modes, options(nostack, nomem, preserves_flags));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_program_that_flushes_denormals_changes_nothing_and_keeps_its_modes() {
        const FLUSH: u32 = 0x8040;
        let half = |x: f32| black_box(x) * black_box(0.5);
        set(DEFAULT | FLUSH);
        let flushed = half(f32::MIN_POSITIVE);
        let kept = with_default_modes(|| half(f32::MIN_POSITIVE));
        let after = get();
        set(DEFAULT);
        assert_eq!((flushed, kept), (0.0, f32::MIN_POSITIVE / 2.0));
        assert_eq!(after & FLUSH, FLUSH);
    }
}
