//! How far one generation has come: set by the driver, awaited by the connection.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Why a generation will produce no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All tokens are out.
    Done,
    /// The engine gave it up.
    Failed,
}

/// What a connection sees of its generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Tokens out.
    pub(crate) tokens: u32,
    /// Prompt tokens found in the cache.
    pub(crate) cached_tokens: u32,
    /// Set when there will be no more.
    pub(crate) end: Option<End>,
}

/// One generation's progress; one task at most waits on it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    view: View,
    waker: Option<Waker>,
    /// The waiting task has seen so many tokens.
    seen: u32,
}

impl Progress {
    pub(crate) fn start(&self, cached_tokens: u32) {
        self.lock().view.cached_tokens = cached_tokens;
    }

    /// One more token; the last one ends it.
    pub(crate) fn advance(&self, last: bool) {
        let mut state = self.lock();
        state.view.tokens += 1;
        if last {
            state.view.end = Some(End::Done);
        }
        if last || state.view.tokens > state.seen {
            wake(state);
        }
    }

    pub(crate) fn fail(&self) {
        let mut state = self.lock();
        state.view.end.get_or_insert(End::Failed);
        wake(state);
    }

    pub(crate) fn view(&self) -> View {
        self.lock().view
    }

    /// Ready when there are more tokens than were `seen`, or the end.
    pub(crate) fn poll_beyond(&self, seen: u32, context: &mut Context<'_>) -> Poll<View> {
        let mut state = self.lock();
        if state.view.tokens > seen || state.view.end.is_some() {
            return Poll::Ready(state.view);
        }
        state.seen = seen;
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) -> View {
        poll_fn(|context| self.poll_beyond(u32::MAX, context)).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes after the lock is gone, so that the woken one does not wait for it.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}
