//! Faults on command, and the gate that a hanging process holds its requests at.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// How much of a replica hangs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HangScope {
    /// Connections are taken and nothing is answered.
    #[default]
    Process,
    /// The engine makes no step; health and metrics still answer.
    Engine,
}

/// What a replica is told to suffer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// It stops answering until healed.
    Hang {
        /// How much of it.
        #[serde(default)]
        scope: HangScope,
    },
    /// Its port closes and its connections break, until it is healed or restarted.
    Crash,
    /// Every iteration takes `factor` times as long.
    Slow {
        /// Above 0.
        factor: f64,
    },
    /// Generations are refused at random.
    Errors {
        /// Share of the generations, 0 to 1.
        rate: f64,
        /// Status of the refusal.
        #[serde(default = "internal_error")]
        status: u16,
    },
    /// It answers 503 to everything but works on what it has.
    Unhealthy,
    /// It goes down and comes back with a cold cache.
    Restart {
        /// How long it is gone, ms of real time.
        #[serde(default)]
        down_ms: u64,
    },
    /// All is well again; a crashed replica is started.
    Heal,
}

fn internal_error() -> u16 {
    500
}

impl Fault {
    /// Checks its numbers.
    pub(crate) fn validate(&self) -> Result<(), String> {
        match *self {
            Self::Slow { factor } if !(factor.is_finite() && factor > 0.0) => {
                Err(format!("factor must be above 0, not {factor}"))
            }
            Self::Errors { rate, .. } if !(0.0..=1.0).contains(&rate) => {
                Err(format!("rate must be between 0 and 1, not {rate}"))
            }
            Self::Errors { status, .. } if !(400..=599).contains(&status) => {
                Err(format!("status must be between 400 and 599, not {status}"))
            }
            Self::Restart { down_ms } if down_ms > 600_000 => {
                Err(format!("down_ms must be at most 600000, not {down_ms}"))
            }
            _ => Ok(()),
        }
    }
}

/// What a replica suffers at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Condition {
    /// Whether its port is open.
    pub(crate) up: bool,
    /// Whether it has finished starting.
    pub(crate) ready: bool,
    pub(crate) hang: Option<HangScope>,
    pub(crate) slow: f64,
    pub(crate) error_rate: f64,
    pub(crate) error_status: u16,
    pub(crate) unhealthy: bool,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            up: true,
            ready: true,
            hang: None,
            slow: 1.0,
            error_rate: 0.0,
            error_status: internal_error(),
            unhealthy: false,
        }
    }
}

/// A replica's condition, shared by all who look at it.
#[derive(Debug)]
pub(crate) struct Health {
    condition: watch::Sender<Condition>,
    draws: Mutex<u64>,
}

impl Health {
    pub(crate) fn new(seed: u64, ready: bool) -> Self {
        let condition = Condition {
            ready,
            ..Condition::default()
        };
        Self {
            condition: watch::Sender::new(condition),
            draws: Mutex::new(seed),
        }
    }

    pub(crate) fn now(&self) -> Condition {
        *self.condition.borrow()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Condition)) {
        self.condition.send_modify(change);
    }

    /// Waits while the whole process hangs.
    pub(crate) async fn pass(&self) {
        let mut watched = self.condition.subscribe();
        // The sender lives as long as `self`, so there is no error to see.
        let _ = watched
            .wait_for(|c| c.hang != Some(HangScope::Process))
            .await;
    }

    /// Whether this generation is one of those to be refused, and how.
    pub(crate) fn refusal(&self) -> Option<u16> {
        let Condition {
            error_rate,
            error_status,
            ..
        } = self.now();
        if error_rate <= 0.0 {
            return None;
        }
        let mut draws = self.draws.lock().unwrap_or_else(PoisonError::into_inner);
        *draws = crate::text::reply::mix(*draws);
        #[allow(clippy::cast_precision_loss)] // 53 bits
        let draw = (*draws >> 11) as f64 / (1_u64 << 53) as f64;
        (draw < error_rate).then_some(error_status)
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, HangScope, Health};

    #[test]
    fn faults_read_from_json() {
        let read = |text: &str| serde_json::from_str::<Fault>(text);
        assert_eq!(
            read(r#"{"kind":"hang"}"#).unwrap(),
            Fault::Hang {
                scope: HangScope::Process
            }
        );
        assert_eq!(
            read(r#"{"kind":"errors","rate":0.5}"#).unwrap(),
            Fault::Errors {
                rate: 0.5,
                status: 500
            }
        );
        assert!(read(r#"{"kind":"explode"}"#).is_err());
        assert!(
            read(r#"{"kind":"slow","factor":-1.0}"#)
                .unwrap()
                .validate()
                .is_err()
        );
    }

    #[test]
    fn refusals_come_at_their_rate() {
        let health = Health::new(5, true);
        assert_eq!(health.refusal(), None);
        health.change(|c| c.error_rate = 0.25);
        let refused = (0..4000).filter(|_| health.refusal() == Some(500)).count();
        assert!((900..1100).contains(&refused), "{refused}");
    }
}
