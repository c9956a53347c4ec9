//! Metadata of TDs and VCPUs: the fields that Linux's KVM uses, by the ids it sends, and rules that
//! hold for every field.

mod support;

use support::td::{KEY, TDR, TDVPR, Td};
use support::{CPU, TDMR};
use tdx_abi::{FieldId, KeyId, Leaf, LeafCall, PhysAddr, Registers, Status, StatusCode};
use tdx_machine::{AfterExit, CpuId, Refusal, TdExit};

/// Field ids as Linux builds them: class and code, without sizes and context.
const fn linux(class: u64, code: u64) -> u64 {
    class << 56 | code
}

const ATTRIBUTES_DEBUG: u8 = 1;
const SHARED_EPTP: u64 = linux(0, 0x203c);
const PID_ADDRESS: u64 = linux(0, 0x2016);
const VECTOR: u64 = linux(0, 2);
const PIN_BASED: u64 = linux(0, 0x4000);
const PEND_NMI: u64 = linux(0x20, 11);
const VCPU_STATE_DETAILS: u64 = 1 << 63 | linux(0x11, 0x100);
const TSC_OFFSET: u64 = linux(0x11, 10);
const TSC_MULTIPLIER: u64 = linux(0x11, 11);

/// Every field that Linux 7.3 reads and writes of a TD and its VCPUs, with CONFIG_FLAGS bit 2.
#[test]
fn fields_of_kvm() {
    const NO_RBP_MOD: u8 = 1 << 2;
    let mut td = Td::new(0, NO_RBP_MOD);
    assert_eq!(td.read(Leaf::MNG_RD, TDR, TSC_MULTIPLIER), 1 << 47, "1 GHz of 2");
    assert!(td.read(Leaf::MNG_RD, TDR, TSC_OFFSET) >> 63 == 1);
    assert_eq!(td.read(Leaf::MNG_RD, TDR, linux(0x11, 0x16)), NO_RBP_MOD.into());
    assert_eq!(td.read(Leaf::VP_RD, TDVPR, VCPU_STATE_DETAILS), 0);
    for (field, value, mask) in [
        (VECTOR, 0xf2, 0xffff),
        (PID_ADDRESS, 0x30_0040, u64::MAX),
        (PIN_BASED, 1 << 7, 1 << 7),
        (SHARED_EPTP, 0x40_0000, u64::MAX),
        (PEND_NMI, 1, 0xff),
    ] {
        assert_eq!(td.write(field, value, mask).status(), Status::SUCCESS, "{field:#x}");
        assert_eq!(td.read(Leaf::VP_RD, TDVPR, field), value, "{field:#x}");
    }
}

/// A hypervisor that runs the guest sees what the host wrote.
#[test]
fn a_vcpu_on_a_cpu() {
    let mut td = Td::new(0, 0);
    assert_eq!(td.machine.vcpu_on(CPU), None);
    for (field, value, mask) in [
        (SHARED_EPTP, 0x40_0000, u64::MAX),
        (VECTOR, 0xf2, 0xffff),
        (PID_ADDRESS, 0x30_0040, u64::MAX),
        (PEND_NMI, 1, 0xff),
    ] {
        assert_eq!(td.write(field, value, mask).status(), Status::SUCCESS);
    }
    td.ok(Registers::call(Leaf::VP_ENTER).rcx(TDVPR));
    let vcpu = td.machine.vcpu_on(CPU).unwrap();
    assert_eq!((vcpu.tdr.start().get(), vcpu.tdvpr.start().get()), (TDR, TDVPR));
    assert_eq!((vcpu.initial_rcx, vcpu.index, vcpu.vcpus, vcpu.shared_bit), (0x1234, 0, 1, 1 << 47));
    assert_eq!(vcpu.shared_ept, Some(PhysAddr::new(0x40_0000)));
    assert_eq!(vcpu.posted_interrupts, None, "not switched on");
    assert!(vcpu.nmi_pending && td.machine.take_pending_nmi(CPU));
    assert!(!td.machine.take_pending_nmi(CPU), "one NMI for one write");
    let added = td.pages;
    let mapping = td.machine.guest_mapping(CPU, 0x123).unwrap();
    assert_eq!((mapping.page.start().get(), mapping.pending), (added, false));
    assert_eq!(td.machine.guest_mapping(CPU, 0x1000), None);
    // While the VCPU is inside, the host cannot write its fields from another CPU.
    let write = Registers::call(Leaf::VP_WR).rcx(TDVPR).rdx(PEND_NMI).r8(1).r9(0xff);
    let status = support::call(&mut td.machine, CpuId(1), write);
    assert_eq!(status.code(), StatusCode::VCPU_STATE_INCORRECT);
    td.machine.leave_vcpu(CPU).unwrap();
    assert_eq!(td.write(PIN_BASED, 0x80, 0x80).status(), Status::SUCCESS);
    td.ok(Registers::call(Leaf::VP_ENTER).rcx(TDVPR));
    assert_eq!(td.machine.vcpu_on(CPU).unwrap().posted_interrupts, Some((PhysAddr::new(0x30_0040), 0xf2)));
}

/// The host learns by VCPU_STATE_DETAILS of an interrupt in the virtual APIC, as of the last exit.
#[test]
fn a_pending_interrupt_of_a_vcpu_outside() {
    const HALTED: u64 = 77;
    const VP_VMCALL: u64 = 0;
    let mut td = Td::new(0, 0);
    for interrupt_pending in [true, false] {
        td.ok(Registers::call(Leaf::VP_ENTER).rcx(TDVPR));
        let guest = Registers { rax: VP_VMCALL, rcx: 0xfc00, ..Registers::default() };
        let exit = TdExit { reason: HALTED, guest, interrupt_pending, ..TdExit::default() };
        assert!(matches!(td.machine.td_exit(CPU, exit), Ok(AfterExit::Host(_))));
        assert_eq!(td.read(Leaf::VP_RD, TDVPR, VCPU_STATE_DETAILS), interrupt_pending.into());
    }
}

/// What a guest asks: TDG.VP.INFO, VM.RD and VM.WR, VP.RD, CPUIDVE.SET, RTMR.EXTEND.
#[test]
fn tdcalls() {
    const FLEXIBLE_PENDING_VE: u8 = 1 << 1;
    const TD_CTLS: u64 = linux(0x11, 0x17);
    const SUPERVISOR_VE: u64 = linux(0x20, 7);
    let mut td = Td::new(0, FLEXIBLE_PENDING_VE);
    td.ok(Registers::call(Leaf::VP_ENTER).rcx(TDVPR));
    let info = td.tdcall(1, Registers::default());
    assert_eq!((info.rcx, info.rdx, info.r8, info.r9, info.r10, info.r11), (48, 0, 1 << 32 | 1, 0, 1, 0));
    let vm = |field: u64| Registers::default().rdx(field);
    assert_eq!(td.tdcall(7, vm(linux(0x11, 1))).r8, 7, "XFAM");
    let code = |out: Registers| out.status().code();
    assert_eq!(code(td.tdcall(7, vm(linux(0x01, 1)))), StatusCode::METADATA_FIELD_NOT_READABLE, "HKID is the host's");
    assert_eq!(code(td.tdcall(7, vm(0))), StatusCode::METADATA_FIELD_ID_INCORRECT);
    assert_eq!(code(td.tdcall(7, vm(TD_CTLS).rcx(1))), StatusCode::OPERAND_INVALID);
    assert_eq!(code(td.tdcall(8, vm(linux(0x11, 1)).r8(3).r9(3))), StatusCode::METADATA_FIELD_NOT_WRITABLE);
    // As Linux's guest does: an access to a pending page is an exit from here on, not #VE.
    assert_eq!(code(td.tdcall(8, vm(TD_CTLS).r8(1).r9(1))), StatusCode::SUCCESS);
    assert_eq!(td.tdcall(7, vm(TD_CTLS)).r8, 1);
    assert_eq!(code(td.tdcall(5, Registers::default().rcx(4))), StatusCode::OPERAND_INVALID);
    assert_eq!(code(td.tdcall(5, Registers::default().rcx(1))), StatusCode::SUCCESS);
    assert_eq!(td.tdcall(9, vm(SUPERVISOR_VE)).r8, 1);
    assert_eq!(code(td.tdcall(2, Registers::default().rdx(3))), StatusCode::SUCCESS);
    assert_eq!(code(td.tdcall(2, Registers::default().rdx(4))), StatusCode::OPERAND_INVALID);
    assert_eq!(code(td.tdcall(2, Registers::default().rcx(32))), StatusCode::OPERAND_INVALID);
    assert_eq!(code(td.tdcall(2, Registers::default().rcx(1 << 47))), StatusCode::OPERAND_INVALID);
    td.machine.leave_vcpu(CPU).unwrap();
    assert_eq!(td.read(Leaf::VP_RD, TDVPR, SUPERVISOR_VE), 1, "the host sees it");
    // Without the flag the guest cannot.
    let mut td = Td::new(0, 0);
    td.ok(Registers::call(Leaf::VP_ENTER).rcx(TDVPR));
    let out = td.tdcall(8, vm(TD_CTLS).r8(1).r9(1));
    assert_eq!(code(out), StatusCode::METADATA_FIELD_VALUE_NOT_VALID);
}

/// Posted interrupts need a vector and a descriptor.
#[test]
fn posted_interrupts_need_their_fields() {
    let mut td = Td::new(0, 0);
    let missing = |encoding: u32| StatusCode::TD_VMCS_FIELD_NOT_INITIALIZED.with(encoding);
    assert_eq!(td.write(PIN_BASED, 0x80, 0x80).status(), missing(2));
    td.write(VECTOR, 0xf2, 0xffff);
    assert_eq!(td.write(PIN_BASED, 0x80, 0x80).status(), missing(0x2016));
    td.write(PID_ADDRESS, 0x30_0040, u64::MAX);
    assert_eq!(td.write(PIN_BASED, 0x80, 0x80).status(), Status::SUCCESS);
}

/// A write that fails changes nothing, and what it may not change it must repeat.
#[test]
fn masks_of_writes() {
    let mut td = Td::new(0, 0);
    td.write(SHARED_EPTP, 0x40_0000, u64::MAX);
    for (value, mask, code) in [
        (0x50_0000, 0xfff, StatusCode::METADATA_FIELD_NOT_WRITABLE),
        (0x50_0800, u64::MAX, StatusCode::METADATA_FIELD_VALUE_NOT_VALID),
        (1 << 52, u64::MAX, StatusCode::METADATA_FIELD_VALUE_NOT_VALID),
        (KEY << 46 | 0x50_0000, u64::MAX, StatusCode::METADATA_FIELD_VALUE_NOT_VALID),
    ] {
        assert_eq!(td.write(SHARED_EPTP, value, mask).status().code(), code, "{value:#x}");
    }
    assert_eq!(td.read(Leaf::VP_RD, TDVPR, SHARED_EPTP), 0x40_0000);
    // Only the bits of the mask.
    assert_eq!(td.write(SHARED_EPTP, 0x1000, 0x1000).r8, 0x40_0000, "the value before");
    assert_eq!(td.read(Leaf::VP_RD, TDVPR, SHARED_EPTP), 0x40_1000);
    // VCPU_STATE is the module's.
    assert_eq!(td.write(linux(0x20, 0), 1, 0xff).status().code(), StatusCode::METADATA_FIELD_NOT_WRITABLE);
}

/// HP_LOCK_TIMEOUT, the one field of a TD that takes whole values only.
#[test]
fn lock_timeout() {
    const HP_LOCK_TIMEOUT: u64 = linux(0x11, 0x11);
    let mut td = Td::new(0, 0);
    let written = td.mng_wr(HP_LOCK_TIMEOUT, 20_000, u64::MAX);
    assert_eq!((written.status(), written.r8), (Status::SUCCESS, 1_000_000));
    assert_eq!(td.read(Leaf::MNG_RD, TDR, HP_LOCK_TIMEOUT), 20_000);
    for (value, mask, code) in [
        (9_999, u64::MAX, StatusCode::METADATA_FIELD_VALUE_NOT_VALID),
        (100_000_001, u64::MAX, StatusCode::METADATA_FIELD_VALUE_NOT_VALID),
        (20_000, 0xffff_ffff, StatusCode::METADATA_WR_MASK_NOT_VALID),
        (20_000, 0, StatusCode::METADATA_FIELD_NOT_WRITABLE),
    ] {
        assert_eq!(td.mng_wr(HP_LOCK_TIMEOUT, value, mask).status().code(), code, "{value} {mask:#x}");
    }
    assert_eq!(td.mng_wr(linux(0x11, 0), 1, u64::MAX).status().code(), StatusCode::METADATA_FIELD_NOT_WRITABLE);
}

/// From the first field on, version 1 names every readable one once, and each can be read.
#[test]
fn a_walk_ends() {
    for attributes in [0, ATTRIBUTES_DEBUG] {
        let mut td = Td::new(attributes, 0);
        let read = |field: u64| Registers::call(LeafCall::with_version(Leaf::MNG_RD, 1)).rcx(TDR).rdx(field);
        let first = td.call(read(FieldId::NONE.0));
        assert_eq!(first.status().code(), StatusCode::METADATA_FIRST_FIELD_ID_IN_CONTEXT);
        let (mut field, mut count, mut refused) = (first.rdx, 0, 0);
        while field != FieldId::NONE.0 {
            count += 1;
            assert!(count < 4000, "the walk does not end");
            match td.machine.seamcall(CPU, read(field)) {
                Ok(out) => {
                    assert_eq!(out.status(), Status::SUCCESS, "{field:#x}");
                    field = out.rdx;
                }
                // Unknown values end the walk: the debug TD has MSR bitmaps and the like.
                Err(Refusal::FieldNotModeled { .. }) => {
                    refused += 1;
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        match attributes {
            0 => assert_eq!((count, refused), (1381, 0)),
            _ => assert_eq!(refused, 1),
        }
    }
}

/// A field whose value is not known: nothing changes, and no CPU holds the VCPU.
#[test]
fn refused_reads_change_nothing() {
    let guest_rip = linux(0, 0x681e);
    let mut td = Td::new(ATTRIBUTES_DEBUG, 0);
    let flush = Registers::call(Leaf::VP_FLUSH).rcx(TDVPR);
    td.ok(flush);
    let read = Registers::call(Leaf::VP_RD).rcx(TDVPR).rdx(guest_rip);
    assert!(matches!(td.machine.seamcall(CPU, read), Err(Refusal::FieldNotModeled { .. })));
    assert_eq!(td.call(flush).status().code(), StatusCode::VCPU_NOT_ASSOCIATED);
    let missing = Registers::call(Leaf::VP_RD).rcx(TDVPR).rdx(linux(0, 0x7ff0));
    assert_ne!(td.call(missing).status(), Status::SUCCESS);
    td.ok(flush);
}

/// What a host gave a TD it reads again.
#[test]
fn configuration_is_readable() {
    let mut td = Td::new(0, 0);
    for (field, value) in [
        (linux(0x00, 2), 6),                   // NUM_TDCX
        (linux(0x00, 5), 1),                   // LIFECYCLE_STATE
        (linux(0x01, 1), KEY),                 // HKID
        (linux(0x10, 1), 1),                   // NUM_VCPUS
        (linux(0x10, 4), 2),                   // OP_STATE
        (linux(0x11, 1), 7),                   // XFAM
        (linux(0x13, 0x10), 0x5a),             // MRCONFIGID
        (linux(0x14, 0x3fe), 0x800_0008_06f8), // CPUID leaf 1
    ] {
        assert_eq!(td.read(Leaf::MNG_RD, TDR, field), value, "{field:#x}");
    }
    // One child for each page but the TDR.
    assert_eq!(td.read(Leaf::MNG_RD, TDR, linux(0, 4)), 6 + 6 + 3 + 1);
    let page = td.read(Leaf::MNG_RD, TDR, linux(0, 0x10));
    assert_eq!(page, KEY << 46 | (TDMR + 0x1000), "with the KeyID");
}

/// MEM.RD and MEM.WR of a debug TD; any other TD has nothing to show.
#[test]
fn memory_of_a_debug_td() {
    let on = |leaf: Leaf, gpa: u64| Registers::call(leaf).rcx(gpa).rdx(TDR);
    let mut production = Td::new(0, 0);
    assert_eq!(production.call(on(Leaf::MEM_RD, 0)).status().code(), StatusCode::TD_NON_DEBUG);
    let mut td = Td::new(ATTRIBUTES_DEBUG, 0);
    assert_eq!(td.ok(on(Leaf::MEM_RD, 0)).r8, 0x1122_3344, "what PAGE.ADD copied");
    assert_eq!(td.ok(on(Leaf::MEM_WR, 8).r8(77)).r8, 0, "the word before");
    assert_eq!(td.ok(on(Leaf::MEM_RD, 8)).r8, 77);
    assert_eq!(td.call(on(Leaf::MEM_RD, 4)).status().code(), StatusCode::OPERAND_INVALID);
    assert_eq!(td.call(on(Leaf::MEM_RD, 0x1000)).status().code(), StatusCode::EPT_ENTRY_NOT_PRESENT);
    // Its lines stay the TD's.
    let page = td.pages;
    assert_eq!(td.machine.private_lines_in(support::lines(page, 4096)), 64);
    assert!(td.machine.all_owner_runs().iter().any(|run| run.key == KeyId::new(KEY as u16)));
}
