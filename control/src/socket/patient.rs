//! A stream whose peer must take what is written: one that never reads would hold its place, and the answer, for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream that fails when nothing of a write is taken for a while.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    patience: Duration,
    over: Pin<Box<Sleep>>,
    waits: bool,
}

impl<S> Patient<S> {
    /// Waits so long for room, each time anew.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, over: Box::pin(sleep(patience)), waits: false }
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waits = false;
            return outcome;
        }
        if !self.waits {
            self.waits = true;
            self.over.as_mut().reset(Instant::now() + self.patience);
        }
        ready!(self.over.as_mut().poll(cx));
        self.waits = false;
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.judge(cx, outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[test]
    fn who_never_reads_is_given_up_and_who_reads_slowly_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut ours = Patient::new(ours, Duration::from_millis(500));
            let big = vec![7; 8 << 20];
            let error = ours.write_all(&big).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            let reading = async {
                let mut buffer = vec![0; 64 << 10];
                while theirs.read(&mut buffer).await.unwrap() > 0 {}
            };
            let writing = async {
                ours.write_all(&big).await.unwrap();
                ours.shutdown().await.unwrap();
            };
            tokio::join!(reading, writing);
        });
    }
}
