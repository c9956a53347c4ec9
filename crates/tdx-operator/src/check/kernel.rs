//! Kernel build options, and the behavior of a kernel version ([`crate::kernel`]).
//!
//! Where the options show that a distribution differs from mainline, the rules say so.

use std::collections::BTreeMap;

use super::keep;

pub use crate::kernel::Era;
pub(super) use crate::kernel::Kernel;

/// The options of a kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Config {
    options: BTreeMap<String, bool>,
}

impl Config {
    /// Reads lines `CONFIG_X=y` and `# CONFIG_X is not set`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let options =
            text.lines().filter_map(|line| Some((keep::option(line)?.to_owned(), line.starts_with("CONFIG_"))));
        let config = Self { options: options.collect() };
        if config.has("X86_64") { Ok(config) } else { Err("holds no CONFIG_X86_64=y".to_owned()) }
    }

    /// Whether an option is on, built in or as a module. An option that is not named cannot be on.
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.get(option).copied().unwrap_or(false)
    }

    /// `CONFIG_X=on` or `CONFIG_X=off`, as evidence.
    pub(super) fn say(&self, option: &str) -> String {
        format!("CONFIG_{option} is {}", if self.has(option) { "on" } else { "off" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let config = Config::parse("CONFIG_X86_64=y\nCONFIG_KVM=m\n# CONFIG_KEXEC is not set\n").unwrap();
        assert!(config.has("KVM") && !config.has("KEXEC") && !config.has("INTEL_TDX_HOST"));
        assert_eq!(config.say("KEXEC"), "CONFIG_KEXEC is off");
        assert!(Config::parse("CONFIG_ARM64=y\n").is_err());
    }
}
