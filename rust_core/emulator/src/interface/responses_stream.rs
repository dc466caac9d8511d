//! Server-sent events of `/v1/responses`, each with its type and its number.

use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};

use crate::interface::respond::Broken;
use crate::interface::responses::{Pending, part};
use crate::replica::progress::End;

/// The body of a streamed answer. It ends with `response.completed`; there is no `[DONE]`.
#[derive(Debug)]
pub(crate) struct ResponsesStream {
    pending: Pending,
    number: u64,
    sent: u32,
    over: bool,
}

impl ResponsesStream {
    pub(crate) fn new(pending: Pending) -> Self {
        Self {
            pending,
            number: 0,
            sent: 0,
            over: false,
        }
    }

    fn event(&mut self, kind: &str, mut data: Value, text: &mut String) {
        if let Some(fields) = data.as_object_mut() {
            fields.insert("type".to_owned(), json!(kind));
            fields.insert("sequence_number".to_owned(), json!(self.number));
        }
        self.number += 1;
        // Writing to a string does not fail.
        let _ = write!(text, "event: {kind}\ndata: {data}\n\n");
    }

    fn collect(&mut self, context: &mut Context<'_>, text: &mut String) -> Result<(), Broken> {
        if self.number == 0 {
            let response = self.pending.begun();
            let data = || json!({"response": response});
            self.event("response.created", data(), text);
            self.event("response.in_progress", data(), text);
        }
        let Some(choice) = self.pending.ticket.choices.first() else {
            return Err(Broken);
        };
        let Poll::Ready(view) = choice.progress.poll_beyond(self.sent, context) else {
            return Ok(());
        };
        if view.end == Some(End::Failed) {
            return Err(Broken);
        }
        if self.sent == 0 {
            self.open(text);
        }
        while self.sent < view.tokens {
            self.delta(text);
        }
        if view.end == Some(End::Done) {
            self.close(text);
        }
        Ok(())
    }

    fn open(&mut self, text: &mut String) {
        let item = json!({
            "id": self.pending.message_id(),
            "content": [],
            "role": "assistant",
            "status": "in_progress",
            "type": "message",
        });
        let added = json!({"output_index": 0, "item": item});
        self.event("response.output_item.added", added, text);
        let place = self.place(&json!({"part": part("")}));
        self.event("response.content_part.added", place, text);
    }

    fn delta(&mut self, text: &mut String) {
        let mut word = String::new();
        if let Some(choice) = self.pending.ticket.choices.first() {
            choice.reply.write(self.sent, &mut word);
        }
        self.sent += 1;
        // The token that ends the turn has no text.
        if !word.is_empty() {
            let delta = self.place(&json!({"delta": word, "logprobs": []}));
            self.event("response.output_text.delta", delta, text);
        }
    }

    fn close(&mut self, text: &mut String) {
        let whole = self.pending.text();
        let done = self.place(&json!({"text": whole, "logprobs": []}));
        self.event("response.output_text.done", done, text);
        let done = self.place(&json!({"part": part(&whole)}));
        self.event("response.content_part.done", done, text);
        let item = json!({"output_index": 0, "item": self.pending.item(&whole)});
        self.event("response.output_item.done", item, text);
        let response = self.pending.complete();
        self.event("response.completed", json!({"response": response}), text);
        self.over = true;
    }

    /// Data with the place in the answer that it belongs to.
    fn place(&self, more: &Value) -> Value {
        let mut data = json!({
            "item_id": self.pending.message_id(),
            "output_index": 0,
            "content_index": 0,
        });
        if let (Some(data), Some(more)) = (data.as_object_mut(), more.as_object()) {
            data.extend(more.clone());
        }
        data
    }
}

impl Body for ResponsesStream {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let mut text = String::new();
        if let Err(broken) = this.collect(context, &mut text) {
            this.over = true;
            return Poll::Ready(Some(Err(broken)));
        }
        if text.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}
