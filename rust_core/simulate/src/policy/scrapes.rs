//! Replicas' metrics as a picker has them: as old as its last scrape.

use super::View;
use crate::replica::Metrics;

/// The latest metrics.
pub(super) struct Scrapes {
    metrics: Vec<Metrics>,
    scraped_ms: f64,
    interval_ms: f64,
}

impl Scrapes {
    pub(super) fn new(interval_ms: f64) -> Self {
        Self {
            metrics: Vec::new(),
            scraped_ms: f64::NEG_INFINITY,
            interval_ms,
        }
    }

    pub(super) fn of(&self, replica: usize) -> Metrics {
        self.metrics.get(replica).copied().unwrap_or_default()
    }

    pub(super) fn scrape(&mut self, view: &mut View<'_>, now_ms: f64) {
        if now_ms < self.scraped_ms + self.interval_ms && self.metrics.len() == view.replicas.len()
        {
            return;
        }
        // Scrapes are on a grid of their own, whenever requests come.
        self.scraped_ms = if self.interval_ms > 0.0 {
            (now_ms / self.interval_ms).floor() * self.interval_ms
        } else {
            now_ms
        };
        self.metrics.clear();
        let scraped = view.replicas.iter_mut();
        self.metrics
            .extend(scraped.map(|replica| replica.metrics(now_ms)));
    }
}
