//! How fast a replica serves against its profile, request by request, however busy it is.

use std::collections::HashMap;

use crate::health::{Report, Source, What};

/// Added to what each answer is owed and to what it took, ms: network, parsing, a busy host. What is
/// late by less says nothing.
const SLACK_MS: f64 = 150.0;

/// What a request is owed by an engine on its profile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Owed {
    /// Until its prompt is computed, ms at most.
    pub first_ms: f64,
    /// Most MU that its answer may take: as long as the client allows.
    pub most_decode_mu: f64,
    /// Its answer comes in pieces; else its first byte comes with its last.
    pub is_streamed: bool,
}

/// One request on its way. To be ended with [`SpeedMeter::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what is not ended counts as overdue for ever"]
pub struct Flight(u64);

#[derive(Clone, Copy, Debug)]
struct Flying {
    source: Source,
    owed: Owed,
    placed_us: u64,
    /// When its answer may have begun, and what a decoding request had been owed by then.
    decoding: Option<(u64, f64)>,
    /// When its replica was done with it or it with its replica, and what a decoding request had been
    /// owed by then.
    stopped: Option<(u64, f64)>,
}

/// Compares what requests got with what they were owed.
///
/// An engine decodes a batch: each of `n` requests is owed `capacity ÷ max(n, reference batch)`, as
/// in processor sharing. The meter integrates that share, and so knows how long an answer should
/// have taken. The first output is compared with the wait and the prefill that were predicted when
/// the request was placed. An answer that is not streamed is compared as a whole. Requests on their
/// way count where they take longer than the longest answer that they allow, so that a replica that
/// hangs is seen before any ends.
#[derive(Clone, Debug, Default)]
pub struct SpeedMeter {
    mu_per_ms: f64,
    reference_batch: f64,
    at_us: u64,
    /// MU that each decoding request was owed since the start.
    share: f64,
    /// Requests that decode.
    decoding: u32,
    flying: HashMap<u64, Flying>,
    next: u64,
}

impl SpeedMeter {
    /// A meter for a replica of `mu_per_ms` that a batch of `reference_batch` requests fills.
    #[must_use]
    pub fn new(mu_per_ms: f64, reference_batch: f64) -> Self {
        Self {
            mu_per_ms: mu_per_ms.max(1e-6),
            reference_batch: reference_batch.max(1.0),
            ..Self::default()
        }
    }

    /// A request was placed here.
    pub fn placed(&mut self, source: Source, owed: Owed, now_us: u64) -> Flight {
        self.advance(now_us);
        let mut flying = Flying {
            source,
            owed: Owed {
                first_ms: owed.first_ms.clamp(0.0, 1e9),
                most_decode_mu: owed.most_decode_mu.clamp(0.0, 1e12),
                ..owed
            },
            placed_us: self.at_us,
            decoding: None,
            stopped: None,
        };
        if !owed.is_streamed {
            // When its first token comes is not to be seen.
            flying.decoding = Some((self.at_us, self.share));
            self.decoding += 1;
        }
        self.next += 1;
        self.flying.insert(self.next, flying);
        Flight(self.next)
    }

    /// The first output of a streamed answer is there: how long it took.
    pub fn first_output(&mut self, flight: Flight, now_us: u64) -> Option<Report> {
        self.advance(now_us);
        let flying = self.flying.get_mut(&flight.0)?;
        if flying.decoding.is_some() {
            return None;
        }
        let now = flying.stopped.unwrap_or((self.at_us, self.share));
        flying.decoding = Some(now);
        self.decoding += u32::from(flying.stopped.is_none());
        Some(took(
            flying.source,
            flying.owed.first_ms,
            ms_between(flying.placed_us, now.0),
        ))
    }

    /// It runs no longer: what time passes until it is ended is not its replica's.
    pub fn stopped(&mut self, flight: Flight, now_us: u64) {
        self.advance(now_us);
        let Some(flying) = self.flying.get_mut(&flight.0) else {
            return;
        };
        if flying.stopped.is_none() {
            flying.stopped = Some((self.at_us, self.share));
            let decoded = u32::from(flying.decoding.is_some());
            self.decoding = self.decoding.saturating_sub(decoded);
        }
    }

    /// It has ended; `decode_mu` is what its whole answer took, `None` where it was broken off: then
    /// it says something only if it was overdue.
    pub fn end(&mut self, flight: Flight, decode_mu: Option<f64>, now_us: u64) -> Option<Report> {
        self.advance(now_us);
        let flying = self.take(flight)?;
        match (flying.decoding, decode_mu) {
            (Some(from), Some(got)) => {
                let until = self.until(&flying);
                let took_ms = ms_between(from.0, until.0);
                let owed_ms = self.decode_ms(got.max(0.0), from, until);
                let first_ms = if flying.owed.is_streamed {
                    0.0
                } else {
                    flying.owed.first_ms
                };
                Some(took(flying.source, first_ms + owed_ms, took_ms))
            }
            _ => self.overdue_one(&flying),
        }
    }

    /// It has ended and says nothing of the replica.
    pub fn void(&mut self, flight: Flight, now_us: u64) {
        self.advance(now_us);
        self.take(flight);
    }

    /// The requests that should have been through.
    pub fn overdue(&mut self, now_us: u64) -> Vec<Report> {
        self.advance(now_us);
        let flying = self.flying.values();
        flying.filter_map(|one| self.overdue_one(one)).collect()
    }

    /// Whether it should have been through.
    #[must_use]
    pub fn is_overdue(&mut self, flight: Flight, now_us: u64) -> bool {
        self.advance(now_us);
        let flying = self.flying.get(&flight.0);
        flying.is_some_and(|flying| self.overdue_one(flying).is_some())
    }

    /// Forgets what is on its way: it will say nothing.
    pub fn reset(&mut self) {
        self.flying.clear();
        self.decoding = 0;
    }

    /// MU that a request placed at this flight's time would have decoded by now, were the replica on
    /// its profile.
    #[must_use]
    pub fn decoded_mu(&mut self, flight: Flight, now_us: u64) -> f64 {
        self.advance(now_us);
        let Some(flying) = self.flying.get(&flight.0) else {
            return 0.0;
        };
        let (Some((from_us, before)), (until_us, share)) = (flying.decoding, self.until(flying))
        else {
            return 0.0;
        };
        let run_ms = ms_between(from_us, until_us);
        let before_ms = if flying.owed.is_streamed {
            0.0
        } else {
            flying.owed.first_ms
        };
        let part = 1.0 - (before_ms / run_ms.max(1e-9)).min(1.0);
        ((share - before).max(0.0) * part).min(flying.owed.most_decode_mu)
    }

    /// Requests that were placed and have not ended.
    #[must_use]
    pub fn flying(&self) -> usize {
        self.flying.len()
    }

    fn take(&mut self, flight: Flight) -> Option<Flying> {
        let flying = self.flying.remove(&flight.0)?;
        if flying.decoding.is_some() && flying.stopped.is_none() {
            self.decoding = self.decoding.saturating_sub(1);
        }
        Some(flying)
    }

    /// Up to when it ran, and what a decoding request had been owed by then.
    fn until(&self, flying: &Flying) -> (u64, f64) {
        flying.stopped.unwrap_or((self.at_us, self.share))
    }

    fn overdue_one(&self, flying: &Flying) -> Option<Report> {
        let until = self.until(flying);
        let waited_ms = ms_between(flying.placed_us, until.0);
        let owed_ms = match flying.decoding {
            None => flying.owed.first_ms,
            Some(from) => {
                let longest_ms = self.decode_ms(flying.owed.most_decode_mu, from, until);
                flying.owed.first_ms + longest_ms
            }
        };
        (waited_ms > owed_ms + SLACK_MS).then(|| took(flying.source, owed_ms, waited_ms))
    }

    /// How long an answer of `mu` should have taken, at the mean of what decoding requests were owed
    /// between two times.
    fn decode_ms(&self, mu: f64, from: (u64, f64), until: (u64, f64)) -> f64 {
        let run_ms = ms_between(from.0, until.0);
        let owed_mu = (until.1 - from.1).max(0.0);
        let alone_mu_per_ms = self.mu_per_ms / self.reference_batch;
        let mu_per_ms = if run_ms > 0.0 && owed_mu > 0.0 {
            owed_mu / run_ms
        } else {
            alone_mu_per_ms
        };
        mu / mu_per_ms
    }

    fn advance(&mut self, now_us: u64) {
        let passed = now_us.saturating_sub(self.at_us);
        self.at_us += passed;
        #[allow(clippy::cast_precision_loss)]
        let passed_ms = passed as f64 / 1000.0;
        let batch = f64::from(self.decoding).max(self.reference_batch);
        self.share += passed_ms * self.mu_per_ms / batch;
    }
}

fn took(source: Source, owed_ms: f64, took_ms: f64) -> Report {
    Report {
        source,
        what: What::Took {
            owed_ms: owed_ms + SLACK_MS,
            took_ms: took_ms + SLACK_MS,
        },
    }
}

#[allow(clippy::cast_precision_loss)]
fn ms_between(from_us: u64, to_us: u64) -> f64 {
    to_us.saturating_sub(from_us) as f64 / 1000.0
}
