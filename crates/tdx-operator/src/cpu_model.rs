//! The CPU models of TDX hosts by name.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_the_erratum() {
        for (short, long, model) in NAMED {
            assert_eq!(name(model), Some(long));
            assert_eq!(model.has_partial_write_erratum(), matches!(short, "spr" | "emr"), "{long}");
        }
        assert_eq!(name(CpuModel { intel: false, ..SAPPHIRE_RAPIDS }), None);
    }
}
