//! A virtual machine of QEMU: its command line, its logs, its monitor; and the programs of `bare/`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::args::{BootArgs, Cpu, Guest, Kernel, NextKernel, Stop};
use crate::{kernels, root};

const QEMU: &str = "qemu-system-x86_64";

/// Emulated in software everywhere. EPYC would do as well; `max` has what newer kernels want. No
/// 57-bit addresses: they are not needed here. 48 bits of physical address: bit 47 of a TD's
/// address says that it is shared; higher bits are reserved for QEMU, because the nested page
/// tables have four levels, and each private KeyID has one of them.
const CPU: &str = "max,la57=off,phys-bits=48";

/// Is QEMU installed?
pub fn is_there() -> bool {
    Command::new(QEMU).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Where the programs of `bare/` are built.
fn target() -> PathBuf {
    root().join("target/bare")
}

/// Builds the programs of `bare/`.
pub fn build() -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--release", "--quiet", "--manifest-path", "bare/Cargo.toml"])
        .env("CARGO_TARGET_DIR", target())
        .env_remove("RUSTFLAGS")
        .current_dir(root());
    ensure!(command.status().context("cannot run cargo")?.success(), "the programs of bare/ do not build");
    Ok(())
}

fn binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}

/// How a boot begins.
#[derive(Clone, Copy)]
pub(crate) enum Start<'s> {
    /// By power-on.
    Power,
    /// By power-on, and it waits before the first VMM.
    Wait,
    /// From this state of a machine that waits, as QEMU's `-incoming` takes it.
    From(&'s str),
}

/// A call of QEMU.
pub(crate) struct Machine {
    pub(crate) command: Command,
    pub(crate) serial: PathBuf,
    pub(crate) seamvisor: PathBuf,
    monitor: PathBuf,
    /// As a shell takes it.
    pub(crate) line: String,
}

/// The folder of a boot's logs.
pub(crate) fn logs(args: &BootArgs) -> Result<PathBuf> {
    let logs = root().join("target/boot").join(name(args));
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    Ok(logs)
}

/// seamvisor's words that inject faults.
fn fail(args: &BootArgs) -> String {
    if args.fail.is_empty() { String::new() } else { format!("fail={} ", args.fail) }
}

/// seamvisor's command line but for [`fail`], and that of a Linux guest but for words that may come
/// late.
pub(crate) fn shared_words(args: &BootArgs) -> String {
    format!("{}-- {}", own_words(args), kernels::early_words(args))
}

/// seamvisor's own words but for [`fail`].
fn own_words(args: &BootArgs) -> String {
    let cpu = match args.cpu {
        Cpu::Spr => "spr",
        Cpu::Emr => "emr",
        Cpu::Gnr => "gnr",
    };
    // These Linuxes read fields whose values were not recorded on a real machine.
    let assumed = if args.kernel().builds_tds() || args.image.is_some() { "max-vcpus-field=on " } else { "" };
    // KVM asks for more than module 1.5.01 has; that of 6.18 then ends VMX operation.
    let asks = args.guest == Guest::Kvm || args.kernel() == Kernel::Tdx618;
    let module = if asks && !args.seamvisor.contains("module=") { "module=1.5.25 " } else { "" };
    format!("cpu={cpu} {assumed}{module}{} ", args.seamvisor)
}

/// NUMA nodes, if there is more than one: QEMU tells the guest of them by ACPI.
fn nodes(args: &BootArgs, command: &mut Command) -> Result<()> {
    if args.nodes == 1 {
        return Ok(());
    }
    let (cpus, memory) = (args.cpus / args.nodes, args.memory / args.nodes);
    let even = cpus * args.nodes == args.cpus && memory * args.nodes == args.memory;
    ensure!(even, "--nodes {}: neither CPUs ({}) nor MiB ({}) may be left over", args.nodes, args.cpus, args.memory);
    for node in 0..args.nodes {
        command.args(["-object", &format!("memory-backend-ram,id=node{node},size={memory}M")]);
        let (first, last) = (node * cpus, (node + 1) * cpus - 1);
        command.args(["-numa", &format!("node,nodeid={node},memdev=node{node},cpus={first}-{last}")]);
    }
    Ok(())
}

impl Machine {
    pub(crate) fn new(args: &BootArgs, logs: &Path, start: Start<'_>) -> Result<Self> {
        ensure!(is_there(), "there is no {QEMU}: on Debian, `apt-get install qemu-system-x86`");
        let (serial, seamvisor) = (logs.join("serial.log"), logs.join("seamvisor.log"));
        let mut command = Command::new(QEMU);
        command.args(["-accel", "tcg", "-machine", "q35", "-cpu", CPU]);
        command.args(["-display", "none", "-nodefaults", "-no-reboot"]);
        command.args(["-m", &format!("{}M", args.memory), "-smp", &args.cpus.to_string()]);
        nodes(args, &mut command)?;
        if args.icount {
            ensure!(args.cpus == 1, "--icount: one CPU, and not {}", args.cpus);
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        let log = |id: &str, path: &Path| format!("file,id={id},path={},append=on", path.display());
        command.args(["-chardev", &log("serial", &serial), "-serial", "chardev:serial"]);
        command.args(["-chardev", &log("log", &seamvisor), "-device", "isa-debugcon,iobase=0xe9,chardev=log"]);
        if let Some(disk) = &args.disk {
            ensure!(disk.is_file(), "--disk: there is no file {}", disk.display());
            let file = disk.display().to_string().replace(',', ",,");
            command.args(["-drive", &format!("file={file},format=raw,if=virtio,cache=unsafe")]);
        }
        let (image, words) = guest(args, &mut command)?;
        if args.plain {
            if args.linux_is_first() {
                command.arg("-initrd").arg(kernels::first(args)?.initrd);
            }
            command.arg("-kernel").arg(image).args(["-append", &words]);
        } else {
            command.arg("-kernel").arg(binary("seamvisor")).arg("-initrd").arg(image);
            let line = match start {
                Start::Power => format!("{}{}-- {words}", own_words(args), fail(args)),
                Start::Wait | Start::From(_) => format!("{} cleanslate.wait", shared_words(args)),
            };
            command.args(["-append", &line]);
            let late = match start {
                Start::Power => None,
                Start::Wait => Some("none".to_owned()),
                Start::From(_) => Some(format!("{} -- {}", fail(args), kernels::late_words(args))),
            };
            if let Some(late) = late {
                // A comma ends a value, two are one comma in it.
                let late = late.replace(',', ",,");
                command.args(["-fw_cfg", &format!("name=opt/cleanslate/words,string={late}")]);
            }
            if let Start::From(state) = start {
                command.args(["-incoming", state]);
            }
        }
        let line = crate::fetch::line(&command);
        let monitor = monitor_socket();
        command.args(["-monitor", &format!("unix:{},server=on,wait=off", monitor.display())]);
        Ok(Self { command, serial, seamvisor, monitor, line })
    }

    /// Starts QEMU.
    pub(crate) fn spawn(&mut self) -> Result<Child> {
        let command = self.command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().with_context(|| format!("cannot run {QEMU}"))
    }

    /// Empties the logs, to which QEMU appends.
    pub(crate) fn empty_logs(&self) -> Result<()> {
        for log in [&self.serial, &self.seamvisor] {
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        }
        Ok(())
    }

    /// Removes what QEMU leaves behind.
    pub(crate) fn clean_up(&self) {
        let _ = fs::remove_file(&self.monitor);
    }

    /// The answer of QEMU's monitor, which has no end mark: read until QEMU ends, or until there is
    /// no more for so long.
    pub(crate) fn ask(&self, question: &str, silence: Duration) -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.monitor)?;
        stream.set_read_timeout(Some(silence))?;
        stream.write_all(format!("{question}\n").as_bytes())?;
        let (mut answer, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = stream.read(&mut part) {
            answer.extend_from_slice(&part[..read]);
        }
        Ok(answer)
    }
}

/// A path for the socket of QEMU's monitor, another one for each boot of this process. At most 107
/// bytes long, which is too short for the folder of the logs.
fn monitor_socket() -> PathBuf {
    static BOOTS: AtomicU32 = AtomicU32::new(0);
    let number = BOOTS.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("cleanslate-monitor-{}-{number}", process::id()))
}

/// The guest's image and command line; other files are passed by fw_cfg.
fn guest(args: &BootArgs, command: &mut Command) -> Result<(PathBuf, String)> {
    let keeps = args.keeps();
    let can_keep = match args.guest {
        Guest::Firstkernel => true,
        Guest::Linux => args.module && args.kernel().has_no_tdx_code(),
        Guest::Kvm => false,
    };
    ensure!(
        !keeps || can_keep,
        "--policy keep is of firstkernel, and of a Linux without TDX host code, with --module (--kernel stock-6.12)"
    );
    let to_other = args.next == NextKernel::Tdx73;
    ensure!(
        !keeps || args.next == NextKernel::Own || to_other,
        "--policy keep needs --next self or tdx-7.3, which reads the takeover table"
    );
    ensure!(
        !to_other || keeps && args.guest == Guest::Linux && args.kexecs == 1,
        "--next tdx-7.3 is of a Linux with --policy keep, for one kexec"
    );
    ensure!(args.kexecs == 1 || keeps && !args.plain, "--kexecs needs --policy keep, and a machine with TDX");
    let mut give = |name: &str, path: &PathBuf| {
        command.args(["-fw_cfg", &format!("name=opt/cleanslate/{name},file={}", path.display())]);
    };
    if args.linux_is_first() {
        let linux = kernels::first(args)?;
        give("initrd", &linux.initrd);
        return Ok((linux.image, kernels::command_line(args)));
    }
    match args.next {
        NextKernel::Own => give("next", &binary("firstkernel")),
        NextKernel::Linux | NextKernel::Stock => {
            let linux = kernels::current(args.kernel())?;
            give("next", &linux.image);
            give("initrd", &linux.initrd);
        }
        NextKernel::Tdx73 | NextKernel::None => {}
    }
    let kexecs = if keeps { format!(" kexecs={}", args.kexecs) } else { String::new() };
    Ok((binary("firstkernel"), format!("policy={} tds={}{kexecs} {}", args.policy, args.tds, args.append)))
}

/// A value as the command line has it.
fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// A folder for the logs of this run.
pub(crate) fn name(args: &BootArgs) -> String {
    let mut name = format!(
        "{}-{}-{}cpu-{}-{}tds-{}-{}{}",
        word(&args.guest),
        word(&args.cpu),
        args.cpus,
        args.policy,
        args.tds,
        word(&args.next),
        args.kernel().name(),
        if args.plain { "-plain" } else { "" }
    );
    if args.kexecs > 1 {
        // Writing to a string never fails.
        let _ = write!(name, "-{}kexecs", args.kexecs);
    }
    if args.nodes > 1 {
        let _ = write!(name, "-{}nodes", args.nodes);
    }
    for (word, is_so) in [
        ("-module", args.module),
        ("-crash", args.crash),
        ("-refused", args.refused),
        ("-own", args.image.is_some()),
        ("-icount", args.icount),
    ] {
        name.push_str(if is_so { word } else { "" });
    }
    if args.guest == Guest::Kvm {
        let stop = args.stop.map_or("", Stop::name);
        // Writing to a string never fails.
        let _ = write!(name, "-{}vcpus-{stop}-{}", args.vcpus, args.end().name());
    }
    let traffic = args.traffic.map(|seed| seed.to_string()).unwrap_or_default();
    for words in [&args.append, &args.seamvisor, &args.fail, &args.vmm, &traffic] {
        name.extend(words.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }));
    }
    name.to_lowercase()
}
