//! kubectl as a person would run it, from the hub.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Output, process};
use crate::netns::Namespace;

/// A command that waits for something waits this long at most.
const LIMIT: Duration = Duration::from_secs(120);

/// kubectl with an identity.
#[derive(Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    /// kubectl with this kubeconfig; what it remembers of the API is kept in `folder`.
    #[must_use]
    pub fn new(program: &Path, kubeconfig: PathBuf, folder: &Path) -> Self {
        Self { program: program.to_owned(), kubeconfig, cache: folder.join("kubectl") }
    }

    /// Runs it inside a namespace with these words and this standard input; code 124 when it was stopped after two
    /// minutes.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, inside: &Namespace, words: &[&str], input: &str) -> io::Result<Output> {
        let mut command = inside.command(&self.program.to_string_lossy());
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(&self.cache);
        command.args(words);
        // A person's own settings are for a person's own clusters.
        command.env_remove("KUBECONFIG").env("HOME", &self.cache);
        process::run(&mut command, input, LIMIT)
    }
}
