//! Times a scene, decision by decision.

use crate::scene::{Case, Scene, SceneError};
use serde::Serialize;
use std::time::{Duration, Instant};
use weighbridge_weigh::{Body, Endpoint, Limits, read};

/// Rounds of a measurement; each figure is the median of the rounds', since other processes take
/// the core at times.
const ROUNDS: usize = 5;
/// Fewest decisions in a round, so that a 99th percentile means something.
const FEWEST: usize = 200;

/// What was measured of a case, on one core.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    /// Bytes of a body, on average.
    pub body_bytes: usize,
    /// Replicas.
    pub replicas: usize,
    /// Blocks that the index was filled with before.
    pub index_blocks: usize,
    /// Blocks in the index when it began, those of the measured bodies counted.
    pub held_blocks: usize,
    /// Median of a decision, µs.
    pub p50_us: f64,
    /// 99th percentile of a decision, µs.
    pub p99_us: f64,
    /// Decisions a second.
    pub per_second_core: f64,
    /// Bytes of bodies decided on, GB/s.
    pub gb_per_s: f64,
    /// Reading and hashing alone, GB/s.
    pub read_gb_per_s: f64,
}

/// Measures a scene for about `budget`.
///
/// # Errors
/// When a body is refused.
#[allow(clippy::cast_precision_loss)]
pub fn measure(scene: &mut Scene, case: Case, budget: Duration) -> Result<Row, SceneError> {
    let held_blocks = scene.index_blocks();
    let body_bytes = scene.mean_body_bytes();
    let slot = budget / (ROUNDS as u32 + 1);
    let mut p50 = Vec::new();
    let mut p99 = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let mut times = round(scene, slot)?;
        let all: f64 = times.iter().sum();
        rates.push(times.len() as f64 / all * 1e6);
        times.sort_unstable_by(f64::total_cmp);
        p50.push(at(&times, 0.50));
        p99.push(at(&times, 0.99));
    }
    let per_second_core = median(rates);
    Ok(Row {
        body_bytes,
        replicas: case.replicas,
        index_blocks: case.index_blocks,
        held_blocks,
        p50_us: median(p50),
        p99_us: median(p99),
        per_second_core,
        gb_per_s: per_second_core * body_bytes as f64 / 1e9,
        read_gb_per_s: read_gb_per_s(scene, slot)?,
    })
}

/// Each decision's time, µs.
fn round(scene: &mut Scene, slot: Duration) -> Result<Vec<f64>, SceneError> {
    let mut times = Vec::new();
    let begun = Instant::now();
    while times.len() < FEWEST || begun.elapsed() < slot {
        let start = Instant::now();
        scene.step()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

/// Reading and hashing the scene's bodies for about `slot`, GB/s: the median body's rate.
///
/// # Errors
/// When a body cannot be read.
#[allow(clippy::cast_precision_loss)]
pub fn read_gb_per_s(scene: &Scene, slot: Duration) -> Result<f64, SceneError> {
    let limits = Limits::default();
    let mut rates = Vec::new();
    let begun = Instant::now();
    let bodies: Vec<&[u8]> = scene.bodies().collect();
    for body in bodies.iter().cycle() {
        let start = Instant::now();
        let reading = read(Endpoint::ChatCompletions, Body::whole(body), &limits)
            .map_err(|error| SceneError::Refused(error.to_string()))?;
        let seconds = start.elapsed().as_secs_f64();
        std::hint::black_box(reading);
        rates.push(body.len() as f64 / seconds / 1e9);
        if begun.elapsed() > slot && rates.len() >= 20 {
            break;
        }
    }
    Ok(median(rates))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    at(&values, 0.5)
}

/// The value at this share of ordered ones.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn at(ordered: &[f64], share: f64) -> f64 {
    let last = ordered.len().saturating_sub(1);
    let place = (last as f64 * share).round() as usize;
    ordered.get(place).copied().unwrap_or(0.0)
}
