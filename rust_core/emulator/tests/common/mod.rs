//! A blocking HTTP/1.1 client over plain sockets: what a test needs and no more.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use weighbridge_emulator::{Emulator, EmulatorConfig};

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The data of its server-sent events.
    pub fn events(&self) -> Vec<&str> {
        self.body
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .collect()
    }
}

/// An answer whose body is still coming.
pub struct Stream {
    reader: BufReader<TcpStream>,
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Stream {
    /// The next chunk; `None` at the end, an error when the connection broke.
    pub fn chunk(&mut self) -> std::io::Result<Option<String>> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut data = vec![0; length + 2];
        self.reader.read_exact(&mut data)?;
        data.truncate(length);
        Ok((length > 0).then(|| String::from_utf8(data).unwrap()))
    }

    pub fn reader(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.reader
    }

    fn is_chunked(&self) -> bool {
        self.headers
            .iter()
            .any(|(k, v)| k == "transfer-encoding" && v == "chunked")
    }

    fn rest(mut self) -> std::io::Result<Answer> {
        let mut body = String::new();
        if self.is_chunked() {
            while let Some(chunk) = self.chunk()? {
                body.push_str(&chunk);
            }
        } else {
            self.reader.read_to_string(&mut body)?;
        }
        Ok(Answer {
            status: self.status,
            headers: self.headers,
            body,
        })
    }
}

/// Sends a request and reads the head of its answer.
pub fn open(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<Stream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let extra: String = headers
        .iter()
        .map(|(key, value)| format!("{key}: {value}\r\n"))
        .collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n{extra}\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes())?;
    socket.write_all(body.as_bytes())?;
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or(std::io::ErrorKind::InvalidData)?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((key, value)) => headers.push((key.to_owned(), value.to_owned())),
            None => break,
        }
    }
    Ok(Stream {
        reader,
        status,
        headers,
    })
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    open(address, "GET", path, &[], "").unwrap().rest().unwrap()
}

pub fn post(address: SocketAddr, path: &str, body: &Value) -> Answer {
    post_with(address, path, &[], body)
}

pub fn post_with(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Answer {
    open(address, "POST", path, headers, &body.to_string())
        .unwrap()
        .rest()
        .unwrap()
}

/// A chat of one user message.
pub fn chat(text: &str, max_tokens: u32) -> Value {
    json!({
        "model": "llama-3.1-8b",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
    })
}

/// Emulated replicas from a JSON configuration, a hundred times faster than real time.
pub fn start(config: Value) -> Emulator {
    let mut all = json!({"speed": 100.0, "metrics_wait_ms": 50});
    for (key, value) in config.as_object().unwrap() {
        all[key] = value.clone();
    }
    let config: EmulatorConfig = serde_json::from_value(all).unwrap();
    Emulator::start(config).unwrap()
}

/// Waits until `condition` holds; panics after ten seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within ten seconds: {what}");
}
