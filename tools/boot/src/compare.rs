//! Compares seamvisor with the software machine: the same first kernel runs on both. Both must make
//! the same SEAMCALLs in the same order with the same statuses, and the next kernel must have the
//! same outcome.

use std::fmt::Write;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, ensure};
use first_kernel::{AnyPolicy, GuestMap, RangePages, TdPhase, live};
use tdx_abi::{KeyId, PageRange, PageSize, Registers};
use tdx_host::layout::{FrameSource, Layout};
use tdx_lab::platform::{Act, Lab, LabKernel, Operation, Watcher, promise};
use tdx_lab::tds::track;
use tdx_machine::{AccessError, CpuId, Machine, MachineCheckReason, PartialStore};
use tdx_operator::host::{Host, HostOptions};

use crate::args::BootArgs;
use crate::messages::Messages;
use crate::qemu;
use crate::report::Report;

/// A SEAMCALL: its leaf by name, and RAX after it.
type Call = (String, u64);

/// The machine check of the next kernel, if any: the kind of the line, and the store that poisoned
/// it.
type Death = Option<(String, String)>;

/// TDs: one in each phase.
const TDS: u32 = 4;

/// Runs both; `None` if they agree.
pub(crate) fn differences(policy: &str, messages: &Messages) -> Result<Option<String>> {
    let (policy_word, tds) = (format!("--policy={policy}"), format!("--tds={TDS}"));
    let args = BootArgs::from_words(["firstkernel", &policy_word, &tds, "--memory=512"])?;
    let report = qemu::run(&args, messages)?;
    let (calls, death) = told(&report)?;
    let (expected_calls, expected_death) = software(&host(&report)?, policy)?;
    let first = calls.iter().zip(&expected_calls).position(|(a, b)| a != b);
    if let Some(at) = first {
        return Ok(Some(format!(
            "SEAMCALL {at}: {} under seamvisor, {} in software",
            call(&calls[at]),
            call(&expected_calls[at])
        )));
    }
    if calls.len() != expected_calls.len() {
        return Ok(Some(format!("{} SEAMCALLs under seamvisor, {} in software", calls.len(), expected_calls.len())));
    }
    let differ = death != expected_death;
    Ok(differ.then(|| format!("{} under seamvisor, {} in software", words(&death), words(&expected_death))))
}

/// A call and its status.
fn call((leaf, rax): &Call) -> String {
    format!("{leaf} -> {rax:#018x}")
}

fn words(death: &Death) -> String {
    match death {
        Some((kind, store)) => format!("a machine check by {kind}, poisoned by {store}"),
        None => "no machine check".to_owned(),
    }
}

/// SEAMCALLs and machine check in seamvisor's log.
fn told(report: &Report) -> Result<(Vec<Call>, Death)> {
    let log = report.log()?;
    let calls = log.lines().filter(|line| line.starts_with("seamcall ")).map(|line| {
        // seamcall 12 cpu=0 TDH.SYS.RD -> 0x0000000000000000 TDX_SUCCESS
        let words: Vec<&str> = line.split_whitespace().collect();
        let rax = words.get(5).and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        Ok(((*words.get(3).context("a short line")?).to_owned(), rax.with_context(|| line.to_owned())?))
    });
    let calls = calls.collect::<Result<Vec<Call>>>()?;
    ensure!(!calls.is_empty(), "seamvisor has seen no SEAMCALL: {}", report.why());
    let check = &report.summary()["machine_checks"][0];
    let death = check["kind"].as_str().map(|kind| {
        let reason = check["reason"].as_str().unwrap_or_default();
        let store = ["NonTemporal", "Uncached", "WriteCombining"].into_iter().find(|store| reason.contains(store));
        (kind.to_owned(), store.unwrap_or("?").to_owned())
    });
    Ok((calls, death))
}

/// A software host with the memory map of seamvisor's guest.
fn host(report: &Report) -> Result<Host> {
    let mut text = String::from(
        "schema = \"cleanslate-host\"\nversion = 1\nname = \"seamvisor's guest\"\n[cpu]\nmodel = \"spr\"\npackages = 1\ncpus = 1\n\
         [tdx]\nkey_ids = \"[32, 64)\"\n",
    );
    let log = report.log()?;
    for line in log.lines() {
        let Some((range, "1")) = line.strip_prefix("seamvisor: guest memory ").and_then(|rest| rest.rsplit_once(' '))
        else {
            continue;
        };
        let (start, end) = range.trim_matches(['[', ')']).split_once(", ").context("a range")?;
        let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
        let (start, end) = (number(start)?.max(1 << 20), number(end)?);
        if start < end {
            // Writing to a string never fails.
            let _ = write!(
                text,
                "[[memory]]\nrange = \"[{start:#x}, {end:#x})\"\n[[cmr]]\nrange = \"[{start:#x}, {end:#x})\"\n"
            );
        }
    }
    Ok(Host::from_reader("seamvisor's guest", text.as_bytes(), &HostOptions::default())?)
}

/// Records every SEAMCALL.
#[derive(Default)]
struct Listener(Mutex<Vec<Call>>);

impl Watcher for Listener {
    fn after(&self, _lab: &Lab<'_>, act: &Act, answer: Option<&mut Registers>) {
        if let (Operation::Seamcall(input), Some(answer)) = (act.operation, answer) {
            let call = (input.leaf_call().leaf().to_string(), answer.rax);
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(call);
        }
    }
}

/// The same first kernel on the software machine.
fn software(host: &Host, policy: &str) -> Result<(Vec<Call>, Death)> {
    let policy = AnyPolicy::named(policy).with_context(|| format!("no policy is called {policy}"))?;
    let listener = Listener::default();
    let lab = Lab::new(host, &())?.watched_by(&listener);
    let mut words = Vec::new();
    let tdx = Box::new(tdx_host::Host::new(lab.slots()));
    tdx.detect(&lab)?;
    let mut kernel = LabKernel::new(&lab, &tdx, host);
    tdx.bring_up(&mut kernel, host.memory())?;
    let tds = track(&tdx, &mut words)?;
    let layout = tdx.layout().context("TDX is not up")?;
    let mut shared = kernel.allocate_any(1).context("no page")?;
    for number in 0..TDS {
        let range = first_kernel::allocate(&mut kernel, layout, 1).context("no room for a TD")?;
        live(&mut kernel, tds, &RangePages::new(range), &mut shared, &GuestMap::SMALL, TdPhase::of(number))
            .map_err(|error| anyhow!("{error}"))?;
    }
    let before = lab.ask(Clone::clone);
    // The report is not compared.
    promise::kexec(policy, &kernel, tdx.memory(), &[], &[], std::iter::empty()).map_err(|error| anyhow!("{error}"))?;
    lab.check()?;
    lab.act(Machine::kexec_boundary);
    let death = lab.act(|machine| next_kernel(machine, &before, layout, host))?;
    let calls = listener.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok((calls, death))
}

/// The same as firstkernel as next kernel: page by page, writes a part of each line, then reads
/// each line.
fn next_kernel(machine: &mut Machine, before: &Machine, layout: &Layout, host: &Host) -> Result<Death> {
    let cpu = CpuId(0);
    for page in host.memory().iter().flat_map(|part| part.range.start().index()..part.range.end().index()) {
        let page = tdx_abi::Page::new(page);
        let lines = PageRange::new(page, tdx_abi::Page::new(page.index() + 1)).lines();
        machine.partial_write(cpu, lines, KeyId::HOST, PartialStore::NonTemporal)?;
        match machine.load(cpu, lines, KeyId::HOST) {
            Ok(()) => {}
            Err(AccessError::MachineCheck(check)) => {
                let MachineCheckReason::Poison(cause) = check.reason else { continue };
                return Ok(Some((kind(before, layout, page).to_owned(), format!("{:?}", cause.store))));
            }
            Err(AccessError::Refused(refusal)) => return Err(refusal.into()),
        }
    }
    Ok(None)
}

/// What a page was before the handover.
fn kind(machine: &Machine, layout: &Layout, page: tdx_abi::Page) -> &'static str {
    for (size, name) in [(PageSize::Size4K, "PAMT_4K"), (PageSize::Size2M, "PAMT_2M"), (PageSize::Size1G, "PAMT_1G")] {
        if layout.tdmrs().iter().any(|tdmr| tdmr.pamt(size).contains(page)) {
            return name;
        }
    }
    let runs = machine.assigned_pages();
    runs.iter().find(|run| run.pages.contains(page)).map_or("returned page", |run| run.kind.name())
}
