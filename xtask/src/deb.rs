//! The task `deb`: Debian packages, by dpkg-deb alone. `cleanslate` is the program with manual
//! pages and completions; `cleanslate-dkms` is the source of the Linux module, its Rust object as
//! assembly, built by DKMS for each kernel without Rust. Refuses to sign or to upload anything.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::root;
use boot::module;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAINTAINER: &str = "The Cleanslate authors <cleanslate@localhost>";

/// A package on its way: a folder that becomes its content.
struct Package {
    name: &'static str,
    architecture: &'static str,
    depends: &'static str,
    summary: &'static str,
    about: &'static str,
    section: &'static str,
    tree: PathBuf,
}

impl Package {
    fn new(
        name: &'static str,
        section: &'static str,
        architecture: &'static str,
        depends: &'static str,
        summary: &'static str,
        about: &'static str,
    ) -> Result<Self> {
        let tree = root().join("target/deb").join(name);
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        fs::create_dir_all(tree.join("DEBIAN"))?;
        Ok(Self { name, architecture, depends, summary, about, section, tree })
    }

    /// Puts a file there.
    fn add(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let path = self.tree.join(path);
        fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Puts a compressed file there, the same bytes every time.
    fn add_gz(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.add(path, bytes, 0o644)?;
        boot::run(Command::new("gzip").args(["--best", "--no-name", "--force"]).arg(self.tree.join(path)))?;
        Ok(())
    }

    /// Documents that every package has, and the package itself.
    fn build(self) -> Result<PathBuf> {
        let doc = format!("usr/share/doc/{}", self.name);
        self.add(&format!("{doc}/copyright"), copyright(self.name)?.as_bytes(), 0o644)?;
        let dated = boot::run(Command::new("git").args(["log", "-1", "--format=%aD"]).current_dir(root()));
        let date = dated.map_or_else(|_| "Thu, 01 Jan 1970 00:00:00 +0000".to_owned(), |date| date.trim().to_owned());
        // In Debian's form; what has changed stands in the project's own.
        let changes = format!(
            "{} ({VERSION}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- {MAINTAINER}  {date}\n",
            self.name
        );
        self.add_gz(&format!("{doc}/changelog"), changes.as_bytes())?;
        self.add(&format!("{doc}/CHANGELOG.md"), &fs::read(root().join("CHANGELOG.md"))?, 0o644)?;
        // Nobody has an address yet: the packages are for one's own machines.
        let overrides = format!("{0}: bogus-mail-host *\n{0}: bogus-mail-host-in-debian-changelog *\n", self.name);
        self.add(&format!("usr/share/lintian/overrides/{}", self.name), overrides.as_bytes(), 0o644)?;
        let mut kib = 0;
        let mut sums = String::new();
        for file in files(&self.tree)? {
            let name = file.strip_prefix(&self.tree)?.display().to_string();
            if name.starts_with("DEBIAN/") {
                continue;
            }
            kib += file.metadata()?.len().div_ceil(1024);
            let sum = boot::run(Command::new("md5sum").arg(&file))?;
            let sum = sum.split_whitespace().next().unwrap_or_default();
            // Writing to a string never fails.
            let _ = writeln!(sums, "{sum}  {name}");
        }
        self.add("DEBIAN/md5sums", sums.as_bytes(), 0o644)?;
        let depends = if self.depends.is_empty() { String::new() } else { format!("Depends: {}\n", self.depends) };
        let control = format!(
            "Package: {}\nVersion: {VERSION}\nArchitecture: {}\nMaintainer: {MAINTAINER}\nInstalled-Size: {kib}\n{depends}\
             Section: {}\nPriority: optional\nDescription: {}\n{}\n",
            self.name, self.architecture, self.section, self.summary, self.about
        );
        self.add("DEBIAN/control", control.as_bytes(), 0o644)?;
        let package = root().join("target/deb").join(format!("{}_{VERSION}_{}.deb", self.name, self.architecture));
        // The date of the commit, so that the same commit gives the same package.
        let date = boot::run(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()));
        let date = date.map_or_else(|_| "0".to_owned(), |date| date.trim().to_owned());
        boot::run(
            Command::new("dpkg-deb")
                .args(["--root-owner-group", "--build"])
                .arg(&self.tree)
                .arg(&package)
                .env("SOURCE_DATE_EPOCH", std::env::var("SOURCE_DATE_EPOCH").unwrap_or(date)),
        )?;
        Ok(package)
    }
}

/// Debian's file on who owns what.
fn copyright(package: &str) -> Result<String> {
    let mit = fs::read_to_string(root().join("LICENSE-MIT"))?;
    let mit: String =
        mit.lines().map(|line| if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") }).collect();
    let mut text =
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: cleanslate\n\n\
                    Files: *\nCopyright: 2026 The Cleanslate authors\nLicense: Expat or Apache-2.0\n"
            .to_owned();
    if package == "cleanslate-dkms" {
        text.push_str(
            "\nFiles: usr/src/*/Kbuild usr/src/*/*.c usr/src/*/*.h\nCopyright: 2026 The Cleanslate authors\nLicense: GPL-2\n\
             Comment: cleanslate_ioctl.h is under GPL-2 with the Linux-syscall-note: programs may include it.\n\n\
             License: GPL-2\n On Debian systems the text is in /usr/share/common-licenses/GPL-2.\n",
        );
    }
    // Writing to a string never fails.
    let _ = write!(
        text,
        "\nLicense: Expat\n{mit}\nLicense: Apache-2.0\n On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.\n"
    );
    Ok(text)
}

/// All files below a folder, in a fixed order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        if entry.is_dir() { found.extend(files(&entry)?) } else { found.push(entry) }
    }
    Ok(found)
}

fn program() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "cleanslate"])
        .current_dir(root())
        .status()?;
    ensure!(status.success(), "the program does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let program = target.join("release/cleanslate");
    let package = Package::new(
        "cleanslate",
        "admin",
        "amd64",
        "libc6 (>= 2.34), libgcc-s1",
        "what a kexec does to the next kernel on a host with Intel TDX",
        " Memory that Intel's TDX module has made private survives a kexec. On CPUs with\n the partial-write erratum the next kernel may die of \
         it. This program checks a\n machine, plans its TDX memory, explains logs and machine checks, and plays\n bring-up, kexec and crash on the \
         memory map of a real host, in software.",
    )?;
    package.add("usr/bin/cleanslate", &fs::read(&program)?, 0o755)?;
    let binary = package.tree.join("usr/bin/cleanslate");
    boot::run(Command::new("strip").arg(&binary))?;
    let pages = root().join("target/deb/man");
    boot::run(Command::new(&binary).arg("man").arg(&pages))?;
    for page in files(&pages)? {
        let name = page.file_name().context("a page has a name")?.to_string_lossy().into_owned();
        package.add_gz(&format!("usr/share/man/man1/{name}"), &fs::read(&page)?)?;
    }
    for (shell, path) in [
        ("bash", "usr/share/bash-completion/completions/cleanslate"),
        ("zsh", "usr/share/zsh/vendor-completions/_cleanslate"),
        ("fish", "usr/share/fish/vendor_completions.d/cleanslate.fish"),
    ] {
        let script = boot::run(Command::new(&binary).args(["completions", shell]))?;
        package.add(path, script.as_bytes(), 0o644)?;
    }
    for document in ["CHECK.md", "EXPLAIN.md", "SCENARIOS.md"] {
        package.add(
            &format!("usr/share/doc/cleanslate/{document}"),
            &fs::read(root().join("docs").join(document))?,
            0o644,
        )?;
    }
    for schema in files(&root().join("docs/schemas"))? {
        let name = schema.file_name().context("a schema has a name")?.to_string_lossy().into_owned();
        package.add(&format!("usr/share/cleanslate/schemas/{name}"), &fs::read(&schema)?, 0o644)?;
    }
    package.build()
}

fn dkms() -> Result<PathBuf> {
    let package = Package::new(
        "cleanslate-dkms",
        "kernel",
        "all",
        // pahole: with it the module has BTF, and without it the build of Debian's headers fails.
        "dkms, pahole",
        "resets TDX private memory before a kexec or a crash kernel (DKMS)",
        " A Linux module for hosts with Intel TDX and the partial-write erratum (Sapphire\n Rapids, Emerald Rapids): it knows which memory the \
         TDX module has made private,\n and rewrites it before the next kernel starts.",
    )?;
    let place = format!("usr/src/cleanslate-{VERSION}");
    for file in module::SOURCES {
        package.add(&format!("{place}/{file}"), &fs::read(root().join("linux").join(file))?, 0o644)?;
    }
    package.add(&format!("{place}/object.S"), module::object()?.as_bytes(), 0o644)?;
    let config = format!(
        "PACKAGE_NAME=\"cleanslate\"\nPACKAGE_VERSION=\"{VERSION}\"\nBUILT_MODULE_NAME[0]=\"cleanslate\"\n\
         DEST_MODULE_LOCATION[0]=\"/updates/dkms\"\nMAKE[0]=\"make -C ${{kernel_source_dir}} M=${{dkms_tree}}/cleanslate/{VERSION}/build modules\"\n\
         CLEAN=\"true\"\nAUTOINSTALL=\"yes\"\n"
    );
    package.add(&format!("{place}/dkms.conf"), config.as_bytes(), 0o644)?;
    package.add_gz("usr/share/man/man4/cleanslate.4", &fs::read(root().join("linux/cleanslate.4"))?)?;
    package.add("usr/share/doc/cleanslate-dkms/README.md", &fs::read(root().join("linux/README.md"))?, 0o644)?;
    // At boot, and before KVM, which builds TDs: those that are there when the module comes are not
    // known.
    package.add("usr/lib/modules-load.d/cleanslate.conf", b"cleanslate\n", 0o644)?;
    package.add("usr/lib/modprobe.d/cleanslate.conf", b"softdep kvm_intel pre: cleanslate\n", 0o644)?;
    // For a crash kernel that leaves private memory out of its dump.
    for (path, file) in [
        ("usr/share/initramfs-tools/hooks/cleanslate", "initramfs-hook"),
        ("usr/share/cleanslate/dump-parameter", "dump-parameter"),
        ("usr/lib/dracut/modules.d/95cleanslate/module-setup.sh", "dracut/module-setup.sh"),
        ("usr/lib/dracut/modules.d/95cleanslate/load.sh", "dracut/load.sh"),
    ] {
        package.add(path, &fs::read(root().join("linux/crash").join(file))?, 0o755)?;
    }
    let order = |verb: &str| format!("#!/bin/sh\nset -e\nif command -v dkms > /dev/null; then\n    dkms {verb}\nfi\n");
    // A kernel without headers is no reason to leave the package half installed.
    let install = format!(
        "add cleanslate/{VERSION} || true\n    dkms autoinstall || echo \"cleanslate-dkms: not built for every kernel: install its headers \
         (linux-headers-...), then run 'dkms autoinstall'\" >&2"
    );
    package.add("DEBIAN/postinst", order(&install).as_bytes(), 0o755)?;
    package.add("DEBIAN/prerm", order(&format!("remove cleanslate/{VERSION} --all || true")).as_bytes(), 0o755)?;
    package.build()
}

/// The outcome of a check.
pub(crate) enum Outcome {
    Passed,
    /// Why.
    Failed(String),
    /// What is missing for it, and how to get it.
    Missing(&'static str, &'static str),
}

impl From<Result<()>> for Outcome {
    fn from(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

/// Builds both packages.
pub(crate) fn build() -> Result<bool> {
    for package in [program()?, dkms()?] {
        println!("{}", package.display());
    }
    Ok(true)
}

/// Builds the packages, installs the program into a folder of its own, and runs it from there; the
/// module's package must build the module from what is in it alone.
pub(crate) fn check() -> Result<Vec<(&'static str, Outcome)>> {
    let (program, dkms) = (program()?, dkms()?);
    let again = fs::read(&program)?;
    let same = self::program().map(|package| fs::read(package).is_ok_and(|bytes| bytes == again))?;
    let here = root().join("target/deb/installed");
    if here.exists() {
        fs::remove_dir_all(&here)?;
    }
    fs::create_dir_all(here.join("var/lib/dpkg/info"))?;
    fs::create_dir_all(here.join("var/lib/dpkg/updates"))?;
    fs::write(here.join("var/lib/dpkg/status"), "")?;
    let here = here.canonicalize()?;
    let tell = |result: Result<String>| Outcome::from(result.map(drop));
    let installed = boot::run(
        Command::new("dpkg")
            .arg(format!("--root={}", here.display()))
            // The folder has no libc of its own.
            .args(["--force-not-root", "--force-depends", "--force-script-chrootless", "--log=/dev/null", "--install"])
            .arg(&program)
            // dpkg looks for ldconfig and others, which are not in the PATH of ordinary users.
            .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())),
    );
    let binary = here.join("usr/bin/cleanslate");
    let version = boot::run(Command::new(&binary).arg("--version")).and_then(|said| {
        ensure!(said.starts_with(&format!("cleanslate {VERSION} (commit ")), "it says {said}");
        Ok(said)
    });
    let checked =
        boot::run(Command::new(&binary).args(["check", "--from"]).arg(root().join("fixtures/machines/no-tdx")));
    let page = here.join("usr/share/man/man1/cleanslate-kexec.1.gz");
    let manual = boot::run(Command::new("gzip").arg("-dc").arg(&page));
    let unpacked = here.join("dkms");
    let built = boot::run(Command::new("dpkg-deb").arg("-x").arg(&dkms).arg(&unpacked));
    Ok(vec![
        (
            "deb: the same commit gives the same package",
            if same { Outcome::Passed } else { Outcome::Failed("two builds differ".to_owned()) },
        ),
        ("deb: cleanslate installs", tell(installed)),
        ("deb: the installed program says what it is", tell(version)),
        ("deb: the installed program checks a machine", tell(checked)),
        ("deb: its manual pages are there", tell(manual)),
        ("deb: cleanslate-dkms unpacks", tell(built)),
        (
            "deb: the module builds from the package",
            module_from(&unpacked.join(format!("usr/src/cleanslate-{VERSION}"))),
        ),
        ("deb: dkms adds, builds and removes the module", by_dkms(&unpacked.join("usr/src"))),
        ("deb: lintian finds no error", lintian(&[&program, &dkms])),
    ])
}

const NO_KERNEL: Outcome = Outcome::Missing("kernel to build it for", "run `cargo xtask linux stock-6.12` once");

/// The module builds from what is in the package alone.
fn module_from(source: &Path) -> Outcome {
    match boot::some_headers() {
        Some(headers) => boot::run(&mut boot::make_modules(&headers, source)).map(drop).into(),
        None => NO_KERNEL,
    }
}

/// DKMS itself, in folders of its own.
fn by_dkms(sources: &Path) -> Outcome {
    // A tool of the headers, for BTF.
    if !Command::new("pahole").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Outcome::Missing("pahole", "apt-get install pahole");
    }
    if !Command::new("dkms").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Outcome::Missing("dkms", "apt-get install dkms");
    }
    let Some(headers) = boot::some_headers() else { return NO_KERNEL };
    let steps = || -> Result<()> {
        let here = root().join("target/deb/dkms");
        if here.exists() {
            fs::remove_dir_all(&here)?;
        }
        fs::create_dir_all(&here)?;
        let here = here.canonicalize()?;
        let kernel = fs::read_to_string(headers.join("include/config/kernel.release"))?;
        let module = format!("cleanslate/{VERSION}");
        let dkms = |verb: &str, words: &[&str]| {
            let mut dkms = Command::new("dkms");
            dkms.args([verb, &module]).args(words);
            for (option, path) in [("--dkmstree", here.as_path()), ("--sourcetree", sources)] {
                dkms.arg(option).arg(path);
            }
            boot::run(&mut dkms).map(drop)
        };
        let (kernel, source) = (kernel.trim(), headers.display().to_string());
        dkms("add", &[])?;
        dkms("build", &["-k", kernel, "--kernelsourcedir", &source, "--no-depmod"])?;
        let built = files(&here.join("cleanslate").join(VERSION).join(kernel))?;
        ensure!(
            built.iter().any(|file| file.display().to_string().contains("/module/cleanslate.ko")),
            "no module: {built:?}"
        );
        dkms("remove", &["--all", "--no-depmod"])
    };
    steps().into()
}

/// Debian's own checker of packages.
fn lintian(packages: &[&PathBuf]) -> Outcome {
    let mut lintian = Command::new("lintian");
    lintian.args(["--tag-display-limit", "0", "--fail-on", "error"]).args(packages);
    match lintian.output() {
        Ok(output) if output.status.success() => Outcome::Passed,
        Ok(output) => Outcome::Failed(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(_) => Outcome::Missing("lintian", "apt-get install lintian"),
    }
}
