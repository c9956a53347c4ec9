//! Whether the host is idle: by /proc/stat, before bandwidth is measured.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Times of all CPUs since boot, in ticks.
#[derive(Clone, Copy)]
struct Ticks {
    all: u64,
    /// In the idle task, also while it waits for a disk.
    idle: u64,
}

impl Ticks {
    /// Of the text of /proc/stat.
    fn of(text: &str) -> Option<Self> {
        let times = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in them.
        let times: Vec<u64> = times.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let idle = times.get(3)?.checked_add(*times.get(4)?)?;
        Some(Self { all: times.iter().try_fold(0_u64, |sum, time| sum.checked_add(*time))?, idle })
    }

    /// Did the CPUs do next to nothing from then to now? At most one part in twenty.
    fn is_idle_since(self, then: Self) -> Option<bool> {
        let (all, idle) = (self.all.checked_sub(then.all)?, self.idle.checked_sub(then.idle)?);
        (all > 0).then(|| all.saturating_sub(idle) <= all / 20)
    }
}

/// Do the CPUs do next to nothing for a second? `None` if that cannot be seen.
pub(super) fn is_idle(root: &Path) -> Option<bool> {
    let read = || Ticks::of(&fs::read_to_string(root.join("proc/stat")).ok()?);
    let then = read()?;
    thread::sleep(Duration::from_secs(1));
    read()?.is_idle_since(then)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// user, nice, system, idle, iowait, irq, softirq, steal.
    fn ticks(times: [u64; 8]) -> Ticks {
        let times = times.map(|time| time.to_string()).join(" ");
        Ticks::of(&format!("cpu  {times} 7 0\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 5\n")).unwrap()
    }

    #[test]
    fn a_host_is_idle_up_to_a_twentieth() {
        const BEFORE: [u64; 8] = [100, 0, 50, 1000, 10, 0, 0, 0];
        let then = ticks(BEFORE);
        let after =
            |more: [u64; 8]| ticks(std::array::from_fn(|index| BEFORE[index] + more[index])).is_idle_since(then);
        for (more, expected) in [
            ([0, 0, 0, 2000, 0, 0, 0, 0], Some(true)),
            // A disk that is waited for is no work.
            ([0, 0, 0, 1000, 1000, 0, 0, 0], Some(true)),
            ([100, 0, 0, 1900, 0, 0, 0, 0], Some(true)),
            ([101, 0, 0, 1899, 0, 0, 0, 0], Some(false)),
            // Each of the others is work, also what a hypervisor has taken.
            ([0, 101, 0, 1899, 0, 0, 0, 0], Some(false)),
            ([0, 0, 101, 1899, 0, 0, 0, 0], Some(false)),
            ([0, 0, 0, 1899, 0, 101, 0, 0], Some(false)),
            ([0, 0, 0, 1899, 0, 0, 101, 0], Some(false)),
            ([0, 0, 0, 1899, 0, 0, 0, 101], Some(false)),
            ([0; 8], None),
        ] {
            assert_eq!(after(more), expected, "{more:?}");
        }
        // A counter that goes back, as iowait may.
        assert_eq!(then.is_idle_since(ticks([0, 0, 50, 1000, 11, 0, 0, 0])), None);
        assert_eq!(ticks([900, 0, 50, 1000, 9, 0, 0, 0]).is_idle_since(then), None);
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        for bad in ["", "cpu0 1 1 1 1 1\n", "cpu  1 1 1 1\n", "cpu  1 1 1 x 1\n", "cpu  1 1 1 18446744073709551615 1\n"]
        {
            assert!(Ticks::of(bad).is_none(), "{bad}");
        }
        assert_eq!(is_idle(Path::new("/no/such/folder")), None);
    }
}
