//! A replica for what is not weighed: who keeps the response asked for, or else the least loaded of
//! those that are open.

use crate::core::Core;
use crate::refusal::Refusal;
use crate::responses::ASKED;
use crate::shards::hash;
use std::cmp::Ordering;
use weighbridge_place::{Replica, State};

impl Core {
    /// The endpoint of the replica that keeps a response of `tenant`: what asks for it by its id
    /// goes there. `None` where that is not known, or the replica is ejected or not allowed.
    #[must_use]
    pub fn keeper(&self, tenant: &str, id: &str, subset: Option<&[String]>) -> Option<String> {
        let kept = self.metering.responses.find(tenant, id)?;
        let pool = self.pool();
        let replica = pool.replica(kept.replica)?;
        let endpoint = &replica.spec.endpoint;
        let is_allowed = subset.is_none_or(|allowed| allowed.contains(endpoint));
        (is_allowed && replica.spec.state != State::Ejected).then(|| endpoint.clone())
    }

    /// Names replicas for a request that is not weighed, `ip:port[,ip:port…]`, and charges none:
    /// the least loaded first, its fallbacks after it. `subset` are the only ones allowed.
    ///
    /// # Errors
    /// A refusal when no replica can take it.
    pub fn pick(&self, subset: Option<&[String]>) -> Result<String, Refusal> {
        let named = self.least_loaded(None, subset, 1 + self.fallback_count());
        if named.is_empty() {
            return Err(Refusal::no_replica_at_all());
        }
        Ok(named.join(","))
    }

    /// As [`Core::pick`], with more replicas to ask: the request names a response of which it is
    /// not known who keeps it. `None` where no other may be named, none is open, or `tenant` has asked
    /// for so many lately that this one is to be asked for like any other.
    #[must_use]
    pub fn seek(&self, tenant: &str, subset: Option<&[String]>, now_us: u64) -> Option<String> {
        if self.fallback_count() == 0 || !self.seeking.may(hash(tenant), now_us) {
            return None;
        }
        let named = self.least_loaded(None, subset, ASKED);
        (!named.is_empty()).then(|| named.join(","))
    }

    /// Those of `model` to ask after `chosen` who keeps a response.
    pub(crate) fn others(
        &self,
        model: &str,
        subset: Option<&[String]>,
        chosen: &str,
    ) -> Vec<String> {
        let mut others = self.least_loaded(Some(model), subset, ASKED);
        others.retain(|endpoint| endpoint != chosen);
        others.truncate(ASKED - 1);
        others
    }

    /// Endpoints of at most `count` open replicas, of `model` or of any, the least loaded first.
    fn least_loaded(
        &self,
        model: Option<&str>,
        subset: Option<&[String]>,
        count: usize,
    ) -> Vec<String> {
        let pool = self.pool();
        let mut open: Vec<(f64, &str)> = pool
            .replicas()
            .filter(|replica| replica.spec.state.is_open())
            .filter(|replica| model.is_none_or(|model| model == &*replica.spec.model))
            .map(|replica| (busy_ms(replica), replica.spec.endpoint.as_str()))
            .filter(|(_, endpoint)| {
                subset.is_none_or(|allowed| allowed.iter().any(|one| one == endpoint))
            })
            .collect();
        // Of equal ones another each time: requests that are not charged would pile up on one.
        let turn = self.next_turn();
        let shift = turn % open.len().max(1);
        open.rotate_left(shift);
        open.sort_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(Ordering::Equal));
        open.into_iter()
            .map(|(_, endpoint)| endpoint.to_owned())
            .take(count)
            .collect()
    }
}

/// Milliseconds of work that a replica has in flight.
fn busy_ms(replica: &Replica) -> f64 {
    let carried = replica.load.totals();
    replica.ms_for(carried.prefill + carried.decode)
}
