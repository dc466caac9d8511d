//! Quiet stretches: iterations that merely add a token to each generating request.

use crate::cost::{Work, iteration_ms};
use crate::engine::Engine;
use crate::step::Step;

impl Engine {
    /// Runs iterations back to back from `now_ms`, the same ones that [`Engine::step`] would,
    /// until one had an event besides generated tokens, or the next would start at or after
    /// `until_ms`. Answers `false` when there was nothing to run.
    pub fn step_many(&mut self, now_ms: f64, until_ms: f64, out: &mut Step) -> bool {
        out.clear();
        let mut start = now_ms;
        while start < until_ms {
            let run = self.iterate_decode(start, until_ms, out) || self.iterate(start, out);
            if !run || out.is_eventful() {
                break;
            }
            start = out.ends_at_ms;
        }
        out.starts_at_ms = now_ms;
        out.iterations > 0
    }

    /// A moment before which iterations from `now_ms` on merely add a token to each generating
    /// request, if nothing is handed in or cancelled: [`Engine::step_many`] until then meets no
    /// event and ends at that very moment. It is `now_ms` where the next iteration may be
    /// eventful, or there is nothing to run.
    #[must_use]
    pub fn quiet_until(&mut self, now_ms: f64) -> f64 {
        let Some(due) = self.quiet_due() else {
            return now_ms;
        };
        let generating = self.generating.len() as u64;
        let mut noise = self.noise.clone();
        let mut free = self.pool.available();
        let mut context = self.context_sum;
        let mut start = now_ms;
        for tick in self.tick..due.saturating_sub(1) {
            let Some(left) = free.checked_sub(self.blocks_due_at(tick)) else {
                break;
            };
            free = left;
            context += generating;
            let work = Work {
                generating,
                generating_context: context,
                ..Work::default()
            };
            start += iteration_ms(&self.profile, &work) * self.slowdown * noise.factor();
        }
        start
    }

    /// The tick at which the next request is done, where until then there is nothing to schedule.
    fn quiet_due(&mut self) -> Option<u64> {
        let admissible = !self.waiting.is_empty() && !self.blocked && !self.is_full();
        if self.generating.is_empty() || !self.prefilling.is_empty() || admissible {
            return None;
        }
        self.next_ending()
    }

    /// A run of iterations with nothing to schedule and nobody done; `false` if there is none.
    fn iterate_decode(&mut self, now_ms: f64, until_ms: f64, out: &mut Step) -> bool {
        let Some(due) = self.quiet_due() else {
            return false;
        };
        let generating = self.generating.len() as u64;
        let mut start = now_ms;
        let mut run = false;
        while self.tick + 1 < due && start < until_ms {
            let new_blocks = self.blocks_due();
            if new_blocks > self.pool.available() {
                break;
            }
            let work = Work {
                generating,
                generating_context: self.context_sum + generating,
                ..Work::default()
            };
            self.advance_clock(start, &work, out);
            self.decode(new_blocks);
            out.tokens += generating;
            start = out.ends_at_ms;
            run = true;
        }
        if run {
            out.decoded.clear();
            out.decoded.extend_from_slice(&self.generating_ids);
        }
        run
    }
}
