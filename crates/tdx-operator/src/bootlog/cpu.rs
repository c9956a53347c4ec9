//! CPU model: the kernel's `smpboot: CPU0:` line or, as a weaker source, a `# cpu:` comment.

use tdx_host::platform::CpuModel;

use super::number::{bare_hex, hex};
use crate::{cpu_model, input::Rule};

const FORM: &str = "smpboot: CPU0: NAME (family: 0xF, model: 0xM, stepping: 0xS)";

/// `rest` is what follows `smpboot: CPU0: `.
pub(super) fn smpboot(rest: &str) -> Result<CpuModel, Rule> {
    parse_smpboot(rest).ok_or(Rule::Malformed { form: FORM })
}

fn parse_smpboot(rest: &str) -> Option<CpuModel> {
    let (name, fields) = rest.trim().strip_suffix(')')?.rsplit_once(" (")?;
    let mut values = fields.split(", ");
    // Kernels before 4.4 wrote `fam: 06, model: 2d, stepping: 07`.
    let mut field = |long: &str, short: &str| {
        let text = values.next()?;
        let number = match text.strip_prefix(long) {
            Some(new) => hex(new).or_else(|| bare_hex(new))?,
            None => bare_hex(text.strip_prefix(short)?)?,
        };
        u32::try_from(number).ok().filter(|&n| n <= 0x1ff)
    };
    let family = field("family: ", "fam: ")?;
    let model = field("model: ", "model: ")?;
    let stepping = field("stepping: ", "stepping: ")?;
    // Emerald Rapids calls itself `INTEL(R) XEON(R)`.
    let intel = name.to_ascii_lowercase().contains("intel") || name.starts_with("06/");
    Some(CpuModel { intel, family, model, stepping })
}

/// What a `# cpu:` comment says. People write these, so nothing in them is an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuHint {
    /// The comment names one model.
    Model(CpuModel),
    /// The comment names a CPU that is not Intel's.
    NotIntel,
}

/// Reads a `# cpu:` comment; `None` if it names no model or more than one.
pub(super) fn hint(comment: &str) -> Option<CpuHint> {
    let text = comment.to_lowercase();
    let named = |names: &[&str]| names.iter().any(|name| text.contains(name));
    let found = [
        (named(&["sapphire rapids", "(spr)"]), cpu_model::SAPPHIRE_RAPIDS),
        (named(&["emerald rapids", "(emr)", "06/cf"]), cpu_model::EMERALD_RAPIDS),
        (named(&["granite rapids", "(gnr)"]), cpu_model::GRANITE_RAPIDS),
        (named(&["sierra forest", "(srf)"]), cpu_model::SIERRA_FOREST),
    ];
    let mut models = found.into_iter().filter_map(|(is, model)| is.then_some(model));
    match (models.next(), models.next()) {
        (Some(model), None) => Some(CpuHint::Model(model)),
        (None, _) if named(&["amd "]) => Some(CpuHint::NotIntel),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smpboot_lines() {
        let model = smpboot("Intel(R) Xeon(R) Platinum 8480CTDX (family: 0x6, model: 0x8f, stepping: 0x8)").unwrap();
        assert_eq!(model, cpu_model::SAPPHIRE_RAPIDS);
        let loud = smpboot("INTEL(R) XEON(R) PLATINUM 8592+ (family: 0x6, model: 0xcf, stepping: 0x2)").unwrap();
        assert!(loud == cpu_model::EMERALD_RAPIDS && loud.has_partial_write_erratum());
        let old = smpboot("Intel(R) Xeon(R) CPU E7 (fam: 06, model: 2d, stepping: 07)").unwrap();
        assert_eq!((old.intel, old.family, old.model, old.stepping), (true, 6, 0x2d, 7));
        let amd = smpboot("AMD EPYC 9654 96-Core Processor (family: 0x19, model: 0x11, stepping: 0x1)").unwrap();
        assert_eq!((amd.intel, amd.family), (false, 0x19));
        for cut in
            ["Intel(R) Xeon(R)", "Intel (family: 0x6, model: 0x8f)", "Intel (family: 0x6, model: 0x8f, stepping: 0x"]
        {
            assert!(smpboot(cut).is_err(), "{cut}");
        }
    }

    #[test]
    fn comments() {
        let emerald = Some(CpuHint::Model(cpu_model::EMERALD_RAPIDS));
        assert_eq!(hint("Emerald Rapids, Fox Creek Pass board, BIOS 01.02.0001"), emerald);
        assert_eq!(hint("not stated (guest of the same host reports 06/cf, Emerald Rapids class)"), emerald);
        assert_eq!(hint("Xeon 6747P (Granite Rapids)"), Some(CpuHint::Model(cpu_model::GRANITE_RAPIDS)));
        assert_eq!(hint("AMD EPYC (not Intel: kept for its eight nodes)"), Some(CpuHint::NotIntel));
        assert_eq!(hint("not stated"), None);
        // Either of two models, with and without the erratum: nothing is known.
        assert_eq!(hint("Emerald Rapids or Granite Rapids"), None);
    }
}
