//! Nested page faults of a TD: private addresses by its Secure EPT, shared ones by the host's EPT.

use tdx_abi::{LINE_SIZE, PAGE_SIZE};
use tdx_machine::{CpuId, GuestOutcome, TdExit, VcpuOnCpu};
use vmx::ept::{self, Found};

use super::outcome::{self, Next, reason};
use super::vcpu::TdVcpu;
use crate::handlers::machine_check;
use crate::tdx::Tdx;
use crate::{guest_memory, hidden};

/// EXITINFO1: write, instruction fetch.
const INFO_WRITE: u64 = 1 << 1;
const INFO_FETCH: u64 = 1 << 4;
/// Valid, hardware exception, #MC.
const MACHINE_CHECK: u64 = 1 << 31 | 3 << 8 | 0x12;

/// Handles a nested page fault.
pub fn handle(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, on: &VcpuOnCpu) -> Next {
    let (info, gpa) = (td.vmcb.exit_info_1, td.vmcb.exit_info_2);
    let access = match (info & INFO_WRITE != 0, info & INFO_FETCH != 0) {
        (true, _) => ept::WRITE,
        (_, true) => ept::EXECUTE,
        _ => ept::READ,
    };
    if gpa & on.shared_bit == 0 {
        private(tdx, cpu, td, on, gpa, access)
    } else {
        shared(tdx, cpu, td, on, gpa, access)
    }
}

fn violation(gpa: u64, qualification: u64) -> TdExit {
    TdExit { reason: reason::EPT_VIOLATION, qualification, guest_physical: gpa, ..TdExit::default() }
}

fn map(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, gpa: u64, frame: u64, writable: bool) -> Next {
    if td.tables.map(gpa, frame, writable) {
        return Next::Resume;
    }
    let rip = td.vmcb.rip;
    outcome::stop(tdx, cpu, rip, &"no memory for its page tables")
}

fn private(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, on: &VcpuOnCpu, gpa: u64, access: u64) -> Next {
    let id = CpuId(cpu as u32);
    let page = match tdx.machine.guest_mapping(id, gpa) {
        Some(mapping) if !mapping.pending => mapping.page.index(),
        _ => return outcome::report(tdx, cpu, td, violation(gpa, access)),
    };
    // A page with a line that is not the TD's any more is judged as if the access had met it.
    for line in tdx.lines_not_of(page, on.key) {
        match tdx.machine.guest_load(id, gpa - gpa % PAGE_SIZE + line * LINE_SIZE) {
            Ok(GuestOutcome::MachineCheck(check)) => {
                machine_check::raise_in_td(cpu, tdx, check, td.vmcb.rip);
                let reason = reason::EXCEPTION_OR_NMI;
                let exit = TdExit { reason, interruption: MACHINE_CHECK, ..TdExit::default() };
                return outcome::report(tdx, cpu, td, exit);
            }
            Ok(GuestOutcome::Done) => {}
            Ok(_) => return outcome::report(tdx, cpu, td, violation(gpa, access)),
            Err(refusal) => {
                let rip = td.vmcb.rip;
                return outcome::stop(tdx, cpu, rip, &refusal);
            }
        }
    }
    map_frame(tdx, cpu, td, gpa, page)
}

fn map_frame(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, gpa: u64, page: u64) -> Next {
    let frame = tdx.frames.get(page).map(crate::owned_page::OwnedPage::address);
    if let Some(frame) = frame {
        return map(tdx, cpu, td, gpa, frame, true);
    }
    let rip = td.vmcb.rip;
    outcome::stop(tdx, cpu, rip, &"no room for the contents of its pages")
}

/// RAM of the host, for the walk of its EPT.
struct HostMemory;

impl ept::Memory for HostMemory {
    fn read(&self, address: u64) -> Option<u64> {
        guest_memory::load(address)
    }

    fn compare_exchange(&self, address: u64, old: u64, new: u64) -> bool {
        guest_memory::compare_exchange(address, old, new)
    }
}

fn shared(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, on: &VcpuOnCpu, gpa: u64, access: u64) -> Next {
    let found = match on.shared_ept {
        Some(root) => ept::walk(&HostMemory, root.get(), gpa, access),
        None => Found::Violation { rights: 0, convertible: false },
    };
    match found {
        Found::Page { page, writable } => {
            let rip = td.vmcb.rip;
            if hidden::is_hidden(page) || !guest_memory::is_ram(page * PAGE_SIZE, PAGE_SIZE) {
                outcome::stop(tdx, cpu, rip, &format_args!("shared page {page:#x} is no memory of the host"))
            } else if tdx.is_trapped(page) {
                outcome::stop(tdx, cpu, rip, &format_args!("shared page {page:#x} has private lines"))
            } else {
                map(tdx, cpu, td, gpa, page * PAGE_SIZE, writable)
            }
        }
        Found::Violation { rights, convertible } => {
            let exit = violation(gpa, access | rights << 3);
            if !convertible {
                return outcome::report(tdx, cpu, td, exit);
            }
            let exit = outcome::with_guest(td, exit);
            let after = tdx.machine.convertible_ept_violation(CpuId(cpu as u32), exit);
            outcome::conclude(tdx, cpu, td, after)
        }
        Found::Misconfiguration => {
            let exit = TdExit { reason: reason::EPT_MISCONFIGURATION, ..violation(gpa, 0) };
            outcome::report(tdx, cpu, td, exit)
        }
    }
}
