//! From a socket to connections to the router, and the way down: connections are counted, slow clients are dropped, and after
//! the wish to stop what runs may finish.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use crate::config::Config;
use crate::state::AppState;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub SocketAddr);

/// The server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program listens there.
    #[error(
        "cannot listen on {address}: another program does already; stop it, or choose another port by --port (0 takes a free one)"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// Ports below 1024 are for administrators.
    #[error("cannot listen on {address}: this user may not; choose a port above 1023 by --port")]
    NotAllowed {
        /// The address.
        address: SocketAddr,
    },
    /// The machine does not have this address.
    #[error("cannot listen on {address}: this machine does not have the address; give another one by --host")]
    NoSuchAddress {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Takes the address of the configuration.
pub(crate) async fn bind(config: &Config) -> Result<TcpListener, ListenError> {
    let address = SocketAddr::new(config.host, config.port);
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address },
        io::ErrorKind::PermissionDenied => ListenError::NotAllowed { address },
        io::ErrorKind::AddrNotAvailable => ListenError::NoSuchAddress { address },
        _ => ListenError::Other { address, source },
    })
}

/// Serves until `stop` is done and what runs then has finished, or the drain timeout is over. Returns how many requests were
/// still running.
pub(crate) async fn serve(listener: TcpListener, router: Router, state: AppState, stop: impl Future<Output = ()>) -> usize {
    let (closing, closed) = watch::channel(false);
    let accepting = accept(listener, router, &state.config, closed);
    let draining = async {
        stop.await;
        state.drain();
        let finished = tokio::time::timeout(state.config.drain_timeout, state.idle()).await;
        if finished.is_err() { state.num_active() } else { 0 }
    };
    // New connections are accepted to the end, so that those who ask hear 503 and not a refused connection.
    let num_left = tokio::select! {
        () = accepting => 0,
        num_left = draining => num_left,
    };
    // Idle connections are closed, answers that are written whole go out.
    let _ = closing.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(2), closing.closed()).await;
    num_left
}

async fn accept(listener: TcpListener, router: Router, config: &Config, closed: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(config.max_connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(config.header_timeout).max_buf_size(config.max_header_bytes);
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                // Too many open files, for example: it passes when connections end.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (http, router, write_timeout, mut closed) = (http.clone(), router.clone(), config.write_timeout, closed.clone());
        tokio::spawn(async move {
            let connection = http.serve_connection(TokioIo::new(timed(stream, write_timeout)), to_service(router, peer));
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = is_true(&mut closed) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, "a connection ended early: {error}");
            }
            drop((place, closed));
        });
    }
}

async fn is_true(value: &mut watch::Receiver<bool>) {
    // The sender lives as long as the server.
    let _ = value.wait_for(|value| *value).await;
}

/// A connection that fails when nothing of what is to be sent goes out for so long.
fn timed(stream: TcpStream, write_timeout: Duration) -> std::pin::Pin<Box<TimeoutStream<TcpStream>>> {
    // Tokens are small and must not wait for each other. Fails only on a connection that is gone already.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(write_timeout));
    Box::pin(stream)
}

fn to_service(
    router: Router,
    peer: SocketAddr,
) -> impl hyper::service::Service<Request<Incoming>, Response = axum::response::Response, Error = std::convert::Infallible, Future: Send>
{
    service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.clone().oneshot(request.map(Body::new))
    })
}
