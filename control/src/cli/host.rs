//! `tunway check` and `tunway cleanup`: what concerns this host and not the packets.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, anyhow};

use crate::cli::Failure;
use crate::config::{Config, rules};
use crate::node::{self, Finding};
use crate::run::{self, host_config, place};
use crate::shown::shown;

/// Looks at the host as `run` would and prints what it finds.
///
/// # Errors
/// Something stands in the way of a start.
pub fn check(config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    rules::needs_snat(config.return_path, &config.snat)?;
    let findings = run::runtime()?.block_on(node::preflight(&host_config(config)));
    super::print(out, render(&findings).as_bytes())?;
    let fatal = findings.iter().filter(|finding| finding.fatal).count();
    if fatal > 0 {
        return Err(anyhow!("{fatal} of these must be changed before tunway can run here").into());
    }
    Ok(())
}

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

/// One paragraph a finding.
fn render(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "this host is ready: nothing stands in the way\n".to_owned();
    }
    let paragraph = |finding: &Finding| {
        let weight = if finding.fatal { "MUST CHANGE" } else { "note" };
        let [what, why, remedy] = [&finding.what, &finding.why, &finding.remedy].map(|text| shown(text));
        format!("{weight}  {what}\n  {why}\n  remedy: {remedy}\n")
    };
    findings.iter().map(paragraph).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_paragraphs_with_their_remedy() {
        assert!(render(&[]).contains("ready"));
        let finding = Finding {
            fatal: true,
            what: "net.ipv4.ip_forward".into(),
            why: "it is 0: nothing is forwarded".into(),
            remedy: "sysctl -w net.ipv4.ip_forward=1".into(),
        };
        let note = Finding { fatal: false, what: "x".into(), ..finding.clone() };
        let expected = "\
MUST CHANGE  net.ipv4.ip_forward
  it is 0: nothing is forwarded
  remedy: sysctl -w net.ipv4.ip_forward=1
note  x
  it is 0: nothing is forwarded
  remedy: sysctl -w net.ipv4.ip_forward=1
";
        assert_eq!(render(&[finding, note]), expected);
    }

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
