//! A decision's hold on its replica, from the choice to the end of the stream.

use crate::cutting::Cuttable;
use crate::life::{Answer, Life};
use crate::log::Endpoints;
use crate::observing::Observed;
use crate::signs::Signs;
use std::sync::Arc;
use std::task::{Context, Poll};
use weighbridge_place::{Key, Replica};

/// Where a request came from, for what is learnt when it ends.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The base model.
    pub(crate) model: Arc<str>,
    /// Its key.
    pub(crate) key: Key,
    /// When it was placed, µs on the core's clock.
    pub(crate) at_us: u64,
}

/// What was decided for one request; dropping it gives back all that the request holds.
/// [`crate::Core::end`] settles its bill as well.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    origin: Origin,
    replica: Arc<Replica>,
    life: Arc<Life>,
    endpoints: Endpoints,
    sought: Option<u64>,
    observed: Option<Box<Observed>>,
    cuttable: Option<Cuttable>,
}

impl Ticket {
    pub(crate) fn new(
        number: u64,
        origin: Origin,
        replica: &Arc<Replica>,
        life: Arc<Life>,
        endpoints: Endpoints,
    ) -> Self {
        Self {
            number,
            origin,
            replica: Arc::clone(replica),
            life,
            endpoints,
            sought: None,
            observed: None,
            cuttable: None,
        }
    }

    /// It may be cut until its answer begins.
    pub(crate) fn may_be_cut_as(&mut self, cuttable: Cuttable) {
        self.cuttable = Some(cuttable);
    }

    /// Whether it may be ended before its answer begins, for others' sake.
    #[must_use]
    pub fn may_be_cut(&self) -> bool {
        self.cuttable.is_some()
    }

    /// Returns ready once it is cut, and wakes `context` then: [`crate::Core::cut`] ends it.
    pub fn poll_cut(&self, context: &mut Context<'_>) -> Poll<()> {
        let cuttable = self.cuttable.as_ref();
        cuttable.map_or(Poll::Pending, |cuttable| cuttable.poll(context))
    }

    /// Any of the endpoints may be the one that keeps the response that the request goes on from,
    /// known by this hash.
    pub(crate) fn seek(&mut self, response: Option<u64>) {
        self.sought = response;
    }

    /// The response that several replicas are asked for.
    pub(crate) fn sought(&self) -> Option<u64> {
        self.sought
    }

    /// What is put on the request, so that who observes its reply can name it; `None` where the
    /// gateway is told nothing.
    #[must_use]
    pub fn join(&self) -> Option<u64> {
        let facts = &self.life.facts;
        facts.is_steered.then_some(facts.join)
    }

    /// Whether the next endpoint is to be asked when one answers that it does not know the response
    /// that the request goes on from.
    #[must_use]
    pub fn seeks(&self) -> bool {
        self.sought.is_some()
    }

    /// The decision is not carried out.
    pub(crate) fn observe(&mut self, observed: Observed) {
        self.observed = Some(Box::new(observed));
    }

    /// What is to be compared once it is seen who served.
    pub(crate) fn take_observed(&mut self) -> Option<Box<Observed>> {
        self.observed.take()
    }

    /// Whether the gateway is to be told of the choice.
    #[must_use]
    pub fn is_steered(&self) -> bool {
        self.observed.is_none()
    }

    /// The decision's number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The chosen endpoint and its fallbacks: `ip:port[,ip:port…]`.
    #[must_use]
    pub fn endpoints(&self) -> &str {
        self.endpoints.as_str()
    }

    /// The replica that is charged now.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.replica.spec.endpoint
    }

    pub(crate) fn model(&self) -> &str {
        &self.origin.model
    }

    pub(crate) fn key(&self) -> Key {
        self.origin.key
    }

    pub(crate) fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// The reply's headers are there.
    pub(crate) fn first_byte(&mut self, status: u16, signs: Option<Arc<Signs>>, now_us: u64) {
        self.cuttable = None;
        let answer = Answer {
            status,
            replica: &self.replica,
            signs,
            is_sought: self.seeks(),
        };
        self.life.first_byte(&answer, now_us);
    }

    /// Another replica serves it (a retry moved on): the charge goes there with the first byte.
    pub(crate) fn move_to(&mut self, replica: &Arc<Replica>) {
        self.replica = Arc::clone(replica);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.life.abandon();
    }
}
