//! Objectives: first tokens and tokens that are in time for one request. They are its tenant's, else its
//! model's, else everybody's; a request may ask for longer times itself, never for shorter ones.

use crate::core::{Core, Incoming};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use weighbridge_admit::Priority;
use weighbridge_place::Objectives;

/// Longest time that counts as an objective, ms: an hour.
const LONGEST_MS: f64 = 3_600_000.0;
/// Shortest, ms.
const SHORTEST_MS: f64 = 0.1;

/// Objectives; those left out are as for all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Objective {
    /// Time to the first token, ms.
    pub ttft_ms: Option<f64>,
    /// Time per token after it, ms.
    pub tpot_ms: Option<f64>,
    /// What is served first, of requests that name this objective: a lower priority than their tenant's.
    pub priority: Option<Priority>,
}

/// Objectives of models, of tenants, and by the name that a request gives.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveBook {
    /// Of a model, by its name.
    pub models: BTreeMap<String, Objective>,
    /// Of a tenant, of each model.
    pub tenants: BTreeMap<String, Objective>,
    /// Of requests that name one.
    pub named: BTreeMap<String, Objective>,
}

/// What a request's headers ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wanted<'a> {
    /// Time to the first token, ms.
    pub ttft_ms: Option<f64>,
    /// Time per token after it, ms.
    pub tpot_ms: Option<f64>,
    /// The name of an objective.
    pub name: Option<&'a str>,
}

/// The time of an objective, ms; `None` of what is none.
#[must_use]
pub fn objective_ms(text: &str) -> Option<f64> {
    let ms: f64 = text.trim().parse().ok()?;
    (ms.is_finite() && ms > 0.0).then_some(ms.clamp(SHORTEST_MS, LONGEST_MS))
}

impl ObjectiveBook {
    /// The objectives of one request, where `all` are everybody's.
    pub(crate) fn of(
        &self,
        all: Objectives,
        model: &str,
        tenant: &str,
        wanted: &Wanted<'_>,
    ) -> Objectives {
        let (model, tenant) = (self.models.get(model), self.tenants.get(tenant));
        let named = wanted.name.and_then(|name| self.named.get(name));
        let base = |said: fn(&Objective) -> Option<f64>, all: f64| {
            let ms = tenant.and_then(said).or_else(|| model.and_then(said));
            ms.unwrap_or(all).clamp(SHORTEST_MS, LONGEST_MS)
        };
        let longer = |base: f64, asked: Option<f64>| {
            let asked = asked.filter(|ms| ms.is_finite());
            asked.map_or(base, |ms| ms.clamp(base, LONGEST_MS))
        };
        let ttft = wanted.ttft_ms.or_else(|| named.and_then(|one| one.ttft_ms));
        let tpot = wanted.tpot_ms.or_else(|| named.and_then(|one| one.tpot_ms));
        Objectives {
            ttft_ms: longer(base(|one| one.ttft_ms, all.ttft_ms), ttft),
            tpot_ms: longer(base(|one| one.tpot_ms, all.tpot_ms), tpot),
        }
    }
}

impl Core {
    /// First tokens and tokens that are in time for a request.
    pub(crate) fn objectives(&self, model: &str, incoming: &Incoming<'_>) -> Objectives {
        let placing = self.placing.load();
        let tenant = incoming.tenant.unwrap_or_default();
        let all = placing.objectives();
        (placing.objectives_of).of(all, model, tenant, &incoming.wanted)
    }

    /// The priority that a request asks for: by its header, else by the objective that it names, else
    /// `batch` where a first token within `ttft_ms` is in time after the longest wait that there is:
    /// nobody waits for it.
    pub(crate) fn priority(&self, incoming: &Incoming<'_>, ttft_ms: f64) -> Option<Priority> {
        let asked = incoming.priority.and_then(Priority::from_name);
        let named = || {
            let placing = self.placing.load();
            let named = placing.objectives_of.named.get(incoming.wanted.name?)?;
            named.priority
        };
        let is_patient = ttft_ms >= self.doors.longest_wait_ms() as f64;
        asked
            .or_else(named)
            .or(is_patient.then_some(Priority::Batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Objectives = Objectives {
        ttft_ms: 2_000.0,
        tpot_ms: 100.0,
    };

    fn times(ttft_ms: f64, tpot_ms: f64) -> Objective {
        Objective {
            ttft_ms: Some(ttft_ms),
            tpot_ms: Some(tpot_ms),
            priority: None,
        }
    }

    fn book() -> ObjectiveBook {
        ObjectiveBook {
            models: [("m".to_owned(), times(1_000.0, 50.0))].into(),
            tenants: [("gold".to_owned(), times(300.0, 20.0))].into(),
            named: [("overnight".to_owned(), times(600_000.0, 1_000.0))].into(),
        }
    }

    #[test]
    fn a_tenants_stand_above_its_models_and_these_above_everybodys() {
        let of = |model, tenant| {
            let found = book().of(ALL, model, tenant, &Wanted::default());
            (found.ttft_ms, found.tpot_ms)
        };
        assert_eq!(of("other", ""), (2_000.0, 100.0));
        assert_eq!(of("m", "nobody"), (1_000.0, 50.0));
        assert_eq!(of("m", "gold"), (300.0, 20.0));
    }

    #[test]
    fn a_request_may_ask_for_longer_times_and_not_for_shorter_ones() {
        let of = |ttft_ms, tpot_ms, name| {
            let wanted = Wanted {
                ttft_ms,
                tpot_ms,
                name,
            };
            let found = book().of(ALL, "m", "gold", &wanted);
            (found.ttft_ms, found.tpot_ms)
        };
        assert_eq!(of(Some(5_000.0), None, None), (5_000.0, 20.0));
        assert_eq!(of(Some(1.0), Some(1.0), None), (300.0, 20.0));
        assert_eq!(of(None, None, Some("overnight")), (600_000.0, 1_000.0));
        assert_eq!(of(Some(900.0), None, Some("overnight")), (900.0, 1_000.0));
        assert_eq!(of(None, None, Some("unheard of")), (300.0, 20.0));
    }

    #[test]
    fn whatever_is_asked_for_is_within_bounds() {
        for text in [
            "", "soon", "nan", "inf", "-1", "0", "1e999", "1e-999", "1e308", "0.01", "77", " 5000 ",
        ] {
            let ms = objective_ms(text);
            assert!(ms.is_none_or(|ms| (SHORTEST_MS..=LONGEST_MS).contains(&ms)));
            for tenant in ["gold", "x", ""] {
                let wanted = Wanted {
                    ttft_ms: ms,
                    tpot_ms: ms,
                    name: Some(text),
                };
                let base = book().of(ALL, "m", tenant, &Wanted::default());
                let found = book().of(ALL, "m", tenant, &wanted);
                assert!(
                    (base.ttft_ms..=LONGEST_MS).contains(&found.ttft_ms),
                    "{text:?}"
                );
                assert!(
                    (base.tpot_ms..=LONGEST_MS).contains(&found.tpot_ms),
                    "{text:?}"
                );
            }
        }
    }
}
