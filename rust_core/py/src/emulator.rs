//! `Emulator`: emulated replicas on their own ports and threads.

use crate::refused;
use pyo3::prelude::*;
use std::sync::{Mutex, PoisonError};
use weighbridge_emulator::EmulatorConfig;

/// Emulated replicas.
#[pyclass(frozen, module = "weighbridge._core")]
pub(crate) struct Emulator {
    addresses: Vec<String>,
    running: Mutex<Option<weighbridge_emulator::Emulator>>,
}

#[pymethods]
impl Emulator {
    #[new]
    fn new(py: Python<'_>, config_json: &str) -> PyResult<Self> {
        let config: EmulatorConfig = serde_json::from_str(config_json).map_err(refused)?;
        let emulator = py
            .detach(|| weighbridge_emulator::Emulator::start(config))
            .map_err(refused)?;
        Ok(Self {
            addresses: emulator
                .addresses()
                .iter()
                .map(ToString::to_string)
                .collect(),
            running: Mutex::new(Some(emulator)),
        })
    }

    /// `ip:port` of each replica.
    fn addresses(&self) -> Vec<String> {
        self.addresses.clone()
    }

    /// Stops all replicas and waits for their threads.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| {
            let emulator = self
                .running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(emulator) = emulator {
                emulator.stop();
            }
        });
    }
}
