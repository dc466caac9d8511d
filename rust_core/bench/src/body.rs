//! Chat bodies as clients send them, made from a seed.

use std::fmt::Write as _;

/// One conversation of one application, growing turn by turn.
#[derive(Clone, Copy, Debug)]
pub struct Conversation {
    /// Seed of all its text.
    pub session: u64,
    /// Which of a few applications it belongs to: they differ in their system prompt.
    pub application: u64,
}

/// Text that prose is made of.
const WORDS: &[&str] = &[
    "the",
    "request",
    "of",
    "a",
    "model",
    "which",
    "carries",
    "its",
    "own",
    "weight",
    "and",
    "should",
    "be",
    "placed",
    "where",
    "prefix",
    "is",
    "still",
    "cached",
    "because",
    "otherwise",
    "every",
    "token",
    "has",
    "to",
    "be",
    "computed",
    "again",
    "for",
    "instance",
    "when",
    "user",
    "asks",
    "about",
    "yesterday's",
    "report",
    "in",
    "detail",
];

/// Lines of code, as JSON writes them.
const CODE: &[&str] = &[
    r#"    if value is None:\n        raise ValueError(\"missing\")\n"#,
    r#"\tfor (size_t i = 0; i < n; ++i) {\n\t\tsum += data[i];\n\t}\n"#,
    r#"    return {name: row[\"total\"] for name, row in rows.items()}\n"#,
];

/// Results of tools, JSON within JSON.
const RESULTS: &[&str] = &[
    r#"{\"city\":\"Bern\",\"temperature\":21.5,\"wind\":[3,4,9]}"#,
    r#"{\"rows\":[{\"id\":4711,\"name\":\"Zo\u00eb\"},{\"id\":4712,\"name\":\"Ann\"}]}"#,
];

/// Chinese, plain and escaped.
const CHINESE: &[&str] = &[
    "请把昨天的报告翻译成英文。",
    r"\u8bf7\u8bf4\u660e\u539f\u56e0\u3002",
];

impl Conversation {
    /// The conversation of session `session`; every 97 sessions share an application.
    #[must_use]
    pub fn new(session: u64) -> Self {
        Self {
            session,
            application: session % 97,
        }
    }

    /// A body of `model` with about `bytes` bytes: the conversation up to there. A longer body of
    /// the same conversation begins with the same messages.
    #[must_use]
    pub fn body(&self, model: &str, bytes: usize) -> Vec<u8> {
        let mut text = String::with_capacity(bytes + 256);
        text.push_str(r#"{"model":""#);
        text.push_str(model);
        text.push_str(r#"","temperature":0.7,"max_tokens":512,"stream":true,"messages":["#);
        text.push_str(r#"{"role":"system","content":"You are a helpful assistant. "#);
        let closing = r#""}],"stream_options":{"include_usage":true}}"#;
        let end = bytes.saturating_sub(closing.len());
        let mut system = Random::new(self.application ^ 0xa11c_a7e5);
        let system_end = end.min(text.len() + 1_200.min(bytes / 3));
        prose(&mut text, system_end, &mut system);
        let mut random = Random::new(self.session.wrapping_add(1));
        let mut turn = 0u64;
        while text.len() + 64 < end {
            let role = if turn % 2 == 0 { "user" } else { "assistant" };
            let _ = write!(text, r#""}},{{"role":"{role}","content":"Turn {turn}: "#);
            let message_end = end.min(text.len() + 300 + random.below(1_500));
            message(&mut text, message_end, &mut random);
            turn += 1;
        }
        text.push_str(closing);
        text.into_bytes()
    }
}

/// Mostly prose, at times code, tool results or Chinese.
fn message(text: &mut String, end: usize, random: &mut Random) {
    while text.len() < end {
        match random.below(20) {
            0..=2 => {
                for _ in 0..4 {
                    piece(text, end, random.pick(CODE));
                }
            }
            3 | 4 => piece(text, end, random.pick(RESULTS)),
            5 => piece(text, end, random.pick(CHINESE)),
            _ => prose(text, end.min(text.len() + 400), random),
        }
    }
}

fn prose(text: &mut String, end: usize, random: &mut Random) {
    let mut line = 0;
    while text.len() < end {
        let word = random.pick(WORDS);
        piece(text, end, word);
        line += word.len() + 1;
        if line > 360 {
            piece(text, end, r".\n\n");
            line = 0;
        } else {
            piece(text, end, " ");
        }
    }
}

/// Appends a piece, or full stops where it would pass the end: an escape is never cut.
fn piece(text: &mut String, end: usize, piece: &str) {
    if text.len() + piece.len() <= end {
        text.push_str(piece);
    } else {
        while text.len() < end {
            text.push('.');
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `most`.
    #[allow(clippy::cast_possible_truncation)]
    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    fn pick(&mut self, from: &'static [&'static str]) -> &'static str {
        let at = self.below(from.len());
        from.get(at).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weighbridge_weigh::{Body, Endpoint, Limits, read};

    #[test]
    fn bodies_are_json_of_the_size_asked_for() {
        for (session, bytes) in [(0, 512), (1, 4096), (2, 32 << 10), (1000, 1 << 20)] {
            let body = Conversation::new(session).body("m", bytes);
            assert!(
                body.len().abs_diff(bytes) <= 80,
                "{} for {bytes}",
                body.len()
            );
            serde_json::from_slice::<serde_json::Value>(&body).unwrap();
        }
    }

    #[test]
    fn later_turns_begin_with_the_earlier_ones() {
        let reading = |session: u64, bytes: usize| {
            let body = Conversation::new(session).body("m", bytes);
            let limits = Limits::default();
            read(Endpoint::ChatCompletions, Body::whole(&body), &limits).unwrap()
        };
        let shared = |a: u64, b: u64| {
            let (a, b) = (reading(a, 8 << 10), reading(b, 16 << 10));
            let pairs = a.prefix.blocks().iter().zip(b.prefix.blocks());
            pairs.take_while(|(a, b)| a.hash == b.hash).count()
        };
        assert!(shared(3, 3) >= 25, "{}", shared(3, 3));
        assert!((2..8).contains(&shared(3, 100)), "one application");
        assert_eq!(shared(3, 4), 0, "two applications");
    }
}
