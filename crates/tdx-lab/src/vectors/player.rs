//! Plays one case on a fresh machine and compares.

use tdx_abi::{
    CmrInfo, KeyId, KeyIdField, KeyIdPartition, Leaf, LineRange, PageRange, PageSize, PhysAddr, Registers, Status,
};
use tdx_machine::{CpuId, CpuModel, Fault, Lock, LockMode, Machine, MachineConfig, OwnerRun, PackageId, When};

use super::Difference;
use super::case::{Case, Condition, Content, Expected, ExpectedPage, LockName, LockStep, Mode, Platform, Step};
use super::hex::Hex;
use super::owners::{Owners, Verdict};

/// The module of these vectors, and of the emulator.
pub(super) const MODULE: &str = "1.5.01";
/// The CPU on which the host's own work is done; the format does not say.
const HOST: CpuId = CpuId(0);

/// How a case ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Passed,
    /// Passed, but the vector names an earlier KeyID for some line: see [`super::owners`].
    PassedWithEarlierKey,
    Failed,
}

/// Plays a case. An error is a case that breaks a rule of the format.
pub(super) fn play(case: &Case, report: &mut dyn FnMut(Difference)) -> Result<Outcome, String> {
    let machine = Machine::with_initialised_module(config(&case.platform)?).map_err(|error| error.to_string())?;
    let owners = Owners::default();
    let mut player = Player { machine, owners, case: &case.id, step: 0, differences: 0, earlier_key: false, report };
    for (number, step) in case.steps.iter().enumerate() {
        player.step = number;
        player.play(step).map_err(|rule| format!("{}: step {number}: {rule}", case.id))?;
    }
    Ok(match (player.differences, player.earlier_key) {
        (0, false) => Outcome::Passed,
        (0, true) => Outcome::PassedWithEarlierKey,
        _ => Outcome::Failed,
    })
}

fn config(platform: &Platform) -> Result<MachineConfig, String> {
    if platform.package_of_lp.len() != platform.lps as usize {
        return Err(format!("{} LPs, but the package of {}", platform.lps, platform.package_of_lp.len()));
    }
    if platform.package_of_lp.iter().any(|package| *package >= platform.packages) {
        return Err(format!("an LP in a package beyond the {} there are", platform.packages));
    }
    let seamrr = match platform.seamrr {
        Some((base, size)) => {
            Some(PageRange::from_base_size(PhysAddr::new(base.0), size.0).map_err(|error| format!("seamrr: {error}"))?)
        }
        None => None,
    };
    Ok(MachineConfig {
        package_of_cpu: platform.package_of_lp.iter().copied().map(PackageId).collect(),
        cmrs: platform.cmrs.iter().map(|(base, size)| CmrInfo { base: base.0, size: size.0 }).collect(),
        key_ids: Some(KeyIdPartition::new(platform.keyids.shared, platform.keyids.private)),
        key_id_field: KeyIdField::new(platform.keyid_bits).map_err(|error| error.to_string())?,
        seamrr,
        cache_sub_blocks: platform.cache_sub_blocks,
        ..MachineConfig::new(CpuModel::SAPPHIRE_RAPIDS, platform.lps, platform.packages, [])
    })
}

struct Player<'a> {
    machine: Machine,
    owners: Owners,
    case: &'a str,
    step: usize,
    differences: usize,
    earlier_key: bool,
    report: &'a mut dyn FnMut(Difference),
}

impl Player<'_> {
    fn play(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Write(address, content) => self.write(PhysAddr::new(*address), content),
            Step::Seamcall { call, times, expect } => {
                if call.lp >= self.machine.cpus() {
                    return Err(format!("LP {} of {}", call.lp, self.machine.cpus()));
                }
                let registers = Registers {
                    rax: call.rax.0,
                    rcx: call.rcx.0,
                    rdx: call.rdx.0,
                    r8: call.r8.0,
                    r9: call.r9.0,
                    r10: call.r10.0,
                    r11: call.r11.0,
                    r12: call.r12.0,
                    r13: call.r13.0,
                };
                for _ in 0..*times {
                    let before = self.differences;
                    self.seamcall(CpuId(call.lp), registers, expect);
                    // The other repetitions would only say the same again.
                    if self.differences > before {
                        break;
                    }
                }
                Ok(())
            }
            Step::Inject { what, on } => {
                let fault = match what {
                    Condition::NoEntropy => Fault::NoEntropy,
                    Condition::Interrupt => Fault::InterruptPending,
                    Condition::KeyEngineBusy => Fault::KeyEngineBusy,
                    Condition::KeyEngineNoEntropy => Fault::KeyEngineNoEntropy,
                };
                self.machine.clear(fault);
                if *on {
                    self.machine.inject(fault, When::Always);
                }
                Ok(())
            }
            Step::Hold(step) => {
                let (lock, mode) = lock(step)?;
                self.machine.hold(lock, mode);
                Ok(())
            }
            Step::Release(step) => {
                let (lock, mode) = lock(step)?;
                self.machine.release(lock, mode);
                Ok(())
            }
            Step::HostReset(address, length) => {
                let lines = LineRange::touching(PhysAddr::new(address.0), length.0);
                self.machine.direct_store(HOST, lines).map_err(|refusal| refusal.to_string())?;
                self.machine.fence(HOST).map_err(|refusal| refusal.to_string())
            }
            Step::ExpectOwner { runs, within } => {
                self.expect_owner(runs, within.as_deref());
                Ok(())
            }
            Step::ExpectPage(page) => self.expect_page(page),
        }
    }

    /// The vectors see memory as if nothing were ever cached.
    fn write(&mut self, address: PhysAddr, content: &Content) -> Result<(), String> {
        let bytes = match content {
            Content::Words(words) => words.iter().flat_map(|word| word.0.to_le_bytes()).collect(),
            Content::TdmrInfo(info) => info.bytes()?,
            Content::TdParams(params) => params.bytes()?,
            Content::Bytes(bytes) => bytes.clone(),
        };
        self.machine.write_shared(HOST, address, &bytes).map_err(|refusal| refusal.to_string())?;
        self.machine.wbinvd(HOST).map_err(|refusal| refusal.to_string())
    }

    fn call(&mut self, cpu: CpuId, registers: Registers) -> Result<Registers, String> {
        let out = self.machine.seamcall(cpu, registers).map_err(|refusal| refusal.to_string())?;
        self.machine.wbinvd(cpu).map_err(|refusal| refusal.to_string())?;
        // PAMT has one KeyID for good, and is the bulk of all calls.
        if registers.leaf_call().leaf() != Leaf::SYS_TDMR_INIT {
            self.owners.note_call(registers, out.status());
            self.owners.note(self.machine.all_owner_runs());
        }
        Ok(out)
    }

    fn seamcall(&mut self, cpu: CpuId, registers: Registers, expect: &Expected) {
        let leaf = registers.leaf_call().leaf();
        let out = match self.call(cpu, registers) {
            Ok(out) => out,
            Err(refusal) => return self.differ(format!("{leaf}"), status(expect.rax.0), refusal),
        };
        if out.rax != expect.rax.0 {
            self.differ(format!("{leaf}: rax"), status(expect.rax.0), status(out.rax));
        }
        let others = [
            ("rcx", expect.rcx, out.rcx),
            ("rdx", expect.rdx, out.rdx),
            ("r8", expect.r8, out.r8),
            ("r9", expect.r9, out.r9),
            ("r10", expect.r10, out.r10),
            ("r11", expect.r11, out.r11),
            ("r12", expect.r12, out.r12),
            ("r13", expect.r13, out.r13),
        ];
        for (name, expected, got) in others {
            if let Some(expected) = expected
                && expected.0 != got
            {
                self.differ(format!("{leaf}: {name}"), format!("{:#x}", expected.0), format!("{got:#x}"));
            }
        }
    }

    fn expect_owner(&mut self, runs: &[(Hex, Hex, u16)], within: Option<&[(Hex, Hex)]>) {
        let expected: Vec<OwnerRun> = runs
            .iter()
            .map(|(address, length, key)| OwnerRun {
                lines: LineRange::touching(PhysAddr::new(address.0), length.0),
                key: KeyId::new(*key),
            })
            .collect();
        let got = match within {
            None => self.machine.all_owner_runs(),
            Some(ranges) => ranges
                .iter()
                .flat_map(|(address, length)| {
                    self.machine.owner_runs(LineRange::touching(PhysAddr::new(address.0), length.0))
                })
                .collect(),
        };
        match self.owners.compare(&expected, &got) {
            Verdict::Same => {}
            Verdict::EarlierKey => self.earlier_key = true,
            Verdict::Different(index) => {
                let text = |run: Option<&OwnerRun>| {
                    run.map_or("no further run".into(), |run| format!("{} of KeyID {}", run.lines, run.key))
                };
                self.differ(format!("owner run {index}"), text(expected.get(index)), text(got.get(index)));
            }
        }
    }

    fn expect_page(&mut self, page: &ExpectedPage) -> Result<(), String> {
        let out = self.call(HOST, Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx(page.pa.0))?;
        let mut checks: Vec<(&str, u64, u64)> = Vec::new();
        if let Some(status) = page.status {
            checks.push(("status", status.0, out.rax));
        } else {
            let missing = "an expect_page step has `status`, or `type`, `owner` and `level`";
            checks.push(("status", 0, out.rax));
            checks.push(("type", page.page_type.ok_or(missing)?, out.rcx));
            checks.push(("owner", page.owner.ok_or(missing)?.0, out.rdx));
            checks.push(("level", page.level.ok_or(missing)?, out.r8));
            checks.push(("bepoch", page.bepoch.unwrap_or_default().0, out.r9));
        }
        for (name, expected, got) in checks {
            if expected != got {
                self.differ(format!("page {}: {name}", page.pa), format!("{expected:#x}"), format!("{got:#x}"));
            }
        }
        Ok(())
    }

    fn differ(&mut self, what: String, expected: String, got: String) {
        self.differences += 1;
        (self.report)(Difference { case: self.case.to_owned(), step: self.step, what, expected, got });
    }
}

fn status(rax: u64) -> String {
    format!("{rax:#x} {}", Status::new(rax))
}

fn lock(step: &LockStep) -> Result<(Lock, LockMode), String> {
    let need = |value: Option<Hex>, name: &str| {
        value.map(|value| PhysAddr::new(value.0)).ok_or_else(|| format!("this lock needs `{name}`"))
    };
    let lock = match step.lock {
        LockName::Pamt => Lock::Pamt {
            address: need(step.pa, "pa")?,
            level: step.level.and_then(PageSize::from_level).ok_or("a pamt lock has `level` 0, 1 or 2")?,
        },
        LockName::Kot => Lock::Kot,
        LockName::Sys => Lock::Sys,
        LockName::Wbcache => {
            Lock::CacheWriteBack { package: PackageId(step.package.ok_or("a wbcache lock has `package`")?) }
        }
        LockName::Tdmr => Lock::Tdmr { base: need(step.tdmr, "tdmr")? },
        LockName::OpState => Lock::OpState { tdr: need(step.td, "td")? },
        LockName::SeptTree => Lock::SeptTree { tdr: need(step.td, "td")? },
        LockName::Epoch => Lock::Epoch { tdr: need(step.td, "td")? },
    };
    let mode = match step.mode {
        Mode::Exclusive => LockMode::Exclusive,
        Mode::Shared => LockMode::Shared,
    };
    Ok((lock, mode))
}
