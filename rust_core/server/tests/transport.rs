//! The native transport over real sockets, with a gRPC client in Envoy's place.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::ClientCodec;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::{block_in_place, spawn_blocking};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use weighbridge_decide::Core;
use weighbridge_server::{Machine, Options, Server};
use weighbridge_stream::Limits;
use weighbridge_stream::wire::{
    HeaderMap, HeaderValue, HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration, Request, Response,
};

fn core() -> Arc<Core> {
    let settings = serde_json::from_value(serde_json::json!({
        "profiles": [{
            "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 100_000,
            "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192,
            "reference_batch": 32.0,
            "cost": {
                "prefill_per_tok": 0.1, "prefill_per_tok2_e6": 1.0,
                "decode_per_tok": 1.0, "decode_per_ktok_ctx": 0.1
            }
        }]
    }))
    .unwrap();
    let core = Core::new(settings).unwrap();
    let replicas = serde_json::from_value(serde_json::json!([
        {"endpoint": "10.0.0.1:8000", "profile": "p"},
        {"endpoint": "10.0.0.2:8000", "profile": "p"}
    ]));
    core.set_replicas(replicas.unwrap()).unwrap();
    Arc::new(core)
}

fn serve(core: &Arc<Core>, listen: &str, options: Options) -> Server {
    let core = Arc::clone(core);
    block_in_place(|| {
        Server::start(listen, options, move || {
            Machine::new(Arc::clone(&core), Limits::default())
        })
    })
    .unwrap()
}

async fn connect(address: &str) -> Channel {
    let uri = match address.strip_prefix("unix:") {
        Some(_) => address.to_owned(),
        None => format!("http://{address}"),
    };
    Endpoint::from_shared(uri).unwrap().connect().await.unwrap()
}

/// One ext_proc stream as Envoy holds it.
struct Call {
    messages: mpsc::Sender<ProcessingRequest>,
    replies: Streaming<ProcessingResponse>,
}

impl Call {
    async fn open(channel: Channel) -> Self {
        let (messages, receiver) = mpsc::channel(16);
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
            .parse()
            .unwrap();
        messages.send(post()).await.unwrap();
        let replies = grpc
            .streaming(
                tonic::Request::new(ReceiverStream::new(receiver)),
                path,
                ClientCodec,
            )
            .await
            .unwrap()
            .into_inner();
        Self { messages, replies }
    }

    async fn reply(&mut self) -> Result<Option<ProcessingResponse>, Status> {
        tokio::time::timeout(Duration::from_secs(10), self.replies.message())
            .await
            .unwrap()
    }

    /// Sends a body and gives the endpoints chosen.
    async fn choose(&mut self) -> String {
        assert!(matches!(
            self.reply().await.unwrap().unwrap().response,
            Some(Response::RequestHeaders(_))
        ));
        let body = br#"{"model": "m", "messages": [{"role": "user", "content": "hello"}]}"#;
        self.messages.send(chunk(body)).await.unwrap();
        let reply = self.reply().await.unwrap().unwrap();
        let Some(Response::RequestBody(answer)) = reply.response else {
            panic!("{reply:?}");
        };
        let mutation = answer.response.unwrap().header_mutation.unwrap();
        mutation.set_headers[0]
            .header
            .as_ref()
            .unwrap()
            .text()
            .unwrap()
            .to_owned()
    }
}

fn post() -> ProcessingRequest {
    let header = |name: &'static str, value: &'static str| HeaderValue {
        key: Bytes::from_static(name.as_bytes()),
        value: Bytes::new(),
        raw_value: Bytes::from_static(value.as_bytes()),
    };
    ProcessingRequest {
        request: Some(Request::RequestHeaders(HttpHeaders {
            headers: Some(HeaderMap {
                headers: vec![
                    header(":method", "POST"),
                    header(":path", "/v1/chat/completions"),
                ],
            }),
            end_of_stream: false,
        })),
        protocol_config: Some(ProtocolConfiguration {
            request_body_mode: 3,
            ..ProtocolConfiguration::default()
        }),
        ..ProcessingRequest::default()
    }
}

fn chunk(body: &'static [u8]) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(Request::RequestBody(HttpBody {
            body: Bytes::from_static(body),
            end_of_stream: true,
        })),
        ..ProcessingRequest::default()
    }
}

fn in_flight(core: &Core) -> i64 {
    core.pool()
        .replicas()
        .map(|replica| replica.load.own().requests)
        .sum()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_answered_over_tcp_and_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weighbridge.sock");
    // A socket file that a killed sidecar left behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let unix = format!("unix:{}", path.display());
    for listen in ["127.0.0.1:0", &unix] {
        let core = core();
        let server = serve(&core, listen, Options::default());
        let channel = connect(server.address()).await;
        let mut call = Call::open(channel).await;
        let chosen = call.choose().await;
        assert!(chosen.starts_with("10.0.0."), "{chosen}");
        assert_eq!(in_flight(&core), 1);
        drop(call);
        until("the charge is released", || in_flight(&core) == 0).await;
        let stopped = spawn_blocking(move || server.stop(Duration::from_secs(5)));
        assert!(stopped.await.unwrap());
    }
    assert!(!path.exists(), "the socket file is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_refused_with_its_name() {
    let core = core();
    let server = serve(&core, "127.0.0.1:0", Options::default());
    let again = block_in_place(|| {
        Server::start(server.address(), Options::default(), {
            let core = Arc::clone(&core);
            move || Machine::new(Arc::clone(&core), Limits::default())
        })
    });
    let error = again.err().expect("the port is taken").to_string();
    assert!(error.contains(server.address()), "{error}");
    block_in_place(|| drop(server));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_alive_at_once_and_ready_when_told() {
    let core = core();
    let server = serve(&core, "127.0.0.1:0", Options::default());
    let mut client = HealthClient::new(connect(server.address()).await);
    let mut ask = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        client
            .check(request)
            .await
            .map(|reply| reply.into_inner().status)
    };
    let (serving, not_serving) = (1, 2);
    let service = "envoy.service.ext_proc.v3.ExternalProcessor";
    assert_eq!(ask("liveness").await.unwrap(), serving);
    for name in ["readiness", service, ""] {
        assert_eq!(ask(name).await.unwrap(), not_serving, "{name}");
    }
    block_in_place(|| server.set_ready(true));
    for name in ["readiness", service, ""] {
        assert_eq!(ask(name).await.unwrap(), serving, "{name}");
    }
    assert!(ask("nothing.Known").await.is_err());
    block_in_place(|| drop(server));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_for_open_streams_and_no_longer() {
    let core = core();
    let server = serve(&core, "127.0.0.1:0", Options::default());
    let mut call = Call::open(connect(server.address()).await).await;
    call.choose().await;
    let stopping = spawn_blocking(move || server.stop(Duration::from_secs(20)));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!stopping.is_finished(), "a stream is still open");
    drop(call);
    assert!(stopping.await.unwrap(), "nothing was cut off");

    let server = serve(&core, "127.0.0.1:0", Options::default());
    let mut call = Call::open(connect(server.address()).await).await;
    call.choose().await;
    let stopping = spawn_blocking(move || server.stop(Duration::from_millis(100)));
    assert!(
        !stopping.await.unwrap(),
        "the stream was cut off, and it says so"
    );
    drop(call);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_limit_ends_its_stream_alone() {
    let core = core();
    let options = Options {
        max_message_bytes: 64 * 1024,
        ..Options::default()
    };
    let server = serve(&core, "127.0.0.1:0", options);
    let channel = connect(server.address()).await;
    let mut call = Call::open(channel.clone()).await;
    call.reply().await.unwrap();
    call.messages
        .send(chunk(Box::leak(vec![b' '; 65 * 1024].into_boxed_slice())))
        .await
        .unwrap();
    let refused = call.reply().await.unwrap().unwrap();
    assert!(matches!(refused.response, Some(Response::Immediate(_))));
    let mut other = Call::open(channel).await;
    other.choose().await;
    assert_eq!(in_flight(&core), 1);
    block_in_place(|| drop(server));
}
