//! Saved machines from people who mean harm, and what `collect` keeps: nothing outside the folder
//! is read, nothing panics, no name, number or address that is nobody's business is saved.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tdx_operator::check::{Item, Live, Snapshot, Unseen, check, load, save};

/// A folder in the temporary directory, gone when dropped.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cleanslate-check-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const ABOUT: &str = "schema = \"cleanslate-machine\"\nversion = 1\ntool = \"x\"\n";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/machines").join(name)
}

#[test]
fn links_out_of_the_folder_are_not_followed() {
    let outside = Temp::new("outside");
    let folder = Temp::new("links");
    for item in Item::ALL {
        // A good machine stands outside: had a link been followed, facts of it would be in the
        // report.
        let source = fixture("spr-7.2").join(item.file());
        // No saved machine of the fixtures has cleanslate.ko.
        outside.write(item.file(), fs::read(source).unwrap_or_else(|_| b"host\n".to_vec()));
        symlink(outside.0.join(item.file()), folder.0.join(item.file())).unwrap();
    }
    folder.write("machine.toml", ABOUT);
    let watch = inotify::init(CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, &outside.0, WatchFlags::OPEN | WatchFlags::ACCESS).unwrap();
    let touched = || rustix::io::read(&watch, &mut [0; 4096]).is_ok();
    let snapshot = load(&folder.0).unwrap();
    assert!(!touched(), "a file outside of the folder was opened");
    for item in Item::ALL {
        assert_eq!(snapshot.get(item), Err(&Unseen::NotAFile), "{item}");
    }
    // The watch would have seen it.
    fs::read(outside.0.join("cpuinfo")).unwrap();
    assert!(touched());
    let report = check("links", &snapshot);
    assert_eq!((report.verdict.tdx, report.unseen.len()), ("unknown", Item::ALL.len()));
    let facts = serde_json::to_value(&report.facts).unwrap();
    assert!(facts.as_object().unwrap().values().all(serde_json::Value::is_null), "{facts}");
}

#[test]
fn the_folder_itself_must_say_what_it_is() {
    let folder = Temp::new("about");
    let why = |text: &str| {
        folder.write("machine.toml", text);
        load(&folder.0).unwrap_err().to_string()
    };
    assert!(why("").contains("schema"), "{}", why(""));
    assert!(why("schema = \"other\"\nversion = 1\ntool = \"\"\n").contains("cleanslate-machine"));
    assert!(why(&ABOUT.replace("= 1", "= 2")).contains("version 2 is not supported"));
    assert!(why(&format!("{ABOUT}[unseen]\nmsr = \"eaten\"\n")).contains("eaten"));
    assert!(why(&"#".repeat(1 << 20)).contains("larger"));
    assert!(why("\0").contains("not text"));
    fs::remove_file(folder.0.join("machine.toml")).unwrap();
    assert!(load(&folder.0).unwrap_err().to_string().contains("is not there"));
    symlink(fixture("spr-7.2/machine.toml"), folder.0.join("machine.toml")).unwrap();
    assert!(load(&folder.0).unwrap_err().to_string().contains("not a regular file"));
    assert!(load(&folder.0.join("machine.toml")).is_err());
    assert!(load(Path::new("/nowhere/at/all")).unwrap_err().to_string().contains("/nowhere/at/all"));
}

#[test]
fn huge_binary_and_strange_files() {
    let folder = Temp::new("strange");
    folder.write("machine.toml", ABOUT);
    // A terabyte on paper, without a block on disk.
    fs::File::create(folder.0.join("boot.log")).unwrap().set_len(1 << 40).unwrap();
    folder.write("config", vec![b'y'; (4 << 20) + 1]);
    folder.write("cpuinfo", [0x7f, b'E', b'L', b'F', 0, 1, 2, 3]);
    folder.write("msr", b"0x87 0x1 \xff\xfe\n");
    folder.write("osrelease", "six point two\n");
    fs::create_dir(folder.0.join("cmdline")).unwrap();
    let fifo = rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.0.join("meminfo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    );
    fifo.unwrap();
    folder.write("kexec_loaded", "maybe\u{1b}[2J\n");
    let snapshot = load(&folder.0).unwrap();
    assert_eq!(snapshot.get(Item::BootLog), Err(&Unseen::TooLarge { limit: Item::BootLog.limit() }));
    assert_eq!(snapshot.get(Item::Config), Err(&Unseen::TooLarge { limit: 4 << 20 }));
    assert_eq!(snapshot.get(Item::Cpuinfo), Err(&Unseen::NotText));
    assert_eq!(snapshot.get(Item::Msr), Err(&Unseen::NotText));
    assert_eq!(snapshot.get(Item::Cmdline), Err(&Unseen::NotAFile));
    assert_eq!(snapshot.get(Item::Meminfo), Err(&Unseen::NotAFile));
    let report = check("strange", &snapshot);
    assert_eq!(report.verdict.tdx, "unknown");
    let json = serde_json::to_string(&report).unwrap();
    assert!(json.contains("is no kernel version") && !json.contains("\\u001b[2J"), "{json}");
}

#[test]
fn reasons_are_kept() {
    let folder = Temp::new("reasons");
    folder.write("machine.toml", format!("{ABOUT}[unseen]\nmsr = \"denied\"\n\"boot.log\" = \"too-large\"\n"));
    let snapshot = load(&folder.0).unwrap();
    assert_eq!(snapshot.get(Item::Msr), Err(&Unseen::Denied));
    assert_eq!(snapshot.get(Item::BootLog), Err(&Unseen::TooLarge { limit: Item::BootLog.limit() }));
    assert_eq!(snapshot.get(Item::Cpuinfo), Err(&Unseen::Absent));
}

/// What must never be saved.
const SECRETS: [&str; 12] = [
    "SN-4711",
    "aa:bb:cc:dd:ee:ff",
    "10.9.8.7",
    "fe80::1234",
    "node7.example.org",
    "alice",
    "6f1ed002-ab5c-4a9d-9e3d-1f2a3b4c5d6e",
    "PPIN",
    "eth0",
    "hunter2",
    "0xdeadbeefcafe",
    "Documents",
];

/// A machine whose every file is full of secrets.
fn root_full_of_secrets() -> Temp {
    let root = Temp::new("root");
    let secrets = SECRETS.join(" ");
    let cpuinfo = fs::read_to_string(fixture("spr-7.2/cpuinfo")).unwrap();
    root.write("proc/cpuinfo", cpuinfo.replace("\n\n", &format!("\nPPIN\t\t: {secrets}\nserial\t: SN-4711\n\n")));
    root.write("proc/sys/kernel/osrelease", "7.2.3-1-server\n");
    root.write("boot/config-7.2.3-1-server", {
        let config = fs::read_to_string(fixture("spr-7.2/config")).unwrap();
        format!("# built by alice on node7.example.org\nCONFIG_DEFAULT_HOSTNAME=\"{secrets}\"\n{config}")
    });
    root.write("proc/cmdline", {
        let words = SECRETS.map(|secret| format!("ip={secret} resume={secret} crashkernel={secret} {secret}"));
        format!("BOOT_IMAGE=/x nohibernate crashkernel=512M {}\n", words.join(" "))
    });
    root.write("proc/meminfo", format!("MemTotal:       263831552 kB\nMemFree: {secrets}\n"));
    root.write("sys/kernel/kexec_loaded", "0\n");
    root.write("sys/power/mem_sleep", "[s2idle]\n");
    root.write("sys/kernel/cleanslate/mode", format!("{secrets}\n"));
    root.write("sys/module/cleanslate/parameters/policy", format!("{secrets}\n"));
    let log = fs::read_to_string(fixture("spr-7.2/boot.log")).unwrap();
    let mut records = format!(
        "5,0,0,-;Linux version 7.2.3-1-server (alice@node7.example.org) (gcc) #1 SMP\n\
         6,1,0,-;Command line: {secrets}\n6,2,0,-;DMI: Vendor Model/{secrets}\n SUBSYSTEM=pci\n DEVICE=+pci:{secrets}\n\
         6,3,0,-;e1000e 0000:00:1f.6 eth0: (PCI Express) aa:bb:cc:dd:ee:ff\n13,4,0,-;virt/tdx: {secrets}\n"
    );
    for line in log.lines().skip(1) {
        records.extend(["6,9,1,-;", line.split_once("] ").unwrap().1, "\n"]);
    }
    root.write("dev/kmsg", records);
    // Registers as a plain file: two that stand side by side share their bytes.
    let mut msrs = vec![0; 0x2000];
    let mut set = |msr: usize, value: u64| msrs[msr..msr + 8].copy_from_slice(&value.to_le_bytes());
    set(0x87, 0x20_0000_001f);
    set(0x982, 0x6_0000_0003);
    set(0x1401, 0xc00);
    for cpu in 0..4 {
        root.write(&format!("dev/cpu/{cpu}/msr"), &msrs);
    }
    root.write("dev/cpu/microcode", "SN-4711");
    root
}

#[test]
fn collect_keeps_no_secret_and_check_says_the_same() {
    let root = root_full_of_secrets();
    let snapshot = Live::at(&root.0).snapshot();
    let folder = Temp::new("saved");
    let files = save(&folder.0, &snapshot).unwrap();
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), files.len());
    for file in files {
        let text = fs::read_to_string(folder.0.join(file)).unwrap();
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} in {file}:\n{text}");
        }
    }
    // The facts are still there, and the saved machine is judged as the live one.
    let live = check("same name", &snapshot);
    assert_eq!(live, check("same name", &load(&folder.0).unwrap()));
    assert_eq!((live.verdict.tdx, live.facts.pamt_kb), ("on", Some(1_050_632)));
    assert_eq!(
        snapshot.get(Item::Msr).unwrap(),
        "0x87 0x200000001f 0-3\n0x981 0x60000000300 0-3\n0x982 0x600000003 0-3\n0x1400 0xc0000 0-3\n0x1401 0xc00 0-3\n"
    );
    assert!(live.unseen.is_empty(), "{:?}", live.unseen);
    assert_eq!(live.facts.kernel.as_deref(), Some("7.2.3-1-server"));
    assert!(live.checks().any(|check| check.id == "kexec.jump" && check.text.starts_with("private memory stays")));
    // The same folder a second time is not overwritten.
    assert!(save(&folder.0, &snapshot).unwrap_err().to_string().contains("not empty"));
}

#[test]
fn a_folder_with_a_link_is_not_written_to() {
    let folder = Temp::new("trap");
    let victim = Temp::new("victim");
    symlink(victim.0.join("new"), folder.0.join("cpuinfo")).unwrap();
    assert!(save(&folder.0, &Snapshot::default()).is_err());
    assert_eq!(fs::read_dir(&victim.0).unwrap().count(), 0);
}

#[test]
fn this_machine_is_looked_at_without_harm() {
    let snapshot = Live::here().snapshot();
    let report = check("live", &snapshot);
    let folder = Temp::new("here");
    save(&folder.0, &snapshot).unwrap();
    let saved = check("live", &load(&folder.0).unwrap());
    assert_eq!(report.categories, saved.categories);
}

/// A text of a fixture with a few bytes of it replaced.
fn damaged(text: &str, edits: &[(usize, u8)]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for (place, byte) in edits {
        let length = bytes.len().max(1);
        if let Some(slot) = bytes.get_mut(place % length) {
            *slot = *byte;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

proptest! {
    #[test]
    fn damage_never_panics(
        machine in prop::sample::select(vec!["spr-6.14", "spr-6.18", "spr-7.2", "gnr-7.2", "no-tdx"]),
        edits in prop::collection::vec((any::<usize>(), any::<u8>()), 0..40),
        noise in prop::collection::vec(any::<char>(), 0..200),
        noisy in 0..Item::ALL.len(),
    ) {
        let good = load(&fixture(machine)).unwrap();
        let mut snapshot = Snapshot::default();
        for (index, item) in Item::ALL.into_iter().enumerate() {
            match good.get(item) {
                _ if index == noisy => snapshot.put(item, Ok(noise.iter().collect())),
                Ok(text) => snapshot.put(item, Ok(damaged(text, &edits))),
                Err(why) => snapshot.put(item, Err(why.clone())),
            }
        }
        let report = check("damaged", &snapshot);
        let verdict = &report.verdict;
        prop_assert_eq!(verdict.pass + verdict.warn + verdict.fail + verdict.unknown, report.checks().count());
    }
}
