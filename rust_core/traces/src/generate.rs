//! Makes traces: conversations and agents of many tenants, from a seed.
//!
//! Sessions start as a Poisson process whose rate follows the day and bursts. Each belongs to a
//! tenant (Zipf), takes one of its system prompts and perhaps one of its documents, and grows turn
//! by turn. An agent's turns follow each other at once, its user is a tool, and it may send out
//! sub-agents that begin with its prompt up to then.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp, Geometric, LogNormal, Zipf};
use serde::{Deserialize, Serialize};

use crate::builder::{NewRequest, TraceBuilder};
use crate::error::TraceError;
use crate::seed::{mix, rng};
use crate::trace::{Image, Kind, MessageId, Piece, Role, Trace};

/// A log-normal length or time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// None is below it.
    #[serde(default)]
    pub least: f64,
    /// Half are below it.
    pub median: f64,
    /// Deviation of the logarithm; 0: all are equal.
    pub sigma: f64,
    /// None is above it.
    pub most: f64,
}

/// Times at which more sessions start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bursts {
    /// From one to the next, s; 0: none.
    pub every_s: f64,
    /// How long each lasts, s.
    pub length_s: f64,
    /// How many times the usual rate.
    pub factor: f64,
}

/// A day's rise and fall of the rate at which sessions start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Diurnal {
    /// Length of a day, s; 0: none.
    pub period_s: f64,
    /// Deviation from the mean, as a share of it: 0 to 1.
    pub amplitude: f64,
}

/// Sessions without a person.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agents {
    /// Share of all sessions.
    pub share: f64,
    /// Mean number of turns.
    pub turns: f64,
    /// What a tool answers, tokens.
    pub tool_tokens: Spread,
    /// What a tool takes, s.
    pub tool_s: Spread,
    /// Chance of a turn to send out sub-agents.
    pub fan_out_chance: f64,
    /// Most sub-agents at once.
    pub fan_out: u32,
}

/// What to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Generator {
    /// Of all that is random.
    pub seed: u64,
    /// Sessions start for so long, s.
    pub duration_s: f64,
    /// Sessions that start in a second, on average.
    pub sessions_per_s: f64,
    /// Tenants.
    pub tenants: u32,
    /// Exponent of their shares: 0 is equal, 1 is Zipf's law.
    pub tenant_skew: f64,
    /// System prompts of each tenant; 0: there are none.
    pub prompts_per_tenant: u32,
    /// Length of a system prompt, tokens.
    pub system_tokens: Spread,
    /// Share of sessions that are about a document of their tenant.
    pub document_share: f64,
    /// Documents of each tenant, some asked about more often than others.
    pub documents_per_tenant: u32,
    /// Length of a document, tokens.
    pub document_tokens: Spread,
    /// Mean number of turns of a conversation.
    pub turns: f64,
    /// What a user says, tokens.
    pub user_tokens: Spread,
    /// What the model answers, tokens.
    pub output_tokens: Spread,
    /// From an answer to the next question, s.
    pub think_s: Spread,
    /// What an answer's token takes, s: the next turn is later by the whole answer.
    pub token_s: f64,
    /// Bursts.
    pub bursts: Bursts,
    /// Rise and fall over the day.
    pub diurnal: Diurnal,
    /// Sessions without a person.
    pub agents: Agents,
    /// What all requests are for.
    pub kind: Kind,
    /// Share of what users say that has a picture beside it.
    pub image_share: f64,
    /// Sides of a picture, pixels.
    pub image_px: Spread,
    /// Longest answer that clients allow, tokens; 0: a power of two that is enough.
    pub max_tokens: u32,
}

impl Default for Generator {
    fn default() -> Self {
        Self {
            seed: 0,
            duration_s: 600.0,
            sessions_per_s: 2.0,
            tenants: 50,
            tenant_skew: 1.0,
            prompts_per_tenant: 2,
            system_tokens: spread(900.0, 0.7, 16_000.0),
            document_share: 0.2,
            documents_per_tenant: 8,
            document_tokens: spread(6_000.0, 0.8, 60_000.0),
            turns: 4.0,
            user_tokens: spread(70.0, 1.1, 8_000.0),
            output_tokens: spread(220.0, 0.8, 4_000.0),
            think_s: spread(15.0, 1.0, 600.0),
            token_s: 0.02,
            bursts: Bursts::default(),
            diurnal: Diurnal::default(),
            agents: Agents::default(),
            kind: Kind::Chat,
            image_share: 0.0,
            image_px: spread(900.0, 0.5, 2048.0),
            max_tokens: 0,
        }
    }
}

impl Default for Bursts {
    fn default() -> Self {
        Self {
            every_s: 120.0,
            length_s: 10.0,
            factor: 4.0,
        }
    }
}

impl Default for Diurnal {
    fn default() -> Self {
        Self {
            period_s: 0.0,
            amplitude: 0.0,
        }
    }
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            share: 0.15,
            turns: 12.0,
            tool_tokens: spread(500.0, 1.2, 20_000.0),
            tool_s: spread(1.5, 0.8, 60.0),
            fan_out_chance: 0.08,
            fan_out: 4,
        }
    }
}

pub(crate) const fn spread(median: f64, sigma: f64, most: f64) -> Spread {
    Spread {
        least: 0.0,
        median,
        sigma,
        most,
    }
}

/// Requests of one generated trace, at most.
const MOST_REQUESTS: usize = 5_000_000;

/// Longest prompt that grows on, tokens.
const LONGEST_PROMPT: u32 = 120_000;

impl Generator {
    /// Makes the trace: equal settings give equal traces.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn generate(&self) -> Result<Trace, TraceError> {
        let mut builder = TraceBuilder::new(&format!("generated-{}", self.seed));
        self.add(&mut builder, "")?;
        builder.finish()
    }

    /// Adds its requests to a trace, as those of one tenant of that name if one is given.
    pub(crate) fn add(&self, builder: &mut TraceBuilder, tenant: &str) -> Result<(), TraceError> {
        let mut maker = Maker {
            settings: self,
            tenant,
            dice: Dice::new(self)?,
            chance: rng(self.seed, 0x6765_6e65),
            contents: 0,
            requests: 0,
            builder,
        };
        maker.sessions()
    }

    /// How many times the mean rate sessions start at `at_s`.
    fn intensity(&self, at_s: f64) -> f64 {
        let bursts = self.bursts;
        let burst = if bursts.every_s > 0.0 && at_s % bursts.every_s < bursts.length_s {
            bursts.factor
        } else {
            1.0
        };
        let day = self.diurnal;
        let rise = if day.period_s > 0.0 {
            1.0 - day.amplitude * (std::f64::consts::TAU * at_s / day.period_s).cos()
        } else {
            1.0
        };
        burst * rise
    }
}

/// The distributions behind the settings.
struct Dice {
    gap: Exp<f64>,
    peak: f64,
    tenant: Zipf<f64>,
    prompt: Zipf<f64>,
    document: Zipf<f64>,
    turns: Geometric,
    agent_turns: Geometric,
}

impl Dice {
    fn new(settings: &Generator) -> Result<Self, TraceError> {
        let wrong = |what: &str| TraceError::Setting(format!("generator: {what} is out of range"));
        let bursts = settings.bursts;
        let shares = [
            ("document_share", settings.document_share),
            ("diurnal.amplitude", settings.diurnal.amplitude),
            ("agents.share", settings.agents.share),
            ("agents.fan_out_chance", settings.agents.fan_out_chance),
            ("image_share", settings.image_share),
        ];
        for (name, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(wrong(name));
            }
        }
        if !(bursts.factor >= 0.0 && bursts.factor <= 1000.0) {
            return Err(wrong("bursts.factor"));
        }
        if !(settings.duration_s > 0.0 && settings.duration_s < 1e8) {
            return Err(wrong("duration_s"));
        }
        let peak = bursts.factor.max(1.0) * (1.0 + settings.diurnal.amplitude);
        let zipf = |count: u32, skew: f64, what: &str| {
            Zipf::new(f64::from(count), skew).map_err(|_| wrong(what))
        };
        let geometric =
            |mean: f64, what: &str| Geometric::new(1.0 / mean.max(1.0)).map_err(|_| wrong(what));
        let skew = settings.tenant_skew;
        Ok(Self {
            gap: Exp::new(settings.sessions_per_s * peak).map_err(|_| wrong("sessions_per_s"))?,
            peak,
            tenant: zipf(settings.tenants, skew, "tenants or tenant_skew")?,
            prompt: zipf(
                settings.prompts_per_tenant.max(1),
                1.0,
                "prompts_per_tenant",
            )?,
            document: zipf(settings.documents_per_tenant, 1.0, "documents_per_tenant")?,
            turns: geometric(settings.turns, "turns")?,
            agent_turns: geometric(settings.agents.turns, "agents.turns")?,
        })
    }
}

struct Maker<'a> {
    settings: &'a Generator,
    /// Whose all requests are; nobody's: of many tenants.
    tenant: &'a str,
    dice: Dice,
    chance: ChaCha8Rng,
    contents: u64,
    requests: usize,
    builder: &'a mut TraceBuilder,
}

/// A conversation as it grows.
#[derive(Clone, Copy)]
struct Talk {
    session: u32,
    tenant: u32,
    turn: u32,
    at_s: f64,
    prompt: MessageId,
}

impl Maker<'_> {
    fn sessions(&mut self) -> Result<(), TraceError> {
        let mut at_s = 0.0;
        let mut number = 0u64;
        loop {
            at_s += self.dice.gap.sample(&mut self.chance);
            if at_s >= self.settings.duration_s {
                return Ok(());
            }
            // Thinned from the highest rate to the present one.
            let share = self.settings.intensity(at_s) / self.dice.peak;
            if self.chance.random::<f64>() >= share {
                continue;
            }
            number += 1;
            self.session(number, at_s);
            if self.requests > MOST_REQUESTS {
                return Err(TraceError::Setting(
                    "generator: makes too many requests".to_owned(),
                ));
            }
        }
    }

    fn session(&mut self, number: u64, at_s: f64) {
        let tenant = draw(&self.dice.tenant, &mut self.chance);
        let agent = self.chance.random_bool(self.settings.agents.share);
        let (session, name) = match self.tenant {
            "" => (format!("g{number}"), format!("t{tenant}")),
            own => (format!("{own}-g{number}"), own.to_owned()),
        };
        let talk = Talk {
            session: self.builder.session(&session),
            tenant: self.builder.tenant(&name),
            turn: 1,
            at_s,
            prompt: self.opening(tenant, agent),
        };
        if agent {
            let turns = 1 + self.dice.agent_turns.sample(&mut self.chance);
            self.agent(talk, number, turns, true);
        } else {
            self.conversation(talk);
        }
    }

    /// System prompt, document and first question.
    fn opening(&mut self, tenant: u64, agent: bool) -> MessageId {
        let prompt = draw(&self.dice.prompt, &mut self.chance);
        let kind = mix(tenant, prompt * 2 + u64::from(agent));
        let before = (self.settings.prompts_per_tenant > 0).then(|| {
            let system = self.shared(kind, 1, self.settings.system_tokens);
            self.builder.say(None, Role::System, &[system])
        });
        let mut said = Vec::new();
        if self.chance.random_bool(self.settings.document_share) {
            let document = draw(&self.dice.document, &mut self.chance);
            let length = self.settings.document_tokens;
            said.push(self.shared(mix(tenant, document), 2, length));
        }
        said.push(self.fresh(self.settings.user_tokens));
        let image = self.image();
        self.builder.show(before, Role::User, &said, image)
    }

    /// A picture, if chance has it.
    fn image(&mut self) -> Option<Image> {
        let share = self.settings.image_share;
        if share <= 0.0 || !self.chance.random_bool(share) {
            return None;
        }
        let mut side = || {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let px = sample(self.settings.image_px, &mut self.chance).clamp(1.0, 16_384.0) as u16;
            px
        };
        let (width, height) = (side(), side());
        let content = self.piece(0).content;
        Some(Image {
            content,
            width,
            height,
        })
    }

    fn conversation(&mut self, mut talk: Talk) {
        let turns = 1 + self.dice.turns.sample(&mut self.chance);
        for turn in 1..=turns {
            let output = self.ask(&talk);
            if turn == turns || self.is_long(talk.prompt) {
                break;
            }
            let think_s = sample(self.settings.think_s, &mut self.chance);
            talk = self.answered(talk, output, self.settings.user_tokens, think_s);
        }
    }

    fn agent(&mut self, mut talk: Talk, number: u64, turns: u64, sends_out: bool) {
        let agents = self.settings.agents;
        for turn in 1..=turns {
            let output = self.ask(&talk);
            if turn == turns || self.is_long(talk.prompt) {
                break;
            }
            let mut tool_s = sample(agents.tool_s, &mut self.chance);
            if sends_out && self.chance.random_bool(agents.fan_out_chance) {
                tool_s = tool_s.max(self.fan_out(&talk, number, output));
            }
            talk = self.answered(talk, output, agents.tool_tokens, tool_s);
        }
    }

    /// Sub-agents, each with a task of its own after the prompt up to now; s until the last is done.
    fn fan_out(&mut self, talk: &Talk, number: u64, output: u32) -> f64 {
        let agents = self.settings.agents;
        let count = self.chance.random_range(1..=agents.fan_out.max(1));
        let mut last_s = talk.at_s;
        for sub in 1..=count {
            let task = self.answered(*talk, output, self.settings.user_tokens, 0.2);
            let own = match self.tenant {
                "" => String::new(),
                own => format!("{own}-"),
            };
            let name = format!("{own}g{number}/{}.{sub}", talk.turn);
            let task = Talk {
                session: self.builder.session(&name),
                turn: 1,
                ..task
            };
            let turns = 1 + self.dice.agent_turns.sample(&mut self.chance) / 3;
            let start = self.builder.trace().requests().len();
            self.agent(task, number, turns, false);
            let made = self.builder.trace().requests().get(start..);
            let end = made.and_then(<[_]>::last).map_or(0, |last| last.at_us);
            #[allow(clippy::cast_precision_loss)]
            let end_s = end as f64 / 1e6;
            last_s = f64::max(last_s, end_s);
        }
        last_s - talk.at_s
    }

    /// Asks, and answers how long the answer is.
    fn ask(&mut self, talk: &Talk) -> u32 {
        let output_tokens = length(self.settings.output_tokens, &mut self.chance);
        self.requests += 1;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at_us = (talk.at_s * 1e6) as u64;
        self.builder.ask(NewRequest {
            at_us,
            session: talk.session,
            tenant: talk.tenant,
            turn: talk.turn,
            kind: self.settings.kind,
            prompt: talk.prompt,
            output_tokens,
            max_tokens: Some(self.settings.max_tokens).filter(|most| *most > 0),
        });
        output_tokens
    }

    /// The talk after an answer and what was said to it.
    fn answered(&mut self, talk: Talk, output: u32, said: Spread, pause_s: f64) -> Talk {
        let answer = self.piece(output);
        let said = self.fresh(said);
        let image = self.image();
        let answer = self
            .builder
            .say(Some(talk.prompt), Role::Assistant, &[answer]);
        Talk {
            turn: talk.turn + 1,
            at_s: talk.at_s + f64::from(output) * self.settings.token_s + pause_s,
            prompt: self.builder.show(Some(answer), Role::User, &[said], image),
            ..talk
        }
    }

    fn is_long(&self, prompt: MessageId) -> bool {
        let message = self.builder.trace().message(prompt);
        message.is_some_and(|message| message.total_tokens > LONGEST_PROMPT)
    }

    fn fresh(&mut self, tokens: Spread) -> Piece {
        let tokens = length(tokens, &mut self.chance);
        self.piece(tokens)
    }

    fn piece(&mut self, tokens: u32) -> Piece {
        self.contents += 1;
        Piece {
            content: mix(mix(self.settings.seed, 0x6672_6573), self.contents),
            offset: 0,
            tokens,
        }
    }

    /// A content that others have too; its length follows from what it is.
    fn shared(&self, identity: u64, kind: u64, tokens: Spread) -> Piece {
        let content = mix(mix(self.settings.seed, kind), identity);
        Piece {
            content,
            offset: 0,
            tokens: length(tokens, &mut rng(content, kind)),
        }
    }
}

fn draw(shares: &Zipf<f64>, chance: &mut impl Rng) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let drawn = shares.sample(chance) as u64;
    drawn
}

fn length(spread: Spread, chance: &mut impl Rng) -> u32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let tokens = sample(spread, chance).clamp(1.0, 1e7).round() as u32;
    tokens
}

fn sample(spread: Spread, chance: &mut impl Rng) -> f64 {
    let drawn = LogNormal::new(spread.median.max(1e-6).ln(), spread.sigma.max(0.0))
        .map_or(spread.median, |shape| shape.sample(chance));
    drawn.max(spread.least).min(spread.most)
}
