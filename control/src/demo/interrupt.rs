//! Ctrl-C in the demo: the story ends where it is, and everything is taken down.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use dataplane::clock::Clock;
use nix::sys::signal::{SigSet, Signal};

use crate::netns;

/// Whether somebody wants the demo to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Holds SIGINT, SIGTERM and SIGHUP back from this thread and all it starts: from here on nothing dies half-way.
    ///
    /// # Errors
    /// The system refuses.
    pub fn hold_back() -> anyhow::Result<()> {
        signals().thread_block().context("cannot block signals")
    }

    /// Takes the signals held back, also those that came meanwhile. One more, a second after the first, ends the
    /// process at once; then namespaces and `dir` are removed here.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn catch(dir: &Path) -> anyhow::Result<Self> {
        let interrupt = Self::default();
        let (seen, dir) = (interrupt.clone(), dir.to_owned());
        let watch = move || {
            let mut first = None;
            while signals().wait().is_ok() {
                seen.0.store(true, Ordering::SeqCst);
                let first = *first.get_or_insert(Clock.now());
                if Clock.now().since(first) > ECHO_NANOS {
                    netns::remove_all_made();
                    let _ = std::fs::remove_dir_all(&dir);
                    std::process::exit(1);
                }
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(watch).context("cannot start a thread")?;
        Ok(interrupt)
    }

    /// Somebody does.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error once somebody does.
    ///
    /// # Errors
    /// Interrupted.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.is_set() {
            bail!("interrupted; everything was taken down");
        }
        Ok(())
    }
}

fn signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// A signal to us and to our process group comes twice, as from timeout(1): that is one wish to end.
const ECHO_NANOS: u64 = 1_000_000_000;
/// How often a waiting thread looks.
pub const LOOK: Duration = Duration::from_millis(20);
