//! Values of a VCPU's metadata fields, and what a host may write to them. `None`: not known here.
//!
//! A field keeps what a host wrote; before that it has what VP.INIT gave it. Source: what a host
//! can read, `fixtures/vectors/metadata.jsonl.gz`; what cannot be read of a TD in production, the
//! sources of modules 1.5.01 and 1.5.25. Bits of control fields that the CPU's VMX capability MSRs
//! force are not added.

use tdx_abi::{Page, PhysAddr, StatusCode};

use super::super::Module;
use super::super::call::{Call, Stop};
use super::super::tsc;
use super::table::{CLASS, CODE};
use super::td_values::{MSR_BITMAPS_PAGE, ZERO_PAGE, vmcs_eptp};
use crate::hardware::Hardware;

/// Classes, as they stand in a field id.
pub(super) const VMCS: u64 = 0x00 << 56;
const GUEST_STATE: u64 = 0x11 << 56;
const MANAGEMENT: u64 = 0x20 << 56;

/// VMCS encodings.
mod vmcs {
    pub(super) const NOTIFICATION_VECTOR: u64 = 0x0002;
    pub(super) const MSR_BITMAPS: u64 = 0x2004;
    pub(super) const PML_ADDRESS: u64 = 0x200e;
    pub(super) const TSC_OFFSET: u64 = 0x2010;
    pub(super) const POSTED_INTERRUPT_DESCRIPTOR: u64 = 0x2016;
    pub(super) const VM_FUNCTIONS: u64 = 0x2018;
    pub(super) const EPTP: u64 = 0x201a;
    pub(super) const EPTP_LIST: u64 = 0x2024;
    pub(super) const TSC_MULTIPLIER: u64 = 0x2032;
    pub(super) const SHARED_EPTP: u64 = 0x203c;
    pub(super) const PIN_BASED: u64 = 0x4000;
    pub(super) const SECONDARY: u64 = 0x401e;
    pub(super) const PLE_GAP: u64 = 0x4020;
    pub(super) const PLE_WINDOW: u64 = 0x4022;
    pub(super) const NOTIFY_WINDOW: u64 = 0x4024;
    pub(super) const KEY_ID: u64 = 0x4026;
}

/// Codes of MANAGEMENT.
mod management {
    pub(super) const VCPU_STATE: u64 = 0x00;
    pub(super) const VCPU_INDEX: u64 = 0x02;
    pub(super) const NUM_PAGES: u64 = 0x03;
    pub(super) const ASSOC_LPID: u64 = 0x04;
    pub(super) const VCPU_EPOCH: u64 = 0x06;
    pub(super) const CPUID_SUPERVISOR_VE: u64 = 0x07;
    pub(super) const CPUID_USER_VE: u64 = 0x08;
    pub(super) const PEND_NMI: u64 = 0x0b;
    pub(super) const XFAM: u64 = 0x0c;
    pub(super) const PAGES: core::ops::Range<u64> = 0x10..0x1f;
}

/// VCPU_STATE_DETAILS: bit 0 says that a virtual interrupt is pending, as Linux's KVM reads it.
/// What pending is, is the SDM's: that the module means the same is not observed.
const VCPU_STATE_DETAILS: u64 = 0x100;

/// What VP.INIT gives a field that has no value yet.
const NO_VECTOR: u64 = 0xffff;
const NO_ADDRESS: u64 = u64::MAX;
const PIN_BASED: u64 = 0x29;
const SECONDARY: u64 = 0x133c_b3fa;
/// Process posted interrupts.
const POSTED_INTERRUPTS: u64 = 1 << 7;
/// Last interrupt vector.
const LAST_VECTOR: u64 = 0xff;
/// No LP.
const NO_LP: u64 = 0xffff_ffff;
/// Bytes behind the address in a field that has one: what must not lie in SEAMRR.
const DESCRIPTOR_BYTES: u64 = 64;

/// What a host writes to run a VCPU, and what a guest writes by TDCALLs of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::module) enum VcpuField {
    NotificationVector,
    PostedInterruptDescriptor,
    SharedEptp,
    PinBased,
    PendNmi,
    CpuidSupervisorVe,
    CpuidUserVe,
}

impl VcpuField {
    /// Class and code.
    pub(in crate::module) const fn name(self) -> u64 {
        match self {
            Self::NotificationVector => VMCS | vmcs::NOTIFICATION_VECTOR,
            Self::PostedInterruptDescriptor => VMCS | vmcs::POSTED_INTERRUPT_DESCRIPTOR,
            Self::SharedEptp => VMCS | vmcs::SHARED_EPTP,
            Self::PinBased => VMCS | vmcs::PIN_BASED,
            Self::PendNmi => MANAGEMENT | management::PEND_NMI,
            Self::CpuidSupervisorVe => MANAGEMENT | management::CPUID_SUPERVISOR_VE,
            Self::CpuidUserVe => MANAGEMENT | management::CPUID_USER_VE,
        }
    }
}

/// A field with the address of host memory; the bytes that the module or the CPU uses there.
pub(super) fn shared_bytes(field: u64) -> Option<u64> {
    match (field & CLASS, field & CODE) {
        (VMCS, vmcs::POSTED_INTERRUPT_DESCRIPTOR) => Some(DESCRIPTOR_BYTES),
        (VMCS, vmcs::SHARED_EPTP) => Some(tdx_abi::PAGE_SIZE),
        _ => None,
    }
}

impl Module {
    pub(super) fn vp_value(
        &self,
        hardware: &Hardware,
        tdr: Page,
        tdvpr: Page,
        field: u64,
    ) -> Result<Option<u64>, Stop> {
        let td = self.td(tdr)?;
        let Some(vcpu) = td.vcpus.get(&tdvpr) else { return Ok(None) };
        let code = field & CODE;
        if let Some(written) = vcpu.written.get(&(field & (CLASS | CODE))) {
            return Ok(Some(*written));
        }
        let page = |page: Option<&Page>| page.map(|page| Self::with_key(hardware, td, *page));
        Ok(match field & CLASS {
            VMCS => match code {
                vmcs::NOTIFICATION_VECTOR => Some(NO_VECTOR),
                vmcs::MSR_BITMAPS => page(td.tdcs.get(MSR_BITMAPS_PAGE)),
                vmcs::SHARED_EPTP => page(td.tdcs.get(ZERO_PAGE)),
                vmcs::PML_ADDRESS | vmcs::POSTED_INTERRUPT_DESCRIPTOR | vmcs::EPTP_LIST => Some(NO_ADDRESS),
                vmcs::TSC_OFFSET => Some(td.config.tsc_offset),
                vmcs::TSC_MULTIPLIER => Some(tsc::multiplier(td.config.tsc_frequency)),
                vmcs::EPTP => vmcs_eptp(td),
                vmcs::PIN_BASED => Some(PIN_BASED),
                vmcs::SECONDARY => Some(SECONDARY),
                vmcs::VM_FUNCTIONS | vmcs::PLE_GAP | vmcs::PLE_WINDOW | vmcs::NOTIFY_WINDOW => Some(0),
                vmcs::KEY_ID => Some(u64::from(td.key.get())),
                _ => None,
            },
            GUEST_STATE if code == VCPU_STATE_DETAILS => Some(vcpu.interrupt_pending.into()),
            MANAGEMENT => match code {
                management::VCPU_STATE => Some(vcpu.state as u64),
                management::VCPU_INDEX => Some(u64::from(vcpu.index)),
                management::NUM_PAGES => Some(vcpu.pages.len() as u64 + 1),
                management::ASSOC_LPID => Some(vcpu.associated.map_or(NO_LP, |cpu| u64::from(cpu.0))),
                management::VCPU_EPOCH => Some(vcpu.epoch),
                management::CPUID_SUPERVISOR_VE | management::CPUID_USER_VE | management::PEND_NMI => Some(0),
                management::XFAM => Some(td.xfam),
                code if management::PAGES.contains(&code) => {
                    let mut pages = core::iter::once(&tdvpr).chain(&vcpu.pages);
                    Some(page(pages.nth((code - management::PAGES.start) as usize)).unwrap_or(0))
                }
                _ => None,
            },
            _ => None,
        })
    }

    /// The value of a VMCS field that a host may write.
    fn vmcs_value(&self, hardware: &Hardware, tdr: Page, tdvpr: Page, encoding: u64) -> Result<u64, Stop> {
        Ok(self.vp_value(hardware, tdr, tdvpr, VMCS | encoding)?.unwrap_or(0))
    }

    /// Is this a value that the field may have? `None`: not known.
    pub(super) fn check_vp_value(
        &self,
        call: &Call,
        tdr: Page,
        tdvpr: Page,
        field: u64,
        value: u64,
    ) -> Result<Option<()>, Stop> {
        let invalid = || Stop::from(StatusCode::METADATA_FIELD_VALUE_NOT_VALID);
        let free = value == NO_ADDRESS && self.traits.shared_address_may_be_none;
        if let Some(bytes) = shared_bytes(field)
            && !free
            && !call.is_shared_buffer(PhysAddr::new(value), 1, bytes)
        {
            return Err(invalid());
        }
        if field & CLASS != VMCS {
            return Ok(Some(()));
        }
        match field & CODE {
            vmcs::NOTIFICATION_VECTOR if value > LAST_VECTOR => Err(invalid()),
            vmcs::PIN_BASED if value & POSTED_INTERRUPTS != 0 => {
                let missing = [(vmcs::NOTIFICATION_VECTOR, NO_VECTOR), (vmcs::POSTED_INTERRUPT_DESCRIPTOR, NO_ADDRESS)];
                for (encoding, none) in missing {
                    if self.vmcs_value(call.hardware, tdr, tdvpr, encoding)? == none {
                        return Err(StatusCode::TD_VMCS_FIELD_NOT_INITIALIZED.with(encoding as u32).into());
                    }
                }
                Ok(Some(()))
            }
            // Depends on the VMX capability MSRs.
            vmcs::SECONDARY => Ok(None),
            _ => Ok(Some(())),
        }
    }
}
