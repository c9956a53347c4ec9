//! What a hypervisor that runs a guest's code needs of the module: who is on a CPU, and where a
//! guest address lies.

use tdx_abi::{KeyId, Page, PhysAddr};

use super::Module;
use super::metadata::{self, VcpuField};
use super::sept::{GuestPage, State};
use crate::{CpuId, CpuidOutput};

/// The VCPU that runs on a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct VcpuOnCpu {
    /// Its TD.
    pub tdr: Page,
    /// Itself.
    pub tdvpr: Page,
    /// The TD's KeyID.
    pub key: KeyId,
    /// ATTRIBUTES of the TD.
    pub attributes: u64,
    /// XFAM of the TD.
    pub xfam: u64,
    /// Place in the order of VP.INIT.
    pub index: u32,
    /// VCPUs of the TD.
    pub vcpus: u32,
    /// RDX of VP.INIT: RCX and R8 of the guest when it starts.
    pub initial_rcx: u64,
    /// x2APIC id of VP.INIT version 1.
    pub x2apic_id: u32,
    /// The bit of a guest address that makes it shared.
    pub shared_bit: u64,
    /// Root of the host's EPT for shared addresses; `None` before the host has written it.
    pub shared_ept: Option<PhysAddr>,
    /// Posted-interrupt descriptor and notification vector, if the host has switched them on.
    pub posted_interrupts: Option<(PhysAddr, u8)>,
    /// The host asks for an NMI ([`crate::Machine::take_pending_nmi`]).
    pub nmi_pending: bool,
}

/// Where a private guest address lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestMapping {
    /// The page of 4 KiB.
    pub page: Page,
    /// The guest has not accepted it.
    pub pending: bool,
}

impl Module {
    pub(crate) fn vcpu_on(&self, cpu: CpuId) -> Option<VcpuOnCpu> {
        let running = self.running.get(&cpu)?;
        let td = self.td(running.tdr).ok()?;
        let vcpu = td.vcpus.get(&running.tdvpr)?;
        let written = |field: VcpuField| vcpu.written.get(&field.name()).copied();
        let descriptor = written(VcpuField::PostedInterruptDescriptor).zip(written(VcpuField::NotificationVector));
        let posted = written(VcpuField::PinBased).is_some_and(|controls| controls & POSTED_INTERRUPTS != 0);
        Some(VcpuOnCpu {
            tdr: running.tdr,
            tdvpr: running.tdvpr,
            key: td.key,
            attributes: td.attributes,
            xfam: td.xfam,
            index: vcpu.index,
            vcpus: td.vcpu_count,
            initial_rcx: vcpu.initial_rcx,
            x2apic_id: vcpu.x2apic_id,
            shared_bit: td.shared_gpa(),
            shared_ept: written(VcpuField::SharedEptp).map(PhysAddr::new),
            posted_interrupts: descriptor
                .filter(|_| posted)
                .map(|(address, vector)| (PhysAddr::new(address), vector as u8)),
            nmi_pending: written(VcpuField::PendNmi).is_some_and(|pending| pending & 1 != 0),
        })
    }

    /// The NMI that the host asks for is delivered. True if there was one.
    pub(crate) fn take_pending_nmi(&mut self, cpu: CpuId) -> bool {
        let Some(running) = self.running.get(&cpu).copied() else { return false };
        let Ok(vcpu) = self.vcpu_mut(running.tdr, running.tdvpr) else { return false };
        vcpu.written.remove(&VcpuField::PendNmi.name()).is_some_and(|pending| pending & 1 != 0)
    }

    /// `None`: #VE.
    pub(crate) fn guest_cpuid(&self, cpu: CpuId, leaf: u32, sub_leaf: u32) -> Option<CpuidOutput> {
        let td = self.td(self.running.get(&cpu)?.tdr).ok()?;
        let [low, high] = metadata::guest_cpuid(td, self.traits, leaf, sub_leaf)?;
        let (eax, ebx, ecx, edx) = (low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32);
        Some(CpuidOutput { eax, ebx, ecx, edx })
    }

    /// `None`: an EPT violation.
    pub(crate) fn guest_mapping(&self, cpu: CpuId, gpa: u64) -> Option<GuestMapping> {
        let running = *self.running.get(&cpu)?;
        [0, 1, 2].into_iter().find_map(|level| {
            let guest = GuestPage { level, number: gpa >> (12 + 9 * level) };
            let entry = self.entry(running, guest)?;
            let pending = match entry.state {
                State::Mapped => false,
                State::Pending => true,
                _ => return None,
            };
            let inside = gpa % guest.size().bytes() / tdx_abi::PAGE_SIZE;
            // A large page that is being accepted is pending as a whole.
            Some(GuestMapping { page: Page::new(entry.page.index() + inside), pending })
        })
    }
}

/// Process posted interrupts.
const POSTED_INTERRUPTS: u64 = 1 << 7;
