//! Answers of `/v1/responses` that a later request may go on from, as one server keeps them.

use std::collections::VecDeque;

use serde_json::Value;

/// Answers that are kept; trtllm-serve keeps as many.
const KEPT: usize = 16;

/// One answer and the conversation up to and with it.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) id: String,
    pub(crate) response: Value,
    /// In the form of chat messages.
    pub(crate) messages: Vec<Value>,
}

/// The latest answers, the one that was used longest ago first.
#[derive(Debug, Default)]
pub(crate) struct Store {
    answers: VecDeque<Kept>,
}

impl Store {
    /// Keeps an answer, giving up the one that was used longest ago if there are too many.
    pub(crate) fn put(&mut self, kept: Kept) {
        self.answers.push_back(kept);
        if self.answers.len() > KEPT {
            self.answers.pop_front();
        }
    }

    /// An answer, which is used now.
    pub(crate) fn get(&mut self, id: &str) -> Option<&Kept> {
        let kept = self.take(id)?;
        self.answers.push_back(kept);
        self.answers.back()
    }

    /// Takes an answer out.
    pub(crate) fn take(&mut self, id: &str) -> Option<Kept> {
        let at = self.answers.iter().position(|kept| kept.id == id)?;
        self.answers.remove(at)
    }

    /// Forgets all, as a server that starts anew.
    pub(crate) fn clear(&mut self) {
        self.answers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Kept, Store};
    use serde_json::Value;

    fn kept(number: usize) -> Kept {
        Kept {
            id: number.to_string(),
            response: Value::Null,
            messages: Vec::new(),
        }
    }

    #[test]
    fn the_latest_used_stay() {
        let mut store = Store::default();
        (0..KEPT).for_each(|number| store.put(kept(number)));
        assert!(store.get("0").is_some());
        store.put(kept(KEPT));
        assert!(store.get("1").is_none());
        assert!(store.get("0").is_some());
        assert!(store.take("0").is_some());
        assert!(store.get("0").is_none());
    }
}
