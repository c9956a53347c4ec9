//! The store that is measured: MOVDIR64B as the reset uses it where the CPU has it, which user
//! space may execute; ordinary stores elsewhere.

use serde::Serialize;

/// A line of memory.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

impl Line {
    /// Not zero, so that zeros are something new.
    pub(super) const ONES: Self = Self([1; 64]);
}

/// How memory is rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::commands) enum Store {
    /// The product's loop: past the caches, a line at once.
    Movdir64b,
    /// Ordinary stores: `memset` of the compiler.
    Ordinary,
}

impl Store {
    /// What this CPU has.
    pub(super) fn of_this_cpu() -> Self {
        if has_movdir64b() { Self::Movdir64b } else { Self::Ordinary }
    }

    /// For people.
    pub(super) const fn method(self) -> &'static str {
        match self {
            Self::Movdir64b => {
                "zeros by MOVDIR64B, in the loop of the reset, over memory larger than the caches, median of 5 rounds"
            }
            Self::Ordinary => {
                "zeros by ordinary stores of safe code over memory larger than the caches, median of 5 rounds; \
                 this CPU lacks MOVDIR64B, which may be slower"
            }
        }
    }

    /// Rewrites all lines.
    pub(super) fn rewrite(self, memory: &mut [Line]) {
        match self {
            Self::Movdir64b => movdir64b(memory),
            Self::Ordinary => memory.fill(Line([0; 64])),
        }
        std::hint::black_box(memory);
    }
}

/// CPUID.7.0:ECX bit 28.
#[cfg(target_arch = "x86_64")]
fn has_movdir64b() -> bool {
    let last = tdx_host::arch::cpuid(0, 0).eax;
    last >= 7 && tdx_host::arch::cpuid(7, 0).ecx >> 28 & 1 == 1
}

#[cfg(not(target_arch = "x86_64"))]
fn has_movdir64b() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
fn movdir64b(memory: &mut [Line]) {
    // UNSAFETY: the instruction, on memory of this program.
    #![allow(unsafe_code)]
    // SAFETY: `has_movdir64b` has found the instruction; the lines are aligned, mapped and this
    // caller's alone.
    let left = unsafe { tdx_host::arch::movdir64b_zero(memory.as_mut_ptr().cast(), memory.len() as u64) };
    debug_assert_eq!(left, 0, "every line is mapped");
    tdx_host::arch::mfence();
}

#[cfg(not(target_arch = "x86_64"))]
fn movdir64b(memory: &mut [Line]) {
    memory.fill(Line([0; 64]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_rewritten() {
        for store in [Store::Ordinary, Store::of_this_cpu()] {
            let mut memory = vec![Line::ONES; 100];
            store.rewrite(&mut memory);
            assert!(memory.iter().all(|line| line.0 == [0; 64]), "{store:?}");
        }
    }
}
