//! A replica's listener and connections, which faults take down and bring up.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::interface::respond::Answer;
use crate::interface::routes::{self, Settings};
use crate::replica::commands::Order;
use crate::replica::state::Replica;

/// Serves a replica until nobody can send orders any more.
pub(crate) async fn serve(
    replica: Arc<Replica>,
    settings: Arc<Settings>,
    listener: TcpListener,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let address = replica.address;
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            stream = accept(listener.as_ref()) => {
                let (replica, settings) = (Arc::clone(&replica), Arc::clone(&settings));
                connections.spawn(connection(stream, move |request| {
                    routes::answer(Arc::clone(&replica), Arc::clone(&settings), request)
                }));
            }
            Some(_) = connections.join_next() => {}
            order = orders.recv() => match order {
                None => return,
                Some(Order::Down(done)) => {
                    listener = None;
                    connections.shutdown().await;
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
                Some(Order::Up(done)) => {
                    let _ = done.send(open(&mut listener, address).await);
                }
            },
        }
    }
}

async fn open(listener: &mut Option<TcpListener>, address: SocketAddr) -> std::io::Result<()> {
    if listener.is_none() {
        *listener = Some(TcpListener::bind(address).await?);
    }
    Ok(())
}

/// The next connection; never, while there is no listener.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Out of file descriptors, or a peer gone already: try again a little later.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
}

/// Serves one connection.
pub(crate) async fn connection<F, A>(stream: TcpStream, answer: F)
where
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Answer>,
{
    // Tokens are small and must not wait for one another.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}
