//! Names of addresses in a Linux kernel, from its System.map.

use std::fs;
use std::path::{Path, PathBuf};

use crate::args::{BootArgs, Guest, NextKernel};
use crate::fetch::newest;
use crate::place::folder;

/// Symbols by address.
#[derive(Debug, Default)]
pub(crate) struct Symbols(Vec<Symbol>);

#[derive(Debug)]
struct Symbol {
    address: u64,
    is_code: bool,
    name: String,
}

impl Symbols {
    /// The symbols of the Linux of a boot; none if there is no map of it, or if two kernels run.
    /// The boots have no KASLR, so the addresses are those of the map.
    pub(crate) fn of(args: &BootArgs) -> Self {
        let linux = match (args.guest, args.next) {
            (Guest::Firstkernel, NextKernel::Linux | NextKernel::Stock) => true,
            (Guest::Firstkernel, _) => false,
            (Guest::Linux | Guest::Kvm, next) => !matches!(next, NextKernel::Stock | NextKernel::Tdx73) || args.crash,
        };
        let map = match &args.image {
            _ if !linux => None,
            Some(image) => beside(image),
            None => {
                let folder = folder(args.kernel());
                let built = Some(folder.join("build/System.map")).filter(|map| map.is_file());
                built.or_else(|| newest(&folder.join("root/boot"), "System.map-").ok())
            }
        };
        map.and_then(|map| fs::read_to_string(map).ok()).map_or_else(Self::default, |text| Self::parse(&text))
    }

    /// Lines `ffffffff81000000 T _text`.
    fn parse(text: &str) -> Self {
        let symbol = |line: &str| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let is_code = matches!(words.next()?, "t" | "T" | "w" | "W");
            Some(Symbol { address, is_code, name: words.next()?.to_owned() })
        };
        let mut symbols: Vec<Symbol> = text.lines().filter_map(symbol).collect();
        symbols.sort_by_key(|symbol| symbol.address);
        Self(symbols)
    }

    /// `clear_page_erms+0x7` for an address in code of the kernel.
    pub(crate) fn at(&self, address: u64) -> Option<String> {
        let after = self.0.partition_point(|symbol| symbol.address <= address);
        // Past the last symbol there may be anything: modules are not in the map.
        let end = self.0.get(after)?;
        let found = self.0.get(..after)?.last()?;
        let near = end.address.saturating_sub(found.address) < 1 << 30;
        (found.is_code && near).then(|| format!("{}+{:#x}", found.name, address - found.address))
    }
}

/// The map of an image, where distributions and a build of the kernel put it.
fn beside(image: &Path) -> Option<PathBuf> {
    let version = image.file_name()?.to_str()?.strip_prefix("vmlinuz-").map(|version| format!("System.map-{version}"));
    let installed = version.map(|name| image.with_file_name(name));
    // arch/x86/boot/bzImage
    let built = image.ancestors().nth(4).map(|root| root.join("System.map"));
    [installed, Some(image.with_file_name("System.map")), built].into_iter().flatten().find(|map| map.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "0000000001eb3b30 A phys_startup_64\nffffffff81000000 T _text\nffffffff81000100 t clear_page_erms\n\
        ffffffff81000140 T copy_page\nffffffff81000200 R __start_rodata\nffffffff82000000 B _end\n";

    #[test]
    fn addresses_in_code_have_names() {
        let symbols = Symbols::parse(MAP);
        for (address, name) in [
            (0xffff_ffff_8100_0107, Some("clear_page_erms+0x7")),
            (0xffff_ffff_8100_0140, Some("copy_page+0x0")),
            (0xffff_ffff_8100_013f, Some("clear_page_erms+0x3f")),
            // Data, a module, user space, and a number that is none of them.
            (0xffff_ffff_8100_0200, None),
            (0xffff_ffff_c000_0000, None),
            (0x40_1000, None),
            (0x1eb_3b31, None),
            (0, None),
        ] {
            assert_eq!(symbols.at(address).as_deref(), name, "{address:#x}");
        }
        // What Debian installs in place of a map.
        let none = Symbols::parse("ffffffffffffffff B The real System.map is in the dbg package\n");
        assert_eq!(none.at(0xffff_ffff_8100_0107), None);
    }

    #[test]
    fn two_kernels_have_no_map() {
        let args = |words: &[&str]| BootArgs::from_words(words.iter().copied()).unwrap();
        assert!(Symbols::of(&args(&["firstkernel"])).0.is_empty());
        assert!(Symbols::of(&args(&["linux", "--next=stock"])).0.is_empty());
    }
}
