//! The binary under test, never a stale one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The `tunway` binary `TUNWAY_BIN` names.
///
/// # Panics
/// When the variable is not set, there is no such file, or a source it was built from is newer.
#[must_use]
pub fn tunway() -> PathBuf {
    let Some(named) = std::env::var_os("TUNWAY_BIN") else {
        panic!("TUNWAY_BIN is not set: run this through tests/run, which builds the binary and names it");
    };
    let binary = PathBuf::from(named);
    fresh(&binary).unwrap_or_else(|why| panic!("TUNWAY_BIN={}: {why}", binary.display()));
    binary
}

/// Compares the binary with the sources cargo says it was built from: `tunway.d` beside it.
fn fresh(binary: &Path) -> Result<(), String> {
    let built = modified(binary)?;
    let list = binary.with_added_extension("d");
    let text = fs::read_to_string(&list)
        .map_err(|error| format!("{}: {error}; build it with `cargo build`", list.display()))?;
    let (_, sources) = text.split_once(": ").ok_or_else(|| format!("{} lists nothing", list.display()))?;
    for source in split(sources) {
        // A source that is gone counts as changed.
        if modified(&source)? > built {
            return Err(format!("older than {}: build it again, or use tests/run", source.display()));
        }
    }
    Ok(())
}

/// The paths of a line of a dependency file; a blank inside a path has a backslash before it.
fn split(line: &str) -> Vec<PathBuf> {
    let marked = line.trim().replace("\\ ", "\0");
    marked.split_whitespace().map(|path| PathBuf::from(path.replace('\0', " "))).collect()
}

fn modified(path: &Path) -> Result<SystemTime, String> {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    modified.map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_binary_older_than_a_source_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let source = write("with blank.rs", "");
        let binary = write("tunway", "");
        assert!(fresh(&binary).unwrap_err().contains("tunway.d"), "cargo did not build it");
        let escaped = source.to_str().unwrap().replace(' ', "\\ ");
        write("tunway.d", &format!("{}: {escaped}\n", binary.display()));
        fresh(&binary).unwrap();
        let touch = |path: &Path, by: u64| {
            let later = SystemTime::now() + Duration::from_secs(by);
            fs::File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
        };
        touch(&source, 60);
        assert!(fresh(&binary).unwrap_err().contains("with blank.rs"));
        touch(&binary, 120);
        fresh(&binary).unwrap();
        fs::remove_file(&source).unwrap();
        assert!(fresh(&binary).is_err(), "a source is gone");
    }
}
