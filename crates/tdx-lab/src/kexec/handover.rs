//! The handover of the first kernel: kexec or crash, and the host's own account of it.

use first_kernel::{AnyPolicy, Comparison, HandedOutcome, NotHandedOver};
use tdx_abi::{Page, subtract};
use tdx_host::handover::{
    HandoverKind, HostMemory, LeftoverKind, LeftoverReason, ModuleAnswer, NothingToDo, Outcome, Policy, Suspects,
};

use crate::{
    platform::{Lab, LabKernel, promise},
    report::{HandoverSummary, ResetReport, UncleanedReport},
};
use tdx_operator::{host::Host, images};

/// Memory that the first kernel reserves for the table of leftovers.
const TABLE_BYTES: usize = 64 << 10;

/// What became of a handover.
pub(super) struct Handed {
    pub(super) summary: HandoverSummary,
    pub(super) uncleaned: Vec<UncleanedReport>,
    /// The table of leftovers, in memory that the next kernel finds.
    pub(super) table: Option<Vec<u8>>,
    /// The next kernel starts.
    pub(super) jumps: bool,
    /// CPUs that the handover does not answer for.
    pub(super) suspects: Suspects,
}

/// An orderly kexec.
/// `vcpus` are flushed if the policy keeps TDX.
pub(super) fn kexec(
    kernel: &LabKernel<'_>,
    host: &Host,
    policy: AnyPolicy,
    memory: HostMemory<'_>,
    vcpus: &[Page],
) -> Handed {
    let images = images::pages(host);
    let usable = host.memory().iter().map(|piece| piece.range);
    match promise::kexec(policy, kernel, memory, vcpus, &[images], subtract(usable, [images])) {
        Ok(done) => handed(&done),
        Err(not) => Handed {
            summary: HandoverSummary {
                outcome: match not {
                    NotHandedOver::Refused(_) => "refused",
                    NotHandedOver::Stop(_) => "not-alone",
                },
                why: not.to_string(),
                module: None,
                lines: 0,
                ranges: 0,
            },
            uncleaned: Vec::new(),
            table: None,
            jumps: false,
            suspects: Suspects::default(),
        },
    }
}

/// A panic on this CPU: the crash kernel takes over.
pub(super) fn crash(kernel: &LabKernel<'_>, policy: AnyPolicy, memory: HostMemory<'_>) -> Handed {
    handed(&first_kernel::crash(policy, &kernel.this_cpu(), kernel, memory))
}

fn handed(done: &first_kernel::Handed<'_>) -> Handed {
    let uncleaned = done.leftovers().map(|left| UncleanedReport {
        range: Some(left.range.into()),
        why: format!("{}: {}", leftover_kind(left.kind), leftover_reason(left.reason)),
    });
    let mut table = vec![0; TABLE_BYTES];
    let written = done.write_table(&mut table).map_or(0, |written| written.bytes);
    table.truncate(written);
    let (summary, suspects) = (summary(done), done.suspects().clone());
    Handed { summary, uncleaned: uncleaned.collect(), table: Some(table), jumps: true, suspects }
}

const fn leftover_kind(kind: LeftoverKind) -> &'static str {
    match kind {
        LeftoverKind::Pamt => "PAMT",
        LeftoverKind::Page => "pages of TDs",
    }
}

const fn leftover_reason(reason: LeftoverReason) -> &'static str {
    match reason {
        LeftoverReason::NotReset => "the policy does not reset it",
        LeftoverReason::CachesNotWrittenBack => "a CPU may still hold private lines of it in its caches",
        LeftoverReason::Reserved => "it lies in memory that is never written",
        LeftoverReason::NotMapped => "some of it is in no mapping of the kernel",
    }
}

fn summary(done: &first_kernel::Handed<'_>) -> HandoverSummary {
    let (outcome, why) = match done.outcome() {
        HandedOutcome::Product(Outcome::Reset(_)) => ("reset", was_reset(done)),
        HandedOutcome::Product(Outcome::NothingToDo(reason)) => ("nothing-to-do", nothing_to_do(reason)),
        HandedOutcome::Product(Outcome::Kept(_)) => ("kept", "TDX and its TDs are left to the next kernel"),
        HandedOutcome::Left(Comparison::ModuleOnly) => ("left-private", "what the module does not clear stays"),
        HandedOutcome::Left(_) => ("left-private", "the policy is to reset nothing"),
        HandedOutcome::Product(Outcome::LeftPrivate(_)) => {
            ("left-private", "this kernel comes back and goes on using TDX")
        }
    };
    let (lines, ranges) = match done.outcome() {
        HandedOutcome::Product(Outcome::Reset(count) | Outcome::Kept(count)) => (count.lines, count.ranges),
        _ => (0, 0),
    };
    let not_flushed = done.not_flushed().map(|error| format!("a VCPU was not flushed: {error}"));
    let module = done.module().map(|answer| answer.to_string()).or(not_flushed);
    HandoverSummary { outcome, why: why.to_owned(), module, lines, ranges }
}

/// Which lines were written with MOVDIR64B.
fn was_reset(done: &first_kernel::Handed<'_>) -> &'static str {
    match (done.policy(), done.module()) {
        (AnyPolicy::Compared(Comparison::Pamt), _) => "PAMTs were written with MOVDIR64B, pages of TDs were not",
        (AnyPolicy::Product(Policy::Everything), _) if done.kind() != HandoverKind::Crash => {
            "all memory but this kernel's and the next image's was written with MOVDIR64B"
        }
        (AnyPolicy::Product(Policy::Module), Some(ModuleAnswer::Disabled { .. })) => {
            "what the module cannot know was written with MOVDIR64B"
        }
        _ => "every line that may have been private was written with MOVDIR64B",
    }
}

fn nothing_to_do(reason: NothingToDo) -> &'static str {
    match reason {
        NothingToDo::NoTdx => "this machine has no TDX",
        NothingToDo::NoPrivateMemory => "no memory was ever handed to the module",
        NothingToDo::NoErratum => "this CPU does not have the partial-write erratum: leftovers do no harm",
        _ => "nothing that could do harm",
    }
}

pub(super) fn reset_report(lab: &Lab<'_>, stored_before: u64) -> ResetReport {
    lab.ask(|machine| ResetReport {
        lines: machine.counters().lines_direct_stored - stored_before,
        private_lines_left: machine.private_lines(),
        dirty_private_lines_left: machine.dirty_private_lines(),
        poisoned_lines_left: machine.all_poisoned_runs().iter().map(|run| run.lines.len()).sum(),
    })
}
