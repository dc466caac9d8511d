//! What befalls the cluster while it runs: `at=600 kill=3`, `at=60 slow=2 factor=4 for=120`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::SimulateError;

/// Which replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// So many, drawn by the seed (or, to bring them back, those that left first).
    Count(usize),
    /// The one with this number.
    Number(usize),
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// Replicas are gone at once, with all they had.
    Kill(Target),
    /// Replicas that were killed or drained come back, their caches empty.
    Restore(Target),
    /// Replicas like the first are added.
    Add(usize),
    /// Replicas get nothing new and finish what they have.
    Drain(Target),
    /// Replicas take so many times as long.
    Slow(Target, f64),
}

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Event {
    /// When, s from the start.
    pub at_s: f64,
    /// What.
    pub what: What,
    /// After so long, s, it is undone.
    pub for_s: Option<f64>,
}

impl FromStr for Event {
    type Err = SimulateError;

    /// `at=SECONDS VERB=COUNT [factor=F] [for=SECONDS]`; `VERB=#N` is the replica with that number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text).map_err(|reason| SimulateError::Event {
            text: text.to_owned(),
            reason,
        })
    }
}

impl TryFrom<String> for Event {
    type Error = SimulateError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Event> for String {
    fn from(event: Event) -> Self {
        let target = |target: Target| match target {
            Target::Count(count) => count.to_string(),
            Target::Number(number) => format!("#{number}"),
        };
        let what = match event.what {
            What::Kill(which) => format!("kill={}", target(which)),
            What::Restore(which) => format!("restore={}", target(which)),
            What::Add(count) => format!("add={count}"),
            What::Drain(which) => format!("drain={}", target(which)),
            What::Slow(which, factor) => format!("slow={} factor={factor}", target(which)),
        };
        let span = event
            .for_s
            .map_or(Self::new(), |span| format!(" for={span}"));
        format!("at={} {what}{span}", event.at_s)
    }
}

fn read(text: &str) -> Result<Event, String> {
    let (mut at_s, mut verb, mut factor, mut for_s) = (None, None, None, None);
    for word in text.split_whitespace() {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| format!("'{word}' is no KEY=VALUE"))?;
        match key {
            "at" => at_s = Some(number(value)?),
            "factor" => factor = Some(number(value)?),
            "for" => for_s = Some(number(value)?),
            "kill" | "restore" | "add" | "drain" | "slow" => {
                if verb.replace((key, target(value)?)).is_some() {
                    return Err("one event does one thing".to_owned());
                }
            }
            _ => {
                return Err(format!(
                    "'{key}' is none of at, kill, restore, add, drain, slow, factor, for"
                ));
            }
        }
    }
    let at_s = at_s.ok_or("at=SECONDS is missing")?;
    let (verb, target) = verb.ok_or("it says nothing to do")?;
    if factor.is_some() && verb != "slow" {
        return Err("factor goes with slow".to_owned());
    }
    let what = match (verb, target) {
        ("kill", target) => What::Kill(target),
        ("restore", target) => What::Restore(target),
        ("drain", target) => What::Drain(target),
        ("slow", target) => What::Slow(target, factor.unwrap_or(3.0).max(0.01)),
        (_, Target::Count(count)) => What::Add(count),
        (_, Target::Number(_)) => return Err("add takes how many".to_owned()),
    };
    let undone = matches!(what, What::Kill(_) | What::Drain(_) | What::Slow(..));
    if for_s.is_some() && !undone {
        return Err("for goes with kill, drain and slow".to_owned());
    }
    Ok(Event { at_s, what, for_s })
}

fn number(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value: &f64| (0.0..1e9).contains(value))
        .ok_or_else(|| format!("'{text}' is no number of 0 or more"))
}

fn target(text: &str) -> Result<Target, String> {
    let (digits, make): (&str, fn(usize) -> Target) = match text.strip_prefix('#') {
        Some(digits) => (digits, Target::Number),
        None => (text, Target::Count),
    };
    digits
        .parse()
        .map(make)
        .map_err(|_| format!("'{text}' is neither how many nor #NUMBER"))
}

#[cfg(test)]
mod tests {
    use super::{Event, Target, What};

    #[test]
    fn events_are_read_and_written() {
        for (text, what, for_s) in [
            ("at=600 kill=3", What::Kill(Target::Count(3)), None),
            (
                "at=1.5 kill=#7 for=30",
                What::Kill(Target::Number(7)),
                Some(30.0),
            ),
            ("at=0 add=2", What::Add(2), None),
            (
                "at=9 slow=1 factor=4 for=60",
                What::Slow(Target::Count(1), 4.0),
                Some(60.0),
            ),
            ("at=9 drain=#0", What::Drain(Target::Number(0)), None),
            ("at=9 restore=3", What::Restore(Target::Count(3)), None),
        ] {
            let event: Event = text.parse().unwrap();
            assert_eq!((event.what, event.for_s), (what, for_s), "{text}");
            assert_eq!(String::from(event), text);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("kill=3", "at=SECONDS is missing"),
            ("at=3", "nothing to do"),
            ("at=3 kill=1 drain=1", "one thing"),
            ("at=3 kill", "no KEY=VALUE"),
            ("at=3 explode=1", "'explode' is none of"),
            ("at=-3 kill=1", "no number of 0 or more"),
            ("at=3 kill=many", "neither how many"),
            ("at=3 add=#1", "how many"),
            ("at=3 add=1 for=5", "for goes with"),
            ("at=3 kill=1 factor=2", "factor goes with slow"),
        ] {
            let error = text.parse::<Event>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
