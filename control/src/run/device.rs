//! The device at a start. Its last owner may still be ending: a rollout starts the successor when the predecessor was
//! told to stop, and one that was killed frees its lock a moment later.

use std::time::Duration;

use dataplane::io::{Device, DeviceConfig, DeviceError};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep};

use crate::signal::Stop;

/// A pod's grace period: whoever still has the device by then runs on.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens the device as soon as its lock is free; none when a stop is asked for before that.
///
/// # Errors
/// The device cannot be had, or somebody else keeps it.
pub async fn open(config: &DeviceConfig, stops: &mut Receiver<Stop>) -> Result<Option<Device>, DeviceError> {
    when_free(|| Device::open(config), PATIENCE, stops).await
}

async fn when_free<T>(
    open: impl Fn() -> Result<T, DeviceError>,
    patience: Duration,
    stops: &mut Receiver<Stop>,
) -> Result<Option<T>, DeviceError> {
    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        match open() {
            Ok(opened) => return Ok(Some(opened)),
            Err(error @ DeviceError::InUse { .. }) if Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    let seconds = patience.as_secs();
                    tracing::info!(%error, "waiting up to {seconds} s for it to end");
                }
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            stop = stops.recv() => {
                tracing::info!(why = stop.map_or("nobody left to ask", |stop| stop.why), "stopping");
                return Ok(None);
            }
            () = sleep(PAUSE) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::PathBuf;

    use tokio::sync::mpsc::{Sender, channel};

    use super::*;

    fn in_use() -> DeviceError {
        DeviceError::InUse { device: "t0".into(), path: PathBuf::from("/run/t0.lock"), holder: None }
    }

    /// What comes of opening a device that `attempts` find in use, and how often it was tried.
    fn opened(
        attempts: u32,
        patience: Duration,
        story: impl FnOnce(&Sender<Stop>),
    ) -> (Result<Option<()>, DeviceError>, u32) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (stop, mut stops) = channel(1);
        story(&stop);
        let tried = Cell::new(0);
        let open = || {
            tried.set(tried.get() + 1);
            if tried.get() <= attempts { Err(in_use()) } else { Ok(()) }
        };
        (runtime.block_on(when_free(open, patience, &mut stops)), tried.get())
    }

    #[test]
    fn a_successor_waits_for_its_predecessor_and_not_for_ever() {
        let long = Duration::from_secs(600);
        assert!(matches!(opened(0, long, |_| ()), (Ok(Some(())), 1)));
        assert!(matches!(opened(3, long, |_| ()), (Ok(Some(())), 4)));
        let (outcome, tried) = opened(u32::MAX, PAUSE, |_| ());
        assert!(matches!(outcome, Err(DeviceError::InUse { .. })) && tried >= 2, "{outcome:?}");
    }

    #[test]
    fn a_stop_ends_the_wait_and_another_error_is_not_waited_for() {
        let stop = |stops: &Sender<Stop>| stops.try_send(Stop { why: "SIGTERM" }).unwrap();
        assert!(matches!(opened(u32::MAX, Duration::from_secs(600), stop), (Ok(None), _)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_stop, mut stops) = channel(1);
        let open = || Err::<(), _>(DeviceError::BadName { name: String::new(), why: "is empty" });
        let outcome = runtime.block_on(when_free(open, Duration::from_secs(600), &mut stops));
        assert!(matches!(outcome, Err(DeviceError::BadName { .. })), "{outcome:?}");
    }
}
