//! What engines and ports are told, and the way there.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weighbridge_engine::RequestSpec;

use crate::replica::progress::Progress;

/// A generation on its way to the engine.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) spec: RequestSpec,
    /// Prompt and output together, where cache events are kept.
    pub(crate) tokens: Option<Arc<[u32]>>,
    pub(crate) stops: bool,
    pub(crate) progress: Arc<Progress>,
}

/// What a lane is told.
#[derive(Debug)]
pub(crate) enum Command {
    Submit(Box<Job>),
    Cancel(u64),
    Hold(bool),
    Slow(f64),
    /// Gives up the cached `blocks` beyond those that begin `retain` too.
    Truncate {
        retain: Arc<[u64]>,
        blocks: Arc<[u64]>,
    },
    /// Starts anew; answered when done.
    Reset(oneshot::Sender<()>),
}

/// The emulator's clock: milliseconds since it started, times its speed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    epoch: Instant,
    speed: f64,
}

impl Clock {
    pub(crate) fn new(speed: f64) -> Self {
        Self {
            epoch: Instant::now(),
            speed,
        }
    }

    pub(crate) fn now_ms(&self) -> f64 {
        self.epoch.elapsed().as_secs_f64() * 1000.0 * self.speed
    }

    /// Real time from `now_ms` to `then_ms`.
    pub(crate) fn until(&self, now_ms: f64, then_ms: f64) -> Duration {
        let seconds = (then_ms - now_ms).max(0.0) / 1000.0 / self.speed;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1))
    }
}

/// A message to the driver's thread.
pub(crate) enum Message {
    Command {
        lane: usize,
        at_ms: f64,
        command: Command,
    },
    Stop,
}

/// The way to the driver's thread, for whoever hands out work.
#[derive(Debug, Clone)]
pub(crate) struct Driver {
    pub(crate) sender: Sender<Message>,
    clock: Clock,
}

/// The thread's end of it.
pub(crate) struct Inbox(pub(crate) Receiver<Message>);

impl Driver {
    pub(crate) fn new(clock: Clock) -> (Self, Inbox) {
        let (sender, receiver) = channel();
        (Self { sender, clock }, Inbox(receiver))
    }

    /// Sends a command to a lane; answers whether the driver still runs.
    pub(crate) fn send(&self, lane: usize, command: Command) -> bool {
        let at_ms = self.clock.now_ms();
        let message = Message::Command {
            lane,
            at_ms,
            command,
        };
        self.sender.send(message).is_ok()
    }

    /// The engines' clock, s; it runs as fast as they do.
    pub(crate) fn now_s(&self) -> f64 {
        self.clock.now_ms() / 1000.0
    }

    pub(crate) fn stop(&self) {
        // Already gone: nothing to stop.
        let _ = self.sender.send(Message::Stop);
    }
}

/// What a listener is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Close the port and cut all connections; answered when done.
    Down(oneshot::Sender<()>),
    /// Open the port again; answered with how that went.
    Up(oneshot::Sender<std::io::Result<()>>),
}
