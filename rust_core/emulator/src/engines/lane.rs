//! One replica's engine and the generations that wait for its tokens.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use weighbridge_engine::{CacheEvent, Engine, ProfileError, Step, SubmitError};

use crate::replica::commands::Job;
use crate::replica::counters::ReplicaCounters;
use crate::replica::latencies::{FIRST_TOKEN_BOUNDS, PER_TOKEN_BOUNDS, QUEUE_BOUNDS, WHOLE_BOUNDS};
use crate::replica::progress::Progress;
use crate::replica::records::{EventWriter, IterationRecord, RequestRecord};
use crate::replica::state::{Books, Replica};

#[derive(Debug)]
struct Live {
    progress: Arc<Progress>,
    tokens: Option<Arc<[u32]>>,
    record: RequestRecord,
    started: bool,
}

/// The iteration that is running.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Running {
    Nothing,
    Until(f64),
    /// Stopped by a fault with this much of it left, ms.
    Held(f64),
}

/// The executor's requests at the start of an iteration.
#[derive(Debug, Clone, Copy)]
struct Fetched {
    at: SystemTime,
    active: u32,
    /// Of these, without a place in the iteration.
    not_run: u32,
}

/// One engine; all times are milliseconds of the emulator's clock.
#[derive(Debug)]
pub(crate) struct Lane {
    replica: Arc<Replica>,
    engine: Engine,
    seed: u64,
    live: HashMap<u64, Live>,
    step: Step,
    running: Running,
    fetched: Fetched,
    held: bool,
    slow: f64,
    events: Option<EventWriter>,
}

impl Lane {
    pub(crate) fn new(
        replica: Arc<Replica>,
        seed: u64,
        with_events: bool,
    ) -> Result<Self, ProfileError> {
        let engine = Engine::new(replica.profile.clone(), seed)?;
        let mut lane = Self {
            engine,
            seed,
            live: HashMap::new(),
            step: Step::default(),
            running: Running::Nothing,
            fetched: Fetched {
                at: SystemTime::UNIX_EPOCH,
                active: 0,
                not_run: 0,
            },
            held: false,
            slow: 1.0,
            events: with_events.then(EventWriter::default),
            replica,
        };
        lane.watch_cache();
        Ok(lane)
    }

    /// When the running iteration ends.
    pub(crate) fn due(&self) -> Option<f64> {
        match self.running {
            Running::Until(due) => Some(due),
            _ => None,
        }
    }

    pub(crate) fn submit(&mut self, job: Job, now_ms: f64) {
        let id = job.spec.id;
        let prompt_tokens = job.spec.prompt_tokens;
        match self.engine.submit(job.spec, now_ms) {
            Ok(_) => {
                let record = new_record(id, prompt_tokens, job.stops, now_ms);
                let live = Live {
                    progress: job.progress,
                    tokens: job.tokens,
                    record,
                    started: false,
                };
                self.live.insert(id, live);
                let mut books = self.replica.books();
                books.counters.requests += 1;
                let open = count(self.live.len());
                books.counters.open_peak = books.counters.open_peak.max(open);
                refresh(&mut books.counters, &self.engine, open);
                drop(books);
                self.begin(now_ms);
            }
            // Checked before it was sent here, but for an id that is in use.
            Err(SubmitError::Duplicate(_) | SubmitError::EmptyPrompt)
            | Err(SubmitError::TooLong { .. } | SubmitError::NotChunked { .. }) => {
                job.progress.fail();
            }
        }
    }

    pub(crate) fn cancel(&mut self, id: u64) {
        if self.live.remove(&id).is_none() {
            return;
        }
        self.engine.cancel(id);
        // A crash takes the connections away before the engine.
        let crashed = !self.replica.health.now().up;
        let mut books = self.replica.books();
        books.counters.failed += u64::from(crashed);
        books.counters.aborted += u64::from(!crashed);
        refresh(&mut books.counters, &self.engine, count(self.live.len()));
    }

    /// Publishes what the running iteration produced and starts the next.
    pub(crate) fn complete(&mut self, due: f64) {
        self.publish(due);
        self.running = Running::Nothing;
        self.begin(due);
    }

    /// Stops the engine where it is, or lets it go on.
    pub(crate) fn hold(&mut self, held: bool, now_ms: f64) {
        self.held = held;
        match self.running {
            Running::Until(due) if held => self.running = Running::Held(due - now_ms),
            Running::Held(left) if !held => self.running = Running::Until(now_ms + left.max(0.0)),
            _ => self.begin(now_ms),
        }
    }

    pub(crate) fn slow(&mut self, factor: f64) {
        self.slow = factor;
        self.engine.set_slowdown(factor);
    }

    /// Gives up cached blocks beyond those that both sequences begin with.
    pub(crate) fn truncate(&mut self, retain: &[u64], blocks: &[u64]) {
        let common = retain.iter().zip(blocks).take_while(|(a, b)| a == b);
        self.engine.truncate_cache(blocks, common.count());
        let mut books = self.replica.books();
        Self::write_events(
            self.events.as_mut(),
            &mut self.engine,
            &self.live,
            &mut books,
            &self.replica,
        );
        refresh(&mut books.counters, &self.engine, count(self.live.len()));
    }

    /// A new engine with a cold cache; what was open is lost.
    pub(crate) fn reset(&mut self) {
        let lost = count(self.live.len());
        for (_, live) in self.live.drain() {
            live.progress.fail();
        }
        self.running = Running::Nothing;
        self.seed = self.seed.wrapping_add(1 << 32);
        // The profile was valid when this lane was made.
        if let Ok(engine) = Engine::new(self.replica.profile.clone(), self.seed) {
            self.engine = engine;
        }
        self.engine.set_slowdown(self.slow);
        self.watch_cache();
        self.replica.responses().clear();
        let mut books = self.replica.books();
        books.counters.failed += lost;
        books.iterations.drain();
        books.requests.drain();
        books.last_iteration = None;
        refresh(&mut books.counters, &self.engine, 0);
    }

    fn watch_cache(&mut self) {
        let Some(writer) = &mut self.events else {
            return;
        };
        self.engine.record_cache_events();
        *writer = EventWriter::default();
        let created = writer.created(&self.replica.profile);
        let mut books = self.replica.books();
        books.events.drain();
        books.events.push(created);
    }

    /// Starts an iteration at `now_ms` if none is running and there is work.
    fn begin(&mut self, now_ms: f64) {
        if self.held || self.running != Running::Nothing {
            return;
        }
        if self.engine.step(now_ms, &mut self.step) {
            self.running = Running::Until(self.step.ends_at_ms);
            self.fetched = self.fetch();
        }
    }

    /// What the executor has taken in for the iteration that begins: as many requests as its
    /// batch has places, whether their blocks fit or not.
    fn fetch(&self) -> Fetched {
        let load = self.engine.load();
        // The engine is at the iteration's end already, without those that finish in it.
        let finishing = u32::try_from(self.step.finished.len()).unwrap_or(0);
        let running = load.prefilling + load.generating + finishing;
        let places = self.replica.profile.max_batch_size.saturating_sub(running);
        let not_run = places.min(load.waiting);
        Fetched {
            at: SystemTime::now(),
            active: running + not_run,
            not_run,
        }
    }

    fn publish(&mut self, now_ms: f64) {
        let step = &self.step;
        for started in &step.started {
            if let Some(live) = self.live.get_mut(&started.id) {
                if !live.started {
                    live.started = true;
                    live.record.first_iteration = step.iteration;
                    live.record.first_scheduled = step.starts_at_ms / 1000.0;
                    live.record.blocks = started.blocks;
                    live.record.reused_blocks = started.reused_blocks;
                    live.record.missed_blocks = started.missed_blocks;
                    live.progress.start(started.cached_tokens);
                }
            }
        }
        let mut books = self.replica.books();
        let books = &mut *books;
        for started in step.started.iter().filter(|s| !s.resumed) {
            let prompt = self
                .live
                .get(&started.id)
                .map_or(0, |l| l.record.prompt_tokens);
            books.counters.prompt_tokens += u64::from(prompt);
            books.counters.cached_tokens += u64::from(started.cached_tokens);
        }
        Self::write_events(
            self.events.as_mut(),
            &mut self.engine,
            &self.live,
            books,
            &self.replica,
        );
        for finished in &step.finished {
            if let Some(mut live) = self.live.remove(&finished.id) {
                token(&mut live, now_ms);
                live.record.last_iteration = step.iteration;
                live.progress.advance(true);
                books.counters.completed += 1;
                observe(books, &live.record);
                books.requests.push(live.record);
            }
        }
        for id in step.prefilled.iter().chain(&step.decoded) {
            if let Some(live) = self.live.get_mut(id) {
                token(live, now_ms);
                live.progress.advance(false);
            }
        }
        let record = self.iteration_record();
        books.counters.output_tokens += step.tokens;
        books.counters.iterations += step.iterations;
        books.counters.busy_ms += step.ends_at_ms - step.starts_at_ms;
        books.iterations.push(record);
        books.last_iteration = Some(record);
        refresh(&mut books.counters, &self.engine, count(self.live.len()));
        self.replica.news.notify_waiters();
    }

    fn write_events(
        writer: Option<&mut EventWriter>,
        engine: &mut Engine,
        live: &HashMap<u64, Live>,
        books: &mut Books,
        replica: &Replica,
    ) {
        let Some(writer) = writer else {
            return;
        };
        for event in engine.take_cache_events() {
            let tokens: &[u32] = match &event {
                CacheEvent::Stored { request, .. } => live
                    .get(request)
                    .and_then(|l| l.tokens.as_deref())
                    .unwrap_or_default(),
                _ => &[],
            };
            books
                .events
                .push(writer.event(&event, tokens, &replica.profile));
        }
    }

    fn iteration_record(&self) -> IterationRecord {
        let step = &self.step;
        IterationRecord {
            at: self.fetched.at,
            iteration: step.iteration,
            latency_ms: step.ends_at_ms - step.starts_at_ms,
            active: self.fetched.active,
            queued: self
                .engine
                .load()
                .waiting
                .saturating_sub(self.fetched.not_run),
            new_active: u32::try_from(step.started.len()).unwrap_or(u32::MAX),
            completed: u32::try_from(step.finished.len()).unwrap_or(u32::MAX),
            queue_latency_ms: step.started.iter().map(|s| s.queued_ms).sum(),
            context_requests: step.context_requests,
            generating: u32::try_from(step.decoded.len()).unwrap_or(u32::MAX),
            paused: u32::try_from(step.paused.len()).unwrap_or(u32::MAX),
            context_tokens: step.context_tokens,
            kv: self.engine.kv_stats(),
        }
    }
}

fn new_record(id: u64, prompt_tokens: u32, stopped: bool, now_ms: f64) -> RequestRecord {
    RequestRecord {
        id,
        first_iteration: 0,
        last_iteration: 0,
        server_arrival: now_ms / 1000.0,
        arrival: now_ms / 1000.0,
        first_scheduled: 0.0,
        first_token: 0.0,
        last_token: 0.0,
        blocks: 0,
        reused_blocks: 0,
        missed_blocks: 0,
        output_tokens: 0,
        prompt_tokens,
        stopped,
    }
}

fn token(live: &mut Live, now_ms: f64) {
    if live.record.output_tokens == 0 {
        live.record.first_token = now_ms / 1000.0;
    }
    live.record.output_tokens += 1;
    live.record.last_token = now_ms / 1000.0;
}

fn observe(books: &mut Books, record: &RequestRecord) {
    let latencies = &mut books.latencies;
    if record.stopped {
        latencies.stopped += 1;
    } else {
        latencies.cut += 1;
    }
    let first = record.first_token - record.arrival;
    latencies.first_token.observe(first, &FIRST_TOKEN_BOUNDS);
    let whole = record.last_token - record.arrival;
    latencies.whole.observe(whole, &WHOLE_BOUNDS);
    let queue = record.first_scheduled - record.arrival;
    latencies.queue.observe(queue, &QUEUE_BOUNDS);
    if record.output_tokens > 1 {
        let each = (whole - first) / f64::from(record.output_tokens - 1);
        latencies.per_token.observe(each, &PER_TOKEN_BOUNDS);
    }
}

fn refresh(counters: &mut ReplicaCounters, engine: &Engine, open: u64) {
    let kv = engine.kv_stats();
    counters.open = open;
    counters.waiting = u64::from(engine.load().waiting);
    counters.kv_used_blocks = kv.used_blocks;
    counters.kv_cached_blocks = kv.cached_blocks;
    counters.kv_max_blocks = kv.max_blocks;
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
