//! A gRPC client in Envoy's place, and a core to serve.
#![allow(dead_code, reason = "each test uses its part")]

use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use weighbridge_decide::Core;
use weighbridge_server::{Machine, Options, Server};
use weighbridge_stream::Limits;
use weighbridge_stream::wire::{
    HeaderMap, HeaderValue, HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration, Request,
};

/// The method's path.
pub(crate) const PROCESS: &str =
    "http://sidecar/envoy.service.ext_proc.v3.ExternalProcessor/Process";

#[derive(Clone, Copy, Default)]
pub(crate) struct ClientCodec;

impl Codec for ClientCodec {
    type Encode = ProcessingRequest;
    type Decode = ProcessingResponse;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for ClientCodec {
    type Item = ProcessingRequest;
    type Error = Status;
    fn encode(&mut self, item: Self::Item, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(dst)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for ClientCodec {
    type Item = ProcessingResponse;
    type Error = Status;
    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        ProcessingResponse::decode(src)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// A core with one replica, and these settings besides.
pub(crate) fn core(more: &serde_json::Value) -> Arc<Core> {
    let mut settings = serde_json::json!({
        "profiles": [{
            "name": "p", "models": ["m"], "capacity_mu_per_min": 60000.0, "kv_tokens": 100_000,
            "block_tokens": 32, "max_batch_size": 64, "max_num_tokens": 8192,
            "reference_batch": 32.0,
            "cost": {
                "prefill_per_tok": 0.1, "prefill_per_tok2_e6": 1.0,
                "decode_per_tok": 1.0, "decode_per_ktok_ctx": 0.1
            }
        }]
    });
    let all = settings.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    let core = Core::new(serde_json::from_value(settings).unwrap()).unwrap();
    let replicas = serde_json::json!([{"endpoint": "10.0.0.1:8000", "profile": "p"}]);
    core.set_replicas(serde_json::from_value(replicas).unwrap())
        .unwrap();
    Arc::new(core)
}

pub(crate) fn serve(core: &Arc<Core>, options: Options) -> Server {
    let core = Arc::clone(core);
    let machine = move || Machine::new(Arc::clone(&core), Limits::default());
    block_in_place(|| Server::start("127.0.0.1:0", options, machine)).unwrap()
}

pub(crate) async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// One ext_proc stream as Envoy holds it.
pub(crate) struct Call {
    messages: mpsc::Sender<ProcessingRequest>,
    replies: Streaming<ProcessingResponse>,
}

impl Call {
    pub(crate) async fn open(channel: Channel, head: ProcessingRequest) -> Self {
        let (messages, receiver) = mpsc::channel(16);
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = PROCESS
            .trim_start_matches("http://sidecar")
            .parse()
            .unwrap();
        messages.send(head).await.unwrap();
        let stream = tonic::Request::new(ReceiverStream::new(receiver));
        let replies = grpc.streaming(stream, path, ClientCodec).await.unwrap();
        Self {
            messages,
            replies: replies.into_inner(),
        }
    }

    pub(crate) async fn send(&self, message: ProcessingRequest) {
        // Where the server has ended the stream, its reply says so.
        drop(self.messages.send(message).await);
    }

    pub(crate) async fn reply(&mut self) -> Result<Option<ProcessingResponse>, Status> {
        tokio::time::timeout(Duration::from_secs(10), self.replies.message())
            .await
            .unwrap()
    }
}

/// A chat completion's head, under this body mode.
pub(crate) fn post(request_body_mode: i32) -> ProcessingRequest {
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
            request_body_mode,
            ..ProtocolConfiguration::default()
        }),
        ..ProcessingRequest::default()
    }
}

/// A piece of a body.
pub(crate) fn message(body: Bytes, end_of_stream: bool) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(Request::RequestBody(HttpBody {
            body,
            end_of_stream,
        })),
        ..ProcessingRequest::default()
    }
}

/// A message as gRPC frames it.
pub(crate) fn encoded(message: &ProcessingRequest) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap();
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

pub(crate) fn in_flight(core: &Core) -> i64 {
    let replicas = core.pool();
    let requests = replicas.replicas();
    requests.map(|replica| replica.load.own().requests).sum()
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
