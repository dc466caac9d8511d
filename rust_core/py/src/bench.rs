//! Functions that `weighbridge bench` calls: decisions timed in Rust, and the bodies they are of.

use crate::{json, refused};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::time::Duration;
use weighbridge_bench::{Case, Conversation, Scene, measure};

/// Times decisions of one case for about `seconds`; gives the row as JSON.
#[pyfunction]
pub(crate) fn bench_decision(
    py: Python<'_>,
    profile_json: &str,
    case_json: &str,
    seconds: f64,
) -> PyResult<String> {
    let (profile, case) = parse(profile_json, case_json)?;
    let budget = Duration::try_from_secs_f64(seconds).map_err(refused)?;
    py.detach(|| {
        let mut scene = Scene::set(&profile, case).map_err(refused)?;
        json(&measure(&mut scene, case, budget).map_err(refused)?)
    })
}

/// A core whose index was filled by `sessions` sessions at least; kept until it is dropped.
#[pyclass(frozen, module = "weighbridge._core")]
pub(crate) struct FilledCore {
    scene: std::sync::Mutex<Scene>,
}

#[pymethods]
impl FilledCore {
    /// Blocks in its index.
    fn index_blocks(&self) -> usize {
        self.scene
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .index_blocks()
    }
}

/// Fills a core's index as `case_json` says, from at least `sessions` sessions, so that its memory
/// can be looked at.
#[pyfunction]
pub(crate) fn bench_fill(
    py: Python<'_>,
    profile_json: &str,
    case_json: &str,
    sessions: u64,
) -> PyResult<FilledCore> {
    let (profile, case) = parse(profile_json, case_json)?;
    py.detach(|| {
        let mut scene = Scene::empty(&profile, case).map_err(refused)?;
        let visited = scene.fill(case.index_blocks).map_err(refused)?;
        for session in visited..sessions.max(visited) {
            scene.visit(session, case.body_bytes).map_err(refused)?;
        }
        Ok(FilledCore {
            scene: std::sync::Mutex::new(scene),
        })
    })
}

/// A chat body of about `bytes` bytes; a longer one of the same session begins alike.
#[pyfunction]
pub(crate) fn bench_body<'py>(
    py: Python<'py>,
    model: &str,
    session: u64,
    bytes: usize,
) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &Conversation::new(session).body(model, bytes))
}

fn parse(profile_json: &str, case_json: &str) -> PyResult<(serde_json::Value, Case)> {
    Ok((
        serde_json::from_str(profile_json).map_err(refused)?,
        serde_json::from_str(case_json).map_err(refused)?,
    ))
}
