//! A trace at another rate: copies of whole sessions, at other times, with contents of their own.

use std::sync::Arc;

use rand::Rng;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, Zipf};

use crate::body::{self, BodyOptions};
use crate::error::TraceError;
use crate::seed::{mix, rng};
use crate::text::TextPool;
use crate::trace::{MessageId, Request, Trace};

/// How a trace is replayed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Requests a second; `None`: the trace's own, after `time_scale`.
    pub rate: Option<f64>,
    /// How many times faster the clock runs: arrivals and pauses within sessions are shortened.
    pub time_scale: f64,
    /// Only arrivals from here on, s.
    pub start_s: f64,
    /// For so long, s; `None`: to the trace's end.
    pub duration_s: Option<f64>,
    /// Longest prompt and answer together, tokens: requests above it are left out.
    pub most_tokens: Option<u32>,
    /// Gives sessions to tenants of our own making.
    pub tenants: Option<Tenants>,
    /// One tenant more, whose requests are the same at any rate of the others.
    pub steady: Option<Steady>,
    /// A time with more of the same.
    pub surge: Option<Surge>,
    /// Of copies' times and of which sessions are copied.
    pub seed: u64,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            rate: None,
            time_scale: 1.0,
            start_s: 0.0,
            duration_s: None,
            most_tokens: None,
            tenants: None,
            steady: None,
            surge: None,
            seed: 0,
        }
    }
}

/// A tenant whose requests, their times and their contents do not change with all the others': what
/// others do to it is seen by comparing runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Steady {
    /// Its name.
    pub tenant: String,
    /// Its requests a second.
    pub rate: f64,
}

/// A time in which more sessions are under way: what is above the usual rate is of copies of its own,
/// so that all other requests are as they would be without it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surge {
    /// When it begins, s from the replay's start.
    pub at_s: f64,
    /// How long it lasts, s.
    pub for_s: f64,
    /// How many times the usual rate.
    pub factor: f64,
}

/// Tenants of very different size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tenants {
    /// How many.
    pub count: u32,
    /// Exponent of their shares: 0 is equal, 1 is Zipf's law.
    pub skew: f64,
}

/// One request of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, µs from the replay's start.
    pub at_us: u64,
    /// Which request of the trace.
    pub request: u32,
    /// Which copy: 0 is the trace itself.
    pub copy: u32,
}

/// A trace at another rate.
#[derive(Clone, Debug)]
pub struct Replay {
    trace: Arc<Trace>,
    arrivals: Vec<Arrival>,
    tenants: Option<Vec<u32>>,
    steady: Option<String>,
    duration_us: u64,
}

/// Set in the copies' numbers of the steady tenant.
const STEADY: u32 = 1 << 31;

/// Set in the copies' numbers of a surge.
const SURGE: u32 = 1 << 30;

/// Whose copies are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    All,
    Steady,
    Surge,
}

/// Most requests of a replay.
const MOST_REQUESTS: f64 = 5e7;

impl Replay {
    /// Plans the replay of a trace.
    ///
    /// Copy 0 is the trace itself. Every other copy is the whole trace turned by a phase of its own:
    /// what would come after the end comes at the beginning, as if those sessions had begun before,
    /// so that the rate is the same throughout. Of the last copy there are as many sessions as the
    /// rate asks for.
    ///
    /// # Errors
    /// A setting is out of its range, or nothing is left to replay.
    pub fn new(trace: Arc<Trace>, scaling: &Scaling) -> Result<Self, TraceError> {
        check(scaling)?;
        let others = Copies::plan(&trace, scaling, scaling.rate, Whose::All)?;
        let mut arrivals = others.arrivals(&trace, scaling);
        if let Some(surge) = &scaling.surge {
            let usual = scaling.rate.unwrap_or(trace.rate() * scaling.time_scale);
            let rate = Some(usual * (surge.factor - 1.0));
            let more = Copies::plan(&trace, scaling, rate, Whose::Surge)?;
            let from_us = micros(scaling.start_s + surge.at_s);
            let until_us = micros(scaling.start_s + surge.at_s + surge.for_s);
            let more = more.arrivals(&trace, scaling).into_iter();
            let more = more.filter(|arrival| (from_us..until_us).contains(&arrival.at_us));
            arrivals.extend(more.map(|arrival| Arrival {
                copy: arrival.copy | SURGE,
                ..arrival
            }));
        }
        if let Some(steady) = &scaling.steady {
            let own = Copies::plan(&trace, scaling, Some(steady.rate), Whose::Steady)?;
            let own = own.arrivals(&trace, scaling).into_iter();
            arrivals.extend(own.map(|arrival| Arrival {
                copy: arrival.copy | STEADY,
                ..arrival
            }));
        }
        #[allow(clippy::cast_precision_loss)]
        let span_s = trace.span_us() as f64 / 1e6 / scaling.time_scale;
        let end_s = scaling
            .duration_s
            .map_or(span_s, |length| scaling.start_s + length)
            .min(span_s);
        let (start_us, end_us) = (micros(scaling.start_s), micros(end_s));
        arrivals.retain(|arrival| (start_us..end_us).contains(&arrival.at_us));
        if arrivals.is_empty() {
            return Err(TraceError::Empty(trace.name().to_owned()));
        }
        for arrival in &mut arrivals {
            arrival.at_us -= start_us;
        }
        arrivals.sort_by_key(|arrival| (arrival.at_us, arrival.copy, arrival.request));
        Ok(Self {
            tenants: scaling
                .tenants
                .map(|tenants| deal(&trace, tenants, scaling.seed)),
            steady: scaling.steady.as_ref().map(|steady| steady.tenant.clone()),
            trace,
            arrivals,
            duration_us: end_us.saturating_sub(start_us),
        })
    }

    /// The trace that is replayed.
    #[must_use]
    pub fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }

    /// All requests, by time of arrival.
    #[must_use]
    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    /// How long it is, µs.
    #[must_use]
    pub fn duration_us(&self) -> u64 {
        self.duration_us
    }

    /// Requests a second.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn rate(&self) -> f64 {
        self.arrivals.len() as f64 / (self.duration_us.max(1) as f64 / 1e6)
    }

    /// The trace's request behind an arrival.
    #[must_use]
    pub fn request(&self, arrival: &Arrival) -> Option<&Request> {
        self.trace.requests().get(arrival.request as usize)
    }

    /// The session's name; each copy has its own.
    #[must_use]
    pub fn session(&self, arrival: &Arrival) -> String {
        let number = self.request(arrival).map_or(0, |request| request.session);
        let name = self.trace.session(number);
        match arrival.copy {
            0 => name.to_owned(),
            copy => format!("{name}~{copy}"),
        }
    }

    /// The tenant's name.
    #[must_use]
    pub fn tenant(&self, arrival: &Arrival) -> String {
        let Some(request) = self.request(arrival) else {
            return String::new();
        };
        if let (Some(steady), true) = (&self.steady, arrival.copy >= STEADY) {
            return steady.clone();
        }
        match &self.tenants {
            None => self.trace.tenant(request.tenant).to_owned(),
            Some(dealt) => {
                let session = u64::from(request.session);
                let place = mix(u64::from(arrival.copy), session) % dealt.len().max(1) as u64;
                let tenant = usize::try_from(place).ok().and_then(|at| dealt.get(at));
                format!("t{}", tenant.copied().unwrap_or(0))
            }
        }
    }

    /// Appends the body that a client sends.
    pub fn write_body(
        &self,
        arrival: &Arrival,
        pool: &TextPool,
        options: &BodyOptions,
        out: &mut Vec<u8>,
    ) {
        if let Some(request) = self.request(arrival) {
            body::write(
                &self.trace,
                request,
                u64::from(arrival.copy),
                pool,
                options,
                out,
            );
        }
    }

    /// Appends the words of one message, a space after each: four bytes a token.
    pub fn write_words(
        &self,
        arrival: &Arrival,
        message: MessageId,
        pool: &TextPool,
        out: &mut Vec<u8>,
    ) {
        body::words_of(&self.trace, message, u64::from(arrival.copy), pool, out);
    }
}

/// Which sessions are in which copy.
struct Copies {
    /// Copies of everything.
    whole: u32,
    /// Whether a session is in one more copy.
    extra: Vec<bool>,
    phases_us: Vec<u64>,
}

impl Copies {
    /// Copies that make `rate` requests a second; of a steady tenant the first begins anywhere too.
    fn plan(
        trace: &Trace,
        scaling: &Scaling,
        rate: Option<f64>,
        whose: Whose,
    ) -> Result<Self, TraceError> {
        let own = trace.rate() * scaling.time_scale;
        let factor = rate.map_or(1.0, |rate| rate / own);
        #[allow(clippy::cast_precision_loss)]
        let requests = trace.requests().len() as f64;
        if factor * requests > MOST_REQUESTS {
            return Err(TraceError::Setting(format!(
                "{factor:.1} times {requests} requests are too many"
            )));
        }
        let stream = match whose {
            Whose::All => 0x636f_7079,
            Whose::Steady => 0x0073_7465_6164,
            Whose::Surge => 0x0073_7572_6765,
        };
        let mut chance = rng(scaling.seed, stream);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let whole = factor as u32;
        let wanted = factor.fract() * requests;
        let phases_us = (0..=whole)
            .map(|copy| match copy {
                0 if whose == Whose::All => 0,
                _ => chance.random_range(0..trace.span_us()),
            })
            .collect();
        Ok(Self {
            whole,
            extra: some_sessions(trace, wanted, &mut chance),
            phases_us,
        })
    }

    fn arrivals(&self, trace: &Trace, scaling: &Scaling) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for (copy, phase) in (0u32..).zip(&self.phases_us) {
            for (number, request) in (0u32..).zip(trace.requests()) {
                let tokens = request.input_tokens.saturating_add(request.output_tokens);
                let fits = scaling.most_tokens.is_none_or(|most| tokens <= most);
                let extra = self.extra.get(request.session as usize);
                let copied = copy < self.whole || extra.copied().unwrap_or(false);
                if !fits || !copied {
                    continue;
                }
                let at_us = request.at_us + phase;
                let wrapped = at_us >= trace.span_us();
                #[allow(clippy::cast_precision_loss, clippy::cast_sign_loss)]
                #[allow(clippy::cast_possible_truncation)]
                let at_us = ((at_us % trace.span_us()) as f64 / scaling.time_scale) as u64;
                arrivals.push(Arrival {
                    at_us,
                    request: number,
                    copy: copy * 2 + u32::from(wrapped),
                });
            }
        }
        arrivals
    }
}

/// Sessions in random order until they have so many requests.
fn some_sessions(trace: &Trace, wanted: f64, chance: &mut impl Rng) -> Vec<bool> {
    let mut lengths = vec![0.0; trace.session_count()];
    for request in trace.requests() {
        if let Some(length) = lengths.get_mut(request.session as usize) {
            *length += 1.0;
        }
    }
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.shuffle(chance);
    let mut chosen = vec![false; lengths.len()];
    let mut left = wanted;
    for session in order {
        let length = lengths.get(session).copied().unwrap_or(0.0);
        if left < length / 2.0 {
            continue;
        }
        left -= length;
        if let Some(chosen) = chosen.get_mut(session) {
            *chosen = true;
        }
    }
    chosen
}

/// A table from which sessions draw their tenant.
fn deal(trace: &Trace, tenants: Tenants, seed: u64) -> Vec<u32> {
    let mut chance = rng(seed, 0x7465_6e61);
    let count = trace.session_count().max(1024);
    let count_f = f64::from(tenants.count.max(1));
    match Zipf::new(count_f, tenants.skew) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(shares) => (0..count)
            .map(|_| shares.sample(&mut chance) as u32)
            .collect(),
        Err(_) => vec![1; count],
    }
}

fn check(scaling: &Scaling) -> Result<(), TraceError> {
    let setting = |text: String| Err(TraceError::Setting(text));
    let positive = |value: f64| value.is_finite() && value > 0.0;
    if !scaling.rate.is_none_or(positive) {
        return setting("the rate must be above 0".to_owned());
    }
    if !(positive(scaling.time_scale) && (1e-3..=1e6).contains(&scaling.time_scale)) {
        return setting("the time scale must be between 0.001 and 1,000,000".to_owned());
    }
    if !(0.0..1e12).contains(&scaling.start_s) || !scaling.duration_s.is_none_or(positive) {
        return setting("start and duration must be times in s".to_owned());
    }
    if let Some(steady) = &scaling.steady {
        if !positive(steady.rate) {
            return setting("the steady tenant's rate must be above 0".to_owned());
        }
    }
    if let Some(surge) = scaling.surge {
        let is_time = |value: f64| (0.0..1e12).contains(&value);
        if !(is_time(surge.at_s) && positive(surge.for_s) && is_time(surge.for_s)) {
            return setting("surge: at and for must be times in s".to_owned());
        }
        if !(surge.factor > 1.0 && surge.factor <= 1000.0) {
            return setting("surge: the factor must be above 1 and at most 1,000".to_owned());
        }
    }
    if let Some(tenants) = scaling.tenants {
        if tenants.count == 0 || !(0.0..=10.0).contains(&tenants.skew) {
            return setting("tenants: a count of at least 1 and a skew from 0 to 10".to_owned());
        }
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn micros(seconds: f64) -> u64 {
    (seconds.clamp(0.0, 1e12) * 1e6) as u64
}
