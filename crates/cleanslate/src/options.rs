//! Options that several subcommands share: host, layout, output format.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tdx_abi::PhysAddr;
use tdx_operator::{
    host::{Host, HostOptions},
    input::InputError,
    progress::Progress,
    size,
};

#[derive(Args, Debug)]
pub(crate) struct HostArgs {
    /// Boot log, /proc/iomem or TOML host file; `-` is standard input. Default: a bundled real host
    /// with 2 TiB.
    #[arg(long, value_name = "FILE")]
    host: Option<PathBuf>,
    /// Start address of the next NUMA node's memory (0x4080000000 or 258G), for logs without nodes.
    /// May be repeated, ascending.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    node_border: Vec<PhysAddr>,
    /// Which boot of a log that holds several, from 1. [default: the last one with a memory map]
    #[arg(long, value_name = "N", requires = "host")]
    boot: Option<u64>,
}

impl HostArgs {
    pub(crate) fn read(&self, progress: &dyn Progress) -> Result<Host, InputError> {
        let options = HostOptions { node_borders: self.node_border.clone(), boot: self.boot };
        match &self.host {
            Some(path) => Host::from_path_watched(path, &options, progress),
            None => Host::bundled(&options),
        }
    }
}

fn address(text: &str) -> Result<PhysAddr, String> {
    size::parse(text).map(PhysAddr::new).ok_or_else(|| {
        "expected an address such as 0x4080000000, 258G or \
        4096"
            .to_owned()
    })
}

#[derive(Args, Debug)]
pub(crate) struct LayoutArgs {
    /// How TDMRs are laid out.
    #[arg(long, value_enum, default_value_t = LayoutName::Fit)]
    layout: LayoutName,
}

impl LayoutArgs {
    pub(crate) fn name(&self) -> tdx_operator::layout::LayoutName {
        match self.layout {
            LayoutName::Fit => tdx_operator::layout::LayoutName::Fit,
            LayoutName::Linux => tdx_operator::layout::LayoutName::Linux,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum LayoutName {
    /// Holes from the CMRs; splits and merges TDMRs to stay within the module's limits.
    Fit,
    /// The layout Linux computes.
    Linux,
}

#[derive(Args, Debug)]
pub(crate) struct OutputArgs {
    /// Output format: for people or for programs.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    Human,
    Json,
}
