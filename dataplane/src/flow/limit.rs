//! How much memory the cgroup of this process lets it have. A region beyond that is refused at start: the kernel would
//! kill the process while it is allocated, without a word to whoever reads our log.

use std::path::{Path, PathBuf};
use std::{fs, iter};

/// A limit that is nearest, and what is taken of it already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// The file that says so.
    pub(super) path: PathBuf,
    /// Bytes allowed.
    pub(super) bytes: u64,
    /// Bytes in use that the kernel cannot take back: page cache it can.
    pub(super) used: u64,
}

impl Limit {
    pub(super) const fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.used)
    }
}

/// The limit that leaves least, if there is any.
pub(super) fn nearest() -> Option<Limit> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    nearest_in(Path::new("/sys/fs/cgroup"), &groups)
}

/// Of the groups that `/proc/self/cgroup` names, and of those above them. With a cgroup namespace or without, what is
/// visible below `root` counts.
fn nearest_in(root: &Path, groups: &str) -> Option<Limit> {
    let limits = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let v1 = controllers.split(',').any(|controller| controller == "memory");
        let (top, names) = match (controllers, v1) {
            ("", _) => (root.to_owned(), V2),
            (_, true) => (root.join("memory"), V1),
            (_, false) => return Vec::new(),
        };
        let here = top.join(path.trim_start_matches('/'));
        let groups = iter::successors(Some(&*here), |group| group.parent());
        let groups = groups.take_while(|group| group.starts_with(&top));
        groups.filter_map(|group| limit(group, &names)).collect()
    });
    limits.min_by_key(Limit::left)
}

/// What the files of a version are called.
struct Names {
    limit: &'static str,
    /// Fields of `memory.stat`.
    used: [&'static str; 2],
}

const V2: Names = Names { limit: "memory.max", used: ["anon", "shmem"] };
const V1: Names = Names { limit: "memory.limit_in_bytes", used: ["total_rss", "total_shmem"] };
/// What v1 says for none: the largest number of whole pages.
const NONE: u64 = i64::MAX.cast_unsigned() - 0xffff;

fn limit(group: &Path, names: &Names) -> Option<Limit> {
    let path = group.join(names.limit);
    // `max` is no number.
    let bytes = fs::read_to_string(&path).ok()?.trim().parse().ok().filter(|bytes| *bytes < NONE)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let used = stat.lines().filter_map(|line| line.split_once(' '));
    let used = used.filter(|(name, _)| names.used.contains(name));
    let used = used.filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok()).sum();
    Some(Limit { path, bytes, used })
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn of_all_groups_above_the_one_with_the_least_left_counts() {
        let root = tempfile::tempdir().unwrap();
        let (pod, slice) = (root.path().join("slice/pod"), root.path().join("slice"));
        write(&pod.join("memory.max"), "max\n");
        assert_eq!(nearest_in(root.path(), "0::/slice/pod\n"), None);
        write(&slice.join("memory.max"), "1000\n");
        write(&slice.join("memory.stat"), "anon 100\nfile 700\nshmem 50\n");
        let limit = nearest_in(root.path(), "0::/slice/pod\n").unwrap();
        assert_eq!((limit.path.clone(), limit.bytes, limit.used), (slice.join("memory.max"), 1_000, 150));
        write(&pod.join("memory.max"), "900\n");
        let limit = nearest_in(root.path(), "0::/slice/pod\n").unwrap();
        assert_eq!((limit.left(), limit.path), (850, slice.join("memory.max")));
        write(&pod.join("memory.max"), "800\n");
        assert_eq!(nearest_in(root.path(), "0::/slice/pod\n").unwrap().bytes, 800);
    }

    #[test]
    fn version_one_is_read_and_what_cannot_be_read_is_no_limit() {
        let root = tempfile::tempdir().unwrap();
        let groups = "5:cpu,cpuacct:/x\n4:memory:/x\n0::/y\n";
        write(&root.path().join("memory/x/memory.limit_in_bytes"), "9223372036854771712\n");
        assert_eq!(nearest_in(root.path(), groups), None);
        write(&root.path().join("memory/x/memory.limit_in_bytes"), "4096\n");
        write(&root.path().join("memory/x/memory.stat"), "total_rss 96\nrss 90\n");
        assert_eq!(nearest_in(root.path(), groups).unwrap().left(), 4_000);
        for odd in ["", "0::", "nonsense", "0::/../..\n"] {
            assert_eq!(nearest_in(root.path(), odd), None, "{odd:?}");
        }
    }
}
