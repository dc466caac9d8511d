//! Server-sent events of a generation, as many to a write as have come together.

use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::json;

use crate::interface::generate::{Interface, Ticket};
use crate::interface::respond::{Broken, Usage};
use crate::replica::progress::End;

/// The body of a streamed answer.
#[derive(Debug)]
pub(crate) struct EventStream {
    ticket: Ticket,
    /// Everything of an event before its choices.
    head: String,
    sent: Vec<u32>,
    ended: Vec<bool>,
    begun: bool,
    over: bool,
}

impl EventStream {
    pub(crate) fn new(ticket: Ticket, created: u64) -> Self {
        let (prefix, object) = match ticket.interface {
            Interface::Chat => ("chatcmpl", "chat.completion.chunk"),
            Interface::Completion => ("cmpl", "text_completion"),
        };
        let model = json!(ticket.replica.model).to_string();
        let head = format!(
            "data: {{\"id\":\"{prefix}-{}\",\"object\":\"{object}\",\"created\":{created},\
             \"model\":{model},\"choices\":[",
            ticket.id
        );
        Self {
            sent: vec![0; ticket.choices.len()],
            ended: vec![false; ticket.choices.len()],
            ticket,
            head,
            begun: false,
            over: false,
        }
    }

    /// Appends the events that are ready; `Err` when a generation failed.
    fn collect(&mut self, context: &mut Context<'_>, text: &mut String) -> Result<(), Broken> {
        for at in 0..self.ticket.choices.len() {
            self.collect_choice(at, context, text)?;
        }
        if self.ended.iter().all(|ended| *ended) {
            if self.ticket.include_usage {
                text.push_str(&self.head);
                let _ = write!(text, "],\"usage\":{}}}\n\n", Usage::of(&self.ticket).json());
            }
            text.push_str("data: [DONE]\n\n");
            self.over = true;
        }
        Ok(())
    }

    fn collect_choice(
        &mut self,
        at: usize,
        context: &mut Context<'_>,
        text: &mut String,
    ) -> Result<(), Broken> {
        let (Some(choice), Some(sent), Some(ended)) = (
            self.ticket.choices.get(at),
            self.sent.get_mut(at),
            self.ended.get_mut(at),
        ) else {
            return Ok(());
        };
        if *ended {
            return Ok(());
        }
        let Poll::Ready(view) = choice.progress.poll_beyond(*sent, context) else {
            return Ok(());
        };
        if view.end == Some(End::Failed) {
            return Err(Broken);
        }
        if !self.begun {
            self.begun = true;
            if self.ticket.interface == Interface::Chat {
                begin_chat(&self.head, self.ticket.choices.len(), text);
            }
        }
        let whole = choice.reply.tokens();
        while *sent < view.tokens {
            text.push_str(&self.head);
            let _ = match self.ticket.interface {
                Interface::Chat => write!(text, "{{\"index\":{at},\"delta\":{{\"content\":\""),
                Interface::Completion => write!(text, "{{\"index\":{at},\"text\":\""),
            };
            // The words of a reply need no escaping.
            choice.reply.write(*sent, text);
            *sent += 1;
            text.push_str(match self.ticket.interface {
                Interface::Chat => "\",\"reasoning_content\":\"\"}",
                Interface::Completion => "\"",
            });
            if *sent == whole {
                let reason = choice.reply.finish_reason();
                let _ = write!(text, ",\"finish_reason\":\"{reason}\"");
            }
            text.push_str(",\"avg_decoded_tokens_per_iter\":1.0}]}\n\n");
        }
        // If there is more to come, the next poll, which follows a frame, registers for it.
        *ended = view.end == Some(End::Done);
        Ok(())
    }
}

fn begin_chat(head: &str, choices: usize, text: &mut String) {
    for index in 0..choices {
        let _ = write!(
            text,
            "{head}{{\"index\":{index},\"delta\":{{\"role\":\"assistant\"}}}}]}}\n\n"
        );
    }
}

impl Body for EventStream {
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

impl std::fmt::Display for Broken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the replica failed")
    }
}

impl std::error::Error for Broken {}
