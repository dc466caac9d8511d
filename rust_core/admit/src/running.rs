//! What is in flight, and how much of it counts as full.

use weighbridge_place::{Amount, MicroMu};

use crate::book::Priority;
use crate::settings::Settings;

/// What the replicas of a model can do, fed from the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Capacity {
    /// Sum of the open replicas' MU per millisecond.
    pub mu_per_ms: f64,
    /// How many they are.
    pub replicas: u32,
    /// Sum of their KV tokens.
    pub kv_tokens: u64,
    /// Sequences that they decode together at most; 0 where that is not known.
    pub slots: f64,
    /// Work in flight that came past this gate, as telemetry or other sidecars tell it.
    pub foreign: Amount,
}

/// In-flight amounts that count as full.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Full {
    work: MicroMu,
    /// Of it, one replica's part.
    replica_work: MicroMu,
    /// …and one sequence's part.
    sequence: Option<MicroMu>,
    kv_tokens: i64,
    /// KV tokens of one replica, at most.
    replica_kv_tokens: u64,
    /// MU that may wait…
    queue: MicroMu,
    /// …in the class for which nobody waits…
    patient_queue: MicroMu,
    /// …where more than so many requests do.
    pub(crate) places: usize,
    /// Work that came past the gate, part of what is in flight.
    foreign: Running,
    /// Work that only promises may have in flight.
    reserved: MicroMu,
    /// Share of the time to a first token that a wait at a replica may take.
    first_token_share: f64,
}

/// Most of the windows that is kept for promises: a replica has no more than one queue, so what is
/// kept free is depth that others would build, not capacity; they need some to keep replicas busy.
const MOST_RESERVED: f64 = 0.5;

/// Part of the first token's share that is left where something is promised: engines prefill in the order
/// of arrival, so what others have begun delays a promise.
const BESIDE_PROMISES: f64 = 0.5;

/// Requests that may wait for each replica, whatever they weigh: before few replicas one long prompt is
/// more than the queue's window.
const WAITING_EACH: usize = 4;

/// An answer counts as what a sequence of a full batch gets done in this time, ms, at most.
const SEQUENCE_MS: f64 = 3_000.0;

impl Full {
    /// What counts as full of a capacity of which so much is promised.
    pub(crate) fn new(capacity: &Capacity, settings: &Settings, promised_mu_per_min: f64) -> Self {
        let window = |ms: f64| MicroMu::from_mu(capacity.mu_per_ms.max(0.0) * ms);
        let mut foreign = Running::default();
        foreign.add(&capacity.foreign);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        let kv_tokens = (capacity.kv_tokens as f64 * settings.kv_share) as i64;
        let whole = capacity.mu_per_ms.max(0.0) * 60_000.0;
        let share = if whole > 0.0 {
            (promised_mu_per_min / whole).clamp(0.0, MOST_RESERVED)
        } else {
            0.0
        };
        let depth = if share > 0.0 { BESIDE_PROMISES } else { 1.0 };
        Self {
            reserved: window(settings.window_ms * share),
            first_token_share: settings.first_token_share * depth,
            work: window(settings.window_ms),
            replica_work: window(settings.window_ms / f64::from(capacity.replicas.max(1))),
            sequence: (capacity.slots > 0.0).then(|| window(SEQUENCE_MS / capacity.slots)),
            kv_tokens,
            replica_kv_tokens: capacity
                .kv_tokens
                .div_ceil(u64::from(capacity.replicas.max(1))),
            queue: window(settings.queue_window_ms),
            patient_queue: window(settings.patient_window_ms()),
            places: (capacity.replicas as usize).saturating_mul(WAITING_EACH),
            foreign,
        }
    }

    /// MU that may wait beside a request of this class.
    pub(crate) fn queue(&self, priority: Priority) -> MicroMu {
        match priority {
            Priority::Batch => self.patient_queue,
            Priority::Critical | Priority::Standard | Priority::Sheddable => self.queue,
        }
    }

    /// Lets as much wait as `before`: nobody can serve for a moment.
    pub(crate) fn keep_queue(&mut self, before: &Self) {
        (self.queue, self.patient_queue) = (before.queue, before.patient_queue);
    }

    /// What of a request counts as in flight: a prompt that is longer than a replica's part of the
    /// window, or a context longer than its memory, fills that replica and no other; each answer takes
    /// one sequence's part.
    pub(crate) fn counted(&self, cost: Amount) -> Amount {
        Amount {
            prefill: cost.prefill.min(self.replica_work),
            decode: self.sequence.map_or(cost.decode, |part| {
                cost.decode.min(part.times(cost.sequences))
            }),
            kv_tokens: cost.kv_tokens.min(self.replica_kv_tokens),
            ..cost
        }
    }

    /// Whether more may run that nobody was promised: beside all that is in flight, `promised` of
    /// it on promises, and what is kept for these. Prefill is held against each replica by itself.
    pub(crate) fn is_open_to(&self, running: &Running, promised: &Running) -> bool {
        let taken = self.taken(&running.decode(), &promised.decode());
        self.has_room(&taken)
    }

    /// Share of the time to a first token that a request's wait at a replica may take.
    pub(crate) fn first_token_share(&self) -> f64 {
        self.first_token_share
    }

    /// Whether more may run beside these alone.
    pub(crate) fn has_room(&self, running: &Running) -> bool {
        running.work < self.work && running.kv_tokens < self.kv_tokens
    }

    /// Work that nobody was promised and that may still start now.
    pub(crate) fn free(&self, running: &Running, promised: &Running) -> MicroMu {
        let free = self.work - self.taken(running, promised).work;
        free.max(MicroMu::ZERO)
    }

    /// In-flight work above what counts as full to those who were promised nothing.
    pub(crate) fn excess(&self, running: &Running, promised: &Running) -> MicroMu {
        let excess = self.taken(running, promised).work - self.work;
        excess.max(MicroMu::ZERO)
    }

    /// In-flight work of `promised` above what counts as full.
    pub(crate) fn excess_alone(&self, promised: &Running) -> MicroMu {
        (promised.work - self.work).max(MicroMu::ZERO)
    }

    /// What is in flight, and what promises have not used of what is kept for them.
    fn taken(&self, running: &Running, promised: &Running) -> Running {
        let mut taken = running.plus(&self.foreign);
        taken.work += (self.reserved - promised.work).max(MicroMu::ZERO);
        taken
    }
}

/// Sums over requests in flight, exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Running {
    /// Prefill not done and decode.
    pub(crate) work: MicroMu,
    /// Of it, prefill not done.
    pub(crate) prefill: MicroMu,
    pub(crate) kv_tokens: i64,
    pub(crate) requests: i64,
    /// Answers that are decoded: embeddings have none, a request may have several.
    pub(crate) sequences: i64,
}

impl Running {
    pub(crate) fn add(&mut self, amount: &Amount) {
        self.work += amount.prefill + amount.decode;
        self.prefill += amount.prefill;
        self.kv_tokens = self.kv_tokens.wrapping_add(signed(amount.kv_tokens));
        self.sequences += i64::from(amount.sequences);
        self.requests += 1;
    }

    pub(crate) fn take(&mut self, amount: &Amount) {
        self.work -= amount.prefill + amount.decode;
        self.prefill -= amount.prefill;
        self.kv_tokens = self.kv_tokens.wrapping_sub(signed(amount.kv_tokens));
        self.sequences -= i64::from(amount.sequences);
        self.requests -= 1;
    }

    /// Gives back work that is done before the request ends.
    pub(crate) fn done(&mut self, prefill: MicroMu, decode: MicroMu) {
        self.work -= prefill + decode;
        self.prefill -= prefill;
    }

    /// Without prefill.
    fn decode(&self) -> Self {
        Self {
            work: self.work - self.prefill,
            prefill: MicroMu::ZERO,
            ..*self
        }
    }

    fn plus(&self, other: &Self) -> Self {
        Self {
            work: self.work + other.work,
            prefill: self.prefill + other.prefill,
            kv_tokens: self.kv_tokens.wrapping_add(other.kv_tokens),
            requests: self.requests + other.requests,
            sequences: self.sequences + other.sequences,
        }
    }
}

/// KV tokens as they are added; clamped the same on both ways, so sums stay exact.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).min(1 << 40)
}
