//! Which files of a directory are manifests, and their bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::Path;

use super::documents::MAX_FILE_BYTES;

/// All manifests together may not be larger.
const MAX_TOTAL_BYTES: u64 = 256 * 1024 * 1024;

/// A file's bytes, or why they cannot be had.
pub(super) type Content = Result<Vec<u8>, String>;

/// Could a file of this name be a manifest? Editors' temporary files (`.web.yaml.swp`, `web.yaml~`, `#web.yaml#`,
/// `.#web.yaml`, `4913`) and other hidden files are not, and so are the `..data` entries of a mounted ConfigMap.
pub(super) fn is_manifest(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    !name.starts_with(['.', '#']) && matches!(extension.as_deref(), Some("yaml" | "yml" | "json"))
}

/// Calls `each` with every manifest of the directory, in the order of their names. A file that is gone meanwhile is
/// left out; one that cannot be read is there with the reason. Symbolic links are followed: ConfigMaps are mounted so.
pub(super) fn visit(directory: &Path, mut each: impl FnMut(String, Content)) -> io::Result<()> {
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_manifest(&name) {
            entries.insert(name, entry.path());
        }
    }
    let mut left = MAX_TOTAL_BYTES;
    for (name, path) in entries {
        match read(&path, left) {
            Ok(Some(bytes)) => {
                left = left.saturating_sub(bytes.len() as u64);
                each(name, Ok(bytes));
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => each(name, Err(error.to_string())),
        }
    }
    Ok(())
}

/// A number that changes when any manifest's name or content does.
pub(super) fn fingerprint(directory: &Path) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    visit(directory, |name, content| (name, hash(&content)).hash(&mut hasher))?;
    Ok(hasher.finish())
}

/// A number that changes when the content does.
pub(super) fn hash(content: &Content) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// The bytes of a regular file; none for a directory, a FIFO or a device, which could block for ever.
fn read(path: &Path, left: u64) -> io::Result<Option<Vec<u8>>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let limit = MAX_FILE_BYTES.min(left);
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let what = if limit < MAX_FILE_BYTES {
            format!("all manifests together are larger than {} MiB", MAX_TOTAL_BYTES >> 20)
        } else {
            format!("it is larger than {} MiB", MAX_FILE_BYTES >> 20)
        };
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editors_files_are_no_manifests() {
        for name in ["a.yaml", "a.yml", "a.json", "A.YAML", "a.b.yaml", "10-web.yaml"] {
            assert!(is_manifest(name), "{name}");
        }
        for name in [
            ".a.yaml",
            ".a.yaml.swp",
            ".a.yaml.swx",
            "a.yaml~",
            "#a.yaml#",
            ".#a.yaml",
            "4913",
            "a.yaml.tmp",
            "a.yaml.bak",
            "sedAbCdEf",
            "..data",
            "..2026_01_01_00_00_00.1",
            "a",
            "yaml",
            "",
            "a.yaml___jb_tmp___",
            ".yaml",
            ".a.yaml.kate-swp",
            "a.md",
        ] {
            assert!(!is_manifest(name), "{name}");
        }
    }

    #[test]
    fn only_regular_files_are_read_in_order_and_links_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("b.yaml"), "b").unwrap();
        fs::create_dir(at("..data")).unwrap();
        fs::write(at("..data/a.yaml"), "a").unwrap();
        std::os::unix::fs::symlink("..data/a.yaml", at("a.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("c.yaml")).unwrap();
        fs::create_dir(at("d.yaml")).unwrap();
        nix::unistd::mkfifo(&at("e.yaml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let big = File::create(at("f.yaml")).unwrap();
        big.set_len(MAX_FILE_BYTES + 1).unwrap();
        let mut seen = Vec::new();
        visit(directory.path(), |name, content| seen.push((name, content.map(|bytes| bytes.len())))).unwrap();
        assert_eq!(seen[..2], [("a.yaml".to_owned(), Ok(1)), ("b.yaml".to_owned(), Ok(1))]);
        assert_eq!(seen.len(), 3);
        assert!(seen[2].1.as_ref().is_err_and(|error| error.contains("16 MiB")), "{seen:?}");
        assert!(visit(&at("gone"), |_, _| {}).is_err());
    }

    #[test]
    fn the_fingerprint_follows_names_and_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let print = || fingerprint(directory.path()).unwrap();
        let empty = print();
        fs::write(directory.path().join("a.yaml"), "1").unwrap();
        let one = print();
        fs::write(directory.path().join(".a.yaml.swp"), "x").unwrap();
        assert_eq!(print(), one);
        fs::write(directory.path().join("a.yaml"), "2").unwrap();
        let other = print();
        fs::rename(directory.path().join("a.yaml"), directory.path().join("b.yaml")).unwrap();
        let renamed = print();
        assert_eq!(
            [empty, one, other, renamed].into_iter().collect::<std::collections::BTreeSet<_>>().len(),
            4
        );
    }
}
