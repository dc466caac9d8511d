//! A replay made ready for engines: each request's lengths and block hashes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use weighbridge_engine::RequestSpec;
use weighbridge_traces::{Arrival, Kind, Replay, Request};

use crate::scenario::Slo;
use crate::sequence::{Sequence, Sequencer};

/// Block hashes that are kept for all runs, at most: 1.5 GB. Beyond, they are made anew each time.
const KEPT_HASHES: u64 = 190_000_000;

/// A replay made ready for engines of one block size.
#[derive(Debug)]
pub(crate) struct Workload {
    replay: Replay,
    tokens_per_block: u32,
    with_answers: bool,
    kept: Vec<OnceLock<Sequence>>,
    /// Of each request, the turn before it and the turn after it.
    turns: Vec<(Option<usize>, Option<usize>)>,
    /// For those who compute what is kept.
    sequencers: Mutex<Vec<Sequencer>>,
}

impl Workload {
    pub(crate) fn new(replay: Replay, tokens_per_block: u32, with_answers: bool) -> Self {
        let block = u64::from(tokens_per_block.max(1));
        let hashes: u64 = replay
            .arrivals()
            .iter()
            .filter_map(|arrival| replay.request(arrival))
            .map(|request| u64::from(request.input_tokens + request.output_tokens) / block)
            .sum();
        let kept = if hashes <= KEPT_HASHES {
            replay.arrivals().len()
        } else {
            0
        };
        Self {
            turns: turns(&replay),
            kept: std::iter::repeat_with(OnceLock::new).take(kept).collect(),
            replay,
            tokens_per_block,
            with_answers,
            sequencers: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn replay(&self) -> &Replay {
        &self.replay
    }

    pub(crate) fn tokens_per_block(&self) -> u32 {
        self.tokens_per_block
    }

    pub(crate) fn arrivals(&self) -> &[Arrival] {
        self.replay.arrivals()
    }

    pub(crate) fn output_tokens(&self, number: usize) -> u32 {
        self.request(number)
            .map_or(1, |request| request.output_tokens)
    }

    pub(crate) fn max_tokens(&self, number: usize) -> u32 {
        self.request(number).map_or(1, |request| request.max_tokens)
    }

    /// What a request is for.
    pub(crate) fn kind(&self, number: usize) -> Kind {
        self.request(number)
            .map_or(Kind::Chat, |request| request.kind)
    }

    /// What a request must keep, of what all must: nobody waits for a batch's first tokens.
    pub(crate) fn slo(&self, number: usize, all: Slo) -> Slo {
        match self.kind(number) {
            Kind::Batch => Slo {
                ttft_ms: f64::MAX,
                ..all
            },
            Kind::Chat | Kind::Embeddings => all,
        }
    }

    /// The turn before it in its session.
    pub(crate) fn turn_before(&self, number: usize) -> Option<usize> {
        self.turns.get(number)?.0
    }

    /// The turn after it in its session.
    pub(crate) fn turn_after(&self, number: usize) -> Option<usize> {
        self.turns.get(number)?.1
    }

    fn image_tiles(&self, number: usize) -> u32 {
        let trace = self.replay.trace();
        self.request(number).map_or(0, |request| {
            trace
                .images(request.prompt)
                .map(weighbridge_traces::Image::tiles)
                .sum()
        })
    }

    fn request(&self, number: usize) -> Option<&Request> {
        self.replay.request(self.arrivals().get(number)?)
    }

    /// A request's sequence.
    pub(crate) fn sequence(&self, number: usize) -> Sequence {
        let make = || {
            let Some(arrival) = self.arrivals().get(number) else {
                return Sequence {
                    prompt_tokens: 0,
                    blocks: Arc::from([]),
                };
            };
            let mut sequencer = self.borrow();
            let sequence = sequencer.of(&self.replay, arrival);
            self.lock().push(sequencer);
            sequence
        };
        match self.kept.get(number) {
            Some(kept) => kept.get_or_init(make).clone(),
            None => make(),
        }
    }

    /// What an engine is asked.
    pub(crate) fn spec(&self, number: usize, sequence: &Sequence) -> RequestSpec {
        RequestSpec {
            id: number as u64,
            block_hashes: Arc::clone(&sequence.blocks),
            prompt_tokens: sequence.prompt_tokens,
            output_tokens: self.output_tokens(number),
            max_tokens: self.max_tokens(number),
            image_tiles: self.image_tiles(number),
        }
    }

    fn borrow(&self) -> Sequencer {
        let spare = self.lock().pop();
        spare.unwrap_or_else(|| Sequencer::new(self.tokens_per_block, self.with_answers))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sequencer>> {
        self.sequencers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each session's requests, one after another.
fn turns(replay: &Replay) -> Vec<(Option<usize>, Option<usize>)> {
    let mut last: HashMap<(u32, u32), usize> = HashMap::new();
    let mut turns = vec![(None, None); replay.arrivals().len()];
    for (number, arrival) in replay.arrivals().iter().enumerate() {
        let Some(request) = replay.request(arrival) else {
            continue;
        };
        let before = last.insert((arrival.copy, request.session), number);
        if let Some(own) = turns.get_mut(number) {
            own.0 = before;
        }
        if let Some(before) = before.and_then(|before| turns.get_mut(before)) {
            before.1 = Some(number);
        }
    }
    turns
}
