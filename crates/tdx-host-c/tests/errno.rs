//! Errors of `tdx-host` as results of C: each keeps the errno that `tdx-host` gives it.

use tdx_abi::{LeafCall, Page, PageRange, PageSize, Registers, Status};
use tdx_host::bringup::{BringupCause, BringupError, BringupStep, ModuleInfoError, Unwound};
use tdx_host::host::PublishError;
use tdx_host::layout::{InputList, LayoutError};
use tdx_host::platform::{CpuId, NodeId};
use tdx_host::seamcall::SeamcallError;
use tdx_host_c::TdxhResult;

const RANGE: PageRange = PageRange::new(Page::new(1), Page::new(2));

fn layout_errors() -> Vec<LayoutError> {
    vec![
        LayoutError::InUse,
        LayoutError::Private,
        LayoutError::Unordered { list: InputList::Memory, range: RANGE },
        LayoutError::TooHigh { list: InputList::Cmrs, range: RANGE },
        LayoutError::PamtEntrySize { level: PageSize::Size4K },
        LayoutError::NoMemory,
        LayoutError::TdmrsExhausted { tdmr: RANGE, needed: 2, allowed: 1 },
        LayoutError::ReservedAreasExhausted { tdmr: RANGE, needed: 2, allowed: 1 },
        LayoutError::NoPamtMemory { tdmr: RANGE, bytes: 1, node: NodeId(0) },
    ]
}

fn seamcall(status: u64) -> SeamcallError {
    let registers = Registers { rax: status, ..Registers::default() };
    SeamcallError { call: LeafCall::from_rax(33), cpu: CpuId(0), input: registers, registers, attempts: 1 }
}

#[test]
fn a_layout_keeps_its_errno_and_gets_a_result_of_its_own() {
    let mut results = Vec::new();
    for error in layout_errors() {
        let result = TdxhResult::from(&error);
        assert_eq!(result.errno(), error.errno(), "{error}");
        assert!(result != TdxhResult::Other && !results.contains(&(result as u32)), "{error}");
        results.push(result as u32);
    }
}

#[test]
fn a_bring_up_keeps_its_errno() {
    let statuses = [Status::VMFAIL_INVALID, Status::GENERAL_PROTECTION, Status::UNDEFINED_OPCODE].map(Status::raw);
    let unknown = [0xc000_0505_0000_0000, 0xdead_beef_dead_beef];
    let calls = statuses.into_iter().chain(unknown).map(|status| BringupCause::Seamcall(seamcall(status)));
    let read = BringupCause::ModuleInfo(ModuleInfoError::NoCmrs);
    let record = BringupCause::Record(PublishError::Full { room: 1, count: 2 });
    let others = [BringupCause::Claimed, read, BringupCause::NoMemory { pages: 9 }, record];
    for cause in calls.chain(others).chain(layout_errors().into_iter().map(BringupCause::Layout)) {
        let error = BringupError { step: BringupStep::Claim, cause, unwound: Unwound::default() };
        assert_eq!(TdxhResult::from(&error).errno(), error.errno(), "{error}");
        assert_ne!(TdxhResult::from(&error), TdxhResult::Other, "{error}");
    }
}

#[test]
fn only_success_is_zero_and_every_number_comes_back() {
    for (name, number) in TdxhResult::VALUES {
        let result = TdxhResult::from_number(*number).unwrap();
        assert_eq!((result as u32, result.c_name().to_str().unwrap()), (*number, *name));
        assert_eq!(result.errno() == 0, result == TdxhResult::Ok, "{name}");
        assert!(result.errno() <= 0);
    }
    assert_eq!(TdxhResult::from_number(1), None);
}
