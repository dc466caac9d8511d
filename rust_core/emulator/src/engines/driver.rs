//! The thread that runs all engines, waking when the next iteration ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::mpsc::RecvTimeoutError;

use crate::engines::lane::Lane;
use crate::replica::commands::{Clock, Command, Inbox, Message};

/// Iteration ends, the next first: (time as ordered bits, lane).
type Ends = BinaryHeap<Reverse<(u64, usize)>>;

/// Runs until told to stop or until nobody can send any more.
pub(crate) fn run(inbox: &Inbox, lanes: &mut [Lane], clock: Clock) {
    let mut ends = Ends::new();
    loop {
        let Some(message) = next(inbox, &ends, clock) else {
            return;
        };
        let mut message = message;
        while let Some(Message::Command {
            lane,
            at_ms,
            command,
        }) = message
        {
            // What ended before it was sent must not see it.
            complete(lanes, &mut ends, at_ms);
            obey(lanes, &mut ends, lane, at_ms, command);
            message = match inbox.0.try_recv() {
                Ok(Message::Stop) => return,
                Ok(another) => Some(another),
                Err(_) => None,
            };
        }
        complete(lanes, &mut ends, clock.now_ms());
    }
}

/// The next message, or `Some(None)` when an iteration ends first; `None` to stop.
fn next(inbox: &Inbox, ends: &Ends, clock: Clock) -> Option<Option<Message>> {
    let message = match ends.peek() {
        None => inbox.0.recv().ok()?,
        Some(Reverse((bits, _))) => {
            let wait = clock.until(clock.now_ms(), f64::from_bits(*bits));
            match inbox.0.recv_timeout(wait) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => return Some(None),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    };
    match message {
        Message::Stop => None,
        command @ Message::Command { .. } => Some(Some(command)),
    }
}

fn obey(lanes: &mut [Lane], ends: &mut Ends, at: usize, at_ms: f64, command: Command) {
    let Some(lane) = lanes.get_mut(at) else {
        return;
    };
    let before = lane.due();
    match command {
        Command::Submit(job) => lane.submit(*job, at_ms),
        Command::Cancel(id) => lane.cancel(id),
        Command::Hold(held) => lane.hold(held, at_ms),
        Command::Slow(factor) => lane.slow(factor),
        Command::Truncate { retain, blocks } => lane.truncate(&retain, &blocks),
        Command::Reset(done) => {
            lane.reset();
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }
    if lane.due() != before {
        note(ends, at, lane);
    }
}

/// Completes all iterations that ended by `now_ms`, in order of their ends.
fn complete(lanes: &mut [Lane], ends: &mut Ends, now_ms: f64) {
    while let Some(Reverse((bits, at))) = ends.peek().copied() {
        let due = f64::from_bits(bits);
        if due > now_ms {
            return;
        }
        ends.pop();
        let Some(lane) = lanes.get_mut(at) else {
            continue;
        };
        // A hold or a reset leaves an end behind that is no longer true.
        if lane.due() == Some(due) {
            lane.complete(due);
            note(ends, at, lane);
        }
    }
}

/// Times are not negative, so their bits are in their order.
fn note(ends: &mut Ends, at: usize, lane: &Lane) {
    if let Some(due) = lane.due() {
        ends.push(Reverse((due.to_bits(), at)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;
    use weighbridge_engine::{EngineProfile, RequestSpec};

    use super::run;
    use crate::engines::lane::Lane;
    use crate::replica::commands::{Clock, Command, Driver, Job, Message};
    use crate::replica::fault::Health;
    use crate::replica::progress::Progress;
    use crate::replica::state::{Keep, Parts, Replica};

    fn replica(driver: Driver) -> Arc<Replica> {
        let (orders, _) = mpsc::unbounded_channel();
        Arc::new(Replica::new(Parts {
            index: 0,
            address: ([127, 0, 0, 1], 1).into(),
            model: "m".to_owned(),
            profile: EngineProfile::default(),
            health: Health::new(0, true),
            driver,
            orders,
            keep: Keep {
                iterations: 0,
                requests: 10,
                events: 0,
            },
        }))
    }

    fn job(id: u64, progress: &Arc<Progress>) -> Command {
        Command::Submit(Box::new(Job {
            spec: RequestSpec {
                id,
                block_hashes: Arc::from([]),
                prompt_tokens: 10,
                output_tokens: 3,
                max_tokens: 3,
                image_tiles: 0,
            },
            tokens: None,
            stops: false,
            progress: Arc::clone(progress),
        }))
    }

    /// Messages pile up while the thread is late; what they hand in must still come after the
    /// iterations that ended before they were sent.
    #[test]
    fn nothing_is_scheduled_before_it_was_handed_in() {
        let clock = Clock::new(1000.0);
        let (driver, inbox) = Driver::new(clock);
        let replica = replica(driver.clone());
        let last = Arc::new(Progress::default());
        for (id, at_ms) in [(1, 0.0), (2, 7.0), (3, 100.0)] {
            let message = Message::Command {
                lane: 0,
                at_ms,
                command: job(id, &last),
            };
            driver.sender.send(message).unwrap();
        }
        let mut lanes = [Lane::new(Arc::clone(&replica), 0, false).unwrap()];
        let thread = std::thread::spawn(move || run(&inbox, &mut lanes, clock));
        while replica.books().counters.completed < 3 {
            std::thread::yield_now();
        }
        driver.stop();
        thread.join().unwrap();
        for record in replica.books().requests.drain() {
            assert!(record.arrival <= record.first_scheduled, "{record:?}");
        }
    }
}
