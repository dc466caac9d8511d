//! Faults on command: in process, and over HTTP on the control port.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::interface::respond::{self, Answer};
use crate::interface::routes::small_body;
use crate::replica::commands::Command;
use crate::replica::commands::Order;
use crate::replica::fault::{Condition, Fault, HangScope};
use crate::replica::state::Replica;
use crate::server::connection::connection;

/// A fault as the control port takes it.
#[derive(Debug, Deserialize)]
struct Body {
    #[serde(flatten)]
    fault: Fault,
    /// Heals the replica after so long, ms of real time.
    #[serde(default)]
    for_ms: Option<u64>,
}

/// Makes a replica suffer a fault; returns once it does.
pub(crate) async fn inflict(replica: &Replica, fault: Fault) -> Result<(), Error> {
    fault.validate().map_err(Error::Config)?;
    let health = &replica.health;
    let command = |command| {
        replica.driver.send(replica.index, command);
    };
    match fault {
        Fault::Hang { scope } => {
            command(Command::Hold(true));
            health.change(|c| c.hang = Some(scope));
        }
        Fault::Slow { factor } => {
            command(Command::Slow(factor));
            health.change(|c| c.slow = factor);
        }
        Fault::Errors { rate, status } => health.change(|c| {
            c.error_rate = rate;
            c.error_status = status;
        }),
        Fault::Unhealthy => health.change(|c| c.unhealthy = true),
        Fault::Crash => down(replica).await?,
        Fault::Restart { down_ms } => {
            down(replica).await?;
            tokio::time::sleep(Duration::from_millis(down_ms)).await;
            well(replica);
            up(replica).await?;
        }
        Fault::Heal => {
            well(replica);
            up(replica).await?;
        }
    }
    Ok(())
}

/// Takes away every fault but a closed port.
fn well(replica: &Replica) {
    replica.health.change(|c| {
        *c = Condition {
            up: c.up,
            ready: c.ready,
            ..Condition::default()
        };
    });
    replica.driver.send(replica.index, Command::Slow(1.0));
    replica.driver.send(replica.index, Command::Hold(false));
}

async fn down(replica: &Replica) -> Result<(), Error> {
    // First, so that what is lost with the connections counts as failed.
    replica.health.change(|c| c.up = false);
    let (done, waiting) = oneshot::channel();
    replica
        .orders
        .send(Order::Down(done))
        .map_err(|_| Error::Stopped)?;
    waiting.await.map_err(|_| Error::Stopped)?;
    let (done, waiting) = oneshot::channel();
    replica.driver.send(replica.index, Command::Reset(done));
    waiting.await.map_err(|_| Error::Stopped)
}

async fn up(replica: &Replica) -> Result<(), Error> {
    let (done, waiting) = oneshot::channel();
    replica
        .orders
        .send(Order::Up(done))
        .map_err(|_| Error::Stopped)?;
    let address = replica.address;
    waiting
        .await
        .map_err(|_| Error::Stopped)?
        .map_err(|source| Error::Port { address, source })?;
    replica.health.change(|c| c.up = true);
    Ok(())
}

/// Serves the control port.
pub(crate) async fn serve(replicas: Arc<[Arc<Replica>]>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let replicas = Arc::clone(&replicas);
                connections.spawn(connection(stream, move |request| {
                    answer(Arc::clone(&replicas), request)
                }));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(replicas: Arc<[Arc<Replica>]>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path().trim_matches('/');
    let steps: Vec<&str> = path.split('/').collect();
    match (&head.method, steps.as_slice()) {
        (&Method::GET, ["replicas"]) => {
            let all: Vec<Value> = replicas.iter().map(|r| describe(r)).collect();
            respond::json_answer(StatusCode::OK, &all)
        }
        (&Method::GET, ["replicas", name]) => match find(&replicas, name) {
            Some(replica) => respond::json_answer(StatusCode::OK, &describe(replica)),
            None => unknown(name),
        },
        (&Method::POST, ["replicas", name, "fault"]) => match find(&replicas, name) {
            Some(replica) => fault(replica, body).await,
            None => unknown(name),
        },
        _ => respond::error(
            StatusCode::NOT_FOUND,
            "NotFoundError",
            "GET /replicas, GET /replicas/{number or ip:port}, \
             POST /replicas/{number or ip:port}/fault",
        ),
    }
}

async fn fault(replica: &Arc<Replica>, body: Incoming) -> Answer {
    let Some(body) = small_body(body).await else {
        return respond::error(StatusCode::BAD_REQUEST, "BadRequestError", "no body");
    };
    let asked: Body = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => {
            return respond::error(
                StatusCode::BAD_REQUEST,
                "BadRequestError",
                &error.to_string(),
            );
        }
    };
    match inflict(replica, asked.fault).await {
        Ok(()) => {
            if let Some(for_ms) = asked.for_ms {
                heal_later(Arc::clone(replica), for_ms);
            }
            respond::json_answer(StatusCode::OK, &describe(replica))
        }
        Err(error) => respond::error(
            StatusCode::BAD_REQUEST,
            "BadRequestError",
            &error.to_string(),
        ),
    }
}

fn heal_later(replica: Arc<Replica>, for_ms: u64) {
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(for_ms)).await;
        if let Err(error) = inflict(&replica, Fault::Heal).await {
            tracing::warn!(%error, "cannot heal a replica");
        }
    });
}

fn find<'a>(replicas: &'a [Arc<Replica>], name: &str) -> Option<&'a Arc<Replica>> {
    replicas
        .iter()
        .find(|r| r.index.to_string() == name || r.address.to_string() == name)
}

fn unknown(name: &str) -> Answer {
    let error = Error::NoReplica(name.to_owned());
    respond::error(StatusCode::NOT_FOUND, "NotFoundError", &error.to_string())
}

fn describe(replica: &Replica) -> Value {
    let Condition {
        up,
        ready,
        hang,
        slow,
        error_rate,
        error_status,
        unhealthy,
    } = replica.health.now();
    json!({
        "replica": replica.index,
        "address": replica.address.to_string(),
        "model": replica.model,
        "up": up,
        "ready": ready,
        "hang": hang.map(|scope| match scope {
            HangScope::Process => "process",
            HangScope::Engine => "engine",
        }),
        "slow": slow,
        "error_rate": error_rate,
        "error_status": error_status,
        "unhealthy": unhealthy,
        "counters": replica.counters(),
    })
}
