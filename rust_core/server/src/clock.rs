//! A thread that lets time pass for those who wait for admission.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;
use weighbridge_decide::Core;

/// Longest sleep while nothing is known to be due: what comes meanwhile is late by this at most.
const TICK: Duration = Duration::from_millis(5);

/// Shortest sleep: nothing is so urgent that it is worth more of a processor.
const SHORTEST: Duration = Duration::from_micros(200);

/// Calls [`Core::advance`] when it is due, for as long as the core lives.
///
/// # Errors
/// When no thread can be started.
pub fn keep_time(core: &Arc<Core>) -> io::Result<()> {
    let core: Weak<Core> = Arc::downgrade(core);
    thread::Builder::new()
        .name("weighbridge-clock".to_owned())
        .spawn(move || {
            while let Some(core) = core.upgrade() {
                let now_us = core.now_us();
                core.advance(now_us);
                let next = core.next_event_us();
                drop(core);
                let due = next.map(|next| Duration::from_micros(next.saturating_sub(now_us)));
                thread::sleep(due.map_or(TICK, |due| due.clamp(SHORTEST, TICK)));
            }
        })?;
    Ok(())
}
