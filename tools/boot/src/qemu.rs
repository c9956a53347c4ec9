//! QEMU: command line, timeout, logs.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::args::{BootArgs, Cpu, Guest, Kernel, NextKernel, Stop};
use crate::kernels;
use crate::messages::Messages;
use crate::report::Report;
use crate::root;

const QEMU: &str = "qemu-system-x86_64";

/// Maximum number of runs of a boot, if runs do not count.
const ATTEMPTS: usize = 3;

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

/// Runs QEMU until it exits or the timeout ends it.
pub(crate) fn run(args: &BootArgs, messages: &Messages) -> Result<Report> {
    ensure!(is_there(), "there is no {QEMU}: on Debian, `apt-get install qemu-system-x86`");
    let logs = root().join("target/boot").join(name(args));
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let (serial, seamvisor) = (logs.join("serial.log"), logs.join("seamvisor.log"));
    for log in [&serial, &seamvisor] {
        File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    }

    let mut command = Command::new(QEMU);
    command.args(["-accel", "tcg", "-machine", "q35", "-cpu", CPU, "-display", "none", "-nodefaults", "-no-reboot"]);
    command.args(["-m", &format!("{}M", args.memory), "-smp", &args.cpus.to_string()]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    command.args(["-chardev", &format!("file,id=serial,path={}", serial.display()), "-serial", "chardev:serial"]);
    command.args(["-chardev", &format!("file,id=log,path={}", seamvisor.display())]);
    command.args(["-device", "isa-debugcon,iobase=0xe9,chardev=log"]);
    let (image, words) = guest(args, &mut command)?;
    if args.plain {
        if args.linux_is_first() {
            command.arg("-initrd").arg(kernels::first(args)?.initrd);
        }
        command.arg("-kernel").arg(image).args(["-append", &words]);
    } else {
        let cpu = match args.cpu {
            Cpu::Spr => "spr",
            Cpu::Emr => "emr",
            Cpu::Gnr => "gnr",
        };
        command.arg("-kernel").arg(binary("seamvisor")).arg("-initrd").arg(image);
        // These Linuxes read fields whose values were not recorded on a real machine.
        let assumed =
            if args.kernel().reference() == Kernel::Tdx73 || args.image.is_some() { "max-vcpus-field=on " } else { "" };
        let fail = if args.fail.is_empty() { String::new() } else { format!("fail={} ", args.fail) };
        // KVM asks for more than module 1.5.01 has.
        let module =
            if args.guest == Guest::Kvm && !args.seamvisor.contains("module=") { "module=1.5.25 " } else { "" };
        command.args(["-append", &format!("cpu={cpu} {assumed}{module}{fail}{} -- {words}", args.seamvisor)]);
    }
    let line = crate::fetch::line(&command);
    let monitor = monitor_socket();
    command.args(["-monitor", &format!("unix:{},server=on,wait=off", monitor.display())]);
    let registers = logs.join("registers.log");
    let mut discarded = Vec::new();
    loop {
        let _ = fs::remove_file(&registers);
        let start = Instant::now();
        let status = wait(&mut command, Duration::from_secs(args.timeout), || {
            // For the analysis of a hang. QEMU may not answer.
            if let Ok(answer) = ask(&monitor, "info registers -a") {
                let _ = fs::write(&registers, answer);
            }
        })?;
        let _ = fs::remove_file(&monitor);
        let mut report = Report::read(args, &line, status, start.elapsed(), &serial, &seamvisor, messages)?;
        let fault = if report.summary()["end"] == "emulator-fault" {
            "the guest's state was lost at a VM exit"
        } else if report.ran_stale_code(messages) {
            "a CPU executed an int3 that Linux had already replaced, before any module was loaded"
        } else {
            ""
        };
        if fault.is_empty() || discarded.len() + 1 == ATTEMPTS {
            report.set_discarded(discarded);
            return Ok(report);
        }
        discarded.push(format!("{fault} (see bare/README.md)"));
        eprintln!("{fault} (see bare/README.md): run {} of {ATTEMPTS} does not count", discarded.len());
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
        NextKernel::None => {}
    }
    Ok((binary("firstkernel"), format!("policy={} tds={} {}", args.policy, args.tds, args.append)))
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
    for (word, is_so) in
        [("-module", args.module), ("-crash", args.crash), ("-refused", args.refused), ("-own", args.image.is_some())]
    {
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

/// The answer of QEMU's monitor, which has no end mark: read until there is no more for two
/// seconds.
fn ask(monitor: &Path, question: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(monitor)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..read]);
    }
    Ok(answer)
}

/// The exit status; `None` after the timeout, when `hung` runs before the process is killed.
fn wait(command: &mut Command, limit: Duration, hung: impl FnOnce()) -> Result<Option<i32>> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().with_context(|| format!("cannot run {QEMU}"))?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.code().unwrap_or(-1)));
        }
        if start.elapsed() > limit {
            hung();
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}
