//! What a request would get of one replica: asked when it is placed, and again while it waits.

use crate::choice_settings::ChoiceSettings;
use crate::forecast::{Forecast, Newcomer};
use crate::replica::{Replica, State};

/// A request before one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prospect {
    /// What it would take of the replica.
    pub newcomer: Newcomer,
    /// What a ms of its own wait counts.
    pub urgency: f64,
    /// How often more the harm to others counts where all of these are there on promises.
    pub yields: f64,
    /// What counts against the replica beside times, ms: an adapter to load, a copy that takes room.
    pub aside_ms: f64,
}

/// What a replica offers to a request at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// Prefill ahead of it, ms.
    pub wait_ms: f64,
    /// Its own times there.
    pub forecast: Forecast,
    /// What it would cost the requests already there, in ms of a first token.
    pub others_ms: f64,
    /// What replicas are compared by: the lowest wins; ms.
    pub score: f64,
}

/// A first token and tokens that are in time for one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Time to its first token, ms.
    pub first_ms: f64,
    /// Of it, what may be ahead of it at a replica, ms.
    pub ahead_ms: f64,
    /// Time per token after it, ms; none where it has no tokens.
    pub tpot_ms: Option<f64>,
}

/// A wait for others that keeps nobody from a replica, ms: an engine begins what comes within an iteration or
/// two together. A prompt that takes longer than its own limit could never run otherwise.
const NEXT_MS: f64 = 100.0;

/// Share of the time that prefill may take however late tokens are: replicas whose steps take longer than
/// the objective would never start anything otherwise.
const LEAST_PREFILL: f64 = 0.2;

impl Prospect {
    /// What `replica` offers now.
    #[must_use]
    pub fn on(&self, replica: &Replica, settings: &ChoiceSettings) -> Outlook {
        let doing = replica.doing(settings.memory_ms);
        let forecast = Forecast::of(
            &replica.spec.steps,
            &doing,
            &self.newcomer,
            &settings.objectives,
            settings.stall_weight,
        );
        let health = match replica.spec.state {
            State::Degraded => settings.degraded_factor.max(1.0),
            _ => 1.0,
        };
        let others_ms = forecast.others_ms * (1.0 + self.yields * doing.promised);
        let own_ms = forecast.first_ms * self.urgency;
        Outlook {
            wait_ms: doing.ahead_ms,
            forecast,
            others_ms,
            score: (own_ms + others_ms + forecast.late_ms + self.aside_ms) * health,
        }
    }
}

impl Outlook {
    /// Whether both are in time.
    #[must_use]
    pub fn is_within(&self, limits: &Limits) -> bool {
        let ahead_ms = self.wait_ms + self.forecast.room_ms;
        let in_time = self.forecast.first_ms <= limits.first_ms && ahead_ms <= limits.ahead_ms;
        let first = in_time || ahead_ms <= NEXT_MS;
        let tokens = limits.tpot_ms.is_none_or(|tpot_ms| {
            self.forecast.tpot_ms <= tpot_ms || self.forecast.prefill_share < LEAST_PREFILL
        });
        first && tokens
    }
}
