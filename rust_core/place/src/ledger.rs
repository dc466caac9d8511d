//! What each replica carries at this moment, in MU and KV tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::mu::MicroMu;

/// What one request adds to a replica's load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Prefill work, with images, audio and overhead: gone once the first token is out.
    pub prefill: MicroMu,
    /// Decode work: gone when the reply ends.
    pub decode: MicroMu,
    /// KV tokens held when the reply ends (prompt and predicted output).
    pub kv_tokens: u64,
    /// KV tokens that the engine sets aside until then, for all that the reply may become.
    pub kv_reserved: u64,
    /// Sequences that decode: one for each answer.
    pub sequences: u32,
}

/// The sums of a [`Load`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Prefill work not yet done.
    pub prefill: MicroMu,
    /// Decode work of requests in flight.
    pub decode: MicroMu,
    /// KV tokens held by requests in flight.
    pub kv_tokens: i64,
    /// KV tokens set aside for them; what came past this sidecar counts as it is held.
    pub kv_reserved: i64,
    /// Sequences that decode, or will.
    pub sequences: i64,
    /// Requests in flight.
    pub requests: i64,
}

impl Totals {
    /// Prefill and decode together.
    #[must_use]
    pub fn work(&self) -> MicroMu {
        self.prefill + self.decode
    }
}

/// What was charged to a [`Load`] recently: it fades.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recent {
    /// Prefill work.
    pub prefill: MicroMu,
    /// Requests.
    pub requests: f64,
    /// Of these, on promises to their tenants.
    pub promised: f64,
}

/// A request, as recent ones are counted: fine enough to fade.
const ONE: i64 = 1_000_000;

/// The ledger of one replica: sums that any thread may change without a lock.
///
/// Each sum is exact: a [`Charge`] gives back precisely what it took. They are read one after
/// another, so a reader may see a request counted in one and not yet in another.
#[derive(Debug, Default)]
#[repr(align(128))] // a replica's counters share no cache line with another's
pub struct Load {
    prefill: AtomicI64,
    decode: AtomicI64,
    kv_tokens: AtomicI64,
    kv_reserved: AtomicI64,
    sequences: AtomicI64,
    requests: AtomicI64,
    recent_prefill: AtomicI64,
    /// Millionths of requests.
    recent_requests: AtomicI64,
    /// Of these, on promises.
    recent_promised: AtomicI64,
    /// By how much all that was charged has faded since the beginning: −ln of the share left, an f64.
    faded: AtomicU64,
    foreign_work: AtomicI64,
    foreign_kv_tokens: AtomicI64,
    foreign_requests: AtomicI64,
}

impl Load {
    /// Charges a request; what is returned gives it back when dropped.
    pub fn charge(self: &Arc<Self>, amount: Amount) -> Charge {
        self.add(amount);
        self.requests.fetch_add(1, Relaxed);
        let placed = amount.prefill;
        self.recent_prefill.fetch_add(placed.micro(), Relaxed);
        self.recent_requests.fetch_add(ONE, Relaxed);
        Charge {
            load: Arc::clone(self),
            amount,
            prefill_open: true,
            is_open: true,
            placed: Some(placed),
            is_promised: false,
            faded: self.faded(),
        }
    }

    /// What was charged here recently and has not faded, whether it is done or not. What turned out to
    /// be less was corrected.
    #[must_use]
    pub fn recent(&self) -> Recent {
        let prefill = MicroMu::from_micro(self.recent_prefill.load(Relaxed));
        let requests = |recent: &AtomicI64| recent.load(Relaxed).max(0) as f64 / ONE as f64;
        Recent {
            prefill: prefill.max(MicroMu::ZERO),
            requests: requests(&self.recent_requests),
            promised: requests(&self.recent_promised),
        }
    }

    /// Lets what was charged recently fade to a share of it, 0 to 1. What others charge meanwhile is
    /// not lost. One thread at a time may call it.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    pub fn fade(&self, keep: f64) {
        let keep = keep.clamp(0.0, 1.0);
        for recent in [
            &self.recent_prefill,
            &self.recent_requests,
            &self.recent_promised,
        ] {
            let gone = recent.load(Relaxed) as f64 * (1.0 - keep);
            recent.fetch_sub(gone as i64, Relaxed);
        }
        let faded = self.faded() - keep.max(f64::MIN_POSITIVE).ln();
        self.faded.store(faded.to_bits(), Relaxed);
    }

    fn faded(&self) -> f64 {
        f64::from_bits(self.faded.load(Relaxed))
    }

    /// What this sidecar's requests hold, and what came past it.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let own = self.own();
        let foreign_kv_tokens = self.foreign_kv_tokens.load(Relaxed);
        let foreign_requests = self.foreign_requests.load(Relaxed);
        Totals {
            prefill: own.prefill,
            decode: own.decode + MicroMu::from_micro(self.foreign_work.load(Relaxed)),
            kv_tokens: own.kv_tokens + foreign_kv_tokens,
            kv_reserved: own.kv_reserved + foreign_kv_tokens,
            sequences: own.sequences + foreign_requests,
            requests: own.requests + foreign_requests,
        }
    }

    /// What this sidecar's requests alone hold: zero when none is in flight.
    #[must_use]
    pub fn own(&self) -> Totals {
        Totals {
            prefill: MicroMu::from_micro(self.prefill.load(Relaxed)),
            decode: MicroMu::from_micro(self.decode.load(Relaxed)),
            kv_tokens: self.kv_tokens.load(Relaxed),
            kv_reserved: self.kv_reserved.load(Relaxed),
            sequences: self.sequences.load(Relaxed),
            requests: self.requests.load(Relaxed),
        }
    }

    /// Sets (not adds) the work that came past this sidecar, as telemetry or another sidecar's
    /// ledger tells it. It counts as decode, of one sequence for each request.
    pub fn set_foreign(&self, work: MicroMu, kv_tokens: u64, requests: u64) {
        self.foreign_work.store(work.micro(), Relaxed);
        self.foreign_kv_tokens.store(signed(kv_tokens), Relaxed);
        self.foreign_requests.store(signed(requests), Relaxed);
    }

    fn add(&self, amount: Amount) {
        self.prefill.fetch_add(amount.prefill.micro(), Relaxed);
        self.decode.fetch_add(amount.decode.micro(), Relaxed);
        self.kv_tokens.fetch_add(signed(amount.kv_tokens), Relaxed);
        self.kv_reserved
            .fetch_add(signed(amount.kv_reserved), Relaxed);
        self.sequences
            .fetch_add(i64::from(amount.sequences), Relaxed);
    }

    fn take(&self, amount: Amount) {
        self.prefill.fetch_sub(amount.prefill.micro(), Relaxed);
        self.decode.fetch_sub(amount.decode.micro(), Relaxed);
        self.kv_tokens.fetch_sub(signed(amount.kv_tokens), Relaxed);
        self.kv_reserved
            .fetch_sub(signed(amount.kv_reserved), Relaxed);
        self.sequences
            .fetch_sub(i64::from(amount.sequences), Relaxed);
    }
}

/// KV tokens as the ledger adds them; the clamp is the same on both ways, so sums stay exact.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).min(1 << 40)
}

/// One request's hold on a replica: released exactly once, when dropped.
#[derive(Debug)]
#[must_use = "a charge is released as soon as it is dropped"]
pub struct Charge {
    load: Arc<Load>,
    amount: Amount,
    prefill_open: bool,
    /// It is on the ledger.
    is_open: bool,
    /// The prefill that is among the ledger's recent work, if the request is…
    placed: Option<MicroMu>,
    /// …as it was when so much had faded.
    faded: f64,
    /// It runs on a promise to its tenant.
    is_promised: bool,
}

impl Charge {
    /// Gives back the prefill part, at the first byte of the reply. Further calls do nothing.
    pub fn prefill_done(&mut self) {
        if self.prefill_open {
            self.prefill_open = false;
            self.load
                .prefill
                .fetch_sub(self.amount.prefill.micro(), Relaxed);
            self.amount.prefill = MicroMu::ZERO;
        }
    }

    /// It runs on a promise to its tenant.
    pub fn promise(&mut self) {
        if !std::mem::replace(&mut self.is_promised, true) && self.placed.is_some() {
            self.load.recent_promised.fetch_add(ONE, Relaxed);
        }
    }

    /// Trues the charge up to what is now known. After [`Charge::prefill_done`] the prefill part
    /// stays released, whatever `now` says.
    pub fn adjust(&mut self, now: Amount) {
        if !self.is_open {
            return;
        }
        let prefill = if self.prefill_open {
            now.prefill
        } else {
            MicroMu::ZERO
        };
        let now = Amount { prefill, ..now };
        self.load.add(now);
        self.load.take(self.amount);
        self.amount = now;
    }

    /// Moves the charge to the replica that really serves: a retry went on to a fallback.
    pub fn move_to(&mut self, load: &Arc<Load>) {
        if Arc::ptr_eq(&self.load, load) {
            return;
        }
        if self.is_open {
            load.add(self.amount);
            load.requests.fetch_add(1, Relaxed);
            self.load.take(self.amount);
            self.load.requests.fetch_sub(1, Relaxed);
        }
        let placed = self.placed.take();
        self.recount(placed, None);
        if let Some(prefill) = placed {
            load.recent_prefill.fetch_add(prefill.micro(), Relaxed);
            load.recent_requests.fetch_add(ONE, Relaxed);
            if self.is_promised {
                load.recent_promised.fetch_add(ONE, Relaxed);
            }
        }
        self.placed = placed;
        self.faded = load.faded();
        self.load = Arc::clone(load);
    }

    /// Takes the request off the ledger before it is known what it took, and says what it held.
    /// Further calls do nothing.
    pub fn over(&mut self) -> Amount {
        let held = std::mem::take(&mut self.amount);
        if std::mem::replace(&mut self.is_open, false) {
            self.load.take(held);
            self.load.requests.fetch_sub(1, Relaxed);
        }
        held
    }

    /// Corrects what counts as recent prefill to what the request really took; `None`, where it did
    /// not happen.
    pub fn correct(&mut self, prefill: Option<MicroMu>) {
        let placed = std::mem::replace(&mut self.placed, prefill);
        self.recount(placed, prefill);
    }

    /// Counts the request as recent with another prefill, or no more, as far as it has not faded.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    fn recount(&self, was: Option<MicroMu>, is: Option<MicroMu>) {
        let left = (self.faded - self.load.faded()).exp().min(1.0);
        let mu = |prefill: Option<MicroMu>| prefill.map_or(0.0, MicroMu::as_mu);
        let change = MicroMu::from_mu((mu(is) - mu(was)) * left);
        self.load.recent_prefill.fetch_add(change.micro(), Relaxed);
        let requests = i64::from(is.is_some()) - i64::from(was.is_some());
        let change = (requests * ONE) as f64 * left;
        self.load.recent_requests.fetch_add(change as i64, Relaxed);
        if self.is_promised {
            self.load.recent_promised.fetch_add(change as i64, Relaxed);
        }
    }

    /// What the charge holds now.
    #[must_use]
    pub fn amount(&self) -> Amount {
        self.amount
    }

    /// The ledger it is charged to.
    #[must_use]
    pub fn load(&self) -> &Arc<Load> {
        &self.load
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.over();
    }
}

/// What is charged for a request whose turn has come, until it is placed: dropped, it leaves no trace.
#[derive(Debug)]
#[must_use = "a claim is given up as soon as it is dropped"]
pub struct Claim(Charge);

impl Claim {
    /// Charges a replica.
    pub fn new(load: &Arc<Load>, amount: Amount) -> Self {
        Self(load.charge(amount))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.correct(None);
    }
}

impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.load, &other.0.load) && self.0.amount == other.0.amount
    }
}

impl Eq for Claim {}
