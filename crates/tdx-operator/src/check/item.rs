//! Items that `check` uses: place on a live machine, file name in a collected one, size limit, and
//! how to get access. Does no I/O.

use core::fmt;

/// One thing that is looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Item {
    /// CPU models, names, flags and bugs.
    Cpuinfo,
    /// Registers of the memory encryption and of SEAM, on every CPU.
    Msr,
    /// Kernel version.
    Osrelease,
    /// Options that the kernel was built with.
    Config,
    /// Words of the kernel's command line.
    Cmdline,
    /// Size of memory.
    Meminfo,
    /// Whether an image for a kexec is loaded.
    KexecLoaded,
    /// Whether an image for a crash is loaded.
    CrashLoaded,
    /// Bytes reserved for the crash kernel.
    CrashSize,
    /// Sleep states of the machine.
    PowerState,
    /// Ways to hibernate.
    PowerDisk,
    /// Ways to suspend to memory.
    MemSleep,
    /// What cleanslate.ko is here, if it is loaded.
    KoMode,
    /// What cleanslate.ko does at a kexec.
    KoPolicy,
    /// Version of the BIOS.
    BiosVersion,
    /// Date of the BIOS.
    BiosDate,
    /// What the kernel said about memory, CPUs and TDX when it booted.
    BootLog,
}

impl Item {
    /// Every item, in the order in which reports name them.
    pub const ALL: [Self; 17] = [
        Self::Cpuinfo,
        Self::Msr,
        Self::Osrelease,
        Self::Config,
        Self::Cmdline,
        Self::Meminfo,
        Self::KexecLoaded,
        Self::CrashLoaded,
        Self::CrashSize,
        Self::PowerState,
        Self::PowerDisk,
        Self::MemSleep,
        Self::KoMode,
        Self::KoPolicy,
        Self::BiosVersion,
        Self::BiosDate,
        Self::BootLog,
    ];

    /// The file of a saved machine.
    pub const fn file(self) -> &'static str {
        match self {
            Self::Cpuinfo => "cpuinfo",
            Self::Msr => "msr",
            Self::Osrelease => "osrelease",
            Self::Config => "config",
            Self::Cmdline => "cmdline",
            Self::Meminfo => "meminfo",
            Self::KexecLoaded => "kexec_loaded",
            Self::CrashLoaded => "kexec_crash_loaded",
            Self::CrashSize => "kexec_crash_size",
            Self::PowerState => "power-state",
            Self::PowerDisk => "power-disk",
            Self::MemSleep => "mem_sleep",
            Self::KoMode => "cleanslate-mode",
            Self::KoPolicy => "cleanslate-policy",
            Self::BiosVersion => "bios_version",
            Self::BiosDate => "bios_date",
            Self::BootLog => "boot.log",
        }
    }

    /// Its path on a live machine, for people.
    pub const fn place(self) -> &'static str {
        match self {
            Self::Cpuinfo => "/proc/cpuinfo",
            Self::Msr => "/dev/cpu/*/msr",
            Self::Osrelease => "/proc/sys/kernel/osrelease",
            Self::Config => "/proc/config.gz or /boot/config-RELEASE",
            Self::Cmdline => "/proc/cmdline",
            Self::Meminfo => "/proc/meminfo",
            Self::KexecLoaded => "/sys/kernel/kexec_loaded",
            Self::CrashLoaded => "/sys/kernel/kexec_crash_loaded",
            Self::CrashSize => "/sys/kernel/kexec_crash_size",
            Self::PowerState => "/sys/power/state",
            Self::PowerDisk => "/sys/power/disk",
            Self::MemSleep => "/sys/power/mem_sleep",
            Self::KoMode => "/sys/kernel/cleanslate/mode",
            Self::KoPolicy => "/sys/module/cleanslate/parameters/policy",
            Self::BiosVersion => "/sys/class/dmi/id/bios_version",
            Self::BiosDate => "/sys/class/dmi/id/bios_date",
            Self::BootLog => "/dev/kmsg",
        }
    }

    /// Most bytes that are read, live or saved: well above the largest machine's.
    pub const fn limit(self) -> u64 {
        match self {
            Self::Cpuinfo | Self::BootLog => 32 << 20,
            Self::Config => 4 << 20,
            Self::Msr => 1 << 20,
            Self::Cmdline | Self::Meminfo => 64 << 10,
            _ => 4 << 10,
        }
    }

    /// A kernel without the feature does not have the file, so that its absence is an answer.
    pub const fn may_be_absent(self) -> bool {
        matches!(
            self,
            Self::KexecLoaded
                | Self::CrashLoaded
                | Self::CrashSize
                | Self::PowerState
                | Self::PowerDisk
                | Self::MemSleep
                | Self::KoMode
                | Self::KoPolicy
                | Self::BiosVersion
                | Self::BiosDate
        )
    }

    /// What to do to see it.
    pub const fn how(self, why: &Unseen) -> &'static str {
        match (self, why) {
            (_, Unseen::TooLarge { .. } | Unseen::NotText | Unseen::NotAFile | Unseen::Malformed(_)) => {
                "collect the machine again with `cleanslate collect`"
            }
            (Self::Msr, Unseen::Absent) => {
                "as root: `modprobe msr` (the kernel needs CONFIG_X86_MSR), then run this as root"
            }
            (Self::Msr, _) => "run as root: MSRs need CAP_SYS_RAWIO",
            (Self::BootLog, Unseen::Denied) => "run as root, or as root: `sysctl kernel.dmesg_restrict=0`",
            (Self::BootLog, _) => "run outside of the container, as root",
            (Self::Config, Unseen::Absent) => {
                "use a kernel with CONFIG_IKCONFIG_PROC, or install its configuration as /boot/config-RELEASE"
            }
            (_, Unseen::Absent) => "run outside of the container, on Linux",
            _ => "run as root",
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file())
    }
}

/// Why an item is not there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unseen {
    /// There is no such file.
    #[error("is not there")]
    Absent,
    /// The system does not let this user see it.
    #[error("may not be read by this user")]
    Denied,
    /// A link, a folder, a device or a pipe stands where a file of a saved machine belongs.
    #[error("not a regular file, not read")]
    NotAFile,
    /// NUL bytes, or bytes that are not UTF-8.
    #[error("is not text")]
    NotText,
    /// More bytes than any machine has.
    #[error("is larger than {limit} bytes")]
    TooLarge {
        /// Bytes.
        limit: u64,
    },
    /// The system has another reason.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It was read, and it is not what it should be.
    #[error("does not hold: {0}")]
    Malformed(String),
}

impl Unseen {
    /// One word for programs, also in saved machines.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Denied => "denied",
            Self::NotAFile => "not-a-file",
            Self::NotText => "not-text",
            Self::TooLarge { .. } => "too-large",
            Self::Unreadable(_) => "unreadable",
            Self::Malformed(_) => "malformed",
        }
    }

    /// From what the system says.
    pub(super) fn from_io(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::Absent,
            std::io::ErrorKind::PermissionDenied => Self::Denied,
            _ => Self::Unreadable(error.to_string()),
        }
    }
}
