//! Options of seamvisor's command line: CPU model, TDX module, faults of the module.

use alloc::format;
use alloc::vec::Vec;
use metal::boot::{self, Boot, MapEntry};
use tdx_abi::{PageRange, PhysAddr};
use tdx_machine::{CpuModel, Injection, InjectionError, MachineConfig, ModuleProfile};

/// Memory below this address is in no CMR.
const LOW_MEMORY_END: u64 = 1 << 20;

/// RAM entries of a memory map.
pub fn usable(map: &[MapEntry]) -> impl Iterator<Item = &MapEntry> {
    map.iter().filter(|entry| entry.kind == boot::USABLE)
}

/// Configuration of the emulated machine: `cpu=`, `seam=`, `module=`, `max-vcpus-field=`. Panics
/// on an unknown value.
pub fn machine(boot: &Boot, map: &[MapEntry], cpus: usize) -> MachineConfig {
    let model = match boot.option("cpu").unwrap_or("spr") {
        "spr" => CpuModel::SAPPHIRE_RAPIDS,
        "emr" => CpuModel::EMERALD_RAPIDS,
        "gnr" => CpuModel::GRANITE_RAPIDS,
        other => panic!("unknown `cpu` {other:?}: spr, emr or gnr"),
    };
    let cmrs = usable(map)
        .map(|entry| {
            let start = PhysAddr::new(entry.address.max(LOW_MEMORY_END));
            PageRange::inside(start, PhysAddr::new((entry.address + entry.size).max(LOW_MEMORY_END)))
        })
        .filter(|cmr| !cmr.is_empty());
    let mut config = MachineConfig::new(model, cpus as u32, 1, cmrs);
    match boot.option("seam") {
        None | Some("on") => {}
        Some("off") => config.seam_enabled = false,
        Some("no-module") => config.module = None,
        Some(other) => panic!("unknown `seam` {other:?}: on, off or no-module"),
    }
    match boot.option("module") {
        None | Some("1.5.01") => {}
        Some("1.5.25") => config.module = config.module.and(Some(ModuleProfile::V1_5_25)),
        // As described to Linux. No module with TDH.SYS.DISABLE was available to compare with.
        Some("sys-disable") => config.module = config.module.and(Some(ModuleProfile::V1_5_01.with_sys_disable())),
        Some(other) => panic!("unknown `module` {other:?}: 1.5.01, 1.5.25 or sys-disable"),
    }
    match boot.option("max-vcpus-field") {
        None => {}
        // Linux 6.16 and newer initialize TDX only if they can read MAX_VCPUS_PER_TD, which 1.5.01
        // does not have.
        Some("on") => config.has_max_vcpus_field = true,
        Some(other) => panic!("unknown `max-vcpus-field` {other:?}: on"),
    }
    config
}

/// `dynamic-pamt=assumed`: SYS.CONFIG is taken as if the guest had set the bit that switches
/// Dynamic PAMT on. For a guest that does not know of it; hardware has no such thing. What the
/// guest gives as PAMT_4K is larger than a bitmap, which the module allows. Panics on another word,
/// and with a module that has no Dynamic PAMT.
pub fn assumes_dynamic_pamt(boot: &Boot, config: &MachineConfig) -> bool {
    match boot.option("dynamic-pamt") {
        None => false,
        Some("assumed") => {
            let has = config.module.is_some_and(ModuleProfile::has_dynamic_pamt);
            assert!(has, "`dynamic-pamt=assumed` needs a module that has it: `module=1.5.25`");
            true
        }
        Some(other) => panic!("unknown `dynamic-pamt` {other:?}: assumed"),
    }
}

/// `fail=LEAF:N:STATUS,LEAF:N:dies,...`: that call of that leaf answers a status and does nothing,
/// or the module crashes in it. `dies=LEAF.N` is short for `fail=LEAF:N:dies`. Panics on words that
/// are none.
pub fn all_injections(boot: &Boot) -> Vec<Injection> {
    let mut all: Vec<Injection> = boot.option("fail").into_iter().flat_map(injections).collect();
    if let Some(option) = boot.option("dies") {
        let (leaf, call) = option.split_once('.').unwrap_or((option, "1"));
        let words = format!("{leaf}:{call}:dies");
        all.push(words.parse().unwrap_or_else(|error| panic!("invalid `dies` {option:?}, LEAF.N: {error}")));
    }
    all
}

/// The words of one `fail=`. The iterator panics on a word that is none.
pub fn injections(words: &str) -> impl Iterator<Item = Injection> {
    let one = |word: &str| word.parse().unwrap_or_else(|error: InjectionError| panic!("invalid `fail`: {error}"));
    words.split(',').map(one)
}
