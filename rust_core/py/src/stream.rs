//! `Stream`: one ext_proc stream's state machine, for a transport written in Python.

use crate::core::Core;
use prost::Message;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use weighbridge_decide::Refusal;
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
    #[pyo3(signature = (core, traceparent=None))]
    fn new(core: &Core, traceparent: Option<&str>) -> Self {
        let core = Arc::clone(&core.inner);
        let mut machine = weighbridge_stream::Stream::new(Arc::clone(&core), Limits::default());
        if let Some(text) = traceparent {
            machine.set_traceparent(text);
        }
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
            let mut machine = self.lock();
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

    /// Whether the stream may be ended, once all replies are sent.
    fn is_over(&self) -> bool {
        let machine = self.lock();
        machine
            .as_ref()
            .is_some_and(weighbridge_stream::Stream::is_over)
    }

    /// Whether a message of this many bytes may hold up the thread that hands it over.
    fn is_heavy(&self, size: usize) -> bool {
        let machine = self.lock();
        machine
            .as_ref()
            .is_some_and(|machine| machine.is_heavy_at(size))
    }

    /// Serialised: asks for the time that a heavy message may take.
    fn more_time<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let machine = self.lock();
        let reply = machine.as_ref()?.more_time()?.encode_to_vec();
        Some(PyBytes::new(py, &reply))
    }

    /// The refusal of a request whose body came in a larger message than `most_bytes`; no reply
    /// where it cannot be refused.
    fn refuse_too_large<'py>(
        &self,
        py: Python<'py>,
        most_bytes: usize,
    ) -> Vec<Bound<'py, PyBytes>> {
        self.refuse(py, &Refusal::body_too_large(most_bytes))
    }

    /// The refusal of a request whose body cannot be read in time.
    fn refuse_busy<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.refuse(py, &Refusal::bodies_in_the_way())
    }

    /// Whether an answer waits for admission, which `resume` gives; messages may be handed over
    /// meanwhile.
    fn is_waiting(&self) -> bool {
        let machine = self.lock();
        machine
            .as_ref()
            .is_some_and(weighbridge_stream::Stream::is_waiting)
    }

    /// The serialised replies that have waited, or `None` while they still have to; then `wake` is
    /// called once, from any thread, when it is worth asking again.
    fn resume<'py>(&self, py: Python<'py>, wake: Py<PyAny>) -> Option<Vec<Bound<'py, PyBytes>>> {
        let waker = Waker::from(Arc::new(Call(wake)));
        let replies = py.detach(|| {
            let mut machine = self.lock();
            let machine = machine.as_mut()?;
            match machine.poll_resume(&mut Context::from_waker(&waker), self.core.now_us()) {
                Poll::Pending => None,
                Poll::Ready(replies) => Some(
                    replies
                        .iter()
                        .map(Message::encode_to_vec)
                        .collect::<Vec<_>>(),
                ),
            }
        })?;
        Some(
            replies
                .iter()
                .map(|reply| PyBytes::new(py, reply))
                .collect(),
        )
    }

    /// The stream has ended: what it charged is released.
    fn close(&self, py: Python<'_>) {
        // What ends here may wake others, whose wake-ups want the interpreter.
        py.detach(|| {
            let machine = self.lock().take();
            if let Some(mut machine) = machine {
                machine.close(self.core.now_us());
            }
        });
    }
}

impl Stream {
    fn refuse<'py>(&self, py: Python<'py>, refusal: &Refusal) -> Vec<Bound<'py, PyBytes>> {
        let replies = py.detach(|| {
            let mut machine = self.lock();
            machine.as_mut().map_or_else(Vec::new, |machine| {
                let replies = machine.refuse_body(refusal, self.core.now_us());
                replies
                    .iter()
                    .map(Message::encode_to_vec)
                    .collect::<Vec<_>>()
            })
        });
        replies
            .iter()
            .map(|reply| PyBytes::new(py, reply))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Option<weighbridge_stream::Stream>> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Python function as a wake-up.
struct Call(Py<PyAny>);

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        Python::attach(|py| {
            // It can only fail where its event loop is closed: then nobody waits any more.
            drop(self.0.call0(py));
        });
    }
}
