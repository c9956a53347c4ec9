//! Whether the kernel uses Dynamic PAMT, so that what it has allocated at its start is not all.

use super::{facts::Facts, rules, snapshot::Snapshot};

/// Whether the kernel uses Dynamic PAMT; `None` if it is not known, as without the kernel's line on
/// PAMT.
pub fn dynamic_pamt(snapshot: &Snapshot) -> Option<bool> {
    let facts = Facts::new(snapshot);
    let log = facts.log.as_ref().ok().filter(|_| !facts.log_of_another())?;
    if log.dynamic_pamt.is_some() {
        return Some(true);
    }
    // The log may have lost the line. Static PAMT has 16 bytes for each page of 4 KiB, and a TDMR
    // covers every page of Linux's.
    let (pamt, memory) = (log.pamt_kb?.value, rules::mem_total_kb(&facts)?);
    Some(pamt < memory / 256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Item;

    #[test]
    fn dynamic_pamt_by_its_line_and_by_its_size() {
        let of = |log: &str, memory: &str| {
            let mut snapshot = Snapshot::default();
            snapshot.put(Item::BootLog, Ok(log.to_owned()));
            snapshot.put(Item::Meminfo, Ok(memory.to_owned()));
            dynamic_pamt(&snapshot)
        };
        let (line, kb) = (
            "[    1.000000] virt/tdx: Enable Dynamic PAMT\n",
            "[    1.000001] virt/tdx: 1050644 KB allocated for PAMT\n",
        );
        // 250 GiB of the 256 that have such a PAMT.
        let memory = "MemTotal:       262144000 kB\n";
        assert_eq!(of(kb, memory), Some(false));
        assert_eq!(of(&format!("{line}{kb}"), memory), Some(true));
        assert_eq!(of(line, ""), Some(true));
        // As in fixtures/hosts/33-lkml-dynamic-pamt.log, without the line.
        assert_eq!(of("[    1.000001] virt/tdx: 10092 KB allocated for PAMT\n", memory), Some(true));
        for (log, memory) in [(kb, ""), ("", memory), ("[    1.000000] virt/tdx: module initialized\n", memory)] {
            assert_eq!(of(log, memory), None, "{log}");
        }
    }
}
