//! A TDX host: memory with nodes, CMRs, KeyIDs, CPUs, from a boot log, /proc/iomem or a TOML file.
//! Missing values are assumed and listed.

mod assumption;
mod from_log;
mod from_toml;
mod memory;
mod nodes;

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use tdx_abi::{KeyIdField, KeyIdPartition, PageRange, PhysAddr};
use tdx_host::platform::{CpuModel, NodeRange};

use crate::{
    bootlog::{BootLog, Failure, ModuleVersion},
    input::{At, InputError, Rule},
    progress::Progress,
    watched::{self, Watched},
};

pub use assumption::Assumption;

/// The host that is used when none is named: a real one with 2 TiB, fixture 01.
const BUNDLED: (&str, &str) = ("01-canonical-385-2tib.log", include_str!("01-canonical-385-2tib.log"));

/// What the user says on top of the file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostOptions {
    /// NUMA node borders, ascending, for logs that do not show nodes.
    pub node_borders: Vec<PhysAddr>,
    /// Which boot of a file that holds several, from 1; the last one with a memory map if not
    /// given.
    pub boot: Option<u64>,
}

/// A host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    name: String,
    memory: Vec<NodeRange>,
    cmrs: Vec<PageRange>,
    key_ids: KeyIdPartition,
    cpu: CpuModel,
    packages: u32,
    cpus: u32,
    logged: Logged,
    assumptions: Vec<Assumption>,
}

/// What the kernel of the log did on this host: to compare with, never an input.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Logged {
    /// Kernel version.
    pub kernel: Option<String>,
    /// TDX module version.
    pub module: Option<ModuleVersion>,
    /// KiB allocated for PAMT.
    pub pamt_kb: Option<u64>,
    /// The first failure, and the text of its line.
    pub failure: Option<At<(Failure, String)>>,
}

impl Host {
    /// The bundled host: a real one with 2 TiB.
    ///
    /// # Errors
    /// Node borders that do not fit it.
    pub fn bundled(options: &HostOptions) -> Result<Self, InputError> {
        Self::from_reader(BUNDLED.0, BUNDLED.1.as_bytes(), options)
    }

    /// Reads a file: a boot log, /proc/iomem or a TOML host file, told apart by what is in it. `-`
    /// is standard input.
    ///
    /// # Errors
    /// A file that cannot be read or is none of these, a line that does not hold, or a log that has
    /// no memory in it.
    pub fn from_path(path: &Path, options: &HostOptions) -> Result<Self, InputError> {
        Self::from_path_watched(path, options, &())
    }

    /// The same; a long file tells how far it is.
    ///
    /// # Errors
    /// As [`Self::from_path`].
    pub fn from_path_watched(path: &Path, options: &HostOptions, progress: &dyn Progress) -> Result<Self, InputError> {
        let name = path.display().to_string();
        if path.as_os_str() == "-" {
            return Self::from_reader("<stdin>", watched::stdin(progress), options);
        }
        let unreadable = |error: io::Error| InputError::of_file(&name, Rule::Unreadable(error.to_string()));
        let file = File::open(path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        if about.is_dir() {
            return Err(InputError::of_file(&name, Rule::Directory));
        }
        let reader = BufReader::with_capacity(1 << 16, file);
        Self::from_reader(&name, Watched::new(reader, about.len(), progress), options)
    }

    /// Reads from any reader; `name` stands for the file in errors and reports.
    ///
    /// # Errors
    /// As [`Self::from_path`].
    pub fn from_reader(name: &str, mut reader: impl BufRead, options: &HostOptions) -> Result<Self, InputError> {
        let start = reader.fill_buf().map_err(|e| InputError::of_file(name, Rule::Unreadable(e.to_string())))?;
        if start.is_empty() {
            return Err(InputError::of_file(name, Rule::Empty));
        }
        if let Some(encoding) = encoding(start) {
            return Err(InputError::of_file(name, Rule::Encoded(encoding)));
        }
        if from_toml::looks_like(start) {
            return from_toml::read(name, reader, options);
        }
        let chosen = BootLog::read_boot(name, reader, options.boot)?;
        from_log::build(name, &chosen, options)
    }

    /// Name for reports: the file as the user named it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Usable memory above 1 MiB with nodes, ascending, as Linux's memblock has it.
    pub fn memory(&self) -> &[NodeRange] {
        &self.memory
    }

    /// Convertible memory ranges, ascending, at most 32.
    pub fn cmrs(&self) -> &[PageRange] {
        &self.cmrs
    }

    /// How the BIOS split the KeyIDs.
    pub fn key_ids(&self) -> KeyIdPartition {
        self.key_ids
    }

    /// The KeyID field of an address: as many bits as the highest KeyID needs.
    pub fn key_id_field(&self) -> KeyIdField {
        key_id_field(self.key_ids)
    }

    /// The CPU model, which decides on the erratum.
    pub fn cpu(&self) -> CpuModel {
        self.cpu
    }

    /// Number of packages, at least 1.
    pub fn packages(&self) -> u32 {
        self.packages
    }

    /// Number of logical processors, at least one for each package.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// What the kernel of the log did.
    pub fn logged(&self) -> &Logged {
        &self.logged
    }

    /// What the source does not say.
    pub fn assumptions(&self) -> &[Assumption] {
        &self.assumptions
    }

    /// Usable bytes above 1 MiB.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.iter().map(|piece| piece.range.bytes()).sum()
    }

    /// Usable bytes that lie in no CMR, which TDX therefore cannot use.
    pub fn bytes_outside_cmrs(&self) -> u64 {
        memory::outside(self.memory.iter().map(|piece| piece.range), &self.cmrs)
    }

    /// Number of NUMA nodes that have memory.
    pub fn nodes(&self) -> usize {
        let mut nodes: Vec<_> = self.memory.iter().map(|piece| piece.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.len()
    }
}

/// As many KeyID bits as the partition needs.
pub(crate) fn key_id_field(key_ids: KeyIdPartition) -> KeyIdField {
    // At most 15 bits: a partition is checked against 2^15 before it gets here.
    let bits = u64::BITS - (key_ids.private_end() - 1).leading_zeros();
    KeyIdField::from_tme_activate(u64::from(bits) << 32)
}

/// What kind of file it is, if it starts like one that is not plain text.
pub(crate) fn encoding(start: &[u8]) -> Option<&'static str> {
    let magics: [(&[u8], &str); 6] = [
        (&[0x1f, 0x8b], "compressed with gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "compressed with xz"),
        (b"BZh", "compressed with bzip2"),
        (&[0xff, 0xfe], "UTF-16"),
        (&[0xfe, 0xff], "UTF-16"),
    ];
    // The first line has no NUL in any text of one byte a character; `ustar` is at a fixed place.
    let wide = matches!(start, [first, 0, second, 0, ..] if *first != 0 && *second != 0);
    let archive = start.get(257..262) == Some(&b"ustar"[..]);
    let by_magic = magics.iter().find_map(|(magic, name)| start.starts_with(magic).then_some(*name));
    by_magic.or_else(|| archive.then_some("a tar archive")).or_else(|| wide.then_some("UTF-16"))
}
