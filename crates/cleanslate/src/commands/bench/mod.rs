//! `cleanslate bench`: memory write bandwidth of this machine, for `plan --bandwidth`.
//!
//! By MOVDIR64B where the CPU has it, else by ordinary stores; BENCHMARKS.md compares the loops.

mod cgroup;
mod nodes;
mod store;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Barrier, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tdx_operator::words;

use crate::human;
use crate::options::{Format, OutputArgs};
use crate::output::{json, unless_closed};
use crate::stop::Stop;
use crate::threads::{self, Kernel, Spawn};
use store::Line;
pub(super) use store::Store;

/// Measures the memory write bandwidth of this machine: of one core, of all and of each NUMA node.
/// Takes about two seconds, one more for each node, and up to 8 GiB: at most half of what is
/// available, and of what the memory limits of its cgroups leave.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cleanslate bench                                 the figures, and what to do with them
  cleanslate plan --bandwidth 11.5,38              seconds of a kexec, by figures of your own
  cleanslate bench --format json | jq .all_cores")]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// What was measured.
#[derive(Serialize)]
pub(super) struct Report {
    schema: &'static str,
    version: u32,
    tool: &'static str,
    /// Threads of the second figure.
    pub(super) cores: usize,
    /// Bytes a second by one core, the median of some rounds.
    pub(super) one_core: f64,
    /// Bytes a second by all cores together.
    pub(super) all_cores: f64,
    /// How memory was rewritten.
    pub(super) store: Store,
    /// Each NUMA node's cores in its own memory, if there are several nodes.
    pub(super) nodes: Vec<NodeRate>,
    method: &'static str,
    /// Why the figures are not to be relied on, if they are not.
    pub(super) warnings: Vec<String>,
}

/// What was measured of a NUMA node.
#[derive(Clone, Serialize)]
pub(super) struct NodeRate {
    /// Linux's number of it.
    pub(super) node: u32,
    /// Threads, each on a core of the node.
    pub(super) cores: usize,
    /// Bytes a second by these cores together, in memory of the node.
    pub(super) rate: f64,
}

const ROUNDS: usize = 5;
const MIB: usize = 1 << 20;

/// Bytes a second in each round, ascending.
struct Rounds([f64; ROUNDS]);

impl Rounds {
    fn median(&self) -> f64 {
        self.0[ROUNDS / 2]
    }

    /// `the rounds of one core`, if they are far from each other.
    fn scatter(&self, whose: &str) -> Option<String> {
        let [slowest, .., fastest] = self.0;
        let text = || format!("the rounds of {whose} range from {:.1} to {:.1} GB/s", giga(slowest), giga(fastest));
        (fastest > slowest * SCATTER).then(text)
    }
}

/// On an idle machine the fastest round is 1.1 times as fast as the slowest.
const SCATTER: f64 = 1.5;
/// Cores share memory: together they are at most as fast as each by itself, but for what a
/// measurement is off.
const TOGETHER: f64 = 1.15;

fn giga(rate: f64) -> f64 {
    rate / 1e9
}

/// Why two measurements are not to be relied on.
fn warnings(one: &Rounds, all: &Rounds, cores: usize) -> Vec<String> {
    let times = all.median() / one.median();
    let faster = (times > cores as f64 * TOGETHER).then(|| {
        format!(
            "{} together are {times:.1} times as fast as one, which is impossible",
            words::count(cores as u64, "core")
        )
    });
    let whose = if cores == 1 { None } else { all.scatter("all cores") };
    let found: Vec<String> = [faster, one.scatter("one core"), whose].into_iter().flatten().collect();
    found.into_iter().map(|what| format!("{what}; {BUSY}")).collect()
}

/// Why there are no figures.
#[derive(Debug)]
pub(in crate::commands) enum BenchError {
    /// A thread was not started.
    Thread {
        /// From 1.
        number: usize,
        /// How many there should be.
        of: usize,
        error: io::Error,
    },
    /// A thread cannot be kept on its CPU.
    Cpu { cpu: usize, error: io::Error },
    /// There is no memory for what a thread rewrites.
    Memory { bytes: usize, threads: usize },
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread { number, of, error } => {
                write!(f, "thread {number} of {of} could not be started: {error}; {}", threads::TO_DO)?;
                write!(f, ", or measure fewer CPUs (`taskset -c 0-3 cleanslate bench`)")
            }
            Self::Cpu { cpu, error } => write!(
                f,
                "a thread could not be kept on CPU {cpu}: {error}; it is offline, or not in the cpuset of this program"
            ),
            Self::Memory { bytes, threads } => write!(
                f,
                "{} KiB for each of {} could not be allocated; free memory, or raise RLIMIT_AS (`ulimit -v`)",
                bytes >> 10,
                words::count(*threads as u64, "thread")
            ),
        }
    }
}

/// How much memory there is to rewrite.
#[derive(Clone, Copy)]
struct Room {
    /// `MemAvailable`, in bytes, if that is known.
    available: Option<usize>,
    /// What the memory limits of the cgroups leave, if there is one.
    left: Option<usize>,
    /// Bytes that one core rewrites in a second, about.
    a_second: usize,
}

impl Room {
    /// `root` has /proc and /sys.
    fn here(root: &Path, store: Store) -> Result<Self, BenchError> {
        let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        Ok(Self { available: available(&text), left: cgroup::left(root), a_second: a_second(store)? })
    }

    /// Bytes that each of so many threads should rewrite.
    fn wanted(threads: usize) -> usize {
        let count = threads.max(1);
        (1024 * MIB / count).clamp(32 * MIB, 512 * MIB).min(8192 * MIB / count)
    }

    /// Bytes that each of them can: half of the memory that there is, and a second's work.
    fn bytes(self, threads: usize) -> usize {
        let fits = self.memory().map_or(usize::MAX, |memory| memory / 2 / threads.max(1));
        Self::wanted(threads).min(fits).min(self.a_second).max(MIB / 16) / 64 * 64
    }

    /// Bytes of memory that may be used, if that is known.
    fn memory(self) -> Option<usize> {
        self.available.into_iter().chain(self.left).min()
    }

    /// Why the rounds of so many threads are too small to be relied on, if they are.
    fn warning(self, whose: &str, threads: usize) -> Option<String> {
        let (bytes, wanted) = (self.bytes(threads), Self::wanted(threads));
        // Twice that would have been there without the cgroup.
        let cgroup = self.left.filter(|left| Some(*left) == self.memory() && left / 2 / threads.max(1) < self.a_second);
        let why = match cgroup {
            Some(left) => format!("because the memory limit of its cgroup leaves {} KiB", left >> 10),
            None => "for lack of memory or speed".to_owned(),
        };
        (bytes < wanted).then(|| {
            format!(
                "the rounds of {whose} rewrote {} KiB a core and not {}, {why}: caches may have held them",
                bytes >> 10,
                wanted >> 10
            )
        })
    }
}

/// `MemAvailable` of /proc/meminfo, in bytes.
fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1 << 10)
}

/// The best of some short tries, so that a pause of this thread does not count. An emulated CPU is
/// a thousand times slower than a real one.
fn a_second(store: Store) -> Result<usize, BenchError> {
    let mut memory = lines(MIB, 1)?;
    let begin = Instant::now();
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        store.rewrite(&mut memory);
        best = best.min(start.elapsed());
        if begin.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    Ok(usize::try_from(MIB as u128 * 1_000_000_000 / best.as_nanos().max(1)).unwrap_or(usize::MAX))
}

/// Memory of one of so many threads. Touched once, so that no page fault is measured.
fn lines(bytes: usize, threads: usize) -> Result<Vec<Line>, BenchError> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(bytes / 64).map_err(|_| BenchError::Memory { bytes, threads })?;
    memory.resize(bytes / 64, Line::ONES);
    Ok(memory)
}

/// The rounds of a thread on each of these CPUs, or where the kernel puts it, each with memory of
/// its own, which Linux takes from the node of the CPU that touches it first.
fn rate(store: Store, bytes: usize, cpus: &[Option<usize>], kernel: &impl Spawn) -> Result<Rounds, BenchError> {
    // False: not all threads could be started, and those that were have nothing to wait for.
    let begin = &OnceLock::new();
    let barrier = &Barrier::new(cpus.len() + 1);
    let failed = Mutex::new(None);
    let failure = &|| failed.lock().unwrap_or_else(PoisonError::into_inner);
    let rounds = thread::scope(|scope| {
        for (index, cpu) in cpus.iter().enumerate() {
            let work = move || {
                if !begin.wait() {
                    return;
                }
                let mut memory = prepare(*cpu, bytes, cpus.len()).unwrap_or_else(|error| {
                    *failure() = Some(error);
                    Vec::new()
                });
                // Behind it all threads see that one of them failed.
                barrier.wait();
                if failure().is_some() {
                    return;
                }
                for _ in 0..ROUNDS {
                    barrier.wait();
                    store.rewrite(&mut memory);
                    barrier.wait();
                }
            };
            if let Err(error) = kernel.spawn(scope, work) {
                begin.get_or_init(|| false);
                return Err(BenchError::Thread { number: index + 1, of: cpus.len(), error });
            }
        }
        begin.get_or_init(|| true);
        barrier.wait();
        if failure().is_some() {
            return Ok([0.0; ROUNDS]);
        }
        Ok([(); ROUNDS].map(|()| {
            barrier.wait();
            let start = Instant::now();
            barrier.wait();
            (bytes * cpus.len()) as f64 / start.elapsed().as_secs_f64()
        }))
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut rounds = rounds?;
    rounds.sort_by(f64::total_cmp);
    Ok(Rounds(rounds))
}

/// Keeps this thread on its CPU, and takes its memory.
fn prepare(cpu: Option<usize>, bytes: usize, threads: usize) -> Result<Vec<Line>, BenchError> {
    if let Some(cpu) = cpu {
        nodes::stay_on(cpu).map_err(|error| BenchError::Cpu { cpu, error })?;
    }
    lines(bytes, threads)
}

/// Each node, if there are several, and what is to be said about them.
fn node_rates(store: Store, room: Room) -> (Vec<NodeRate>, Vec<String>) {
    let nodes = match nodes::all() {
        Ok(nodes) if nodes.len() > 1 => nodes,
        Ok(_) => return (Vec::new(), Vec::new()),
        Err(why) => return (Vec::new(), vec![format!("NUMA nodes were not measured: {why}")]),
    };
    let (mut rates, mut warnings) = (Vec::new(), Vec::new());
    for (node, cpus) in nodes {
        let threads: Vec<_> = cpus.into_iter().map(Some).collect();
        let rounds = match rate(store, room.bytes(threads.len()), &threads, &Kernel) {
            Ok(rounds) => rounds,
            Err(why) => {
                warnings.push(format!("node {node} was not measured: {why}"));
                continue;
            }
        };
        warnings.extend(rounds.scatter(&format!("node {node}")).map(|what| format!("{what}; {BUSY}")));
        rates.push(NodeRate { node, cores: threads.len(), rate: rounds.median() });
    }
    (rates, warnings)
}

const BUSY: &str = "the machine was not idle during the measurement: repeat it when it is idle";

/// Measures and reports.
pub(crate) fn run(args: &BenchArgs, out: &mut impl Write) -> Result<(), Stop> {
    let report = measure().map_err(|error| Stop::Machine(error.to_string()))?;
    unless_closed(match args.output.format {
        Format::Json => json(out, &report),
        Format::Human => print(out, &report),
    })?;
    Ok(())
}

/// Measures.
pub(super) fn measure() -> Result<Report, BenchError> {
    let (cores, unknown) = match thread::available_parallelism() {
        Ok(cores) => (cores.get(), None),
        Err(error) => (1, Some(format!("the number of CPUs is not known ({error}): all cores are one"))),
    };
    let store = Store::of_this_cpu();
    let room = Room::here(Path::new("/"), store)?;
    let rate = |threads| rate(store, room.bytes(threads), &vec![None; threads], &Kernel);
    let (one, all) = (rate(1)?, rate(cores)?);
    let (nodes, of_nodes) = node_rates(store, room);
    let small = [room.warning("one core", 1), room.warning("all cores", cores).filter(|_| cores > 1)];
    let more = of_nodes.into_iter().chain(unknown).chain(small.into_iter().flatten());
    Ok(Report {
        schema: "cleanslate/bench",
        version: 1,
        tool: tdx_operator::report::TOOL,
        cores,
        one_core: one.median(),
        // Measured one after the other, on a machine that has other things to do.
        all_cores: all.median().max(one.median()),
        store,
        nodes,
        method: store.method(),
        warnings: warnings(&one, &all, cores).into_iter().chain(more).collect(),
    })
}

fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let (one, all) = (giga(report.one_core), giga(report.all_cores));
    human::line(out, "one core", &format!("{one:.1} GB/s"))?;
    human::line(out, &words::count(report.cores as u64, "core"), &format!("{all:.1} GB/s"))?;
    for NodeRate { node, cores, rate } in &report.nodes {
        let cores = words::count(*cores as u64, "core");
        human::line(out, &format!("node {node}"), &format!("{:.1} GB/s by its {cores}", giga(*rate)))?;
    }
    human::line(out, "method", report.method)?;
    for warning in &report.warnings {
        human::line(out, "warning", warning)?;
    }
    human::line(out, "use", &format!("cleanslate plan --bandwidth {one:.1},{all:.1}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_printed() {
        let report = Report {
            schema: "cleanslate/bench",
            version: 1,
            tool: "cleanslate",
            cores: 4,
            one_core: 1e10,
            all_cores: 3e10,
            store: Store::Ordinary,
            nodes: vec![NodeRate { node: 0, cores: 3, rate: 2e10 }, NodeRate { node: 2, cores: 1, rate: 1e10 }],
            method: "by hand",
            warnings: Vec::new(),
        };
        let mut out = Vec::new();
        print(&mut out, &report).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("node 0    20.0 GB/s by its 3 cores\nnode 2    10.0 GB/s by its 1 core\n"), "{out}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["store"], &json["nodes"][1]["node"]), (&"ordinary".into(), &2.into()));
        // A machine with several nodes is rare.
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas/bench.schema.json");
        let schema: serde_json::Value = serde_json::from_str(&fs::read_to_string(schema).unwrap()).unwrap();
        let described = schema["properties"]["nodes"]["items"]["properties"].as_object().unwrap();
        assert!(json["nodes"][0].as_object().unwrap().keys().eq(described.keys()), "{described:?}");
    }

    #[test]
    fn what_is_rewritten_fits_into_memory_and_into_a_second() {
        let room = |available, a_second| Room { available, left: None, a_second };
        // A real machine.
        let large = room(Some(2048 << 30), 10_000_000_000);
        assert_eq!(
            (large.bytes(1), large.bytes(4), large.bytes(448)),
            (512 * MIB, 256 * MIB, 8192 * MIB / 448 / 64 * 64)
        );
        assert_eq!((large.warning("one core", 1), large.warning("all cores", 4)), (None, None));
        // A small one, a slow one, and one that does not say.
        let small = room(Some(100 * MIB), 10_000_000_000);
        assert_eq!((small.bytes(1), small.bytes(2)), (50 * MIB, 25 * MIB));
        assert!(small.warning("one core", 1).unwrap().contains("51200 KiB a core and not 524288"));
        assert_eq!(room(Some(2048 << 30), MIB).bytes(2), MIB);
        assert_eq!((room(None, usize::MAX).bytes(1), room(Some(0), 0).bytes(0)), (512 * MIB, MIB / 16));
    }

    #[test]
    fn the_memory_limit_of_a_cgroup_counts() {
        let root = std::env::temp_dir().join(format!("cleanslate-room-{}", std::process::id()));
        let put = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        put("proc/meminfo", "MemAvailable: 67108864 kB\n");
        put("proc/self/cgroup", "0::/job\n");
        put("proc/self/mountinfo", "33 24 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        put("sys/fs/cgroup/job/memory.current", "0\n");
        put("sys/fs/cgroup/job/memory.max", "67108864\n");
        let here = || Room { a_second: usize::MAX, ..Room::here(&root, Store::Ordinary).unwrap() };
        let room = here();
        assert_eq!((room.bytes(1), room.bytes(2)), (32 * MIB, 16 * MIB));
        let warning = room.warning("all cores", 2).unwrap();
        assert!(
            warning
                .contains("16384 KiB a core and not 524288, because the memory limit of its cgroup leaves 65536 KiB"),
            "{warning}"
        );
        // The cgroup is not to blame for a slow CPU, nor for a machine that has less.
        for slow in [Room { a_second: MIB, ..room }, Room { available: Some(9 * MIB), ..room }] {
            assert!(slow.warning("all cores", 2).unwrap().contains("for lack of memory or speed"));
        }
        put("sys/fs/cgroup/job/memory.max", "max\n");
        assert_eq!((here().bytes(1), here().warning("one core", 1)), (512 * MIB, None));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn available_memory() {
        assert_eq!(available("MemFree: 1 kB\nMemAvailable:    2048 kB\n"), Some(2 * MIB));
        for bad in ["", "MemAvailable: 2048\n", "MemAvailable: x kB\n", "MemAvailable: 99999999999999999999 kB\n"] {
            assert_eq!(available(bad), None, "{bad}");
        }
    }

    /// A kernel that starts so many threads and no more.
    struct AtMost(std::cell::Cell<usize>);

    impl Spawn for AtMost {
        fn spawn<'scope>(
            &self,
            scope: &'scope thread::Scope<'scope, '_>,
            work: impl FnOnce() + Send + 'scope,
        ) -> io::Result<()> {
            self.0.set(self.0.get().checked_sub(1).ok_or(io::Error::from_raw_os_error(11))?);
            Kernel.spawn(scope, work)
        }
    }

    #[test]
    fn threads_that_are_not_started_end_the_measurement() {
        let rate = |threads: usize, most: usize| {
            rate(Store::Ordinary, 6400, &vec![None; threads], &AtMost(most.into())).map(|rounds| rounds.median())
        };
        assert!(rate(1, 1).unwrap() > 0.0 && rate(4, 4).unwrap() > 0.0);
        for most in 0..4 {
            let error = rate(4, most).unwrap_err();
            assert!(matches!(error, BenchError::Thread { number, of: 4, .. } if number == most + 1), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("(os error 11)") && text.contains("pids.max"), "{text}");
        }
    }

    #[test]
    fn what_a_thread_cannot_get_ends_the_measurement() {
        let error = rate(Store::Ordinary, usize::MAX / 2, &[None; 3], &Kernel).map(|_| ()).unwrap_err();
        assert!(matches!(error, BenchError::Memory { threads: 3, .. }), "{error:?}");
        // The last CPU of the mask: no machine that runs this test has it.
        let error = rate(Store::Ordinary, 6400, &[None, Some(1023), None], &Kernel).map(|_| ()).unwrap_err();
        assert!(matches!(error, BenchError::Cpu { cpu: 1023, .. }), "{error:?}");
        assert!(error.to_string().contains("cpuset"), "{error}");
    }

    #[test]
    fn a_busy_machine_is_noticed() {
        let steady = |rate: f64| Rounds([0.98, 0.99, 1.0, 1.01, 1.02].map(|part| part * rate * 1e9));
        assert_eq!(warnings(&steady(10.0), &steady(19.0), 2), [""; 0]);
        let [impossible] = &warnings(&steady(31.7), &steady(83.2), 2)[..] else { panic!("one warning") };
        assert!(
            impossible.starts_with("2 cores together are 2.6 times as fast as one, which is impossible"),
            "{impossible}"
        );
        let busy = Rounds([5.0e9, 9.0e9, 10.0e9, 10.0e9, 10.0e9]);
        let [scatter] = &warnings(&busy, &steady(19.0), 2)[..] else { panic!("one warning") };
        assert!(scatter.starts_with("the rounds of one core range from 5.0 to 10.0 GB/s"), "{scatter}");
        assert!(
            scatter.contains("repeat the measurement when it is idle") || scatter.contains("repeat it when it is idle"),
            "{scatter}"
        );
        assert_eq!(warnings(&busy, &busy, 1).len(), 1);
    }
}
