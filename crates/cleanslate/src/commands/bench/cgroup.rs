//! Memory limits of the cgroups of this program, of v2 (memory.max, memory.high) and v1
//! (memory.limit_in_bytes). A program that passes them is killed or slowed down, whatever
//! /proc/meminfo says.

use std::fs;
use std::path::{Path, PathBuf};

/// A kind of cgroups.
struct Kind {
    /// Files with a limit.
    limits: &'static [&'static str],
    /// The file with what is used.
    usage: &'static str,
}

const V2: Kind = Kind { limits: &["memory.max", "memory.high"], usage: "memory.current" };
const V1: Kind = Kind { limits: &["memory.limit_in_bytes"], usage: "memory.usage_in_bytes" };

/// Bytes that are left of the limits of this program's cgroup and of all above it: the least.
/// `None` if there is no limit, or none that can be seen from here.
pub(super) fn left(root: &Path) -> Option<usize> {
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
    let mounts: Vec<Mount> = read("proc/self/mountinfo").lines().filter_map(Mount::of).collect();
    let of_line = |line: &str| {
        // `0::/a/b` is v2's, `7:memory:/a/b` v1's.
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let kind = if controllers.is_empty() {
            V2
        } else if controllers.split(',').any(|name| name == "memory") {
            V1
        } else {
            return None;
        };
        let is_v2 = controllers.is_empty();
        let of_it = mounts.iter().filter(|mount| mount.is_v2 == is_v2);
        of_it.filter_map(|mount| kind.left_below(root, mount, path)).min()
    };
    read("proc/self/cgroup").lines().filter_map(of_line).min()
}

impl Kind {
    /// Of the cgroup at `path` and of all that contain it, as far as they are mounted.
    fn left_below(&self, root: &Path, mount: &Mount, path: &str) -> Option<usize> {
        // A part of the tree is mounted in a container that has the names of the host.
        let below = Path::new(path).strip_prefix(&mount.root).ok()?;
        // `/../x` is outside of this cgroup namespace, and nothing of it can be seen.
        if !below.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            return None;
        }
        let top = root.join(mount.point.strip_prefix("/").ok()?);
        let own = top.join(below);
        own.ancestors().take_while(|folder| folder.starts_with(&top)).filter_map(|folder| self.left_in(folder)).min()
    }

    fn left_in(&self, folder: &Path) -> Option<usize> {
        let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        // `max` is no limit, and v1's is larger than any memory.
        let limit = self.limits.iter().filter_map(|name| number(name)).min()?;
        let left = limit.saturating_sub(number(self.usage).unwrap_or(0));
        Some(usize::try_from(left).unwrap_or(usize::MAX))
    }
}

/// A hierarchy of cgroups that is mounted.
struct Mount {
    is_v2: bool,
    /// The cgroup that is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
}

impl Mount {
    /// A line of /proc/self/mountinfo: `33 24 0:28 /root /point options - type source options`.
    fn of(line: &str) -> Option<Self> {
        let (place, what) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (unescape(place.next()?)?, unescape(place.next()?)?);
        let mut what = what.split(' ');
        let is_v2 = match what.next()? {
            "cgroup2" => true,
            "cgroup" if what.nth(1)?.split(',').any(|name| name == "memory") => false,
            _ => return None,
        };
        Some(Self { is_v2, root, point })
    }
}

/// A space is `\040` there.
fn unescape(text: &str) -> Option<PathBuf> {
    let mut parts = text.split('\\');
    let mut path = parts.next()?.to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(3)?;
        path.push(char::from(u8::from_str_radix(digits, 8).ok()?));
        path.push_str(rest);
    }
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system of its own.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("cleanslate-cgroup-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            Self(root)
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Limit and usage of a cgroup of v2.
        fn v2(&self, cgroup: &str, max: &str, current: u64) {
            self.put(&format!("sys/fs/cgroup/{cgroup}/memory.max"), &format!("{max}\n"));
            self.put(&format!("sys/fs/cgroup/{cgroup}/memory.current"), &format!("{current}\n"));
        }

        fn left(&self) -> Option<usize> {
            left(&self.0)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const MOUNT: &str = "22 1 0:20 / /proc rw - proc proc rw\n\
        33 24 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_least_that_is_left_of_a_cgroup_and_all_above_it() {
        let tree = Tree::new("v2");
        assert_eq!(tree.left(), None);
        tree.put("proc/self/mountinfo", MOUNT);
        tree.put("proc/self/cgroup", "0::/a.slice/b.service\n");
        // The root has no such file.
        assert_eq!(tree.left(), None);
        tree.v2("a.slice/b.service", "max", 10);
        tree.v2("a.slice", "max", 20);
        assert_eq!(tree.left(), None);
        tree.v2("a.slice/b.service", "1000", 10);
        assert_eq!(tree.left(), Some(990));
        // A parent that has less left, and one of another branch.
        tree.v2("a.slice", "2000", 1500);
        tree.v2("c.slice", "1", 1);
        assert_eq!(tree.left(), Some(500));
        tree.put("sys/fs/cgroup/a.slice/b.service/memory.high", "300\n");
        assert_eq!(tree.left(), Some(290));
        // A limit that was lowered below what is used.
        tree.v2("a.slice/b.service", "5", 10);
        assert_eq!(tree.left(), Some(0));
        // What cannot be read is no limit.
        tree.v2("a.slice/b.service", "x", 10);
        tree.put("sys/fs/cgroup/a.slice/b.service/memory.high", "99999999999999999999\n");
        assert_eq!(tree.left(), Some(500));
    }

    #[test]
    fn hierarchies_of_v1() {
        let tree = Tree::new("v1");
        tree.put(
            "proc/self/mountinfo",
            "30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
             31 24 0:27 / /sys/fs/cgroup/my\\040memory rw shared:1 - cgroup cgroup rw,memory\n",
        );
        tree.put("proc/self/cgroup", "7:memory:/a/b\n3:cpu,cpuacct:/\n0::/\n");
        let put = |cgroup: &str, limit: u64, usage: u64| {
            let folder = format!("sys/fs/cgroup/my memory/{cgroup}");
            tree.put(&format!("{folder}/memory.limit_in_bytes"), &format!("{limit}\n"));
            tree.put(&format!("{folder}/memory.usage_in_bytes"), &format!("{usage}\n"));
        };
        put(".", 0x7fff_ffff_ffff_f000, 4096);
        put("a", 800, 100);
        put("a/b", 0x7fff_ffff_ffff_f000, 50);
        assert_eq!(tree.left(), Some(700));
        put("a/b", 90, 50);
        assert_eq!(tree.left(), Some(40));
    }

    #[test]
    fn a_container_that_sees_a_part() {
        let tree = Tree::new("part");
        tree.v2(".", "600", 100);
        // With a namespace of its own, with the names of the host, and outside of what is mounted.
        let at = |root: &str| MOUNT.replace("0:28 / /sys", &format!("0:28 {root} /sys"));
        for (root, path, expected) in [
            ("/", "/", Some(500)),
            ("/docker/1", "/docker/1", Some(500)),
            ("/docker/1", "/docker/2", None),
            ("/", "/../2", None),
        ] {
            tree.put("proc/self/mountinfo", &at(root));
            tree.put("proc/self/cgroup", &format!("0::{path}\n"));
            assert_eq!(tree.left(), expected, "{root} {path}");
        }
        tree.put("proc/self/mountinfo", "1 2\n3 4 5 / - cgroup2\n6 7 8 / /sys/\\9 rw - cgroup2 x rw\n - \n");
        tree.put("proc/self/cgroup", "0\n0:\n:::\n0::\n");
        assert_eq!(tree.left(), None);
    }
}
