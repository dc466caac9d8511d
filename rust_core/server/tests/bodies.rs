//! Bodies and connections that misbehave, over real sockets: they cost others nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::{Call, connect, core, encoded, in_flight, message, post, serve, until};
use http_body::Frame;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::block_in_place;
use tonic::codegen::Service;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use weighbridge_decide::Accounts;
use weighbridge_server::{Options, Process, Server};
use weighbridge_stream::wire::{ProcessingRequest, ProcessingResponse, Request, Response};

const DUPLEX: i32 = 4;
const BUFFERED: i32 = 2;

fn chat(bytes: usize) -> Bytes {
    let mut text = br#"{"model": "m", "max_tokens": 100, "messages": [
        {"role": "user", "content": "hello"}]}"#
        .to_vec();
    text.resize(bytes.max(text.len()), b' ');
    text.into()
}

fn status_of(reply: &ProcessingResponse) -> Option<i32> {
    match &reply.response {
        Some(Response::Immediate(immediate)) => immediate.status.map(|status| status.code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_message_limit_is_refused_and_not_let_past() {
    let core = core(&serde_json::json!({}));
    let options = Options {
        max_message_bytes: 64 << 10,
        ..Options::default()
    };
    let server = serve(&core, options);
    let mut call = Call::open(connect(server.address()).await, post(BUFFERED)).await;
    call.reply().await.unwrap();
    call.send(message(chat(65 << 10), true)).await;
    let reply = call.reply().await.unwrap().expect("an answer, no error");
    assert_eq!(status_of(&reply), Some(413));
    assert!(
        call.reply().await.unwrap().is_none(),
        "the stream ends well"
    );
    assert_eq!(core.accounts(), Accounts::default());
    block_in_place(|| drop(server));
}

/// Reads heavy messages until it is told to stop.
struct Slow(Arc<(Mutex<bool>, Condvar)>);

impl Process for Slow {
    fn on_message(&mut self, message: ProcessingRequest) -> Vec<ProcessingResponse> {
        if self.is_heavy(&message) {
            let (released, changed) = &*self.0;
            let held = released.lock().unwrap();
            drop(changed.wait_while(held, |released| !*released).unwrap());
        }
        vec![ProcessingResponse::default()]
    }

    fn is_heavy(&self, message: &ProcessingRequest) -> bool {
        matches!(&message.request, Some(Request::RequestBody(body)) if body.body.len() > 1000)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_other_requests_are_answered_while_large_bodies_are_read() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let options = Options {
        threads: 1,
        ..Options::default()
    };
    let start = || Server::start("127.0.0.1:0", options, move || Slow(Arc::clone(&held)));
    let server = block_in_place(start).unwrap();
    block_in_place(|| server.set_ready(true));
    let channel = connect(server.address()).await;
    let mut heavy = Vec::new();
    for _ in 0..20 {
        let mut call = Call::open(channel.clone(), post(BUFFERED)).await;
        call.reply().await.unwrap();
        call.send(message(chat(10_000), true)).await;
        heavy.push(call);
    }
    let mut other = Call::open(channel.clone(), post(BUFFERED)).await;
    other.reply().await.unwrap();
    other.send(message(chat(0), true)).await;
    other.reply().await.unwrap().expect("not held up");
    let mut health = HealthClient::new(channel);
    let asked = HealthCheckRequest::default();
    assert_eq!(health.check(asked).await.unwrap().into_inner().status, 1);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    for mut call in heavy {
        call.reply().await.unwrap().expect("read in the end");
    }
    block_in_place(|| drop(server));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_long_bodies_that_wait_hold_up_no_other() {
    let queue = serde_json::json!({"window_ms": 1.0, "max_wait_ms": 60_000});
    let core = core(&serde_json::json!({"admission": {"queue": queue}}));
    let options = Options {
        threads: 1,
        ..Options::default()
    };
    let server = serve(&core, options);
    let channel = connect(server.address()).await;
    let mut first = Call::open(channel.clone(), post(BUFFERED)).await;
    first.reply().await.unwrap();
    first.send(message(chat(200_000), true)).await;
    first.reply().await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..17 {
        let call = Call::open(channel.clone(), post(DUPLEX)).await;
        for _ in 0..9 {
            call.send(message(chat(1 << 20), false)).await;
        }
        waiting.push(call);
    }
    // A path that is not weighed is answered at once, whoever waits.
    let mut head = post(BUFFERED);
    if let Some(Request::RequestHeaders(headers)) = &mut head.request {
        headers.headers.as_mut().unwrap().headers[1].raw_value = Bytes::from_static(b"/v1/files");
    }
    let mut small = Call::open(channel, head).await;
    small.reply().await.unwrap().unwrap();
    for _ in 0..20 {
        small.send(message(chat(1 << 20), false)).await;
        small.reply().await.unwrap().expect("it is served");
    }
    drop(waiting);
    drop((first, small));
    until("all is given back", || {
        core.accounts() == Accounts::default()
    })
    .await;
    assert_eq!(core.memory().held(), 0);
    block_in_place(|| drop(server));
}

/// A message's beginning, and then nothing.
struct Unfinished(Option<Bytes>);

impl http_body::Body for Unfinished {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let begun = self.0.take();
        begun.map_or(Poll::Pending, |begun| {
            Poll::Ready(Some(Ok(Frame::data(begun))))
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_messages_stay_within_the_memory_for_bodies() {
    const MOST: usize = 8 << 20;
    let core = core(&serde_json::json!({"held_body_bytes": MOST}));
    let server = serve(&core, Options::default());
    let mut bytes = encoded(&post(BUFFERED));
    let whole = encoded(&message(chat(4 << 20), true));
    bytes.extend_from_slice(&whole[..whole.len() / 4]);
    // A runtime of its own: what ends with it ends as a gateway does that is killed.
    let gateway = tokio::runtime::Runtime::new().unwrap();
    let address = server.address().to_owned();
    gateway.spawn(async move {
        let mut channel = connect(&address).await;
        let mut answers = Vec::new();
        for _ in 0..100 {
            let begun = Unfinished(Some(bytes.clone().into()));
            let request = http::Request::post(common::PROCESS)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(tonic::body::Body::new(begun))
                .unwrap();
            poll_fn(|context| channel.poll_ready(context))
                .await
                .unwrap();
            answers.push(tokio::spawn(channel.call(request)));
        }
        std::future::pending::<()>().await;
    });
    until("many have come", || core.memory().held() > MOST / 2).await;
    for _ in 0..100 {
        assert!(core.memory().held() <= MOST);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        core.tallies().refusals().contains_key("busy_with_bodies"),
        "what has no room is refused"
    );
    gateway.shutdown_background();
    until("all is given back", || core.memory().held() == 0).await;
    block_in_place(|| drop(server));
}

/// Forwards between a client and `to` until told to stop: then it keeps the connections and says
/// nothing any more, as a node that is gone.
async fn proxy(to: String, mut forwards: watch::Receiver<bool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&to).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                _ = forwards.wait_for(|forwards| !*forwards) => {}
            }
            server.flush().await.unwrap();
            kept.push((client, server));
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vanished_gateway_held_is_given_back() {
    let core = core(&serde_json::json!({}));
    let server = serve(&core, Options::default());
    let (forward, forwards) = watch::channel(true);
    let address = proxy(server.address().to_owned(), forwards).await;
    let mut call = Call::open(connect(&address).await, post(BUFFERED)).await;
    call.reply().await.unwrap();
    call.send(message(chat(0), true)).await;
    call.reply().await.unwrap();
    assert_eq!(in_flight(&core), 1);
    forward.send_replace(false);
    let settled = AtomicBool::new(false);
    for _ in 0..600 {
        if core.accounts() == Accounts::default() {
            settled.store(true, SeqCst);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(settled.load(SeqCst), "still held: {:?}", core.accounts());
    drop(call);
    block_in_place(|| drop(server));
}
