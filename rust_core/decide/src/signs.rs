//! What requests show of one replica as they pass, until the next round takes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weighbridge_learn::health::{Report, Source, What};
use weighbridge_learn::{Flight, Owed, SpeedMeter};

/// A status from which on a response is the replica's failure.
const FAILURE: u16 = 500;

/// Reports kept between two rounds; what comes beyond says nothing new.
const MOST_REPORTS: usize = 8_192;

/// What is gathered of one replica. Any thread may add to it.
#[derive(Debug)]
pub(crate) struct Signs {
    /// `ip:port`; a number may go to another endpoint later.
    pub(crate) endpoint: String,
    gathered: Mutex<Gathered>,
}

#[derive(Debug)]
struct Gathered {
    meter: SpeedMeter,
    reports: Vec<Report>,
    /// Counts the times that what was placed before came to say nothing.
    epoch: u32,
}

impl Gathered {
    fn report(&mut self, report: Option<Report>) {
        if self.reports.len() < MOST_REPORTS {
            self.reports.extend(report);
        }
    }
}

impl Signs {
    /// Nothing yet, of a replica of `mu_per_ms` that `reference_batch` requests fill.
    pub(crate) fn new(endpoint: &str, mu_per_ms: f64, reference_batch: f64) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            gathered: Mutex::new(Gathered {
                meter: SpeedMeter::new(mu_per_ms, reference_batch),
                reports: Vec::new(),
                epoch: 0,
            }),
        }
    }

    /// A response to a request that was placed elsewhere began here.
    pub(crate) fn answered(&self, source: Source, status: u16) {
        let what = answer(status);
        self.gathered().report(Some(Report { source, what }));
    }

    /// What was reported since this was asked last, and the requests that are overdue now.
    pub(crate) fn take(&self, now_us: u64) -> (Vec<Report>, Vec<Report>) {
        let mut gathered = self.gathered();
        let overdue = gathered.meter.overdue(now_us);
        (std::mem::take(&mut gathered.reports), overdue)
    }

    /// Requests whose speed is being measured.
    pub(crate) fn flying(&self) -> usize {
        self.gathered().meter.flying()
    }

    /// What was placed before says nothing of it any more.
    pub(crate) fn begin_anew(&self) {
        let mut gathered = self.gathered();
        gathered.epoch = gathered.epoch.wrapping_add(1);
        gathered.reports.clear();
        gathered.meter.reset();
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a status says; 0 is no response at all.
fn answer(status: u16) -> What {
    if status == 0 || status >= FAILURE {
        What::Failed
    } else {
        What::Answered
    }
}

/// A request's part in the judging of its replica; dropped, it says nothing.
#[derive(Debug)]
pub(crate) struct Measured {
    signs: Arc<Signs>,
    source: Source,
    epoch: u32,
    flight: Option<Flight>,
    /// The latest time it was told, µs.
    at_us: u64,
}

impl Measured {
    /// It is placed, and is owed this.
    pub(crate) fn begin(signs: Arc<Signs>, source: Source, owed: Owed, now_us: u64) -> Self {
        let mut gathered = signs.gathered();
        let flight = Some(gathered.meter.placed(source, owed, now_us));
        let epoch = gathered.epoch;
        drop(gathered);
        Self {
            signs,
            source,
            epoch,
            flight,
            at_us: now_us,
        }
    }

    /// A response began.
    pub(crate) fn answered(&self, status: u16) {
        self.tell(answer(status));
    }

    /// It failed here, or waited for too long.
    pub(crate) fn failed(&self) {
        self.tell(What::Failed);
    }

    fn tell(&self, what: What) {
        let source = self.source;
        let mut gathered = self.signs.gathered();
        if gathered.epoch == self.epoch {
            gathered.report(Some(Report { source, what }));
        }
    }

    /// The first output of a streamed answer is there.
    pub(crate) fn first_output(&mut self, now_us: u64) {
        self.at_us = now_us;
        if let Some(flight) = self.flight {
            let mut gathered = self.signs.gathered();
            let report = gathered.meter.first_output(flight, now_us);
            gathered.report(report);
        }
    }

    /// By the forecast its first output is there: it decodes from now on, which says nothing of its
    /// replica's speed.
    pub(crate) fn decodes(&mut self, now_us: u64) {
        self.at_us = now_us;
        if let Some(flight) = self.flight {
            self.signs.gathered().meter.first_output(flight, now_us);
        }
    }

    /// It runs no longer, though its reply may not be read to its end.
    pub(crate) fn stopped(&mut self, now_us: u64) {
        self.at_us = now_us;
        if let Some(flight) = self.flight {
            self.signs.gathered().meter.stopped(flight, now_us);
        }
    }

    /// MU that it would have decoded by now on its replica's profile.
    pub(crate) fn decoded_mu(&self, now_us: u64) -> f64 {
        self.flight.map_or(0.0, |flight| {
            self.signs.gathered().meter.decoded_mu(flight, now_us)
        })
    }

    /// Whether its replica should have been through with it.
    pub(crate) fn is_overdue(&self, now_us: u64) -> bool {
        self.flight
            .is_some_and(|flight| self.signs.gathered().meter.is_overdue(flight, now_us))
    }

    /// It has ended; its whole answer took `decode_mu`, `None` where it was broken off.
    pub(crate) fn end(mut self, decode_mu: Option<f64>, now_us: u64) {
        if let Some(flight) = self.flight.take() {
            let mut gathered = self.signs.gathered();
            let report = gathered.meter.end(flight, decode_mu, now_us);
            gathered.report(report);
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.signs.gathered().meter.void(flight, self.at_us);
        }
    }
}
