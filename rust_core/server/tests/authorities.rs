//! Calls with any `:authority`, as frames on a real socket: gateways name their clusters there, and
//! not all of those names are RFC 3986's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use bytes::Bytes;
use common::{core, encoded, message, post, serve};
use prost::Message;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::block_in_place;
use tokio::time::timeout;
use weighbridge_server::{Options, Server};
use weighbridge_stream::wire::{ProcessingResponse, Response};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// `:authority` as HPACK's static table has it.
const AUTHORITY: u8 = 1;
const METHOD: &[u8] = b"/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// Most that a frame may hold, bytes.
const FRAME_BYTES: usize = 16 << 10;

/// A connection of frames.
struct Frames(TcpStream);

/// What came on a stream.
#[derive(Debug, PartialEq)]
enum Came {
    Choice(String),
    Reset,
}

impl Frames {
    async fn connect(server: &Server) -> Self {
        let mut socket = TcpStream::connect(server.address()).await.unwrap();
        socket
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let mut frames = Self(socket);
        frames.write(SETTINGS, 0, 0, &[]).await;
        frames
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // Where the server has given up the connection, what it last said is read.
        drop(self.0.write_all(&frame).await);
    }

    /// The next frame: its kind, flags, stream and payload; none once the connection is closed.
    async fn read(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        let come = timeout(Duration::from_secs(20), self.0.read_exact(&mut head));
        come.await.expect("an answer in time").ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.unwrap();
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// Calls with this block of headers, sends a request, and gives what comes of it.
    async fn call(&mut self, stream: u32, head: &[u8]) -> Came {
        let mut pieces = head.chunks(FRAME_BYTES).peekable();
        let mut kind = HEADERS;
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            self.write(kind, end, stream, piece).await;
            kind = CONTINUATION;
        }
        let body = br#"{"model": "m", "messages": [{"role": "user", "content": "hello"}]}"#;
        let body = message(Bytes::from_static(body), true);
        for message in [post(2), body] {
            self.write(DATA, 0, stream, &encoded(&message)).await;
        }
        let mut replies = Vec::new();
        loop {
            match self.read().await.expect("the connection stays") {
                (SETTINGS, 0, ..) => self.write(SETTINGS, ACK, 0, &[]).await,
                (GO_AWAY, _, _, why) => panic!("the connection is given up: {why:?}"),
                (RESET, _, of, _) if of == stream => return Came::Reset,
                (DATA, _, of, payload) if of == stream => {
                    replies.extend(payload);
                    if let Some(choice) = chosen(&replies) {
                        return Came::Choice(choice);
                    }
                }
                _ => {}
            }
        }
    }
}

/// The endpoint that the second reply of these names.
fn chosen(mut replies: &[u8]) -> Option<String> {
    while let Some(([_, length @ ..], rest)) = replies.split_first_chunk::<5>() {
        let length = u32::from_be_bytes(*length) as usize;
        let reply = ProcessingResponse::decode(rest.get(..length)?).unwrap();
        if let Some(Response::RequestBody(answer)) = reply.response {
            let set = answer.response?.header_mutation?.set_headers;
            return set[0].header.as_ref()?.text().map(str::to_owned);
        }
        replies = &rest[length..];
    }
    None
}

/// An integer of HPACK with a prefix of `bits` bits, under these bits above it.
fn integer(value: usize, bits: u32, above: u8) -> Vec<u8> {
    let most = (1_usize << bits) - 1;
    if value < most {
        return vec![above | u8::try_from(value).unwrap()];
    }
    let mut bytes = vec![above | u8::try_from(most).unwrap()];
    let mut rest = value - most;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

fn text(value: &[u8]) -> Vec<u8> {
    let mut bytes = integer(value.len(), 7, 0);
    bytes.extend(value);
    bytes
}

/// A field that is not put into the dynamic table.
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [vec![0], text(name), text(value)].concat()
}

fn path(value: &[u8]) -> Vec<u8> {
    field(b":path", value)
}

/// A call's headers but its authority.
fn rest(method: &str) -> Vec<u8> {
    [
        field(b":method", method.as_bytes()),
        field(b":scheme", b"http"),
        path(METHOD),
        field(b"content-type", b"application/grpc"),
        field(b"te", b"trailers"),
    ]
    .concat()
}

/// An authority that the peer's table remembers from here on.
fn remembered(value: &[u8]) -> Vec<u8> {
    [integer(AUTHORITY.into(), 6, 64), text(value)].concat()
}

fn head(authority: &[u8]) -> Vec<u8> {
    [remembered(authority), rest("POST")].concat()
}

fn served() -> Came {
    Came::Choice("10.0.0.1:8000".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered_whatever_its_authority() {
    let core = core(&serde_json::json!({}));
    let server = serve(&core, Options::default());
    let long = [b"outbound|9002||".to_vec(), vec![b'a'; 60_000]].concat();
    let authorities: [&[u8]; 15] = [
        b"weighbridge.inference:9002",
        b"outbound|9002||weighbridge.inference.svc.cluster.local",
        b"outbound_.9002_.v1-2_.weighbridge.inference.svc.cluster.local",
        b"outbound|9002|v1|weighbridge.inference.svc.cluster.local",
        b"inbound|9002||",
        b"",
        b"a cluster of ours",
        "w\u{e4}gung.\u{91cd}\u{91cf}".as_bytes(),
        b"w\xe4gung",
        b"\xff\xfe",
        b"user@host@host",
        b"[::1",
        b"a%zz:1:2:3",
        b"<cluster>/\"x\"\\^`{}",
        &long,
    ];
    for authority in authorities {
        let mut frames = Frames::connect(&server).await;
        let shown = String::from_utf8_lossy(&authority[..authority.len().min(60)]);
        for stream in [1, 3] {
            assert_eq!(
                frames.call(stream, &head(authority)).await,
                served(),
                "{shown}"
            );
        }
    }
    let mut frames = Frames::connect(&server).await;
    assert_eq!(frames.call(1, &rest("POST")).await, served(), "none at all");
    block_in_place(|| drop(server));
}

/// What is remembered must be as long as what was sent, or the two tables part.
#[tokio::test(flavor = "multi_thread")]
async fn both_ends_remember_the_same_of_odd_authorities() {
    let core = core(&serde_json::json!({}));
    let server = serve(&core, Options::default());
    let mut frames = Frames::connect(&server).await;
    let mut stream = 1;
    // 4,096 bytes are remembered: 4 entries of 985 + 10 + 32 bytes do not fit, 3 do.
    for filler in [b'|', 0xff, 0xe4] {
        for at in 0..6 {
            let odd = [vec![filler; 984], vec![b'0' + at]].concat();
            assert_eq!(frames.call(stream, &head(&odd)).await, served());
            stream += 2;
        }
        for entry in [62, 63, 64] {
            let again = [integer(entry, 7, 128), rest("POST")].concat();
            assert_eq!(frames.call(stream, &again).await, served(), "entry {entry}");
            stream += 2;
        }
    }
    block_in_place(|| drop(server));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_else_is_malformed_is_refused_as_ever() {
    let core = core(&serde_json::json!({}));
    let server = serve(&core, Options::default());
    let odd = b"outbound|9002||weighbridge";
    let plain = b"weighbridge:9002";
    for (what, block) in [
        (
            "two authorities",
            [remembered(odd), remembered(plain), rest("POST")].concat(),
        ),
        (
            "an authority after other headers",
            [rest("POST"), remembered(odd)].concat(),
        ),
        (
            "a tunnel to nowhere",
            [remembered(odd), field(b":method", b"CONNECT")].concat(),
        ),
        ("a path that is none", {
            let method = [field(b":method", b"POST"), field(b":scheme", b"http")].concat();
            [remembered(odd), method, path(b"/a path|")].concat()
        }),
        ("no path", {
            let method = [field(b":method", b"POST"), field(b":scheme", b"http")].concat();
            [remembered(odd), method].concat()
        }),
        ("no scheme", {
            [remembered(odd), field(b":method", b"POST"), path(METHOD)].concat()
        }),
        (
            "a header of one hop",
            [head(odd), field(b"connection", b"close")].concat(),
        ),
    ] {
        let mut frames = Frames::connect(&server).await;
        assert_eq!(frames.call(1, &block).await, Came::Reset, "{what}");
        // Its stream alone: the connection goes on.
        assert_eq!(frames.call(3, &head(plain)).await, served(), "{what}");
    }
    block_in_place(|| drop(server));
}
