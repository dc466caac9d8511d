//! Traces and simulations as Python drives them.

use crate::{json, refused};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Deserialize;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;
use weighbridge_simulate::{Run, Scenario, Search};
use weighbridge_traces::{
    BodyOptions, Format, Generator, Kind, LoadOptions, Scaling, Steady, Surge, Tenants, TextPool,
    generate, load, save, workload_names,
};

/// What a file does not say of itself.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Loading {
    format: Option<String>,
    sessions_per_s: Option<f64>,
    seed: u64,
}

/// How a trace is replayed.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Replaying {
    rate: Option<f64>,
    time_scale: Option<f64>,
    start_s: f64,
    duration_s: Option<f64>,
    most_tokens: Option<u32>,
    tenants: Option<u32>,
    tenant_skew: f64,
    steady: Option<SteadyTenant>,
    surge: Option<Rise>,
    seed: u64,
}

/// A tenant whose requests are the same at any rate of the others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SteadyTenant {
    tenant: String,
    rate: f64,
}

/// A time with more requests.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rise {
    at_s: f64,
    for_s: f64,
    factor: f64,
}

impl Replaying {
    fn scaling(&self) -> Scaling {
        Scaling {
            rate: self.rate,
            time_scale: self.time_scale.unwrap_or(1.0),
            start_s: self.start_s,
            duration_s: self.duration_s,
            most_tokens: self.most_tokens,
            tenants: self.tenants.map(|count| Tenants {
                count,
                skew: self.tenant_skew,
            }),
            steady: self.steady.as_ref().map(|steady| Steady {
                tenant: steady.tenant.clone(),
                rate: steady.rate,
            }),
            surge: self.surge.as_ref().map(|surge| Surge {
                at_s: surge.at_s,
                for_s: surge.for_s,
                factor: surge.factor,
            }),
            seed: self.seed,
        }
    }
}

/// Requests by time of arrival.
#[pyclass(frozen, module = "weighbridge._core")]
pub(crate) struct Trace {
    inner: Arc<weighbridge_traces::Trace>,
}

#[pymethods]
impl Trace {
    /// Loads a file, whatever its format.
    #[staticmethod]
    #[pyo3(signature = (path, options_json = "{}"))]
    fn load(py: Python<'_>, path: PathBuf, options_json: &str) -> PyResult<Self> {
        let loading: Loading = serde_json::from_str(options_json).map_err(refused)?;
        let format = loading
            .format
            .map(|name| Format::named(&name).ok_or_else(|| unknown_format(&name)))
            .transpose()?;
        let options = LoadOptions {
            format,
            seed: loading.seed,
            ..LoadOptions::default()
        };
        let options = LoadOptions {
            sessions_per_s: loading.sessions_per_s.unwrap_or(options.sessions_per_s),
            ..options
        };
        let trace = py.detach(|| load(&path, &options)).map_err(refused)?;
        Ok(Self {
            inner: Arc::new(trace),
        })
    }

    /// Makes a trace: of the `workload` that is named, as the other settings say.
    #[staticmethod]
    #[pyo3(signature = (settings_json = "{}"))]
    fn generate(py: Python<'_>, settings_json: &str) -> PyResult<Self> {
        let trace = py.detach(|| generate(settings_json)).map_err(refused)?;
        Ok(Self {
            inner: Arc::new(trace),
        })
    }

    /// Writes it in Weighbridge's own format.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| save(&self.inner, BufWriter::new(File::create(path)?)))?;
        Ok(())
    }

    #[getter]
    fn name(&self) -> &str {
        self.inner.name()
    }

    #[getter]
    fn requests(&self) -> usize {
        self.inner.requests().len()
    }

    #[getter]
    fn sessions(&self) -> usize {
        self.inner.session_count()
    }

    #[getter]
    fn tenants(&self) -> usize {
        self.inner.tenant_count()
    }

    /// Requests a second.
    #[getter]
    fn rate(&self) -> f64 {
        self.inner.rate()
    }

    /// Plans a replay.
    #[pyo3(signature = (scaling_json = "{}"))]
    fn replay(&self, py: Python<'_>, scaling_json: &str) -> PyResult<Replay> {
        let replaying: Replaying = serde_json::from_str(scaling_json).map_err(refused)?;
        let trace = Arc::clone(&self.inner);
        let inner = py
            .detach(|| weighbridge_traces::Replay::new(trace, &replaying.scaling()))
            .map_err(refused)?;
        Ok(Replay {
            inner,
            pool: TextPool::new(),
        })
    }
}

fn unknown_format(name: &str) -> PyErr {
    let known = Format::names().join(", ");
    refused(format!("no format is called '{name}' (there are: {known})"))
}

/// A trace at some rate.
#[pyclass(frozen, module = "weighbridge._core")]
pub(crate) struct Replay {
    inner: weighbridge_traces::Replay,
    pool: TextPool,
}

/// `(at_seconds, session, tenant, turn, input_tokens, output_tokens, max_tokens, kind)`.
type Planned = (f64, String, String, u32, u32, u32, u32, &'static str);

#[pymethods]
impl Replay {
    fn __len__(&self) -> usize {
        self.inner.arrivals().len()
    }

    /// Requests a second.
    #[getter]
    fn rate(&self) -> f64 {
        self.inner.rate()
    }

    /// What is known of a request before it is sent.
    #[allow(clippy::cast_precision_loss)] // µs, far below 2^52
    fn request(&self, number: usize) -> PyResult<Planned> {
        let arrival = self.arrival(number)?;
        let request = self.inner.request(arrival).ok_or_else(no_request)?;
        Ok((
            arrival.at_us as f64 / 1e6,
            self.inner.session(arrival),
            self.inner.tenant(arrival),
            request.turn,
            request.input_tokens,
            request.output_tokens,
            request.max_tokens,
            kind(request.kind),
        ))
    }

    /// The bytes that a client sends.
    #[pyo3(signature = (number, model, stream = true, exact_length = false))]
    fn body<'py>(
        &self,
        py: Python<'py>,
        number: usize,
        model: &str,
        stream: bool,
        exact_length: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let arrival = self.arrival(number)?;
        let options = BodyOptions {
            model: model.to_owned(),
            stream,
            exact_length,
            told_length: None,
        };
        let mut bytes = Vec::new();
        self.inner
            .write_body(arrival, &self.pool, &options, &mut bytes);
        Ok(PyBytes::new(py, &bytes))
    }
}

impl Replay {
    fn arrival(&self, number: usize) -> PyResult<&weighbridge_traces::Arrival> {
        self.inner.arrivals().get(number).ok_or_else(no_request)
    }
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Chat => "chat",
        Kind::Batch => "batch",
        Kind::Embeddings => "embeddings",
    }
}

fn no_request() -> PyErr {
    PyIndexError::new_err("there is no request of that number")
}

/// How far runs are.
#[pyclass(frozen, module = "weighbridge._core")]
pub(crate) struct Progress {
    inner: Arc<weighbridge_simulate::Progress>,
}

#[pymethods]
impl Progress {
    #[new]
    fn new() -> Self {
        Self {
            inner: Arc::default(),
        }
    }

    /// Requests simulated, and known of.
    fn steps(&self) -> (u64, u64) {
        self.inner.steps()
    }

    /// Makes runs end soon.
    fn stop(&self) {
        self.inner.stop();
    }
}

/// A trace before modelled replicas.
#[pyclass(frozen, module = "weighbridge._core")]
pub(crate) struct Simulation {
    inner: weighbridge_simulate::Simulation,
}

#[pymethods]
impl Simulation {
    #[new]
    #[pyo3(signature = (scenario_json, trace, scaling_json = "{}"))]
    fn new(scenario_json: &str, trace: &Trace, scaling_json: &str) -> PyResult<Self> {
        let scenario: Scenario = serde_json::from_str(scenario_json).map_err(refused)?;
        let replaying: Replaying = serde_json::from_str(scaling_json).map_err(refused)?;
        let trace = Arc::clone(&trace.inner);
        let inner = weighbridge_simulate::Simulation::new(scenario, trace, replaying.scaling())
            .map_err(refused)?;
        Ok(Self { inner })
    }

    /// A rate that the replicas would about sustain if they cached nothing.
    #[getter]
    fn capacity_rps(&self) -> f64 {
        self.inner.capacity_rps()
    }

    /// One run: `{"row": {…}, "detail": {…}}`.
    #[pyo3(signature = (policy, rate = None, seed = 0, bounds = true, progress = None))]
    fn run(
        &self,
        py: Python<'_>,
        policy: &str,
        rate: Option<f64>,
        seed: u64,
        bounds: bool,
        progress: Option<&Progress>,
    ) -> PyResult<String> {
        let run = Run {
            policy,
            rate,
            seed,
            until_hopeless: false,
            with_bounds: bounds,
        };
        let progress = progress.map(|known| Arc::clone(&known.inner));
        py.detach(|| {
            let progress = progress.unwrap_or_default();
            json(&self.inner.run(&run, &progress).map_err(refused)?)
        })
    }

    /// The search for a policy's goodput: `{"rps", "above_rps", "tried": [[rate, served], …]}`.
    #[pyo3(signature = (policy, seed = 0, search_json = "{}", progress = None))]
    fn goodput(
        &self,
        py: Python<'_>,
        policy: &str,
        seed: u64,
        search_json: &str,
        progress: Option<&Progress>,
    ) -> PyResult<String> {
        let search: Search = serde_json::from_str(search_json).map_err(refused)?;
        let progress = progress.map(|known| Arc::clone(&known.inner));
        py.detach(|| {
            let progress = progress.unwrap_or_default();
            let found = self.inner.goodput(policy, seed, &search, &progress);
            json(&found.map_err(refused)?)
        })
    }
}

/// The names of all policies.
#[pyfunction]
pub(crate) fn policies() -> Vec<&'static str> {
    weighbridge_simulate::policy_names()
}

/// The names of all engines that can be simulated.
#[pyfunction]
pub(crate) fn engines() -> Vec<&'static str> {
    weighbridge_simulate::engine_names()
}

/// The names of all workloads that can be generated.
#[pyfunction]
pub(crate) fn workloads() -> Vec<&'static str> {
    workload_names()
}

/// Settings of generated traces, as they are by default.
#[pyfunction]
pub(crate) fn generator_defaults() -> PyResult<String> {
    json(&Generator::default())
}
