//! The server's threads: each serves its connections on a runtime of its own.
//!
//! Envoy opens one HTTP/2 connection per worker; a connection that stays on one thread needs no
//! wake-up across threads for each of its thousands of streams a second.

use crate::ext_proc::{ExternalProcessor, Factory, Process, SERVICE};
use crate::listen::{ListenError, Listener};
use crate::reflection;
use crate::socket::Accepted;
use crate::tls::{Certificates, TlsError, TlsFiles};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

const LIVENESS: &str = "liveness";
const READINESS: &str = "readiness";
const MIB: u32 = 1 << 20;

/// Silence after which Envoy is asked whether it is still there: a node that is gone says nothing.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Time for its answer; then all its streams end, and what they hold is given back.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);

/// Largest head of a call, bytes: Envoy's are some hundred bytes.
const HEAD_BYTES: u32 = 64 << 10;

/// How the server is set up.
#[derive(Clone)]
pub struct Options {
    /// Threads that serve connections; one per Envoy worker is plenty.
    pub threads: usize,
    /// The largest message taken, bytes.
    pub max_message_bytes: usize,
    /// Streams that one connection may have open.
    pub max_streams_per_connection: u32,
    /// With it the server speaks TLS alone.
    pub tls: Option<TlsFiles>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 2,
            max_message_bytes: 18 << 20,
            max_streams_per_connection: 65_536,
            tls: None,
        }
    }
}

/// A running ext_proc server; dropping it cuts off what is open.
pub struct Server {
    address: String,
    health: HealthReporter,
    control: Runtime,
    stop: watch::Sender<bool>,
    certificates: Option<Arc<Certificates>>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens on `listen` (`host:port` or `unix:/path`) and serves; `factory` makes what answers
    /// each stream.
    ///
    /// # Errors
    /// When the address cannot be listened on, a certificate cannot be used, or no thread can be
    /// started.
    pub fn start<P: Process>(
        listen: &str,
        options: Options,
        factory: impl Fn() -> P + Send + Sync + 'static,
    ) -> Result<Self, ListenError> {
        let certificates = options.tls.as_ref().map(Certificates::new).transpose()?;
        let certificates = certificates.map(Arc::new);
        let listener = Listener::bind(listen)?;
        let address = listener.address();
        let factory: Factory<P> = Arc::new(factory);
        let (stop, stopping) = watch::channel(false);
        let (health, health_service) = tonic_health::server::health_reporter();
        // Accepts, and answers heavy messages on as many threads as serve.
        let control = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(options.threads.max(1))
            .thread_name("weighbridge-beside")
            .enable_all()
            .build()
            .map_err(ListenError::Start)?;
        let mut threads = Vec::new();
        let mut inboxes = Vec::new();
        for index in 0..options.threads.max(1) {
            let (inbox, accepted) = mpsc::channel(64);
            let service = ExternalProcessor::new(
                Arc::clone(&factory),
                options.max_message_bytes,
                control.handle().clone(),
            );
            let runtime = current_thread()?;
            let router = tonic::transport::Server::builder()
                .initial_stream_window_size(MIB)
                .initial_connection_window_size(16 * MIB)
                .max_concurrent_streams(options.max_streams_per_connection)
                .http2_max_header_list_size(HEAD_BYTES)
                .http2_keepalive_interval(Some(KEEPALIVE))
                .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
                .add_service(service)
                .add_service(health_service.clone())
                .add_service(reflection::v1()?)
                .add_service(reflection::v1alpha()?);
            let mut stopping = stopping.clone();
            let certificates = certificates.clone();
            threads.push(spawn(format!("weighbridge-{index}"), move || {
                let sockets = ReceiverStream::new(accepted)
                    .map(|accepted: Accepted| accepted.attach(certificates.as_deref()));
                let stopped = async move {
                    // An error means that the server was dropped, which stops it as well.
                    drop(stopping.wait_for(|stop| *stop).await);
                };
                let served =
                    runtime.block_on(router.serve_with_incoming_shutdown(sockets, stopped));
                if let Err(error) = served {
                    tracing::error!(%error, "the ext_proc server ended");
                }
            })?);
            inboxes.push(inbox);
        }
        control.spawn(accept(listener, inboxes, stopping));
        let server = Self {
            address,
            health,
            control,
            stop,
            certificates,
            threads,
        };
        server.set_status(LIVENESS, true);
        server.set_ready(false);
        Ok(server)
    }

    /// Where it listens, with the port it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the health service says of readiness.
    pub fn set_ready(&self, ready: bool) {
        self.set_status(READINESS, ready);
        self.set_status(SERVICE, ready);
        self.set_status("", ready);
    }

    /// Shows these certificates to connections from now on; of no effect on a server without TLS.
    ///
    /// # Errors
    /// When they cannot be used; then the former ones stay.
    pub fn set_tls(&self, files: &TlsFiles) -> Result<(), TlsError> {
        self.certificates
            .as_ref()
            .map_or(Ok(()), |certificates| certificates.set(files))
    }

    /// Takes no new connection or stream, waits up to `patience` for open streams to end, and
    /// stops. True when none was cut off.
    #[must_use]
    pub fn stop(mut self, patience: Duration) -> bool {
        self.stop.send_replace(true);
        let deadline = std::time::Instant::now() + patience;
        let mut clean = true;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            // A thread with streams still open is left to the end of the process.
            clean &= thread.is_finished() && thread.join().is_ok();
        }
        self.control.shutdown_background();
        clean
    }

    fn set_status(&self, service: &str, ready: bool) {
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.control
            .block_on(self.health.set_service_status(service, status));
    }
}

fn current_thread() -> Result<Runtime, ListenError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ListenError::Start)
}

fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, ListenError> {
    std::thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(ListenError::Start)
}

/// Hands accepted connections to the threads in turn until told to stop.
async fn accept(
    listener: Listener,
    inboxes: Vec<mpsc::Sender<Accepted>>,
    mut stopping: watch::Receiver<bool>,
) {
    let socket_file = match &listener {
        Listener::Tcp(_) => None,
        Listener::Unix(_, path) => Some(path.clone()),
    };
    tokio::select! {
        () = accept_all(listener, inboxes) => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
    if let Some(path) = socket_file {
        // A file that is gone already is what we want.
        drop(std::fs::remove_file(path));
    }
}

async fn accept_all(listener: Listener, inboxes: Vec<mpsc::Sender<Accepted>>) {
    let failed = |error| tracing::error!(%error, "cannot take connections");
    match listener {
        Listener::Tcp(listener) => match TcpListener::from_std(listener) {
            Err(error) => failed(error),
            Ok(listener) => {
                for inbox in inboxes.iter().cycle() {
                    let accepted = loop {
                        let stream = listener.accept().await.map(|(stream, _)| stream);
                        match stream.and_then(tokio::net::TcpStream::into_std) {
                            Ok(stream) => break Accepted::Tcp(stream),
                            Err(error) => pause_after(&error).await,
                        }
                    };
                    drop(inbox.send(accepted).await);
                }
            }
        },
        Listener::Unix(listener, _) => match UnixListener::from_std(listener) {
            Err(error) => failed(error),
            Ok(listener) => {
                for inbox in inboxes.iter().cycle() {
                    let accepted = loop {
                        let stream = listener.accept().await.map(|(stream, _)| stream);
                        match stream.and_then(tokio::net::UnixStream::into_std) {
                            Ok(stream) => break Accepted::Unix(stream),
                            Err(error) => pause_after(&error).await,
                        }
                    };
                    drop(inbox.send(accepted).await);
                }
            }
        },
    }
}

/// A failed accept (most often: no file descriptor left) is tried again, not in a hot loop.
async fn pause_after(error: &std::io::Error) {
    tracing::warn!(%error, "a connection was not accepted");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
