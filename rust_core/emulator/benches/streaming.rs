//! Tokens a second through the sockets of many replicas in one process, as JSON.
//!
//! Every stream is one client connection; whoever finishes starts again, so that
//! the figure is that of a steady load. CPU is that of the emulator's own threads, read from
//! the system; the clients run in the same process, on one thread of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weighbridge_emulator::{Emulator, EmulatorConfig};

const REPLICAS: usize = 50;
const SECONDS: u64 = 8;

struct Case {
    name: &'static str,
    /// Streams to each replica.
    streams: usize,
    /// Time of an engine's iteration, ms.
    step_ms: f64,
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    events: AtomicU64,
    reads: AtomicU64,
    finished: AtomicU64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tokenizer();
    large_prompts()?;
    for case in [
        Case {
            name: "target",
            streams: 16,
            step_ms: 40.0,
        },
        Case {
            name: "more",
            streams: 16,
            step_ms: 10.0,
        },
    ] {
        run(&case)?;
    }
    Ok(())
}

fn run(case: &Case) -> Result<(), Box<dyn std::error::Error>> {
    let config: EmulatorConfig = serde_json::from_value(json!({
        "replicas": REPLICAS,
        "profiles": [{
            "decode_base_ms": case.step_ms,
            "decode_ms_per_seq": 0.0,
            "decode_ms_per_ktoken": 0.0,
            "step_overhead_ms": 0.0,
        }],
    }))?;
    let emulator = Emulator::start(config)?;
    let seen = Arc::new(Seen::default());
    let clients = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("client")
        .enable_all()
        .build()?;
    for (replica, address) in emulator.addresses().into_iter().enumerate() {
        for stream in 0..case.streams {
            let seen = Arc::clone(&seen);
            let prompt = format!("client {replica} {stream} asks for a story");
            clients.spawn(client(address, prompt, 300, seen));
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    let (cpu, events, reads) = (cpu_seconds()?, count(&seen.events), count(&seen.reads));
    let produced: u64 = produced(&emulator);
    let begin = Instant::now();
    std::thread::sleep(Duration::from_secs(SECONDS));
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = cpu_seconds()? - cpu;
    let rate = |n: u64| n as f64 / seconds;
    let ideal = (REPLICAS * case.streams) as f64 / (case.step_ms / 1000.0);
    println!(
        "{}",
        json!({
            "benchmark": "emulator_streaming",
            "case": case.name,
            "replicas": REPLICAS,
            "streams": REPLICAS * case.streams,
            "step_ms": case.step_ms,
            "ideal_tokens_per_s": ideal,
            "produced_tokens_per_s": rate(self::produced(&emulator) - produced),
            "received_tokens_per_s": rate(count(&seen.events) - events),
            "reads_per_s": rate(count(&seen.reads) - reads),
            "emulator_cpu_cores": cpu / seconds,
            "emulator_cpu_us_per_token": cpu * 1e6 / ((count(&seen.events) - events) as f64),
        })
    );
    clients.shutdown_timeout(Duration::from_millis(200));
    emulator.stop();
    Ok(())
}

/// Bytes a second that one core turns into tokens.
fn tokenizer() {
    let english = "A truck is weighed before it is let onto the bridge, in 2026 as ever. ";
    for (name, text) in [
        ("english", english),
        ("chinese", "称量每一个请求，然后再放行。"),
    ] {
        let text = text.repeat(1 << 20 >> 6);
        let mut tokens = 0_u64;
        let begin = Instant::now();
        weighbridge_emulator::tokenize(&text, |_| tokens += 1);
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "{}",
            json!({
                "benchmark": "emulator_tokenizer",
                "text": name,
                "megabytes_per_s": text.len() as f64 / 1e6 / seconds,
                "bytes_per_token": text.len() as f64 / tokens as f64,
            })
        );
    }
}

/// Prompts of 220 KB, each answered with one token, from 16 connections.
fn large_prompts() -> Result<(), Box<dyn std::error::Error>> {
    let config: EmulatorConfig = serde_json::from_value(json!({"replicas": 4, "speed": 1000.0}))?;
    let emulator = Emulator::start(config)?;
    let seen = Arc::new(Seen::default());
    let clients = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("client")
        .enable_all()
        .build()?;
    let addresses = emulator.addresses();
    for (number, address) in addresses.iter().cycle().take(16).copied().enumerate() {
        let text = "A truck is weighed before it is let onto the bridge. ".repeat(220_000 / 53);
        let prompt = format!("client {number}: {text}");
        clients.spawn(client(address, prompt, 1, Arc::clone(&seen)));
    }
    std::thread::sleep(Duration::from_secs(1));
    let (cpu, finished) = (cpu_seconds()?, count(&seen.finished));
    let begin = Instant::now();
    std::thread::sleep(Duration::from_secs(4));
    let finished = count(&seen.finished) - finished;
    println!(
        "{}",
        json!({
            "benchmark": "emulator_large_prompts",
            "requests_per_s": finished as f64 / begin.elapsed().as_secs_f64(),
            "emulator_cpu_ms_per_request": (cpu_seconds()? - cpu) * 1e3 / finished as f64,
        })
    );
    clients.shutdown_timeout(Duration::from_millis(200));
    emulator.stop();
    Ok(())
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn produced(emulator: &Emulator) -> u64 {
    emulator
        .all_counters()
        .iter()
        .map(|c| c.output_tokens)
        .sum()
}

/// One connection that streams one answer after the other.
async fn client(
    address: SocketAddr,
    prompt: String,
    max_tokens: u32,
    seen: Arc<Seen>,
) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let mut buffer = vec![0; 16_384];
    loop {
        let body = json!({
            "model": "llama-3.1-8b",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "ignore_eos": true,
            "stream": true,
        })
        .to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(body.as_bytes()).await?;
        // The end of a chunked body is "0", an empty line: looked for across reads.
        let mut tail = Vec::new();
        loop {
            let length = socket.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            let read = &buffer[..length];
            seen.reads.fetch_add(1, Ordering::Relaxed);
            seen.events
                .fetch_add(occurrences(read, b"\"content\""), Ordering::Relaxed);
            tail.extend_from_slice(read);
            if tail.ends_with(b"\r\n0\r\n\r\n") {
                break;
            }
            let keep = tail.len().saturating_sub(8);
            tail.drain(..keep);
        }
        seen.finished.fetch_add(1, Ordering::Relaxed);
    }
}

fn occurrences(text: &[u8], part: &[u8]) -> u64 {
    text.windows(part.len())
        .filter(|window| *window == part)
        .count() as u64
}

/// CPU that the emulator's threads have used, by their names.
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let mut ticks = 0_u64;
    for task in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        let (name, rest) = stat.rsplit_once(") ").ok_or("an unknown form of stat")?;
        if name.contains("(emulator") {
            let fields: Vec<&str> = rest.split(' ').collect();
            ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        }
    }
    // Linux counts in hundredths of a second.
    Ok(ticks as f64 / 100.0)
}
