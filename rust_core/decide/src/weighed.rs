//! A request read and weighed, and the replica that is chosen for it.

use crate::core::{Core, Incoming};
use crate::fit;
use crate::metering::Metering;
use crate::models::{Adapter, Model};
use crate::refusal::Refusal;
use crate::responses::Responses;
use crate::session::Session;
use crate::weighing::Weighing;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use weighbridge_learn::predict;
use weighbridge_place::{
    Ask, Decision, Key, MicroMu, ModelPool, NoReplica, Objectives, Pool, Replica, ReplicaId, choose,
};
use weighbridge_weigh::decode::{Decoded, decode};
use weighbridge_weigh::{Body, Endpoint, Limits, Reading, read_exact};

/// A request read and weighed, not yet placed.
#[derive(Debug)]
pub struct Weighed {
    pub(crate) model: Model,
    /// Its whole body was seen.
    pub(crate) is_whole: bool,
    /// Its text was counted by a tokenizer, not estimated.
    pub(crate) is_counted: bool,
    /// The factor on the estimate of its tokens.
    pub(crate) factor: f64,
    /// What bears on the length of its answer.
    pub(crate) ask: predict::Ask,
    /// What its body says, and its costs.
    pub weighing: Weighing,
    /// Where it stands in its model's key space.
    pub key: Key,
    /// The replica that keeps the response it goes on from, where that is known.
    pub(crate) keeper: Option<ReplicaId>,
    /// The response that it goes on from, by the hash of tenant and id, where it is not known who
    /// keeps it.
    pub(crate) sought: Option<u64>,
    /// The session that the key was made of.
    pub session: Session,
    /// Chained hashes of its prefix blocks.
    pub chain: Arc<[u64]>,
    /// First tokens and tokens that are in time for it.
    pub(crate) objectives: Objectives,
    /// How much later the first token may come for each thousand tokens of the prompt, ms.
    pub(crate) ttft_ms_per_ktok: f64,
}

impl Weighed {
    /// The base model's name.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model.name
    }

    /// Time to its first token that is in time, by the length of its prompt, ms.
    pub(crate) fn first_ms(&self) -> f64 {
        let tokens = self.weighing.cost(0).prompt_tokens as f64;
        self.objectives.ttft_ms + self.ttft_ms_per_ktok * tokens / 1e3
    }

    /// The adapter that it asks for beside its model, which any replica can load.
    fn lora(&self) -> Option<&str> {
        let lora = self.weighing.reading().lora.as_ref()?;
        lora.name.as_deref()
    }
}

impl Core {
    /// Reads and weighs a request, before any replica is looked at.
    ///
    /// # Errors
    /// A refusal: unreadable, or a model that is not known.
    pub fn weigh(&self, incoming: &Incoming<'_>) -> Result<Weighed, Refusal> {
        let decoded = self.expand(incoming)?;
        let body = decoded.body();
        if body.complete && body.bytes.is_empty() {
            return Err(Refusal::empty_body());
        }
        let reading = weighbridge_weigh::read(incoming.endpoint, body, &Limits::default())
            .map_err(|error| Refusal::unreadable(&error))?;
        let model = if reading.model.is_empty() && !body.complete {
            self.models
                .only()
                .cloned()
                .ok_or_else(|| Refusal::model_out_of_sight(body.bytes.len()))?
        } else {
            self.models
                .asked(&reading.model, &self.registry.pool())
                .ok_or_else(|| Refusal::unknown_model(&reading.model))?
        };
        let mut reading = self.count(&model, incoming.endpoint, body, reading)?;
        fit::bound(&mut reading, model.longest)?;
        let is_counted = reading.exact.is_some();
        let session = Session::of(incoming, &reading);
        let tenant = incoming.tenant.unwrap_or_default();
        let previous = reading.session.previous_response_id.as_deref();
        let kept = previous.and_then(|id| self.metering.responses.find(tenant, id));
        let key = match (&session, kept) {
            // Each turn has another id: the key is that of the turn before.
            (Session::PreviousResponse(_), Some(kept)) => kept.key,
            _ => Key::of(tenant, session.bytes().as_ref()),
        };
        let sought = previous.filter(|_| kept.is_none());
        let sought = sought.map(|id| Responses::known_by(tenant, id));
        let factor = self.metering.factor(&model.name);
        let mut ask = predict::Ask::default();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let predicted = |reading: &Reading, prompt_tokens| {
            ask = Metering::ask(&model.name, tenant, reading, prompt_tokens);
            self.metering.predictor.predict(&ask).mean.round() as u64
        };
        let blocks = reading.prefix.blocks().iter();
        let chain = blocks.map(|block| block.hash).collect();
        let longest = model.longest;
        let weighing = Weighing::new(&model.reference, longest, reading, factor, predicted);
        if body.complete {
            fit::check(&weighing, incoming.endpoint, longest)?;
        }
        Ok(Weighed {
            objectives: self.objectives(&model.name, incoming),
            ttft_ms_per_ktok: self.placing.load().objective_ttft_ms_per_ktok,
            key,
            keeper: kept.map(|kept| kept.replica),
            sought,
            chain,
            is_whole: body.complete,
            is_counted,
            factor,
            ask,
            weighing,
            model,
            session,
        })
    }

    /// The reading with its text counted by the model's tokenizer, where it has one.
    fn count(
        &self,
        model: &Model,
        endpoint: Endpoint,
        body: Body<'_>,
        reading: Reading,
    ) -> Result<Reading, Refusal> {
        match &model.tokenizer {
            Some(tokenizer) if body.bytes.len() <= self.settings().tokenizer_max_bytes => {
                read_exact(endpoint, body, &Limits::default(), tokenizer)
                    .map_err(|error| Refusal::unreadable(&error))
            }
            _ => Ok(reading),
        }
    }

    /// The body as JSON text, its content-encoding undone.
    fn expand<'a>(&self, incoming: &Incoming<'a>) -> Result<Decoded<'a>, Refusal> {
        decode(
            incoming.content_encoding.unwrap_or_default(),
            incoming.body,
            self.settings().max_expanded_bytes,
        )
        .map_err(|error| Refusal::undecodable(&error))
    }

    /// Chooses a replica for a weighed request, charging nothing.
    ///
    /// # Errors
    /// A refusal when no replica can take it.
    pub fn place(
        &self,
        weighed: &Weighed,
        incoming: &Incoming<'_>,
        pool: &Pool,
        now_us: u64,
    ) -> Result<(Decision, Arc<Replica>), Refusal> {
        let seed = self.seeds.fetch_add(1, Relaxed);
        self.place_by(weighed, incoming, pool, now_us, seed)
    }

    /// As [`Core::place`], with ties broken by `seed`.
    pub(crate) fn place_by(
        &self,
        weighed: &Weighed,
        incoming: &Incoming<'_>,
        pool: &Pool,
        now_us: u64,
        seed: u64,
    ) -> Result<(Decision, Arc<Replica>), Refusal> {
        let adapter = (weighed.model.adapter != Adapter::Not)
            .then_some(weighed.weighing.reading().model.as_str());
        let listing = adapter
            .filter(|_| weighed.model.adapter == Adapter::OfReplicas)
            .and_then(|name| pool.listing(&weighed.model.name, name));
        let given: Option<Vec<&str>> = incoming
            .subset
            .map(|all| all.iter().map(String::as_str).collect());
        let subset = match (given, listing) {
            (Some(mut given), Some(listing)) => {
                given.retain(|endpoint| listing.contains(endpoint));
                Some(given)
            }
            (given, listing) => given.or(listing),
        };
        let yields = self.yields(&weighed.model.name, incoming.tenant);
        let prefill = |blocks: u32| MicroMu::from_mu(weighed.weighing.prefill_mu(blocks));
        let kv = |blocks: u32| weighed.weighing.kv_reserved(blocks);
        let uncached = weighed.weighing.cost(0);
        let ask = Ask {
            model: &weighed.model.name,
            adapter: adapter.or_else(|| weighed.lora()),
            key: weighed.key,
            chain: &weighed.chain,
            prefill: &prefill,
            decode: MicroMu::from_mu(uncached.decode_mu),
            sequences: uncached.sequences,
            kv: &kv,
            kv_tokens: weighed.weighing.kv_tokens(),
            objectives: Some(weighed.objectives),
            yields,
            subset: subset.as_deref(),
            keeper: weighed.keeper,
            now_ms: now_us / 1000,
            seed,
        };
        let none = || Refusal::no_replica(&weighed.model.name);
        // Those that drain finish what they have; none of the others may come back in time.
        let is_open = |members: &Arc<ModelPool>| members.mu_per_ms > 0.0;
        if !pool.model(&weighed.model.name).is_some_and(is_open) {
            return Err(none());
        }
        let assignment = self.assigning.current();
        let slices = assignment.model(&weighed.model.name);
        let choice = self.placing.load().choice();
        let decision =
            choose(pool, slices.map(Arc::as_ref), &ask, &choice).map_err(|error| match error {
                NoReplica::UnknownModel | NoReplica::NoneReady | NoReplica::EmptySubset => none(),
            })?;
        let replica = pool.replica(decision.chosen).cloned().ok_or_else(none)?;
        Ok((decision, replica))
    }
}
