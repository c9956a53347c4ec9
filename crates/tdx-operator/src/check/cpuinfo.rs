//! /proc/cpuinfo parser: model, name, flags, bugs, number of CPUs and packages.

use std::collections::BTreeSet;

use tdx_host::platform::CpuModel;

use crate::input::excerpt;

/// Most blocks of one file; Linux is built for 8192 CPUs at most.
const MAX_CPUS: u32 = 1 << 16;

/// The CPUs of a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cpus {
    /// Model of the first.
    pub(super) model: CpuModel,
    /// `vendor_id` of the first.
    pub(super) vendor: String,
    /// Its name, as the CPU gives it.
    pub(super) name: String,
    /// Logical processors that are online.
    pub(super) count: u32,
    /// Packages; 0 if the file does not say.
    pub(super) packages: usize,
    /// Another CPU has another model or stepping.
    pub(super) mixed: bool,
    /// Revisions of the microcode, each once; empty if the file does not say.
    pub(super) microcode: BTreeSet<String>,
    flags: Option<String>,
    bugs: String,
}

impl Cpus {
    /// Reads the blocks.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut first: Option<Self> = None;
        let (mut count, mut packages, mut mixed) = (0, BTreeSet::new(), false);
        let mut microcode = BTreeSet::new();
        for block in text.split("\n\n").filter(|block| !block.trim().is_empty()) {
            let value = |key: &str| {
                let mut fields = block.lines().filter_map(|line| line.split_once(':'));
                fields.find_map(|(found, value)| (found.trim() == key).then_some(value.trim()))
            };
            count += 1;
            if count > MAX_CPUS {
                return Err(format!("has more than {MAX_CPUS} CPUs"));
            }
            let number = |key: &str| value(key).and_then(|text| text.parse::<u32>().ok());
            let (Some(vendor), Some(family), Some(model)) = (value("vendor_id"), number("cpu family"), number("model"))
            else {
                return Err(format!("block {count} has no vendor_id, cpu family or model"));
            };
            let stepping = number("stepping").unwrap_or(0);
            let model = CpuModel { intel: vendor == "GenuineIntel", family, model, stepping };
            packages.extend(number("physical id"));
            microcode.extend(value("microcode").map(excerpt));
            if let Some(first) = &first {
                mixed |= first.model != model;
                continue;
            }
            first = Some(Self {
                model,
                vendor: excerpt(vendor),
                name: excerpt(value("model name").unwrap_or_default()),
                count: 0,
                packages: 0,
                mixed: false,
                microcode: BTreeSet::new(),
                flags: value("flags").map(str::to_owned),
                bugs: value("bugs").unwrap_or_default().to_owned(),
            });
        }
        let first = first.ok_or("holds no CPU")?;
        Ok(Self { count, packages: packages.len(), mixed, microcode, ..first })
    }

    /// The revisions of the microcode; `None` if the file does not say.
    pub(super) fn revisions(&self) -> Option<String> {
        let all: Vec<&str> = self.microcode.iter().take(4).map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    /// Whether the first CPU has a flag; `None` if the file has no flags.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.flags.as_ref().map(|flags| flags.split_whitespace().any(|flag| flag == name))
    }

    /// Whether the kernel has noted a bug of the CPU.
    pub(super) fn bug(&self, name: &str) -> bool {
        self.bugs.split_whitespace().any(|bug| bug == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel \
         name\t: Xeon: 8480\n\
                       stepping\t: 8\nphysical id\t: 0\nflags\t\t: fpu tme movdir64b\nbugs\t\t: tdx_pw_mce\n\n";

    #[test]
    fn blocks() {
        let other = "processor\t: 1\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nstepping\t: 8\n\
                     physical id\t: 1\n\n";
        let cpus = Cpus::parse(&format!("{ONE}{other}")).unwrap();
        assert_eq!((cpus.count, cpus.packages, cpus.mixed), (2, 2, false));
        assert_eq!((cpus.model.to_string().as_str(), cpus.name.as_str()), ("06_8F", "Xeon: 8480"));
        assert_eq!(
            (cpus.flag("movdir64b"), cpus.flag("movdir"), cpus.bug("tdx_pw_mce")),
            (Some(true), Some(false), true)
        );
        let mixed = Cpus::parse(&format!("{ONE}{}", other.replace("143", "207"))).unwrap();
        assert!(mixed.mixed && mixed.model.model == 143);
    }

    #[test]
    fn bad_files() {
        for bad in ["", "\n\n", "processor : 0\n", "vendor_id: x\ncpu family: 6\nmodel: 99999999999\n"] {
            assert!(Cpus::parse(bad).is_err(), "{bad}");
        }
    }
}
