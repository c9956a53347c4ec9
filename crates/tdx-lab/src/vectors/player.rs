//! Plays one case on a fresh machine and compares.

use tdx_abi::{
    CmrInfo, KeyId, KeyIdField, KeyIdPartition, Leaf, LineRange, PageRange, PageSize, PhysAddr, Registers, Status,
};
use tdx_machine::{
    AfterExit, CpuId, CpuModel, Fault, Lock, LockMode, Machine, MachineConfig, ModuleProfile, OwnerRun, PackageId,
    TdCpu, TdExit, When,
};

use super::case::{
    Case, Condition, Content, CpuName, Expected, ExpectedPage, LockName, LockStep, Mode, Platform, Start, Step,
    TdExitStep,
};
use super::hex::Hex;
use super::{Difference, Observer};

/// The CPU on which the host's own work is done; the format does not say.
const HOST: CpuId = CpuId(0);

/// How a case ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// The case is for a module that is not emulated.
    Skipped,
}

/// Plays a case. An error is a case that breaks a rule of the format.
pub(super) fn play(
    case: &Case,
    observer: &mut dyn Observer,
    report: &mut dyn FnMut(Difference),
) -> Result<Outcome, String> {
    let Some(module) = profile(&case.platform.module) else { return Ok(Outcome::Skipped) };
    let config = config(&case.platform, module)?;
    let machine = match case.platform.start {
        None => Machine::with_initialized_module(config).map_err(|error| error.to_string())?,
        Some(Start::Loaded) => loaded(config)?,
    };
    let mut player = Player { machine, case: &case.id, step: 0, differences: 0, observer, report };
    player.observer.begin(&case.id, &mut player.machine);
    for (number, step) in case.steps.iter().enumerate() {
        player.step = number;
        player.play(step).map_err(|rule| format!("{}: step {number}: {rule}", case.id))?;
    }
    Ok(if player.differences == 0 { Outcome::Passed } else { Outcome::Failed })
}

/// The emulated module of this version.
fn profile(version: &str) -> Option<ModuleProfile> {
    match version {
        "1.5.01" => Some(ModuleProfile::V1_5_01),
        "1.5.25" => Some(ModuleProfile::V1_5_25),
        _ => None,
    }
}

/// SYS.INIT has not been called; every CPU is in VMX operation.
fn loaded(config: MachineConfig) -> Result<Machine, String> {
    let mut machine = Machine::new(config).map_err(|error| error.to_string())?;
    for cpu in (0..machine.cpus()).map(CpuId) {
        machine.vmxon(cpu).map_err(|refusal| refusal.to_string())?;
    }
    Ok(machine)
}

fn config(platform: &Platform, module: ModuleProfile) -> Result<MachineConfig, String> {
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
        module: Some(module),
        td_cpu: match platform.cpu {
            CpuName::Unsaid => TdCpu::Unprobed,
            CpuName::Plain => TdCpu::Plain,
            CpuName::FourLevels => TdCpu::SapphireRapidsFourLevels,
            CpuName::SapphireRapids => TdCpu::SapphireRapids,
        },
        msrs: platform.msrs.iter().map(|(address, value)| (address.0 as u32, value.0)).collect(),
        cache_sub_blocks: platform.cache_sub_blocks,
        ..MachineConfig::new(CpuModel::SAPPHIRE_RAPIDS, platform.lps, platform.packages, [])
    })
}

struct Player<'a> {
    machine: Machine,
    case: &'a str,
    step: usize,
    differences: usize,
    observer: &'a mut dyn Observer,
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
                let cpu = self.host_cpu();
                self.machine.direct_store(cpu, lines).map_err(|refusal| refusal.to_string())?;
                self.machine.fence(cpu).map_err(|refusal| refusal.to_string())?;
                self.observer.reset(lines);
                Ok(())
            }
            Step::ExpectOwner { runs, within } => {
                self.expect_owner(runs, within.as_deref());
                Ok(())
            }
            Step::ExpectPage(page) => self.expect_page(page),
            Step::TdExit { exit, expect } => {
                self.td_exit(exit, expect);
                Ok(())
            }
            Step::ExpectMemory(address, bytes) => self.expect_memory(PhysAddr::new(*address), bytes),
            Step::Msr { lp, address, value } => {
                self.machine.set_msr(CpuId(*lp), *address as u32, *value).map_err(|refusal| refusal.to_string())
            }
            Step::ModuleUpdate(version) => {
                let profile = profile(version).ok_or_else(|| format!("no module {version}"))?;
                self.machine.load_module(profile);
                self.observer.loaded();
                Ok(())
            }
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
        self.machine.write_shared(self.host_cpu(), address, &bytes).map_err(|refusal| refusal.to_string())?;
        self.machine.write_back_all();
        Ok(())
    }

    /// One SEAMCALL. The vectors take caches as written back at once.
    fn call(&mut self, cpu: CpuId, registers: Registers) -> Result<Registers, String> {
        self.observer.before(&mut self.machine, &registers);
        let result = self.machine.seamcall(cpu, registers);
        self.machine.write_back_all();
        self.observer.after(&mut self.machine, &registers, result.as_ref().ok());
        result.map_err(|refusal| refusal.to_string())
    }

    fn seamcall(&mut self, cpu: CpuId, registers: Registers, expect: &Expected) {
        let leaf = registers.leaf_call().leaf();
        let out = match self.call(cpu, registers) {
            Ok(out) => out,
            Err(refusal) => return self.differ(format!("{leaf}"), ending(expect), refusal),
        };
        let inside = self.machine.vm_on(cpu);
        if let (true, got) | (false, got @ Some(_)) = (expect.enters, inside) {
            let got = got.map_or_else(|| status(out.rax), |vm| format!("VM {vm} entered"));
            if got != ending(expect) {
                self.differ(format!("{leaf}"), ending(expect), got);
            }
            return;
        }
        self.compare(&format!("{leaf}"), expect, out);
    }

    /// Registers that a SEAMCALL or an exit leaves to the host.
    fn compare(&mut self, what: &str, expect: &Expected, out: Registers) {
        if expect.module.is_some() && out.status() == Status::VMFAIL_INVALID {
            return;
        }
        if expect.module.is_some() || expect.rax.is_none_or(|rax| rax.0 != out.rax) {
            self.differ(format!("{what}: rax"), ending(expect), status(out.rax));
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
                self.differ(format!("{what}: {name}"), format!("{:#x}", expected.0), format!("{got:#x}"));
            }
        }
    }

    fn td_exit(&mut self, step: &TdExitStep, expect: &Expected) {
        let what = format!("exit, {}", step.what);
        let value = |register: Option<Hex>| register.unwrap_or_default().0;
        let guest = Registers {
            rax: value(step.guest.rax),
            rcx: value(step.guest.rcx),
            rdx: value(step.guest.rdx),
            r8: value(step.guest.r8),
            r9: value(step.guest.r9),
            r10: value(step.guest.r10),
            r11: value(step.guest.r11),
            r12: value(step.guest.r12),
            r13: value(step.guest.r13),
        };
        let exit = TdExit {
            reason: step.reason,
            qualification: step.qual.0,
            guest_linear: step.gla.0,
            guest_physical: step.gpa.0,
            interruption: step.intr.0,
            idt_vectoring: step.idt.0,
            instruction_length: step.ilen.0,
            interrupt_pending: false,
            guest,
        };
        let outcome = self.machine.td_exit(CpuId(step.lp), exit);
        self.machine.write_back_all();
        self.observer.guest_left(&mut self.machine);
        match outcome {
            Err(refusal) => self.differ(what, ending(expect), refusal.to_string()),
            Ok(AfterExit::Host(out)) => self.compare(&what, expect, out),
            Ok(AfterExit::Guest { vm, registers, .. }) => {
                let got = format!("VM {vm} resumed");
                if !expect.resumes || got != ending(expect) {
                    self.differ(what, ending(expect), got);
                    return;
                }
                let got = [
                    registers.rax,
                    registers.rcx,
                    registers.rdx,
                    registers.r8,
                    registers.r9,
                    registers.r10,
                    registers.r11,
                    registers.r12,
                    registers.r13,
                ];
                for ((name, expected), got) in expect.guest.shared().into_iter().zip(got) {
                    if let Some(expected) = expected
                        && expected.0 != got
                    {
                        self.differ(format!("{what}: guest {name}"), expected.to_string(), format!("{got:#x}"));
                    }
                }
            }
        }
    }

    fn expect_memory(&mut self, address: PhysAddr, bytes: &[u8]) -> Result<(), String> {
        let mut got = vec![0; bytes.len()];
        self.machine.read_shared(HOST, address, &mut got).map_err(|error| error.to_string())?;
        if let Some(offset) = (0..bytes.len()).find(|offset| bytes[*offset] != got[*offset]) {
            let (expected, got) = (format!("{:#04x}", bytes[offset]), format!("{:#04x}", got[offset]));
            self.differ(format!("memory at {address} + {offset}"), expected, got);
        }
        Ok(())
    }

    fn expect_owner(&mut self, runs: &[(Hex, Hex, u16)], within: Option<&[(Hex, Hex)]>) {
        let expected: Vec<OwnerRun> = runs
            .iter()
            .map(|(address, length, key)| OwnerRun {
                lines: LineRange::touching(PhysAddr::new(address.0), length.0),
                key: KeyId::new(*key),
            })
            .collect();
        self.observer.owners(&expected);
        let got = match within {
            None => self.machine.all_owner_runs(),
            Some(ranges) => ranges
                .iter()
                .flat_map(|(address, length)| {
                    self.machine.owner_runs(LineRange::touching(PhysAddr::new(address.0), length.0))
                })
                .collect(),
        };
        let differs = (0..expected.len().max(got.len())).find(|index| expected.get(*index) != got.get(*index));
        if let Some(index) = differs {
            let text = |run: Option<&OwnerRun>| {
                run.map_or("no further run".into(), |run| format!("{} of KeyID {}", run.lines, run.key))
            };
            self.differ(format!("owner run {index}"), text(expected.get(index)), text(got.get(index)));
        }
    }

    fn expect_page(&mut self, page: &ExpectedPage) -> Result<(), String> {
        let call = Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx(page.pa.0);
        let out = match self.call(self.host_cpu(), call) {
            Ok(out) => out,
            Err(refusal) => {
                self.differ(format!("page {}", page.pa), "an answer".into(), refusal);
                return Ok(());
            }
        };
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
            if let Some((first, second)) = page.pair {
                checks.push(("first page of the pair", first.0, out.r10));
                checks.push(("second page of the pair", second.0, out.r11));
            }
        }
        for (name, expected, got) in checks {
            if expected != got {
                self.differ(format!("page {}: {name}", page.pa), format!("{expected:#x}"), format!("{got:#x}"));
            }
        }
        Ok(())
    }

    /// CPU 0, or the first that is not inside a guest.
    fn host_cpu(&self) -> CpuId {
        (0..self.machine.cpus()).map(CpuId).find(|cpu| self.machine.vm_on(*cpu).is_none()).unwrap_or(HOST)
    }

    fn differ(&mut self, what: String, expected: String, got: String) {
        self.differences += 1;
        (self.report)(Difference { case: self.case.to_owned(), step: self.step, what, expected, got });
    }
}

/// How a step is expected to end.
fn ending(expect: &Expected) -> String {
    let vm = expect.vm.unwrap_or(0);
    match (expect.rax, expect.module.is_some()) {
        (_, true) => "the module is down".into(),
        (Some(rax), false) => status(rax.0),
        _ if expect.resumes => format!("VM {vm} resumed"),
        _ => format!("VM {vm} entered"),
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
