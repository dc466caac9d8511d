//! `Stream`: one ext_proc stream's state machine, for a transport written in Python.

use crate::core::Core;
use prost::Message;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, Mutex, PoisonError};
use weighbridge_stream::Limits;
use weighbridge_stream::wire::ProcessingRequest;

/// One HTTP request, from its headers to its end.
#[pyclass(frozen, module = "weighbridge._core")]
pub(crate) struct Stream {
    core: Arc<weighbridge_decide::Core>,
    machine: Mutex<Option<weighbridge_stream::Stream>>,
}

#[pymethods]
impl Stream {
    #[new]
    fn new(core: &Core) -> Self {
        let core = Arc::clone(&core.inner);
        let machine = weighbridge_stream::Stream::new(Arc::clone(&core), Limits::default());
        Self {
            core,
            machine: Mutex::new(Some(machine)),
        }
    }

    /// A serialised ProcessingRequest in, serialised ProcessingResponses out.
    fn on_message<'py>(
        &self,
        py: Python<'py>,
        message: &[u8],
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let message = ProcessingRequest::decode(message)
            .map_err(|error| PyValueError::new_err(format!("no ProcessingRequest: {error}")))?;
        let replies = py.detach(|| {
            let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
            machine.as_mut().map_or_else(Vec::new, |machine| {
                let replies = machine.on_message(message, self.core.now_us());
                replies.iter().map(Message::encode_to_vec).collect()
            })
        });
        Ok(replies
            .iter()
            .map(|reply| PyBytes::new(py, reply))
            .collect())
    }

    /// The stream has ended: what it charged is released.
    fn close(&self) {
        let machine = self
            .machine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut machine) = machine {
            machine.close(self.core.now_us());
        }
    }
}
