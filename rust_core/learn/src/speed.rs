//! How fast a replica serves against its profile, request by request, however busy it is.

/// MU (and ms until the first byte) after which older ones count half.
const MEMORY: f64 = 20_000.0;
/// ms of the replica's capacity before anything is said of its decoding, and ms until first bytes
/// before anything is said of its prefill.
const ENOUGH_MS: f64 = 500.0;
/// A profile's expectation of one first byte is taken to be off by this much, ms: network, parsing.
const SLACK_MS: f64 = 20.0;
/// Nothing is said to be faster than this.
const FASTEST: f64 = 4.0;

/// One request on its way, as the meter knows it. To be ended with [`SpeedMeter::end`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "what is not ended counts as overdue for ever"]
pub struct Flight {
    placed_us: u64,
    expected_ms: f64,
    /// The share that had been served when its decoding began, and the MU it is to have.
    decoding: Option<(f64, f64)>,
}

/// Compares what requests got with what they were owed.
///
/// An engine decodes a batch: each of `n` requests is owed `capacity ÷ max(n, reference batch)`, as
/// in processor sharing. The meter integrates that share; a request that has ended was owed the
/// share's growth in its time. The first byte is compared with the wait and the prefill that were
/// predicted when it was placed. Requests that are still on their way count as overdue as soon as
/// together they should have been through, so that a replica that hangs is seen before any ends.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SpeedMeter {
    mu_per_ms: f64,
    reference_batch: f64,
    at_us: u64,
    decode: Sums,
    prefill: Sums,
    /// MU that each decoding request was owed since the start.
    share: f64,
}

/// Owed and got, of what has ended; sums over what is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    owed: f64,
    got: f64,
    flying: f64,
    flying_from: f64,
    flying_size: f64,
}

impl Sums {
    fn begin(&mut self, from: f64, size: f64) {
        self.flying += 1.0;
        self.flying_from += from;
        self.flying_size += size;
    }

    fn leave(&mut self, from: f64, size: f64) {
        self.flying -= 1.0;
        self.flying_from -= from;
        self.flying_size -= size;
        if self.flying < 0.5 {
            // Rounding must not outlive what caused it.
            (self.flying, self.flying_from, self.flying_size) = (0.0, 0.0, 0.0);
        }
    }

    fn ended(&mut self, owed: f64, got: f64) {
        self.owed += owed.max(0.0);
        self.got += got.max(0.0);
        if self.owed > MEMORY {
            self.owed /= 2.0;
            self.got /= 2.0;
        }
    }

    /// Got ÷ owed, what is on its way counting as on time until all of it should be through.
    fn ratio(&self, now: f64, enough: f64) -> Option<f64> {
        let owed_flying = (self.flying * now - self.flying_from).max(0.0);
        let owed = self.owed + owed_flying;
        let got = self.got + owed_flying.min(self.flying_size);
        (owed >= enough).then(|| (got / owed).min(FASTEST))
    }
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

    /// A request was placed here; its first byte is expected in so many ms.
    pub fn placed(&mut self, expected_ms: f64, now_us: u64) -> Flight {
        let expected_ms = expected_ms.clamp(0.0, 1e9) + SLACK_MS;
        self.prefill.begin(ms(now_us), expected_ms);
        Flight {
            placed_us: now_us,
            expected_ms,
            decoding: None,
        }
    }

    /// Its first byte is there, and it is to be served `decode_mu` from now on.
    pub fn first_byte(&mut self, flight: &mut Flight, decode_mu: f64, now_us: u64) {
        self.advance(now_us);
        if flight.decoding.is_some() {
            return;
        }
        let (from, now) = (ms(flight.placed_us), ms(now_us));
        self.prefill.leave(from, flight.expected_ms);
        self.prefill.ended(now - from, flight.expected_ms);
        let decode_mu = decode_mu.clamp(0.0, 1e9);
        flight.decoding = Some((self.share, decode_mu));
        self.decode.begin(self.share, decode_mu);
    }

    /// It has ended; `decode_mu` is what it took in the end, or `None` where it was broken off.
    pub fn end(&mut self, flight: Flight, decode_mu: Option<f64>, now_us: u64) {
        self.advance(now_us);
        match flight.decoding {
            None => self.prefill.leave(ms(flight.placed_us), flight.expected_ms),
            Some((from, size)) => {
                self.decode.leave(from, size);
                if let Some(got) = decode_mu {
                    self.decode.ended(self.share - from, got);
                }
            }
        }
    }

    /// Requests that were placed and have not ended.
    #[must_use]
    pub fn flying(&self) -> f64 {
        self.prefill.flying + self.decode.flying
    }

    /// Got ÷ owed: 1 as the profile says, 0.1 ten times slower; `None` until enough was owed.
    #[must_use]
    pub fn ratio(&mut self, now_us: u64) -> Option<f64> {
        self.advance(now_us);
        let decode = self.decode.ratio(self.share, ENOUGH_MS * self.mu_per_ms);
        let prefill = self.prefill.ratio(ms(self.at_us), ENOUGH_MS);
        match (decode, prefill) {
            (Some(decode), Some(prefill)) => Some(decode.min(prefill)),
            (decode, prefill) => decode.or(prefill),
        }
    }

    /// Forgets what has ended, as after a restart.
    pub fn reset(&mut self) {
        for sums in [&mut self.decode, &mut self.prefill] {
            sums.owed = 0.0;
            sums.got = 0.0;
        }
    }

    fn advance(&mut self, now_us: u64) {
        let passed = now_us.saturating_sub(self.at_us);
        self.at_us += passed;
        self.share += ms(passed) * self.mu_per_ms / self.decode.flying.max(self.reference_batch);
    }
}

#[allow(clippy::cast_precision_loss)]
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: f64 = 16.0;

    /// `n` requests at a time of 200 MU of decode each, on an engine `speed` times as fast as its
    /// profile, for a minute; first bytes take 100 ms ÷ speed.
    fn run(meter: &mut SpeedMeter, n: usize, speed: f64) {
        let start = meter.at_us;
        let each_ms = 200.0 * (n as f64).max(BATCH) / speed;
        let mut now = start;
        while now < start + 60_000_000 {
            let mut flights: Vec<_> = (0..n).map(|_| meter.placed(100.0, now)).collect();
            now += (100_000.0 / speed) as u64;
            for flight in &mut flights {
                meter.first_byte(flight, 200.0, now);
            }
            now += (each_ms * 1000.0) as u64;
            for flight in flights {
                meter.end(flight, Some(200.0), now);
            }
        }
    }

    #[test]
    fn a_tenth_of_the_speed_is_seen_however_busy() {
        for n in [1, 8, 40] {
            let mut meter = SpeedMeter::new(1.0, BATCH);
            run(&mut meter, n, 1.0);
            let ratio = meter.ratio(meter.at_us).unwrap();
            assert!((ratio - 1.0).abs() < 0.25, "{n}: {ratio}");
            for _ in 0..6 {
                run(&mut meter, n, 0.1);
            }
            let ratio = meter.ratio(meter.at_us).unwrap();
            assert!(ratio < 0.35, "{n}: {ratio}");
        }
    }

    #[test]
    fn a_replica_that_hangs_is_seen_before_anything_ends() {
        let mut meter = SpeedMeter::new(1.0, BATCH);
        let mut decoding = meter.placed(50.0, 0);
        meter.first_byte(&mut decoding, 100.0, 60_000);
        let silent = meter.placed(50.0, 100_000);
        assert!(meter.ratio(5_000_000).unwrap() < 0.1);
        meter.end(silent, None, 5_000_000);
        meter.end(decoding, None, 5_000_000);
    }

    #[test]
    fn an_idle_replica_is_neither_fast_nor_slow() {
        let mut meter = SpeedMeter::new(1.0, BATCH);
        assert_eq!(meter.ratio(3_600_000_000), None);
        run(&mut meter, 20, 1.0);
        let before = meter.ratio(meter.at_us).unwrap();
        let after = meter.ratio(meter.at_us + 3_600_000_000).unwrap();
        assert!((before - after).abs() < 1e-9);
    }
}
