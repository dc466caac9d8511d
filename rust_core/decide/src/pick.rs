//! A replica for what is not weighed: who keeps the response asked for, or else the least loaded of
//! those that are open.

use crate::core::Core;
use crate::refusal::Refusal;
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
        let pool = self.pool();
        let mut open: Vec<(f64, &str)> = pool
            .replicas()
            .filter(|replica| replica.spec.state.is_open())
            .map(|replica| (busy_ms(replica), replica.spec.endpoint.as_str()))
            .filter(|(_, endpoint)| {
                subset.is_none_or(|allowed| allowed.iter().any(|one| one == endpoint))
            })
            .collect();
        // Of equal ones another each time: requests that are not charged would pile up on one.
        let turn = self.next_turn();
        let count = open.len().max(1);
        open.rotate_left(turn % count);
        open.sort_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(Ordering::Equal));
        let named: Vec<&str> = open
            .into_iter()
            .map(|(_, endpoint)| endpoint)
            .take(1 + self.fallback_count())
            .collect();
        if named.is_empty() {
            return Err(Refusal::no_replica_at_all());
        }
        Ok(named.join(","))
    }
}

/// Milliseconds of work that a replica has in flight.
fn busy_ms(replica: &Replica) -> f64 {
    let carried = replica.load.totals();
    replica.ms_for(carried.prefill + carried.decode)
}
