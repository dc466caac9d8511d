//! The emulator: starts everything, hands out addresses and counts, stops everything.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot};

use crate::config::EmulatorConfig;
use crate::engines::driver;
use crate::engines::lane::Lane;
use crate::error::Error;
use crate::interface::generate::Rules;
use crate::interface::routes::Settings;
use crate::replica::commands::Order;
use crate::replica::commands::{Clock, Driver, Inbox};
use crate::replica::counters::ReplicaCounters;
use crate::replica::fault::{Fault, Health};
use crate::replica::state::{Keep, Parts, Replica};
use crate::server::connection;
use crate::server::control;

/// Emulated replicas that run until stopped or dropped.
#[derive(Debug)]
pub struct Emulator {
    replicas: Arc<[Arc<Replica>]>,
    control: Option<SocketAddr>,
    runtime: Handle,
    driver: Driver,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// A replica with what its tasks take over.
struct Fresh {
    replica: Arc<Replica>,
    listener: TcpListener,
    orders: mpsc::UnboundedReceiver<Order>,
}

impl Emulator {
    /// Starts the replicas and returns once all their ports are open.
    ///
    /// # Errors
    /// The configuration is out of range, a port is taken, or the system has no threads.
    pub fn start(config: EmulatorConfig) -> Result<Self, Error> {
        config.validate()?;
        let clock = Clock::new(config.speed);
        let (driver, inbox) = Driver::new(clock);
        let fresh = (0..config.replicas)
            .map(|index| make(&config, index, &driver))
            .collect::<Result<Vec<_>, _>>()?;
        let control = match config.control_port {
            Some(port) => Some(listen(SocketAddr::new(config.host, port))?),
            None => None,
        };
        let control_address = control.as_ref().map(TcpListener::local_addr).transpose()?;
        let lanes = fresh
            .iter()
            .map(|fresh| lane(&config, &fresh.replica))
            .collect::<Result<Vec<_>, _>>()?;
        let replicas: Arc<[Arc<Replica>]> = fresh.iter().map(|f| Arc::clone(&f.replica)).collect();
        let runtime = Builder::new_multi_thread()
            .worker_threads(config.threads)
            .thread_name("emulator")
            .enable_all()
            .build()?;
        spawn(&runtime, &config, fresh, Arc::clone(&replicas), control)?;
        let handle = runtime.handle().clone();
        let (stop, stopping) = oneshot::channel();
        let threads = vec![
            drive(inbox, lanes, clock)?,
            keep_running(runtime, stopping)?,
        ];
        Ok(Self {
            replicas,
            control: control_address,
            runtime: handle,
            driver,
            stop: Some(stop),
            threads,
        })
    }

    /// Where each replica listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.replicas.iter().map(|r| r.address).collect()
    }

    /// Where the control port listens, if there is one.
    #[must_use]
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control
    }

    /// What a replica has done so far.
    #[must_use]
    pub fn counters(&self, replica: usize) -> Option<ReplicaCounters> {
        self.replicas.get(replica).map(|r| r.counters())
    }

    /// What every replica has done so far.
    #[must_use]
    pub fn all_counters(&self) -> Vec<ReplicaCounters> {
        self.replicas.iter().map(|r| r.counters()).collect()
    }

    /// Makes a replica suffer a fault and returns once it does; a restart once it is over.
    ///
    /// # Errors
    /// There is no such replica, the fault's numbers are out of range, or the port was taken
    /// while the replica was down.
    pub fn fault(&self, replica: usize, fault: Fault) -> Result<(), Error> {
        let replica = self
            .replicas
            .get(replica)
            .cloned()
            .ok_or_else(|| Error::NoReplica(replica.to_string()))?;
        let (done, answered) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            // The caller waits below.
            let _ = done.send(control::inflict(&replica, fault).await);
        });
        answered.recv().map_err(|_| Error::Stopped)?
    }

    /// Closes all ports and connections and waits for all threads.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        self.driver.stop();
        // Dropping the sender is what stops the runtime.
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the emulator has panicked");
            }
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.halt();
    }
}

fn make(config: &EmulatorConfig, index: usize, driver: &Driver) -> Result<Fresh, Error> {
    let port = if config.base_port == 0 {
        0
    } else {
        // Checked: the last one is a port.
        u16::try_from(usize::from(config.base_port) + index).unwrap_or(0)
    };
    let listener = listen(SocketAddr::new(config.host, port))?;
    let (orders, receiver) = mpsc::unbounded_channel();
    let seed = seed(config, index);
    let parts = Parts {
        index,
        address: listener.local_addr()?,
        model: config.model(index).to_owned(),
        profile: config.profile(index),
        health: Health::new(seed, delay(config, index).is_zero()),
        driver: driver.clone(),
        orders,
        keep: Keep {
            iterations: config.iter_stats_max_iterations,
            requests: config.perf_metrics_max_requests,
            events: config.event_buffer_max_size,
        },
    };
    Ok(Fresh {
        replica: Arc::new(Replica::new(parts)),
        listener,
        orders: receiver,
    })
}

fn lane(config: &EmulatorConfig, replica: &Arc<Replica>) -> Result<Lane, Error> {
    let index = replica.index;
    let with_events = config.event_buffer_max_size > 0;
    Lane::new(Arc::clone(replica), seed(config, index), with_events).map_err(|source| {
        Error::Profile {
            replica: index,
            source,
        }
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).map_err(|source| Error::Port { address, source })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn seed(config: &EmulatorConfig, index: usize) -> u64 {
    config
        .seed
        .wrapping_add(u64::try_from(index).unwrap_or(0).wrapping_mul(1 << 20))
}

fn delay(config: &EmulatorConfig, index: usize) -> Duration {
    let index = u64::try_from(index).unwrap_or(0);
    Duration::from_millis(
        config
            .start_delay_ms
            .saturating_add(config.start_stagger_ms.saturating_mul(index)),
    )
}

fn spawn(
    runtime: &Runtime,
    config: &EmulatorConfig,
    fresh: Vec<Fresh>,
    replicas: Arc<[Arc<Replica>]>,
    control: Option<TcpListener>,
) -> Result<(), Error> {
    let settings = Arc::new(settings(config));
    // Listeners register with the runtime that they are made in.
    let _inside = runtime.enter();
    for Fresh {
        replica,
        listener,
        orders,
    } in fresh
    {
        let wait = delay(config, replica.index);
        if !wait.is_zero() {
            let starting = Arc::clone(&replica);
            runtime.spawn(async move {
                tokio::time::sleep(wait).await;
                starting.health.change(|c| c.ready = true);
            });
        }
        let listener = tokio::net::TcpListener::from_std(listener)?;
        runtime.spawn(connection::serve(
            replica,
            Arc::clone(&settings),
            listener,
            orders,
        ));
    }
    if let Some(listener) = control {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        runtime.spawn(control::serve(replicas, listener));
    }
    Ok(())
}

fn settings(config: &EmulatorConfig) -> Settings {
    Settings {
        rules: Rules {
            seed: config.seed,
            default_max_tokens: config.default_max_tokens,
            output_median: config.output_median,
            output_sigma: config.output_sigma,
            image_tile_tokens: config.image_tile_tokens,
            check_model: config.check_model,
            strict_fields: config.strict_fields,
            max_open_requests: config.max_open_requests,
            with_tokens: config.event_buffer_max_size > 0,
            ids: AtomicU64::new(1),
        },
        max_body_bytes: config.max_body_bytes,
        metrics_wait: Duration::from_millis(config.metrics_wait_ms),
    }
}

fn drive(inbox: Inbox, mut lanes: Vec<Lane>, clock: Clock) -> Result<JoinHandle<()>, Error> {
    let thread = std::thread::Builder::new().name("emulator-driver".to_owned());
    Ok(thread.spawn(move || driver::run(&inbox, &mut lanes, clock))?)
}

/// The runtime lives on a thread of its own, so that it may be stopped from anywhere.
fn keep_running(
    runtime: Runtime,
    stopping: oneshot::Receiver<()>,
) -> Result<JoinHandle<()>, Error> {
    let thread = std::thread::Builder::new().name("emulator-runtime".to_owned());
    Ok(thread.spawn(move || {
        // Nothing is ever sent: the sender's end is the sign.
        let _ = runtime.block_on(stopping);
        runtime.shutdown_timeout(Duration::from_secs(2));
    })?)
}
