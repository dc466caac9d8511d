//! The book of tenants: what each was promised and may ask for.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Tenants that a book may name.
pub const MOST_TENANTS: usize = 10_000;

/// What is served first under pressure; the order of the variants is the order of service.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Someone's service stands still without it.
    Critical,
    /// Someone waits for the answer.
    #[default]
    Standard,
    /// Nobody watches; it must be done some time.
    Batch,
    /// May be dropped whenever others need the room.
    Sheddable,
}

impl Priority {
    /// All, first served first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::Standard, Self::Batch, Self::Sheddable];

    /// Its name in configuration, headers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Standard => "standard",
            Self::Batch => "batch",
            Self::Sheddable => "sheddable",
        }
    }

    /// The priority of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|priority| name.eq_ignore_ascii_case(priority.as_str()))
    }

    pub(crate) const fn slot(self) -> usize {
        self as usize
    }
}

/// What one tenant was promised and may ask for, of each model.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// MU a minute that it gets whatever others do; 0 promises nothing.
    pub guaranteed_mu_per_min: f64,
    /// MU that it may take at once within its promise; left out: ten seconds of it.
    pub burst_mu: Option<f64>,
    /// Its part of what promises leave over, beside the weights of others of its class.
    pub weight: f64,
    /// The class of its requests; a request may ask for a lower one, not for a higher.
    pub priority: Priority,
    /// Most MU that one request may be weighed at; left out: no limit.
    pub max_request_mu: Option<f64>,
    /// Most requests that it may have waiting; left out: what the queue holds.
    pub max_queued: Option<u32>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            guaranteed_mu_per_min: 0.0,
            burst_mu: None,
            weight: 1.0,
            priority: Priority::Standard,
            max_request_mu: None,
            max_queued: None,
        }
    }
}

impl Terms {
    /// The bucket's size in MU.
    pub(crate) fn burst(&self) -> f64 {
        self.burst_mu.unwrap_or(self.guaranteed_mu_per_min / 6.0)
    }

    fn check(&self, tenant: &str) -> Result<(), BookError> {
        let error = |key, reason| BookError::Terms {
            tenant: tenant.to_owned(),
            key,
            reason,
        };
        let mu = |value: f64| (0.0..=1e12).contains(&value);
        if !mu(self.guaranteed_mu_per_min) {
            return Err(error("guaranteed_mu_per_min", "must be from 0 to 1e12"));
        }
        if !(0.001..=1000.0).contains(&self.weight) {
            return Err(error("weight", "must be from 0.001 to 1000"));
        }
        if self.burst_mu.is_some_and(|burst| !mu(burst)) {
            return Err(error("burst_mu", "must be from 0 to 1e12"));
        }
        if self.burst_mu.is_some_and(|burst| burst == 0.0) && self.guaranteed_mu_per_min > 0.0 {
            return Err(error(
                "burst_mu",
                "must be above 0, or nothing can be promised",
            ));
        }
        if self
            .max_request_mu
            .is_some_and(|most| most.is_nan() || most <= 0.0)
        {
            return Err(error("max_request_mu", "must be above 0"));
        }
        Ok(())
    }
}

/// Why a book is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BookError {
    /// A tenant's terms cannot be.
    #[error("tenant {tenant}: {key}: {reason}")]
    Terms {
        /// The tenant.
        tenant: String,
        /// Which of its terms.
        key: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// More tenants than a gate keeps apart.
    #[error("{0} tenants are more than {MOST_TENANTS}")]
    TooMany(usize),
}

/// The tenants by name, and the terms of all others. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Book {
    named: Arc<HashMap<Box<str>, Arc<Terms>>>,
    default: Arc<Terms>,
}

impl Book {
    /// A book of named tenants. `default` holds for requests that name no tenant and for names the
    /// book does not have; its promise, where it makes one, is to the former alone, since anyone
    /// can think of a name.
    ///
    /// # Errors
    /// When there are too many, or terms that cannot be.
    pub fn new<S: AsRef<str>>(
        named: impl IntoIterator<Item = (S, Terms)>,
        default: Terms,
    ) -> Result<Self, BookError> {
        default.check("(default)")?;
        let mut all = HashMap::new();
        for (name, terms) in named {
            let name = name.as_ref();
            terms.check(name)?;
            all.insert(name.into(), Arc::new(terms));
        }
        if all.len() > MOST_TENANTS {
            return Err(BookError::TooMany(all.len()));
        }
        Ok(Self {
            named: Arc::new(all),
            default: Arc::new(default),
        })
    }

    /// The terms of a tenant that the book names.
    #[must_use]
    pub fn named(&self, tenant: &str) -> Option<&Arc<Terms>> {
        self.named.get(tenant)
    }

    /// The terms of all others.
    #[must_use]
    pub fn default_terms(&self) -> &Arc<Terms> {
        &self.default
    }

    /// How many tenants it names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether it names none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// MU a minute promised to all together.
    #[must_use]
    pub fn promised_mu_per_min(&self) -> f64 {
        let named: f64 = self
            .named
            .values()
            .map(|terms| terms.guaranteed_mu_per_min)
            .sum();
        named + self.default.guaranteed_mu_per_min
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_that_cannot_be_name_tenant_and_key() {
        let refused = |terms| Book::new([("acme", terms)], Terms::default()).unwrap_err();
        let weightless = Terms {
            weight: 0.0,
            ..Terms::default()
        };
        assert_eq!(
            refused(weightless).to_string(),
            "tenant acme: weight: must be from 0.001 to 1000"
        );
        let unlimited = Terms {
            guaranteed_mu_per_min: f64::NAN,
            ..Terms::default()
        };
        assert!(refused(unlimited).to_string().contains("guaranteed"));
        let hollow = Terms {
            guaranteed_mu_per_min: 60.0,
            burst_mu: Some(0.0),
            ..Terms::default()
        };
        assert!(refused(hollow).to_string().contains("burst_mu"));
    }

    #[test]
    fn a_book_has_a_limit() {
        let many = (0..=MOST_TENANTS).map(|at| (format!("t{at}"), Terms::default()));
        assert_eq!(
            Book::new(many, Terms::default()).unwrap_err(),
            BookError::TooMany(MOST_TENANTS + 1)
        );
    }

    #[test]
    fn priorities_are_named_alike_everywhere() {
        for priority in Priority::ALL {
            let json = serde_json::to_string(&priority).unwrap();
            assert_eq!(json.trim_matches('"'), priority.as_str());
            assert_eq!(Priority::from_name(priority.as_str()), Some(priority));
        }
        assert_eq!(Priority::from_name("urgent"), None);
        assert!(Priority::Critical < Priority::Sheddable);
    }
}
