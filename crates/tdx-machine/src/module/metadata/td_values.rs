//! Values of a TD's metadata fields, from its state. `None`: not known here.

use tdx_abi::{Page, StatusCode};

use super::super::Module;
use super::super::call::Stop;
use super::super::td::{GPAW, Td};
use super::super::tsc;
use super::cpuid;
use super::table::{ALL, CLASS, CODE, Write};
use crate::hardware::Hardware;
use crate::rng::Rng;

/// Classes, as they stand in a field id.
mod class {
    pub(super) const TD_MANAGEMENT: u64 = 0x00 << 56;
    pub(super) const KEY_MANAGEMENT: u64 = 0x01 << 56;
    pub(super) const TD_PRESERVING: u64 = 0x02 << 56;
    pub(super) const STATE: u64 = 0x10 << 56;
    pub(super) const EXECUTION_CONTROLS: u64 = 0x11 << 56;
    pub(super) const TLB_EPOCH: u64 = 0x12 << 56;
    pub(super) const MEASUREMENT: u64 = 0x13 << 56;
    pub(super) const CPUID: u64 = 0x14 << 56;
    pub(super) const MIGRATION: u64 = 0x18 << 56;
    pub(super) const SERVICE_TD: u64 = 0x19 << 56;
    pub(super) const MIGSC_LINKS: u64 = 0x1a << 56;
    pub(super) const X2APIC_IDS: u64 = 0x1c << 56;
}

pub(super) const CPUID: u64 = class::CPUID;

/// Field codes of EXECUTION_CONTROLS that a host or a guest may write.
const NOTIFY_ENABLES: u64 = 0x10;
const HP_LOCK_TIMEOUT: u64 = 0x11;
const VM_CTLS: core::ops::Range<u64> = 0x12..0x16;
const TD_CTLS: u64 = 0x17;
/// Bit of TD_CTLS: an access to a pending page is an EPT violation, not #VE.
pub(super) const PENDING_VE_DISABLE: u64 = 1 << 0;
/// Bit of CONFIG_FLAGS: the guest may change it.
const FLEXIBLE_PENDING_VE: u64 = 1 << 1;
/// What HP_LOCK_TIMEOUT may be, in microseconds.
const TIMEOUTS: core::ops::RangeInclusive<u64> = 10_000..=100_000_000;

/// Pages of TDCS with a meaning of their own.
pub(super) const MSR_BITMAPS_PAGE: usize = 2;
const SEPT_ROOT_PAGE: usize = 3;
pub(super) const ZERO_PAGE: usize = 4;
/// Bits of EPTP that are no address.
const EPTP_4_LEVELS: u64 = 0x1e;
const EPTP_5_LEVELS: u64 = 0x26;
/// Physical address bits of a TD whose CONFIG_FLAGS do not ask for fewer.
const MAX_PHYS_BITS: u64 = tdx_abi::MAX_PHYS_BITS as u64;
/// Bits of CONFIG_FLAGS that do.
const MAXPA_VIRT: u64 = 0b11 << 3;
/// Bytes of the XSAVE area: legacy region and header; AVX, which is the only other component with
/// a known place.
const XSAVE_HEADER_END: u64 = 576;
const AVX: u64 = 1 << 2;
const AVX_BYTES: u64 = 256;
const XFAM_KNOWN: u64 = 0b111;

/// Fields of MEASUREMENT: MRCONFIGID, MROWNER, MROWNERCONFIG begin at these codes.
const CONFIGURED_IDS: core::ops::Range<u64> = 0x10..0x28;

/// EPTP of the VMCS, which has the KeyID in a field of its own.
pub(super) fn vmcs_eptp(td: &Td) -> Option<u64> {
    let root = td.tdcs.get(SEPT_ROOT_PAGE)?;
    Some(root.start().get() | if td.five_levels { EPTP_5_LEVELS } else { EPTP_4_LEVELS })
}

impl Module {
    /// The address of a page with the TD's KeyID in it.
    pub(super) fn with_key(hardware: &Hardware, td: &Td, page: Page) -> u64 {
        hardware.config.key_id_field.tag(page.start(), td.key).get()
    }

    /// EPTP of TDCS: the root of the TD's Secure EPT.
    fn eptp(&self, hardware: &Hardware, td: &Td) -> Option<u64> {
        let root = td.tdcs.get(SEPT_ROOT_PAGE).copied()?;
        let key = if self.traits.eptp_has_key { Self::with_key(hardware, td, root) & !root.start().get() } else { 0 };
        Some(vmcs_eptp(td)? | key)
    }

    pub(super) fn td_value(&self, hardware: &Hardware, tdr: Page, field: u64) -> Result<Option<u64>, Stop> {
        let td = self.td(tdr)?;
        let code = field & CODE;
        Ok(match field & CLASS {
            class::TD_MANAGEMENT => management(hardware, tdr, td, code),
            class::KEY_MANAGEMENT => match code {
                1 => Some(u64::from(td.key.get())),
                2 => Some(u64::from(td.packages_with_key)),
                _ => None,
            },
            class::TD_PRESERVING => match code {
                0 => Some(*self.traits.handoff_versions.end()),
                // SEAMDB_INDEX: no SEAMDB is modeled.
                1 => Some(0),
                _ => None,
            },
            class::STATE => match code {
                1 => Some(u64::from(td.vcpu_count)),
                2 => Some(u64::from(td.associated)),
                4 => Some(td.op_state as u64),
                5 => Some(u64::from(td.l2_vms)),
                _ => None,
            },
            class::EXECUTION_CONTROLS => self.execution_controls(hardware, td, code),
            class::TLB_EPOCH => match code {
                0 => Some(td.epoch),
                1 | 2 => Some(self.vcpus_inside(tdr, code - 1)),
                _ => None,
            },
            class::MEASUREMENT => match code {
                code if CONFIGURED_IDS.contains(&code) => {
                    let index = (code - CONFIGURED_IDS.start) as usize;
                    // Six elements each, eight codes apart.
                    td.config.ids.get(index / 8 * 6 + index % 8).copied()
                }
                // MRTD and RTMR: a measurement has no value here.
                _ => Some(0),
            },
            // No TD is migrated, bound to another or knows a migration stream; the keys are random.
            class::MIGRATION if (0x10..0x20).contains(&code) => None,
            class::MIGRATION | class::SERVICE_TD | class::MIGSC_LINKS => Some(0),
            class::X2APIC_IDS => {
                let at =
                    |vcpu: &&super::super::vcpu_state::Vcpu| vcpu.is_initialized() && u64::from(vcpu.index) == code;
                Some(td.vcpus.values().find(at).map_or(0, |vcpu| u64::from(vcpu.x2apic_id)))
            }
            _ => None,
        })
    }

    /// VCPUs inside that entered in an epoch with this parity.
    fn vcpus_inside(&self, tdr: Page, parity: u64) -> u64 {
        self.running.values().filter(|running| running.tdr == tdr && running.epoch & 1 == parity).count() as u64
    }

    fn execution_controls(&self, hardware: &Hardware, td: &Td, code: u64) -> Option<u64> {
        let known_layout = td.xfam & !XFAM_KNOWN == 0;
        let avx = td.xfam & AVX != 0;
        match code {
            0x00 => Some(td.attributes),
            0x01 => Some(td.xfam),
            0x02 => Some(u64::from(td.max_vcpus)),
            0x03 => Some(td.config_flags & GPAW),
            0x04 => self.eptp(hardware, td),
            0x0a => Some(td.config.tsc_offset),
            0x0b => Some(tsc::multiplier(td.config.tsc_frequency)),
            0x0c => Some(u64::from(td.config.tsc_frequency)),
            0x0e => Some(cpuid::count(self.traits.edition)),
            0x0f if known_layout => Some(XSAVE_HEADER_END + if avx { AVX_BYTES } else { 0 }),
            NOTIFY_ENABLES => Some(td.controls.notify_enables),
            HP_LOCK_TIMEOUT => Some(tsc::microseconds(td.controls.hp_lock_timeout)),
            code if VM_CTLS.contains(&code) => td.controls.vm_ctls.get((code - VM_CTLS.start) as usize).copied(),
            0x16 => Some(td.config_flags),
            0x18 if td.config_flags & MAXPA_VIRT == 0 => Some(MAX_PHYS_BITS),
            TD_CTLS => Some(td.controls.td_ctls),
            // FEATURE_PARAVIRT_CTLS, which a guest sets; FILTERED_EVENTS_COUNT;
            // FIELD_SUPPORT_AT_INIT.
            0x22..=0x26 | 0x28 => Some(0),
            // TOPOLOGY_ENUM_CONFIGURED and VE_REDUCTION_VALID depend on CPUID configuration.
            0x19 | 0x1a if td.config.cpuid.iter().all(|value| *value == (0, 0)) => Some(0),
            0x21 => Some(cpuid::FIXED0),
            // CPUID_VALID: every leaf that the module knows.
            0x80..=0xcf => Some(u64::from(cpuid::is_valid((code - 0x80) as usize, self.traits.edition))),
            0x800..=0x812 if known_layout => Some(if code == 0x802 && avx { XSAVE_HEADER_END } else { 0 }),
            _ => None,
        }
    }

    /// Writes a field of EXECUTION_CONTROLS, the only class with fields that anyone may write.
    /// `old` is the value, `allowed` the bits that are written.
    pub(super) fn write_td_value(
        &mut self,
        tdr: Page,
        field: u64,
        write: Write,
        old: u64,
        allowed: u64,
    ) -> Result<Option<()>, Stop> {
        let value = old & !allowed | write.value & allowed;
        let code = field & CODE;
        if field & CLASS != class::EXECUTION_CONTROLS {
            return Ok(None);
        }
        let td = self.td_mut(tdr)?;
        let flexible = td.config_flags & FLEXIBLE_PENDING_VE != 0;
        let controls = &mut td.controls;
        match code {
            NOTIFY_ENABLES => controls.notify_enables = value,
            HP_LOCK_TIMEOUT => {
                if allowed != ALL {
                    return Err(StatusCode::METADATA_WR_MASK_NOT_VALID.into());
                }
                if !TIMEOUTS.contains(&value) {
                    return Err(StatusCode::METADATA_FIELD_VALUE_NOT_VALID.into());
                }
                controls.hp_lock_timeout = tsc::ticks(value);
            }
            TD_CTLS if (value ^ old) & PENDING_VE_DISABLE != 0 && !flexible => {
                return Err(StatusCode::METADATA_FIELD_VALUE_NOT_VALID.into());
            }
            // The other bits change what a guest sees of CPUID and #VE.
            TD_CTLS if value & !PENDING_VE_DISABLE != 0 => return Ok(None),
            TD_CTLS => controls.td_ctls = value,
            code if VM_CTLS.contains(&code) => {
                if let Some(slot) = controls.vm_ctls.get_mut((code - VM_CTLS.start) as usize) {
                    *slot = value;
                }
            }
            _ => return Ok(None),
        }
        Ok(Some(()))
    }
}

fn management(hardware: &Hardware, tdr: Page, td: &Td, code: u64) -> Option<u64> {
    /// TD_UUID, random on a real module: made from the address of TDR and the KeyID here.
    const UUID: core::ops::Range<u64> = 0x20..0x24;
    /// TDCX_PA.
    const PAGES: core::ops::Range<u64> = 0x10..0x19;
    match code {
        1 => Some(u64::from(td.fatal)),
        2 => Some(td.tdcs.len() as u64),
        4 => Some(td.children),
        5 => Some(td.lifecycle as u64),
        code if PAGES.contains(&code) => {
            let page = td.tdcs.get((code - PAGES.start) as usize);
            Some(page.map_or(0, |page| Module::with_key(hardware, td, *page)))
        }
        code if UUID.contains(&code) => Some(Rng::new(tdr.start().get() | u64::from(td.key.get()) | code << 52).next()),
        _ => None,
    }
}
