//! The step-time model: what one more request would get of a replica, and what it would cost the
//! requests already there.
//!
//! An engine runs iterations. Each takes `base + per_seq · n + per_ktok · context` ms for the `n`
//! sequences that decode, and the time of the chunk of prefill that it computes beside them. Hence
//!
//! ```text
//! first  = ahead + prefill + step · (1.5 + (ahead + prefill) ÷ chunk) + room
//! tpot   = step with the newcomer ÷ (1 − share of the time that goes into prefill)
//! room   = residence · max(slots that are short ÷ slots, memory)
//! memory = max(KV tokens that are short ÷ KV tokens set aside, 1 ÷ n); 0 where none are
//! ```
//!
//! where `ahead` is the prefill not yet computed, and `residence` the time that a sequence stays. An
//! iteration has `slots` for sequences: those beyond decode nothing, and wait until others end.
//! Each ms of the newcomer's prefill delays the requests that will queue behind it and stalls every
//! sequence that decodes beside it:
//!
//! ```text
//! others  = prefill · (queued + stall_weight · stalled)
//! queued  = arrivals · (ahead + prefill ÷ 2) ÷ (1 − share of the time that goes into prefill)
//! stalled = n · ttft objective ÷ (tpot objective · output) ÷ (1 − tpot ÷ tpot objective)
//! late    = output · (tpot − its own tpot objective)⁺
//! ```
//!
//! `stalled` turns ms of a time per token into ms of a first token by what either may be, and rises as
//! the sequences come near to their objective. The price keeps sessions on their caches under
//! pressure: prefill that a cache would have saved is paid for by all who are on the replica.

/// Times of an engine's iterations, ms, and the MU of its tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTimes {
    /// ms of an iteration that decodes, before its sequences.
    pub base_ms: f64,
    /// ms for each sequence.
    pub per_seq_ms: f64,
    /// ms for each thousand tokens of context.
    pub per_ktok_ms: f64,
    /// ms of a full chunk of prefill.
    pub chunk_ms: f64,
    /// Most sequences in an iteration.
    pub slots: f64,
    /// MU of an output token, without its context.
    pub token_mu: f64,
    /// MU of an output token for each thousand tokens of its context.
    pub ktok_mu: f64,
}

impl Default for StepTimes {
    fn default() -> Self {
        Self {
            base_ms: 10.0,
            per_seq_ms: 0.02,
            per_ktok_ms: 0.02,
            chunk_ms: 200.0,
            slots: 256.0,
            token_mu: 0.05,
            ktok_mu: 0.02,
        }
    }
}

impl StepTimes {
    /// ms of an iteration where `sequences` are, with `context` tokens together: as many of them as
    /// there are slots for decode in it.
    #[must_use]
    pub fn step_ms(&self, sequences: f64, context: f64) -> f64 {
        let running = self.running(sequences);
        let context = context * running / sequences.max(1e-9);
        self.base_ms + self.per_seq_ms * running + self.per_ktok_ms * context / 1000.0
    }

    /// How many of these sequences have a slot.
    fn running(&self, sequences: f64) -> f64 {
        sequences.min(self.slots.max(1.0))
    }

    /// Output tokens that `decode_mu` are, at so many tokens of context. At least 1.
    #[must_use]
    pub fn output_tokens(&self, decode_mu: f64, context: f64) -> f64 {
        let token_mu = self.token_mu + self.ktok_mu * context / 1000.0;
        (decode_mu.max(0.0) / token_mu.max(1e-9)).max(1.0)
    }
}

/// First tokens and tokens that count as in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objectives {
    /// Time to the first token, ms.
    pub ttft_ms: f64,
    /// Time per token after it, ms.
    pub tpot_ms: f64,
}

/// What a replica does now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Doing {
    /// Prefill not yet computed, ms.
    pub ahead_ms: f64,
    /// Sequences that decode, or will.
    pub sequences: f64,
    /// Decode work in flight, MU.
    pub decode_mu: f64,
    /// KV tokens that its requests will hold when they end.
    pub kv_tokens: f64,
    /// KV tokens set aside for them.
    pub kv_reserved: f64,
    /// KV tokens that there is memory for.
    pub kv_limit: f64,
    /// Share of the recent time that went into prefill, 0 to 1.
    pub prefill_share: f64,
    /// Requests a ms that came recently.
    pub arrivals: f64,
    /// Share of these that came on promises to their tenants, 0 to 1.
    pub promised: f64,
}

/// One more request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Newcomer {
    /// Its prefill there, ms.
    pub prefill_ms: f64,
    /// Its decode work, MU.
    pub decode_mu: f64,
    /// KV tokens that it will hold when it ends.
    pub kv_tokens: f64,
    /// KV tokens set aside for it.
    pub kv_reserved: f64,
    /// Sequences that will decode for it.
    pub sequences: f64,
    /// Time per token that is in time for it, ms; `None`: everybody's.
    pub tpot_objective_ms: Option<f64>,
}

/// What it would get, and what it would cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Time to its first token, ms.
    pub first_ms: f64,
    /// Time per token after it, ms.
    pub tpot_ms: f64,
    /// What it costs others, in ms of a first token.
    pub others_ms: f64,
    /// By how much its answer would be late for its tokens' sake, ms.
    pub late_ms: f64,
    /// Share of the replica's time that went into prefill recently, 0 to 1.
    pub prefill_share: f64,
    /// Of the time to its first token, the wait for slots and KV memory, ms.
    pub room_ms: f64,
}

/// Prefill never takes all of the time that an estimate counts with.
const MOST_SHARE: f64 = 0.95;

/// Nearest to their objective that sequences count as, as a share of it.
const MOST_STRAIN: f64 = 0.9;

/// Iterations until a request that waits for nothing has its first token: what is left of the one
/// that runs, and its own.
const LEAST_ITERATIONS: f64 = 1.5;

impl Forecast {
    /// What `newcomer` would get of a replica with these step times that does `doing`, and what it
    /// would cost the others there; `stall_weight` is what a stalled sequence counts.
    #[must_use]
    pub fn of(
        steps: &StepTimes,
        doing: &Doing,
        newcomer: &Newcomer,
        objectives: &Objectives,
        stall_weight: f64,
    ) -> Self {
        let sequences = doing.sequences.max(0.0);
        let own = newcomer.sequences.max(1.0);
        let held = doing.kv_tokens.max(0.0);
        let prefill = newcomer.prefill_ms.max(0.0);
        let ahead = doing.ahead_ms.max(0.0);
        let left = 1.0 - doing.prefill_share.clamp(0.0, MOST_SHARE);
        let output = steps.output_tokens(newcomer.decode_mu / own, newcomer.kv_tokens / own);
        let mean_output = if sequences > 0.0 {
            steps.output_tokens(doing.decode_mu / sequences, held / sequences)
        } else {
            1.0
        };
        let step = if sequences > 0.0 {
            steps.step_ms(sequences, held)
        } else {
            0.0
        };
        let tpot_ms =
            steps.step_ms(sequences + newcomer.sequences, held + newcomer.kv_tokens) / left;
        let iterations = LEAST_ITERATIONS + (ahead + prefill) / steps.chunk_ms.max(1e-3);
        let reserved = doing.kv_reserved.max(0.0);
        let wanted = newcomer.kv_reserved - (doing.kv_limit - reserved);
        let running = steps.running(sequences);
        let memory = if wanted > 0.0 && reserved > 0.0 {
            (wanted / reserved).max(1.0 / running.max(1.0))
        } else {
            0.0
        };
        let slots = steps.slots.max(1.0);
        let decodes = newcomer.sequences > 0.0;
        let short = if decodes {
            (sequences + newcomer.sequences - slots).max(0.0)
        } else {
            0.0
        };
        // Memory and slots come free when sequences end.
        let room = memory.max(short / slots) * mean_output * tpot_ms;
        let tpot_objective = objectives.tpot_ms.max(1e-3);
        let own_objective = newcomer.tpot_objective_ms.unwrap_or(tpot_objective);
        let late = (tpot_ms - own_objective).max(0.0);
        let strain = (tpot_ms / tpot_objective).min(MOST_STRAIN);
        let queued = doing.arrivals.max(0.0) * (ahead + prefill / 2.0) / left;
        let stalled = running * objectives.ttft_ms
            / (tpot_objective * mean_output.max(output))
            / (1.0 - strain);
        Self {
            first_ms: ahead + prefill + iterations * step + room,
            tpot_ms,
            others_ms: prefill * (queued + stall_weight * stalled),
            late_ms: if decodes { output * late } else { 0.0 },
            prefill_share: doing.prefill_share,
            room_ms: room,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Doing, Forecast, Newcomer, Objectives, StepTimes};
    use proptest::prelude::*;

    /// Llama 3.1 70B on four H100, as its profile has it.
    const STEPS: StepTimes = StepTimes {
        base_ms: 12.31,
        per_seq_ms: 0.040467,
        per_ktok_ms: 0.01443,
        chunk_ms: 372.7,
        slots: 256.0,
        token_mu: 0.088552,
        ktok_mu: 0.01443,
    };
    const OBJECTIVES: Objectives = Objectives {
        ttft_ms: 2_000.0,
        tpot_ms: 100.0,
    };

    fn of(doing: &Doing, newcomer: &Newcomer) -> Forecast {
        Forecast::of(&STEPS, doing, newcomer, &OBJECTIVES, 4.0)
    }

    fn busy(requests: f64) -> Doing {
        Doing {
            sequences: requests,
            decode_mu: requests * 30.0,
            kv_tokens: requests * 4_000.0,
            kv_reserved: requests * 4_000.0,
            kv_limit: 1_381_985.0,
            prefill_share: 0.4,
            arrivals: 0.004,
            ..Doing::default()
        }
    }

    fn chat() -> Newcomer {
        Newcomer {
            prefill_ms: 40.0,
            decode_mu: 30.0,
            kv_tokens: 4_000.0,
            kv_reserved: 4_000.0,
            sequences: 1.0,
            tpot_objective_ms: None,
        }
    }

    #[test]
    fn an_idle_replica_answers_after_its_prefill_alone() {
        let idle = Doing {
            kv_limit: 1e6,
            ..Doing::default()
        };
        let forecast = of(&idle, &chat());
        assert!((forecast.first_ms - 40.0).abs() < 1e-9);
        assert!(forecast.others_ms < 1.0, "there is nobody to be hurt");
        assert!((12.0..13.0).contains(&forecast.tpot_ms));
    }

    #[test]
    fn a_long_prompt_costs_those_who_decode_beside_it() {
        let long = Newcomer {
            prefill_ms: 5_000.0,
            ..chat()
        };
        let (few, many) = (of(&busy(4.0), &long), of(&busy(200.0), &long));
        assert!(many.others_ms > 5.0 * few.others_ms, "{few:?} {many:?}");
        assert!(many.others_ms > 5_000.0, "more than it takes by itself");
    }

    #[test]
    fn memory_that_is_full_is_a_wait_and_not_an_end() {
        let full = Doing {
            kv_reserved: 1_381_985.0,
            ..busy(240.0)
        };
        let small = of(&full, &chat());
        let large = of(
            &full,
            &Newcomer {
                kv_reserved: 40_000.0,
                ..chat()
            },
        );
        assert!(small.first_ms > of(&busy(240.0), &chat()).first_ms);
        assert!(large.first_ms > small.first_ms && large.first_ms.is_finite());
    }

    #[test]
    fn where_no_slot_is_free_others_must_end_first() {
        let (free, full) = (of(&busy(255.0), &chat()), of(&busy(256.0), &chat()));
        assert!(full.first_ms > free.first_ms, "{free:?} {full:?}");
        // Half of those that run must end before it may begin: half of the time that one stays.
        let queue = of(&busy(256.0 + 127.0), &chat());
        let stays_ms = queue.tpot_ms * STEPS.output_tokens(30.0, 4_000.0);
        let waits_ms = queue.first_ms - free.first_ms;
        assert!(
            (waits_ms - stays_ms / 2.0).abs() < 100.0,
            "{waits_ms} {stays_ms}"
        );
        // Those that wait decode nothing.
        assert!(queue.tpot_ms - full.tpot_ms < 1e-9);
    }

    #[test]
    fn each_answer_takes_a_slot_and_what_has_none_takes_none() {
        let one = of(&busy(253.0), &chat());
        let four = Newcomer {
            decode_mu: 120.0,
            sequences: 4.0,
            ..chat()
        };
        let four = of(&busy(253.0), &four);
        assert!(four.first_ms > one.first_ms + 10.0, "{one:?} {four:?}");
        assert!(four.tpot_ms > one.tpot_ms);
        let embedding = Newcomer {
            decode_mu: 0.0,
            sequences: 0.0,
            ..chat()
        };
        let roomy = |sequences: f64| Doing {
            kv_limit: 1e9,
            ..busy(sequences)
        };
        let free = of(&roomy(256.0), &embedding);
        let full = of(&roomy(400.0), &embedding);
        assert!(
            (full.first_ms - free.first_ms).abs() < 1e-6,
            "it waits for no slot"
        );
        assert!(full.late_ms < 1e-9, "it has no tokens that could be late");
    }

    #[test]
    fn tokens_that_would_be_late_say_so() {
        let crowded = Doing {
            prefill_share: 0.8,
            ..busy(300.0)
        };
        assert!(of(&crowded, &chat()).late_ms > 0.0);
        assert!((of(&busy(50.0), &chat()).late_ms).abs() < 1e-9);
    }

    proptest! {
        /// More of anything is never better, and nothing is ever negative or without end.
        #[test]
        fn a_replica_with_more_to_do_is_never_better(
            ahead_ms in 0.0..1e5f64,
            requests in 0.0..500.0f64,
            context in 0.0..50_000.0f64,
            share in 0.0..1.0f64,
            arrivals in 0.0..1.0f64,
            prefill_ms in 0.0..20_000.0f64,
            more in 0.0..10_000.0f64,
        ) {
            let doing = Doing {
                ahead_ms,
                sequences: requests,
                decode_mu: requests * 30.0,
                kv_tokens: requests * context,
                kv_reserved: requests * context,
                kv_limit: 1e6,
                prefill_share: share,
                arrivals,
                promised: 0.0,
            };
            let newcomer = Newcomer { prefill_ms, ..chat() };
            let now = of(&doing, &newcomer);
            let all = [now.first_ms, now.tpot_ms, now.others_ms, now.late_ms];
            prop_assert!(all.iter().all(|ms| ms.is_finite() && *ms >= 0.0), "{now:?}");
            let later = of(&Doing { ahead_ms: ahead_ms + more, ..doing }, &newcomer);
            prop_assert!(later.first_ms >= now.first_ms && later.others_ms >= now.others_ms);
            let longer = of(&doing, &Newcomer { prefill_ms: prefill_ms + more, ..newcomer });
            prop_assert!(longer.first_ms >= now.first_ms && longer.others_ms >= now.others_ms);
            let fuller = of(&Doing { prefill_share: (share + 0.1).min(1.0), ..doing }, &newcomer);
            prop_assert!(fuller.tpot_ms >= now.tpot_ms && fuller.late_ms >= now.late_ms);
        }
    }
}
