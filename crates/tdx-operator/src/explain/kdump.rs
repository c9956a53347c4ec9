//! Why kdump has no crash kernel although no image was refused: no memory is reserved for one, or
//! kdump is not set up. The kernel's lines on `crashkernel=`, and what kdumpctl, kdump-tools,
//! kexec-tools and systemd print.

use crate::{input::excerpt, report::LogLine};

/// Lines that are kept.
const MAX_LINES: usize = 12;

/// Why no memory is reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NoMemory {
    /// The option is not there.
    NotAsked,
    /// The option is not understood.
    Malformed,
    /// The option gives no size for this machine.
    Zero,
    /// There is no free range of that size.
    NoRoom,
    /// A program says so, and not why.
    Unsaid,
}

/// Kdump is not set up: words of a line in lower case, and what they mean.
const NOT_SET_UP: [(&str, &str); 9] = [
    ("use_kdump is not set", "kdump-tools is turned off: `USE_KDUMP` in /etc/default/kdump-tools is not 1"),
    ("kdump is not supported by this kernel", "the kernel has no support for crash kernels (CONFIG_CRASH_DUMP)"),
    ("kdump_kernel does not exist", "kdump-tools has no kernel to load: `KDUMP_KERNEL` is not there"),
    ("kdump_initrd does not exist", "kdump-tools has no initrd to load: `KDUMP_INITRD` is not there"),
    ("failed to make kdump initrd", "the initrd of the crash kernel was not built: dracut failed, see its messages"),
    ("no kdump initial ramdisk found", "the initrd of the crash kernel is not there: `kdumpctl rebuild`"),
    ("relocation address does not match", "the kernel of kdump-tools is not made for the reserved range"),
    (
        "invalid symlink :",
        "the links of kdump-tools to kernel and initrd are broken: `kdump-config symlinks $(uname -r)`",
    ),
    ("unable to locate kernel hook", "kdump-tools finds no hook to build its initrd with"),
];

/// What one boot says on kdump.
#[derive(Debug, Default)]
pub(super) struct Kdump {
    no_memory: Option<NoMemory>,
    not_set_up: Option<&'static str>,
    lines: Vec<LogLine>,
    /// The kernel reserved memory.
    reserved: Option<u64>,
}

impl Kdump {
    /// Takes a message of the kernel or of a program, as it is and in lower case; false if it is
    /// none of these.
    pub(super) fn take(&mut self, line: u64, text: &str, lower: &str) -> bool {
        if lower.starts_with("crashkernel reserved: ")
            || lower.starts_with("reserving ") && lower.contains(" for crashkernel ")
        {
            self.reserved.get_or_insert(line);
            return true;
        }
        let setup = NOT_SET_UP.iter().find(|(words, _)| lower.contains(words)).map(|(_, why)| *why);
        let memory = no_memory(lower).or_else(|| show_without_address(lower));
        if setup.is_none() && memory.is_none() {
            // The lines of kexec-tools that follow its own.
            return self.no_memory.is_some() && lower.starts_with("then try to loading kdump kernel");
        }
        self.not_set_up = self.not_set_up.or(setup);
        // What the kernel says tells more than what a program makes of it.
        if self.no_memory.is_none_or(|known| known == NoMemory::Unsaid) {
            self.no_memory = memory.or(self.no_memory);
        }
        if self.lines.len() < MAX_LINES {
            self.lines.push(LogLine { line, text: excerpt(text) });
        }
        true
    }

    /// The cause in words, and the remedy; `None` if there is nothing to say.
    pub(super) fn cause(&self) -> Option<(&'static str, String, &'static str)> {
        let Some(why) = self.no_memory else {
            let why = self.not_set_up?;
            let remedy = "set kdump up as the distribution's documentation says, then start its service again; this is \
                not for TDX";
            return Some(("kdump-not-set-up", format!("no crash image was loaded: {why}"), remedy));
        };
        let reason = match why {
            NoMemory::NotAsked => ": `crashkernel=` is not on the kernel command line",
            NoMemory::Malformed => ": the kernel does not understand `crashkernel=` on its command line",
            NoMemory::Zero => ": `crashkernel=` has no size for the memory of this machine",
            NoMemory::NoRoom => ": no free range of the size of `crashkernel=` was found",
            NoMemory::Unsaid => "",
        };
        let remedy = match why {
            NoMemory::NoRoom => {
                "ask for less, or for memory above 4 GiB (`crashkernel=SIZE,high`), and reboot; this is not for TDX"
            }
            _ => {
                "put `crashkernel=SIZE` on the kernel command line and reboot (Debian and Ubuntu: \
                 /etc/default/grub.d/kdump-tools.cfg and `update-grub`; Fedora and RHEL: `kdumpctl reset-crashkernel \
                 --kernel=ALL`; SUSE: `kdumptool calibrate` gives the size); this is not for TDX"
            }
        };
        Some((
            "no-crash-memory",
            format!("no memory is reserved for a crash kernel, so that none is loaded{reason}"),
            remedy,
        ))
    }

    /// Its lines.
    pub(super) fn lines(&self) -> &[LogLine] {
        &self.lines
    }

    /// The kernel's line that says that memory is reserved, where another says that none is.
    pub(super) fn contradicted(&self) -> Option<u64> {
        self.reserved.filter(|_| self.no_memory.is_some_and(|why| why != NoMemory::Zero))
    }
}

/// `kdump-config show` without an address of reserved memory.
fn show_without_address(lower: &str) -> Option<NoMemory> {
    lower.strip_prefix("crashkernel addr:").is_some_and(|rest| rest.trim().is_empty()).then_some(NoMemory::Unsaid)
}

/// A line that says that no memory is reserved for a crash kernel.
fn no_memory(lower: &str) -> Option<NoMemory> {
    if let Some(rest) = lower.strip_prefix("crashkernel: ") {
        let words = ["memory value expected", "'-' expected", "end <= start", "':' expected", "invalid size"];
        let malformed = words.iter().any(|words| rest.starts_with(words)) || rest.starts_with("unrecognized char");
        return malformed.then_some(NoMemory::Malformed);
    }
    if lower.starts_with("crashkernel size resulted in zero bytes") {
        return Some(NoMemory::Zero);
    }
    if lower.starts_with("crashkernel reservation failed") || lower.starts_with("cannot allocate crashkernel") {
        return Some(NoMemory::NoRoom);
    }
    // Of systemd; the line alone is one of the unit's file.
    let unmet = ["unmet condition", "failed condition", "was not met"];
    if lower.contains("conditionkernelcommandline=crashkernel") {
        return unmet.iter().any(|words| lower.contains(words)).then_some(NoMemory::NotAsked);
    }
    let not_asked = ["no crashkernel= parameter", "no crashkernel parameter", "crashkernel= not found"];
    if not_asked.iter().any(|words| lower.contains(words)) {
        return Some(NoMemory::NotAsked);
    }
    let unsaid = [
        "no memory reserved for crash kernel",
        "no memory reserved for crashkernel",
        "reserved 0mb memory for crash kernel",
        "no crash kernel memory reserved",
        "no crashkernel memory reserved",
        "no crashkernel reserved",
        "memory for crashkernel is not reserved",
        "memory for crash kernel is not reserved",
        "crash kernel memory is not reserved",
        "crashkernel memory is not reserved",
        "crashkernel is not reserved",
        "please reserve memory by passing",
        "please check the crashkernel= boot parameter",
    ];
    unsaid.iter().any(|words| lower.contains(words)).then_some(NoMemory::Unsaid)
}
