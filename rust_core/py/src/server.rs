//! `NativeServer`: the tonic server, started and stopped from Python.

use crate::core::Core;
use crate::refused;
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use weighbridge_server::{Constant, Machine, Options, Process, Server, TlsFiles};
use weighbridge_stream::Limits;

/// Certificate, key and the clients' roots, as PEM text.
type Pem = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// The ext_proc server on its own threads.
#[pyclass(frozen, module = "weighbridge._core")]
pub(crate) struct NativeServer {
    address: String,
    running: Mutex<Option<Server>>,
}

#[pymethods]
impl NativeServer {
    /// Listens and serves; with no core it always chooses the same replica, for benchmarks.
    #[new]
    #[pyo3(signature = (core, listen, threads = 2, max_message_bytes = 18 << 20,
        max_streams = 65_536, tls = None))]
    fn new(
        py: Python<'_>,
        core: Option<&Core>,
        listen: &str,
        threads: usize,
        max_message_bytes: usize,
        max_streams: u32,
        tls: Option<Pem>,
    ) -> PyResult<Self> {
        let options = Options {
            threads,
            max_message_bytes,
            max_streams_per_connection: max_streams,
            tls: tls.map(|(certificate, key, client_ca)| TlsFiles {
                certificate,
                key,
                client_ca,
            }),
        };
        let core = core.map(|core| Arc::clone(&core.inner));
        py.detach(|| match core {
            Some(core) => start(listen, options, move || {
                Machine::new(Arc::clone(&core), Limits::default())
            }),
            None => start(listen, options, || Constant),
        })
    }

    /// Where it listens.
    #[getter]
    fn address(&self) -> &str {
        &self.address
    }

    /// What the health service answers for readiness.
    fn set_ready(&self, py: Python<'_>, ready: bool) {
        py.detach(|| {
            if let Some(server) = self.lock().as_ref() {
                server.set_ready(ready);
            }
        });
    }

    /// Shows these certificates to connections from now on.
    fn set_tls(
        &self,
        certificate: Vec<u8>,
        key: Vec<u8>,
        client_ca: Option<Vec<u8>>,
    ) -> PyResult<()> {
        let files = TlsFiles {
            certificate,
            key,
            client_ca,
        };
        let running = self.lock();
        let server = running.as_ref();
        server.map_or(Ok(()), |server| server.set_tls(&files).map_err(refused))
    }

    /// Takes no new stream and lets open ones end; true when none was cut off.
    fn stop(&self, py: Python<'_>, drain_seconds: f64) -> bool {
        let patience = Duration::try_from_secs_f64(drain_seconds.max(0.0)).unwrap_or_default();
        py.detach(|| {
            let server = self.lock().take();
            server.is_none_or(|server| server.stop(patience))
        })
    }
}

impl NativeServer {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Server>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start<P: Process>(
    listen: &str,
    options: Options,
    factory: impl Fn() -> P + Send + Sync + 'static,
) -> PyResult<NativeServer> {
    let server = Server::start(listen, options, factory).map_err(refused)?;
    Ok(NativeServer {
        address: server.address().to_owned(),
        running: Mutex::new(Some(server)),
    })
}
