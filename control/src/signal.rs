//! SIGTERM and SIGINT ask for a stop: the first for an orderly one, a second for one at once. SIGUSR1 and SIGUSR2, which
//! would end a process that does not catch them, mean nothing and are told.

use std::io;
use std::time::Duration;

use futures::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// A signal to us and to our process group comes twice, as from timeout(1): that is one wish to stop.
const ECHO: Duration = Duration::from_millis(500);

/// A stop that was asked for, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Who asked, for the log.
    pub why: &'static str,
}

/// Catches both signals from now on and sends a [`Stop`] for each.
///
/// # Errors
/// The system gives no signal handler.
pub fn catch() -> io::Result<mpsc::Receiver<Stop>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut meaningless = [
        ("SIGUSR1", signal(SignalKind::user_defined1())?),
        ("SIGUSR2", signal(SignalKind::user_defined2())?),
    ];
    tokio::spawn(async move {
        loop {
            let [(first, one), (second, two)] = &mut meaningless;
            let name = tokio::select! {
                _ = one.recv() => first,
                _ = two.recv() => second,
            };
            tracing::warn!(
                "{name} means nothing to tunway: ignored (SIGHUP reads the configuration again, SIGTERM stops)"
            );
        }
    });
    let (stops, caught) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            let stop = next(&mut term, &mut int).await;
            if stops.send(stop).await.is_err() {
                return;
            }
            sleep(ECHO).await;
            // What came meanwhile was the same wish once more.
            let _ = next(&mut term, &mut int).now_or_never();
            let _ = next(&mut term, &mut int).now_or_never();
        }
    });
    Ok(caught)
}

async fn next(term: &mut Signal, int: &mut Signal) -> Stop {
    tokio::select! {
        _ = term.recv() => Stop { why: "SIGTERM" },
        _ = int.recv() => Stop { why: "SIGINT" },
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_signal_and_its_echo_are_one_stop_and_a_later_one_is_another() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut stops = catch().unwrap();
            // Neither ends the process nor stops a run.
            raise(Signal::SIGUSR1).unwrap();
            raise(Signal::SIGUSR2).unwrap();
            raise(Signal::SIGTERM).unwrap();
            let limit = Duration::from_secs(10);
            assert_eq!(timeout(limit, stops.recv()).await.unwrap(), Some(Stop { why: "SIGTERM" }));
            raise(Signal::SIGTERM).unwrap();
            raise(Signal::SIGINT).unwrap();
            let echo = timeout(ECHO * 3, stops.recv()).await;
            assert!(echo.is_err(), "{echo:?}");
            raise(Signal::SIGINT).unwrap();
            assert_eq!(timeout(limit, stops.recv()).await.unwrap(), Some(Stop { why: "SIGINT" }));
        });
    }
}
