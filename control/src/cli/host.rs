//! `tunway cleanup`: takes everything off this host.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;

use crate::cli::Failure;
use crate::config::Config;
use crate::node;
use crate::run::{self, host_config, place};
use crate::shown::shown;

/// Takes everything of tunway off the host and prints what went.
///
/// # Errors
/// Something could not be removed: above all, a running instance keeps what it uses.
pub fn cleanup(config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    let mut removed =
        run::runtime()?.block_on(node::cleanup(&host_config(config))).context("cannot clean up")?;
    removed.extend(remove_files(&place::files(config))?);
    let text = match removed.as_slice() {
        [] => "nothing of tunway was here\n".to_owned(),
        removed => removed.iter().map(|what| format!("removed {}\n", shown(what))).collect(),
    };
    super::print(out, text.as_bytes())
}

/// Removes the files that are there, and says which.
fn remove_files(files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    for file in files {
        match std::fs::remove_file(file) {
            Ok(()) => removed.push(file.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove {}", file.display()));
            }
        }
        // The directory goes with the last file in it, if it is one of ours.
        if let Some(dir) = file.parent().filter(|dir| dir.ends_with("tunway")) {
            let _ = std::fs::remove_dir(dir);
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_there_are_removed_and_named() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("tunway");
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join("t0.flows");
        std::fs::write(&file, "x").unwrap();
        let missing = root.path().join("nothing");
        let removed = remove_files(&[file.clone(), missing.clone()]).unwrap();
        assert_eq!(removed, [file.display().to_string()]);
        assert!(!dir.exists() && root.path().exists());
        assert!(remove_files(&[root.path().to_owned()]).is_err(), "a directory is no file of ours");
    }
}
