//! `Core`: what decides, shared by both transports.

use crate::{json, refused};
use pyo3::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;
use weighbridge_decide::{
    Admission, HealthSetting, KeySpace, Observation, Placing, ReplicaSetting, Settings, Status,
};
use weighbridge_server::keep_time;

/// Profiles, replicas, ledgers and prefix index.
#[pyclass(frozen, module = "weighbridge._core")]
pub(crate) struct Core {
    pub(crate) inner: Arc<weighbridge_decide::Core>,
}

#[pymethods]
impl Core {
    #[new]
    fn new(py: Python<'_>, settings_json: &str) -> PyResult<Self> {
        py.detach(|| {
            let settings: Settings = serde_json::from_str(settings_json).map_err(refused)?;
            let inner = weighbridge_decide::Core::new(settings).map_err(refused)?;
            let inner = Arc::new(inner);
            keep_time(&inner).map_err(refused)?;
            Ok(Self { inner })
        })
    }

    /// Replaces the replicas and gives the new pool's number.
    fn set_replicas(&self, py: Python<'_>, replicas_json: &str) -> PyResult<u64> {
        py.detach(|| {
            let replicas: Vec<ReplicaSetting> =
                serde_json::from_str(replicas_json).map_err(refused)?;
            self.inner.set_replicas(replicas).map_err(refused)
        })
    }

    /// Has a replica drained, or takes that back; whether there is such a replica.
    fn drain(&self, py: Python<'_>, endpoint: &str, on: bool) -> PyResult<bool> {
        py.detach(|| self.inner.drain(endpoint, on))
            .map_err(refused)
    }

    /// One round of the assigner.
    fn assign(&self, py: Python<'_>) {
        py.detach(|| self.inner.assign(self.inner.now_us()));
    }

    /// Changes how replicas are chosen, from the next request on.
    fn set_placing(&self, py: Python<'_>, placing_json: &str) -> PyResult<()> {
        py.detach(|| {
            let placing: Placing = serde_json::from_str(placing_json).map_err(refused)?;
            self.inner.set_placing(placing);
            Ok(())
        })
    }

    /// Changes tenants' terms and what may wait, from now on.
    fn set_admission(&self, py: Python<'_>, admission_json: &str) -> PyResult<()> {
        py.detach(|| {
            let admission: Admission = serde_json::from_str(admission_json).map_err(refused)?;
            self.inner.set_admission(&admission).map_err(refused)
        })
    }

    /// Takes in what was seen of replicas from outside their requests.
    fn hear(&self, py: Python<'_>, observations_json: &str) -> PyResult<()> {
        py.detach(|| {
            let seen: Vec<Observation> =
                serde_json::from_str(observations_json).map_err(refused)?;
            self.inner.hear(&seen, self.inner.now_us());
            Ok(())
        })
    }

    /// Judges the replicas' health; the changes of state as a JSON list.
    fn judge(&self, py: Python<'_>) -> PyResult<String> {
        py.detach(|| {
            let changes = self.inner.judge(self.inner.now_us()).map_err(refused)?;
            json(&changes)
        })
    }

    /// Judges health by other settings from now on.
    fn set_health(&self, py: Python<'_>, health_json: &str) -> PyResult<()> {
        py.detach(|| {
            let setting: HealthSetting = serde_json::from_str(health_json).map_err(refused)?;
            self.inner.set_health(setting);
            Ok(())
        })
    }

    /// Whether decisions are only recorded, from the next request on.
    fn set_observe_only(&self, observe_only: bool) {
        self.inner.set_observe_only(observe_only);
    }

    /// Takes up to `most` usage records, oldest first: one JSON object each.
    fn take_usage(&self, py: Python<'_>, most: usize) -> PyResult<Vec<String>> {
        py.detach(|| self.inner.take_usage(most).iter().map(json).collect())
    }

    /// Takes up to `most` spans, oldest first: one JSON object each.
    fn take_spans(&self, py: Python<'_>, most: usize) -> PyResult<Vec<String>> {
        py.detach(|| self.inner.take_spans(most).iter().map(json).collect())
    }

    /// µs on the core's clock, in which usage records tell the time.
    fn now_us(&self) -> u64 {
        self.inner.now_us()
    }

    /// Requests in flight by endpoint, at the replicas that have any.
    fn in_flight(&self, py: Python<'_>) -> HashMap<String, i64> {
        py.detach(|| self.inner.in_flight())
    }

    /// The core at this moment.
    fn status(&self, py: Python<'_>) -> PyResult<String> {
        py.detach(|| json(&Status::of(&self.inner)))
    }

    /// The key space: slices with their replicas, and the latest moves.
    fn slices(&self, py: Python<'_>) -> PyResult<String> {
        py.detach(|| json(&KeySpace::of(&self.inner)))
    }

    /// The first `most` decisions with a number above `after`, oldest first.
    #[pyo3(signature = (after, most=usize::MAX))]
    fn decisions(&self, py: Python<'_>, after: u64, most: usize) -> PyResult<String> {
        py.detach(|| list(&self.inner.log().first_after(after, most)))
    }

    /// The latest `most` decisions, oldest first.
    fn latest_decisions(&self, py: Python<'_>, most: usize) -> PyResult<String> {
        py.detach(|| list(&self.inner.log().latest(most)))
    }

    /// Weighs and places one request without charging it.
    fn explain(
        &self,
        py: Python<'_>,
        path: &str,
        headers_json: &str,
        body: &[u8],
    ) -> PyResult<String> {
        let pairs: Vec<(String, String)> = serde_json::from_str(headers_json).map_err(refused)?;
        py.detach(|| {
            weighbridge_stream::explain(&self.inner, path, &pairs, body)
                .map_err(|refusal| refused(refusal.to_json()))
                .and_then(|explanation| json(&explanation))
        })
    }
}

fn list(records: &[Arc<weighbridge_decide::Record>]) -> PyResult<String> {
    let records: Vec<_> = records.iter().map(AsRef::as_ref).collect();
    json(&records)
}
