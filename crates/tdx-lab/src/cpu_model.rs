//! The CPU models of TDX hosts by name, and the CPUID signature that makes the product's detection find them.

use tdx_host::platform::CpuModel;

/// Sapphire Rapids. Has the partial-write erratum.
pub const SAPPHIRE_RAPIDS: CpuModel = CpuModel { intel: true, family: 6, model: 0x8f, stepping: 8 };
/// Emerald Rapids. Has the partial-write erratum.
pub const EMERALD_RAPIDS: CpuModel = CpuModel { intel: true, family: 6, model: 0xcf, stepping: 2 };
/// Granite Rapids. Does not have it.
pub const GRANITE_RAPIDS: CpuModel = CpuModel { intel: true, family: 6, model: 0xad, stepping: 1 };
/// Sierra Forest. Does not have it.
pub const SIERRA_FOREST: CpuModel = CpuModel { intel: true, family: 6, model: 0xaf, stepping: 3 };

/// Short name, long name and model of each CPU known by name.
pub const NAMED: [(&str, &str, CpuModel); 4] = [
    ("spr", "Sapphire Rapids", SAPPHIRE_RAPIDS),
    ("emr", "Emerald Rapids", EMERALD_RAPIDS),
    ("gnr", "Granite Rapids", GRANITE_RAPIDS),
    ("srf", "Sierra Forest", SIERRA_FOREST),
];

/// The name people use, if this crate knows it.
pub fn name(model: CpuModel) -> Option<&'static str> {
    NAMED
        .iter()
        .find(|(_, _, known)| model.intel && (model.family, model.model) == (known.family, known.model))
        .map(|(_, name, _)| *name)
}

/// EAX of CPUID leaf 1: stepping 3:0, model 7:4, family 11:8, extended model 19:16, extended family 27:20.
pub fn signature(model: CpuModel) -> u32 {
    let (base, extended) = if model.family > 0xf { (0xf, model.family - 0xf) } else { (model.family, 0) };
    model.stepping & 0xf
        | (model.model & 0xf) << 4
        | base << 8
        | (model.model >> 4 & 0xf) << 16
        | (extended & 0xff) << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_as_cpuid_gives_them() {
        // Sapphire Rapids D0/E, Emerald Rapids A1, EPYC 9004 (family 25, model 17): values of public CPUID dumps.
        assert_eq!(signature(SAPPHIRE_RAPIDS), 0x806f8);
        assert_eq!(signature(EMERALD_RAPIDS), 0xc06f2);
        assert_eq!(signature(CpuModel { intel: false, family: 0x19, model: 0x11, stepping: 1 }), 0xa1_0f11);
    }

    #[test]
    fn names_and_the_erratum() {
        for (short, long, model) in NAMED {
            assert_eq!(name(model), Some(long));
            assert_eq!(model.has_partial_write_erratum(), matches!(short, "spr" | "emr"), "{long}");
        }
        assert_eq!(name(CpuModel { intel: false, ..SAPPHIRE_RAPIDS }), None);
    }
}
