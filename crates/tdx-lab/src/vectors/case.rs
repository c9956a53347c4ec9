//! A case as it stands in the file. Unknown keys are errors: a step that is not understood must not
//! pass.

use serde::{Deserialize, de};

use super::hex::Hex;

/// One case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) id: String,
    #[serde(rename = "about")]
    _about: de::IgnoredAny,
    #[serde(rename = "uses", default)]
    _uses: de::IgnoredAny,
    #[serde(rename = "note", default)]
    _note: de::IgnoredAny,
    pub(super) platform: Platform,
    pub(super) steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Platform {
    pub(super) module: String,
    #[serde(default)]
    pub(super) cpu: CpuName,
    pub(super) start: Option<Start>,
    #[serde(default)]
    pub(super) msrs: Vec<(Hex, Hex)>,
    pub(super) lps: u32,
    pub(super) packages: u32,
    pub(super) package_of_lp: Vec<u32>,
    pub(super) keyid_bits: u32,
    pub(super) keyids: KeyIds,
    pub(super) cache_sub_blocks: u32,
    pub(super) cmrs: Vec<(Hex, Hex)>,
    pub(super) seamrr: Option<(Hex, Hex)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyIds {
    pub(super) shared: u32,
    pub(super) private: u32,
}

/// What CPUID shows of the CPU, as far as the module looks at it.
#[derive(Clone, Copy, Default, Deserialize)]
pub(super) enum CpuName {
    /// Not said: the older vectors, in which SYS.INIT was put in place.
    #[default]
    #[serde(skip)]
    Unsaid,
    #[serde(rename = "plain")]
    Plain,
    #[serde(rename = "spr-ept4")]
    FourLevels,
    #[serde(rename = "spr")]
    SapphireRapids,
}

/// Where a case starts, if not after SYS.INIT and all SYS.LP.INIT.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Start {
    Loaded,
}

/// What one step does.
#[derive(Deserialize)]
#[serde(try_from = "RawStep")]
pub(super) enum Step {
    Write(u64, Content),
    Seamcall { call: SeamcallStep, times: u32, expect: Expected },
    Inject { what: Condition, on: bool },
    Hold(LockStep),
    Release(LockStep),
    HostReset(Hex, Hex),
    ExpectOwner { runs: Vec<(Hex, Hex, u16)>, within: Option<Vec<(Hex, Hex)>> },
    ExpectPage(ExpectedPage),
    TdExit { exit: TdExitStep, expect: Expected },
    ExpectMemory(u64, Vec<u8>),
    Msr { lp: u32, address: u64, value: u64 },
    ModuleUpdate(String),
}

/// A VM exit of the guest on an LP, with the VMCS values of the exit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TdExitStep {
    pub(super) lp: u32,
    pub(super) what: String,
    pub(super) reason: u64,
    #[serde(default)]
    pub(super) qual: Hex,
    #[serde(default)]
    pub(super) gla: Hex,
    #[serde(default)]
    pub(super) gpa: Hex,
    #[serde(default)]
    pub(super) intr: Hex,
    #[serde(default)]
    pub(super) idt: Hex,
    #[serde(default)]
    pub(super) ilen: Hex,
    #[serde(default)]
    pub(super) guest: GuestRegisters,
}

/// Registers of the guest; those not named are 0 on exit and not checked on entry.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuestRegisters {
    pub(super) rax: Option<Hex>,
    #[serde(rename = "rbx", default)]
    _rbx: de::IgnoredAny,
    pub(super) rcx: Option<Hex>,
    pub(super) rdx: Option<Hex>,
    #[serde(rename = "rbp", default)]
    _rbp: de::IgnoredAny,
    #[serde(rename = "rsi", default)]
    _rsi: de::IgnoredAny,
    #[serde(rename = "rdi", default)]
    _rdi: de::IgnoredAny,
    pub(super) r8: Option<Hex>,
    pub(super) r9: Option<Hex>,
    pub(super) r10: Option<Hex>,
    pub(super) r11: Option<Hex>,
    pub(super) r12: Option<Hex>,
    pub(super) r13: Option<Hex>,
    #[serde(rename = "r14", default)]
    _r14: de::IgnoredAny,
    #[serde(rename = "r15", default)]
    _r15: de::IgnoredAny,
}

impl GuestRegisters {
    /// Names and values of the registers that [`tdx_abi::Registers`] has.
    pub(super) fn shared(&self) -> [(&'static str, Option<Hex>); 9] {
        [
            ("rax", self.rax),
            ("rcx", self.rcx),
            ("rdx", self.rdx),
            ("r8", self.r8),
            ("r9", self.r9),
            ("r10", self.r10),
            ("r11", self.r11),
            ("r12", self.r12),
            ("r13", self.r13),
        ]
    }
}

/// What a write step writes.
pub(super) enum Content {
    Words(Vec<Hex>),
    TdmrInfo(super::structure::TdmrInfoText),
    TdParams(super::structure::TdParamsText),
    Bytes(Vec<u8>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeamcallStep {
    pub(super) lp: u32,
    pub(super) rax: Hex,
    #[serde(default)]
    pub(super) rcx: Hex,
    #[serde(default)]
    pub(super) rdx: Hex,
    #[serde(default)]
    pub(super) r8: Hex,
    #[serde(default)]
    pub(super) r9: Hex,
    #[serde(default)]
    pub(super) r10: Hex,
    #[serde(default)]
    pub(super) r11: Hex,
    #[serde(default)]
    pub(super) r12: Hex,
    #[serde(default)]
    pub(super) r13: Hex,
    #[serde(rename = "r14", default)]
    _r14: de::IgnoredAny,
    #[serde(rename = "r15", default)]
    _r15: de::IgnoredAny,
}

/// Registers after the call; those not named are not checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    pub(super) rax: Option<Hex>,
    /// VP.ENTER enters the guest: the CPU is inside.
    #[serde(default)]
    pub(super) enters: bool,
    /// The module handles an exit and goes back into the guest.
    #[serde(default)]
    pub(super) resumes: bool,
    /// The VM that is entered; 0 is L1.
    pub(super) vm: Option<u8>,
    /// The guest's registers when it goes on.
    #[serde(default)]
    pub(super) guest: GuestRegisters,
    /// Present if the module shuts itself down, with whatever the recorder said of it.
    pub(super) module: Option<String>,
    pub(super) rcx: Option<Hex>,
    pub(super) rdx: Option<Hex>,
    pub(super) r8: Option<Hex>,
    pub(super) r9: Option<Hex>,
    pub(super) r10: Option<Hex>,
    pub(super) r11: Option<Hex>,
    pub(super) r12: Option<Hex>,
    pub(super) r13: Option<Hex>,
    #[serde(rename = "r14", default)]
    _r14: de::IgnoredAny,
    #[serde(rename = "r15", default)]
    _r15: de::IgnoredAny,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Condition {
    NoEntropy,
    Interrupt,
    KeyEngineBusy,
    KeyEngineNoEntropy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LockStep {
    pub(super) lock: LockName,
    pub(super) mode: Mode,
    pub(super) pa: Option<Hex>,
    pub(super) level: Option<u64>,
    pub(super) package: Option<u32>,
    pub(super) tdmr: Option<Hex>,
    pub(super) td: Option<Hex>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LockName {
    Pamt,
    Kot,
    Sys,
    Wbcache,
    Tdmr,
    OpState,
    SeptTree,
    Epoch,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    Exclusive,
    Shared,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedPage {
    pub(super) pa: Hex,
    pub(super) status: Option<Hex>,
    #[serde(rename = "type")]
    pub(super) page_type: Option<u64>,
    pub(super) owner: Option<Hex>,
    pub(super) level: Option<u64>,
    pub(super) bepoch: Option<Hex>,
    pub(super) pair: Option<(Hex, Hex)>,
}

/// Every key that a step can have; which go together is checked below.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    write: Option<Hex>,
    u64: Option<Vec<Hex>>,
    tdmr_info: Option<super::structure::TdmrInfoText>,
    td_params: Option<super::structure::TdParamsText>,
    bytes: Option<String>,
    seamcall: Option<SeamcallStep>,
    times: Option<u32>,
    expect: Option<Expected>,
    inject: Option<Condition>,
    on: Option<bool>,
    hold: Option<LockStep>,
    release: Option<LockStep>,
    host_reset: Option<(Hex, Hex)>,
    expect_owner: Option<Vec<(Hex, Hex, u16)>>,
    #[serde(rename = "in")]
    within: Option<Vec<(Hex, Hex)>>,
    expect_page: Option<ExpectedPage>,
    td_exit: Option<TdExitStep>,
    expect_memory: Option<Hex>,
    msr: Option<(u32, Hex, Hex)>,
    module_update: Option<String>,
}

impl TryFrom<RawStep> for Step {
    type Error = String;

    fn try_from(raw: RawStep) -> Result<Self, String> {
        let kinds = [
            ("write", raw.write.is_some()),
            ("seamcall", raw.seamcall.is_some()),
            ("inject", raw.inject.is_some()),
            ("hold", raw.hold.is_some()),
            ("release", raw.release.is_some()),
            ("host_reset", raw.host_reset.is_some()),
            ("expect_owner", raw.expect_owner.is_some()),
            ("expect_page", raw.expect_page.is_some()),
            ("td_exit", raw.td_exit.is_some()),
            ("expect_memory", raw.expect_memory.is_some()),
            ("msr", raw.msr.is_some()),
            ("module_update", raw.module_update.is_some()),
        ];
        if kinds.iter().filter(|(_, there)| *there).count() != 1 {
            return Err(format!("a step is one of {}", kinds.map(|(name, _)| name).join(", ")));
        }
        if let Some(address) = raw.write {
            return Ok(Self::Write(address.0, content(raw)?));
        }
        if let Some(call) = raw.seamcall {
            let expect = raw.expect.ok_or("a seamcall step has no `expect`")?;
            return Ok(Self::Seamcall { call, times: raw.times.unwrap_or(1), expect: expect.checked()? });
        }
        if let Some(exit) = raw.td_exit {
            let expect = raw.expect.ok_or("a td_exit step has no `expect`")?;
            return Ok(Self::TdExit { exit, expect: expect.checked()? });
        }
        if let Some(address) = raw.expect_memory {
            let digits = raw.bytes.ok_or("an expect_memory step has no `bytes`")?;
            return Ok(Self::ExpectMemory(address.0, bytes(&digits)?));
        }
        if let Some((lp, address, value)) = raw.msr {
            return Ok(Self::Msr { lp, address: address.0, value: value.0 });
        }
        if let Some(version) = raw.module_update {
            return Ok(Self::ModuleUpdate(version));
        }
        if let Some(what) = raw.inject {
            return Ok(Self::Inject { what, on: raw.on.ok_or("an inject step has no `on`")? });
        }
        let step = (raw.hold.map(Self::Hold))
            .or(raw.release.map(Self::Release))
            .or(raw.host_reset.map(|(address, length)| Self::HostReset(address, length)))
            .or(raw.expect_owner.map(|runs| Self::ExpectOwner { runs, within: raw.within }))
            .or(raw.expect_page.map(Self::ExpectPage));
        step.ok_or_else(|| "an empty step".into())
    }
}

impl Expected {
    /// An `expect` says how the call ends: with RAX, inside the guest, or with the module down.
    fn checked(self) -> Result<Self, String> {
        let ends = [self.rax.is_some(), self.enters, self.resumes, self.module.is_some()];
        if ends.iter().filter(|there| **there).count() == 1 || self.module.is_some() {
            return Ok(self);
        }
        Err("an `expect` has one of rax, enters, resumes, module".into())
    }
}

fn content(raw: RawStep) -> Result<Content, String> {
    match (raw.u64, raw.tdmr_info, raw.td_params, raw.bytes) {
        (Some(words), None, None, None) => Ok(Content::Words(words)),
        (None, Some(info), None, None) => Ok(Content::TdmrInfo(info)),
        (None, None, Some(params), None) => Ok(Content::TdParams(params)),
        (None, None, None, Some(digits)) => bytes(&digits).map(Content::Bytes),
        _ => Err("a write step has one of u64, tdmr_info, td_params, bytes".into()),
    }
}

fn bytes(digits: &str) -> Result<Vec<u8>, String> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bad = || format!("`bytes` is not made of pairs of hex digits: `{digits}`");
    if !rest.is_empty() {
        return Err(bad());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(bad);
    pairs.iter().map(|[high, low]| Ok((digit(*high)? << 4 | digit(*low)?) as u8)).collect()
}
