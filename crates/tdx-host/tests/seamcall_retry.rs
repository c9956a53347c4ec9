//! The retry rules: what is called again, how often, and what the error keeps.

mod promise;

mod support;

use promise::call_any;
use support::{Event, Recorder};
use tdx_abi::{Leaf, Operand, Registers, Status, StatusCode};
use tdx_host::platform::CpuId;
use tdx_host::seamcall::{BUSY_RETRIES, ENTROPY_RETRIES, call};

fn attempts(leaf: Leaf, status: Status) -> u32 {
    let cpu = Recorder::answering(std::iter::repeat_n(status, 20_000));
    let error = call_any(&cpu, Registers::call(leaf)).unwrap_err();
    assert_eq!(error.status(), status, "the raw status is kept");
    assert_eq!(error.cpu, CpuId(7));
    assert_eq!(error.call.leaf(), leaf);
    assert_eq!(cpu.take().len() as u32, error.attempts);
    error.attempts
}

#[test]
fn entropy_is_tried_eleven_times() {
    assert_eq!(attempts(Leaf::SYS_INIT, StatusCode::RND_NO_ENTROPY.with(0)), 1 + ENTROPY_RETRIES);
    assert_eq!(attempts(Leaf::SYS_KEY_CONFIG, StatusCode::KEY_GENERATION_FAILED.with(0)), 1 + ENTROPY_RETRIES);
}

#[test]
fn busy_is_tried_again_only_where_the_abi_says_so() {
    let busy = StatusCode::SYS_BUSY.with(0);
    assert_eq!(attempts(Leaf::SYS_CONFIG, busy), 1 + BUSY_RETRIES);
    assert_eq!(attempts(Leaf::SYS_TDMR_INIT, StatusCode::OPERAND_BUSY.operand(Operand::RCX)), 1 + BUSY_RETRIES);
    assert_eq!(attempts(Leaf::SYS_RD, busy), 1);
}

/// With a VCPU inside, module 1.5.25 is busy for as long as the guest runs: the host gives up, and
/// its error says why.
#[test]
fn an_error_after_all_attempts_says_that_a_vcpu_may_be_inside() {
    let busy = StatusCode::OPERAND_BUSY.operand(Operand::RCX);
    let cpu = Recorder::answering(std::iter::repeat_n(busy, 20_000));
    let error = call_any(&cpu, Registers::call(Leaf::VP_FLUSH)).unwrap_err();
    assert!(error.is_still_busy());
    let text = "SEAMCALL TDH.VP.FLUSH failed on CPU 7: 0x8000020000000001 TDX_OPERAND_BUSY (RCX) after 10001 attempts \
                (a VCPU inside its guest?)";
    assert_eq!(error.to_string(), text);
    // A leaf that takes no lock is called once.
    let once = call_any(&Recorder::answering([StatusCode::SYS_BUSY.with(0)]), Registers::call(Leaf::SYS_RD));
    assert!(!once.unwrap_err().is_still_busy());
}

#[test]
fn everything_else_is_tried_once() {
    for status in [
        StatusCode::SYS_NOT_READY.with(0),
        StatusCode::OPERAND_INVALID.operand(Operand::RCX),
        Status::VMFAIL_INVALID,
        Status::UNDEFINED_OPCODE,
        Status::new(0xc0ff_eeee_0000_0000),
    ] {
        assert_eq!(attempts(Leaf::SYS_CONFIG, status), 1);
    }
}

#[test]
fn a_late_success_is_a_success_and_info_is_no_error() {
    let no_entropy = StatusCode::RND_NO_ENTROPY.with(0);
    let cpu = Recorder::answering([no_entropy, no_entropy, Status::SUCCESS]);
    assert!(call_any(&cpu, Registers::call(Leaf::SYS_INIT)).is_ok());
    assert_eq!(cpu.take(), vec![Event::Seamcall(33); 3]);
    let cpu = Recorder::answering([StatusCode::KEY_CONFIGURED.with(0)]);
    let output = call_any(&cpu, Registers::call(Leaf::SYS_KEY_CONFIG)).unwrap();
    assert_eq!(output.status().code(), StatusCode::KEY_CONFIGURED);
}

#[test]
fn the_message_names_leaf_cpu_and_status() {
    let cpu = Recorder::answering([StatusCode::SYS_NOT_READY.with(0)]);
    let error = call(&cpu, Registers::call(Leaf::SYS_RD)).unwrap_err();
    assert_eq!(error.to_string(), "SEAMCALL TDH.SYS.RD failed on CPU 7: 0xc000050500000000 TDX_SYS_NOT_READY");
    let error =
        call(&Recorder::answering([StatusCode::SYS_NOT_READY.with(0)]), Registers::call(Leaf::SYS_RD).rdx(0x1b));
    let text = format!("{:#}", error.unwrap_err());
    assert!(
        text.ends_with("TDX_SYS_NOT_READY; in RCX 0x0 RDX 0x1b R8 0x0 R9 0x0; out RCX 0x0 RDX 0x1b R8 0x0 R9 0x0"),
        "{text}"
    );
}
