//! The processor of a machine, for reports on what the hardware is: model, microcode, erratum, and
//! whether a hypervisor shows itself.

use serde::Serialize;

use super::{facts::Facts, kernel::Era, snapshot::Snapshot};
use crate::bootlog::Words;

/// The processor of a machine. `None` is what was not seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Processor {
    /// Its name, as the CPU gives it.
    pub name: String,
    /// Family, of the first CPU as all below.
    pub family: u32,
    /// Model.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// CPUs differ in these three.
    pub mixed: bool,
    /// Revision of the microcode; several with commas.
    pub microcode: Option<String>,
    /// Logical processors that are online.
    pub cpus: u32,
    /// Packages.
    pub packages: Option<u32>,
    /// The partial-write erratum, by the rule of `tdx-host`: Intel, family and model.
    pub partial_write_erratum: bool,
    /// Whether Linux has noted the erratum (`tdx_pw_mce`); `None` if it would not have noted it.
    pub erratum_noted: Option<bool>,
    /// The CPU has MOVDIR64B.
    pub movdir64b: Option<bool>,
    /// A hypervisor shows itself (CPUID.1:ECX bit 31): the machine is virtual or emulated.
    pub hypervisor: Option<bool>,
}

/// The processor, or `None` if it was not seen.
pub fn processor(snapshot: &Snapshot) -> Option<Processor> {
    let facts = Facts::new(snapshot);
    let cpus = facts.cpus.as_ref().ok()?;
    // Mainline notes it once it has found KeyIDs, which it says, and nothing else has stopped it.
    let would_note = !facts.log_of_another()
        && facts.log.as_ref().is_ok_and(|log| log.key_ids.is_some_and(|key_ids| key_ids.value.private() >= 2))
        && facts.era().is_some_and(|era| era != Era::NoTdxHost)
        && !facts.said().is_some_and(Words::is_early);
    let noted = cpus.bug("tdx_pw_mce");
    Some(Processor {
        name: cpus.name.clone(),
        family: cpus.model.family,
        model: cpus.model.model,
        stepping: cpus.model.stepping,
        mixed: cpus.mixed,
        microcode: cpus.revisions(),
        cpus: cpus.count,
        packages: u32::try_from(cpus.packages).ok().filter(|packages| *packages > 0),
        partial_write_erratum: cpus.model.has_partial_write_erratum(),
        erratum_noted: (noted || would_note).then_some(noted),
        movdir64b: cpus.flag("movdir64b"),
        hypervisor: cpus.flag("hypervisor"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Item;

    #[test]
    fn an_erratum_that_is_not_noted_is_none_only_where_linux_would_note_it() {
        let cpuinfo = |flags: &str, bugs: &str| {
            format!(
                "processor: 0\nvendor_id: GenuineIntel\ncpu family: 6\nmodel: 143\nmodel name: Xeon\nstepping: 8\n\
                 microcode: 0x2b\nphysical id: 0\nflags: {flags}\nbugs: {bugs}\n\n"
            )
        };
        let of_release = |cpuinfo: &str, log: &str, release: &str| {
            let mut snapshot = Snapshot::default();
            snapshot.put(Item::Cpuinfo, Ok(cpuinfo.to_owned()));
            snapshot.put(Item::BootLog, Ok(log.to_owned()));
            snapshot.put(Item::Osrelease, Ok(release.to_owned()));
            processor(&snapshot)
        };
        let of = |cpuinfo: &str, log: &str| of_release(cpuinfo, log, "7.3.0\n");
        let key_ids = "[    1.000000] virt/tdx: BIOS enabled: private KeyID range [32, 64)\n";
        let found = of(&cpuinfo("movdir64b", "tdx_pw_mce"), "").unwrap();
        assert_eq!((found.erratum_noted, found.partial_write_erratum), (Some(true), true));
        assert_eq!((found.movdir64b, found.hypervisor, found.packages), (Some(true), Some(false), Some(1)));
        assert_eq!((found.family, found.model, found.stepping, found.cpus), (6, 143, 8, 1));
        assert_eq!(of(&cpuinfo("hypervisor", ""), key_ids).unwrap().erratum_noted, Some(false));
        assert_eq!(of(&cpuinfo("hypervisor", ""), "").unwrap().erratum_noted, None);
        assert_eq!(of(&cpuinfo("hypervisor", ""), "").unwrap().hypervisor, Some(true));
        // Kernels that do not come to it: older ones, and one that hibernates.
        let hibernates = "[    1.000001] virt/tdx: initialization failed: Hibernation support is enabled\n";
        assert_eq!(of(&cpuinfo("", ""), &format!("{key_ids}{hibernates}")).unwrap().erratum_noted, None);
        assert_eq!(of_release(&cpuinfo("", ""), key_ids, "6.5.0\n").unwrap().erratum_noted, None);
        assert_eq!(of("", key_ids), None);
    }
}
