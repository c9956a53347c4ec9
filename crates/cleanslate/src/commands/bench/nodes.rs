//! NUMA nodes and their CPUs, as Linux lists them, and threads that stay on a CPU.

use std::fs;
use std::io;
use std::path::Path;

/// Numbers of CPUs in Linux's form: `0-3,8,10-11`. `None` if it is not in that form.
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some(())?;
        cpus.extend(first..=last.min(MOST_CPUS));
    }
    Some(cpus)
}

/// Bits of the affinity mask of the C library.
const MOST_CPUS: usize = 1024;

/// The nodes that have CPUs on which this program may run, with these CPUs; none where Linux lists
/// no nodes.
///
/// # Errors
/// Why it is not known on which CPUs this program may run.
pub(super) fn all() -> Result<Vec<(u32, Vec<usize>)>, String> {
    Ok(in_folder(Path::new("/sys/devices/system/node"), &allowed()?))
}

fn in_folder(folder: &Path, allowed: &[usize]) -> Vec<(u32, Vec<usize>)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut nodes: Vec<_> = entries
        .filter_map(|entry| {
            let node: u32 = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            let mut cpus = cpu_list(&fs::read_to_string(entry.path().join("cpulist")).ok()?)?;
            cpus.retain(|cpu| allowed.contains(cpu));
            (!cpus.is_empty()).then_some((node, cpus))
        })
        .collect();
    nodes.sort_unstable();
    nodes
}

/// The CPUs on which this program may run.
#[cfg(target_os = "linux")]
fn allowed() -> Result<Vec<usize>, String> {
    // EINVAL: the kernel has more CPUs than the mask.
    let set = rustix::thread::sched_getaffinity(None).map_err(|error| format!("sched_getaffinity: {error}"))?;
    Ok((0..MOST_CPUS).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Keeps this thread on a CPU.
#[cfg(target_os = "linux")]
pub(super) fn stay_on(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> Result<Vec<usize>, String> {
    Ok(Vec::new())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn stay_on(_cpu: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpu_list("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(cpu_list("\n"), Some(vec![]));
        // Those that the mask does not have are no CPUs of this program.
        assert_eq!(cpu_list("1023-4294967295").map(|cpus| cpus.len()), Some(2));
        assert_eq!(cpu_list("4000-4001"), Some(vec![]));
        for bad in ["x", "3-1", "0-", "0-x", "-1"] {
            assert_eq!(cpu_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn nodes_of_a_folder() {
        let folder = std::env::temp_dir().join(format!("cleanslate-nodes-{}", std::process::id()));
        for (node, cpus) in [("node1", "4-7"), ("node0", "0-3"), ("node2", ""), ("power", "0")] {
            fs::create_dir_all(folder.join(node)).unwrap();
            fs::write(folder.join(node).join("cpulist"), format!("{cpus}\n")).unwrap();
        }
        let found = in_folder(&folder, &[0, 1, 2, 3, 5]);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, [(0, vec![0, 1, 2, 3]), (1, vec![5])]);
        assert_eq!(in_folder(&folder, &[0]), []);
    }
}
