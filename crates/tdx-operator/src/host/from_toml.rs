//! Host from a TOML file. `fixtures/made-up` has documented examples; unknown keys are errors.

use std::{
    io::{BufRead, Read},
    ops::Range,
};

use serde::Deserialize;
use tdx_abi::{KeyIdPartition, PageRange, PhysAddr};
use tdx_host::platform::{CpuModel, NodeId, NodeRange};
use toml::Spanned;

use super::{
    Assumption, Host, HostOptions, Logged,
    from_log::{CPUS_PER_PACKAGE, USUAL_KEY_IDS, USUAL_PACKAGES, or_assume},
    key_id_field, memory, nodes,
};
use crate::{
    bootlog::{check_cmr, check_key_ids},
    cpu_model::{NAMED, SAPPHIRE_RAPIDS},
    input::{At, InputError, Rule, excerpt},
    size,
};

/// Bytes of a host file; a real one has a few hundred.
const FILE_LIMIT: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostFile {
    schema: Spanned<String>,
    version: Spanned<u32>,
    name: Option<String>,
    #[serde(default)]
    cpu: CpuTable,
    #[serde(default)]
    tdx: TdxTable,
    #[serde(default)]
    memory: Vec<MemoryRow>,
    #[serde(default)]
    cmr: Vec<CmrRow>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct CpuTable {
    model: Option<Spanned<String>>,
    packages: Option<Spanned<u32>>,
    cpus: Option<Spanned<u32>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct TdxTable {
    key_ids: Option<Spanned<String>>,
    linux_pamt_kb: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryRow {
    range: Spanned<String>,
    #[serde(default)]
    node: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CmrRow {
    range: Spanned<String>,
}

/// True if the first line that is neither blank nor a comment is the `schema` key, which every host
/// file starts with.
pub(super) fn looks_like(start: &[u8]) -> bool {
    let mut lines = start.split(|&b| b == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    first.and_then(|line| line.strip_prefix(b"schema")).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
}

pub(super) fn read(file: &str, reader: impl BufRead, options: &HostOptions) -> Result<Host, InputError> {
    let mut bytes = Vec::new();
    let read = reader.take(FILE_LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|error| InputError::of_file(file, Rule::Unreadable(error.to_string())))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(InputError::of_file(file, Rule::TooLarge { limit: FILE_LIMIT }));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        InputError { line: Some(line_of(valid, valid.len())), ..InputError::of_file(file, Rule::NotUtf8) }
    })?;
    let source = Source { file, text: &text };
    let parsed: HostFile = toml::from_str(&text).map_err(|error| {
        let at = error.span().unwrap_or(0..0);
        source.error(&at, Rule::HostFile(error.message().replace('\n', "; ")))
    })?;
    source.host(&parsed, options)
}

/// From 1.
fn line_of(text: &[u8], offset: usize) -> u64 {
    1 + text.iter().take(offset).filter(|&&b| b == b'\n').count() as u64
}

struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, at: &Range<usize>) -> u64 {
        line_of(self.text.as_bytes(), at.start)
    }

    /// An error that quotes the whole line on which the span starts.
    fn error(&self, at: &Range<usize>, rule: Rule) -> InputError {
        let line = self.line(at);
        let quoted = self.text.lines().nth(usize::try_from(line - 1).unwrap_or(0)).unwrap_or_default();
        InputError::at_line(self.file, line, quoted, rule)
    }

    fn host(&self, parsed: &HostFile, options: &HostOptions) -> Result<Host, InputError> {
        if parsed.schema.get_ref() != "cleanslate-host" || *parsed.version.get_ref() != 1 {
            let rule = Rule::HostFile("expected schema `cleanslate-host`, version 1".to_owned());
            let wrong = parsed.schema.get_ref() != "cleanslate-host";
            return Err(self.error(&if wrong { parsed.schema.span() } else { parsed.version.span() }, rule));
        }
        if !options.node_borders.is_empty() {
            return Err(InputError::of_file(self.file, Rule::NodeBorderKnown));
        }
        let mut assumptions = Vec::new();
        let key_ids = parsed.tdx.key_ids.as_ref().map(|range| self.key_ids(range)).transpose()?;
        let key_ids = or_assume(key_ids, USUAL_KEY_IDS, &mut assumptions, Assumption::KeyIds);
        let bits = key_id_field(key_ids).shift();
        let (memory, cmrs) = self.memory(parsed, bits, &mut assumptions)?;
        let cpu = parsed.cpu.model.as_ref().map(|name| self.cpu(name)).transpose()?;
        let cpu = or_assume(cpu, SAPPHIRE_RAPIDS, &mut assumptions, Assumption::Cpu);
        let (packages, cpus) = self.cpus(&parsed.cpu, &mut assumptions)?;
        let logged = Logged { pamt_kb: parsed.tdx.linux_pamt_kb, ..Logged::default() };
        let name = parsed.name.as_deref().map_or_else(|| self.file.to_owned(), excerpt);
        Ok(Host { name, memory, cmrs, key_ids, cpu, packages, cpus, logged, assumptions })
    }

    fn key_ids(&self, range: &Spanned<String>) -> Result<KeyIdPartition, InputError> {
        let (start, end) = size::parse_half_open(range.get_ref()).ok_or_else(|| {
            self.error(&range.span(), Rule::HostFile("expected private KeyIDs as `[START, END)`".to_owned()))
        })?;
        check_key_ids(start.get(), end.get()).map_err(|rule| self.error(&range.span(), rule))
    }

    fn range(&self, text: &Spanned<String>, bits: u32) -> Result<PageRange, InputError> {
        let (start, end) = size::parse_half_open(text.get_ref()).ok_or_else(|| {
            let form = "expected a range `[START, END)`, with addresses such as 0x80000000, 2G or 4096";
            self.error(&text.span(), Rule::HostFile(form.to_owned()))
        })?;
        let range = check_cmr(start, end).map_err(|rule| self.error(&text.span(), rule))?;
        if end.get() > 1 << bits {
            return Err(self.error(&text.span(), Rule::BeyondAddressWidth { end, bits }));
        }
        Ok(range)
    }

    fn memory(
        &self,
        parsed: &HostFile,
        bits: u32,
        assumptions: &mut Vec<Assumption>,
    ) -> Result<(Vec<NodeRange>, Vec<PageRange>), InputError> {
        let mut memory: Vec<At<NodeRange>> = Vec::new();
        for row in &parsed.memory {
            let value = NodeRange { range: self.range(&row.range, bits)?, node: NodeId(row.node) };
            if let Some(other) = memory.iter().find(|other| other.value.range.overlaps(value.range)) {
                let rule = Rule::Overlap { other: other.value.range.to_string(), line: other.line };
                return Err(self.error(&row.range.span(), rule));
            }
            memory.push(At { line: self.line(&row.range.span()), value });
        }
        let mut cmrs: Vec<At<PageRange>> = Vec::new();
        for row in &parsed.cmr {
            let (value, span) = (self.range(&row.range, bits)?, row.range.span());
            if let Some(last) = cmrs.last().filter(|last| last.value.end() > value.start()) {
                let rule = Rule::CmrOrder { previous: last.value.to_string(), line: last.line };
                return Err(self.error(&span, rule));
            }
            if cmrs.len() == tdx_abi::MAX_CMRS {
                return Err(self.error(&span, Rule::TooMany { limit: tdx_abi::MAX_CMRS }));
            }
            cmrs.push(At { line: self.line(&span), value });
        }
        let mut memory: Vec<NodeRange> = memory.into_iter().map(|at| at.value).collect();
        let mut cmrs: Vec<PageRange> = cmrs.into_iter().map(|at| at.value).collect();
        // As in a kernel: the first MiB is no TDX memory.
        let low = PhysAddr::new(1 << 20).page();
        for piece in &mut memory {
            piece.range = PageRange::new(piece.range.start().max(low), piece.range.end());
        }
        memory.retain(|piece| !piece.range.is_empty());
        let mut memory = nodes::join(memory);
        if memory.is_empty() && !cmrs.is_empty() && parsed.memory.is_empty() {
            assumptions.push(Assumption::MemoryFromCmrs);
            assumptions.push(Assumption::OneNode);
            memory = nodes::from_borders(&memory::normal(cmrs.clone()), &[]);
        }
        if memory.is_empty() {
            let rule = "expected [[memory]] or [[cmr]] entries above 1 MiB";
            return Err(InputError::of_file(self.file, Rule::HostFile(rule.to_owned())));
        }
        if cmrs.is_empty() {
            assumptions.push(Assumption::CmrsFromMemory);
            cmrs = memory::cmrs_of(&memory::normal(memory.iter().map(|piece| piece.range).collect()));
        }
        Ok((memory, cmrs))
    }

    /// `spr`, `emr`, `gnr`, `srf`, or family-model-stepping in hex: `06-8f-08`.
    fn cpu(&self, name: &Spanned<String>) -> Result<CpuModel, InputError> {
        let text = name.get_ref().as_str();
        if let Some((_, _, model)) = NAMED.iter().find(|(short, _, _)| *short == text) {
            return Ok(*model);
        }
        let numbers: Option<Vec<u32>> = text.split('-').map(|n| u32::from_str_radix(n, 16).ok()).collect();
        match numbers.as_deref() {
            Some(&[family, model, stepping]) if family <= 0x10e && model <= 0xff && stepping <= 0xf => {
                Ok(CpuModel { intel: true, family, model, stepping })
            }
            _ => {
                let rule = "expected a CPU model spr, emr, gnr, srf or FAMILY-MODEL-STEPPING in hex, e.g. 06-8f-08";
                Err(self.error(&name.span(), Rule::HostFile(rule.to_owned())))
            }
        }
    }

    fn cpus(&self, table: &CpuTable, assumptions: &mut Vec<Assumption>) -> Result<(u32, u32), InputError> {
        let packages = table.packages.as_ref().map(|n| *n.get_ref());
        let packages = or_assume(packages, USUAL_PACKAGES, assumptions, |packages| Assumption::Packages {
            packages,
            per_node: false,
        });
        let cpus = table.cpus.as_ref().map(|n| *n.get_ref());
        let cpus = or_assume(cpus, packages.saturating_mul(CPUS_PER_PACKAGE), assumptions, Assumption::Cpus);
        if packages >= 1 && packages <= cpus && cpus <= 8192 {
            return Ok((packages, cpus));
        }
        let span = table.packages.as_ref().or(table.cpus.as_ref()).map_or(0..0, Spanned::span);
        let rule = format!("{packages} packages with {cpus} CPUs: at least one CPU for each package, at most 8192");
        Err(self.error(&span, Rule::HostFile(rule)))
    }
}
