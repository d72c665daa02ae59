//! The endpoint for metrics: one page by HTTP, on a unix socket or a loopback port, for as
//! many readers at once as it bears, each with so much time.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::either::Either;
use tokio_util::task::TaskTracker;

use super::metrics;
use crate::config::MetricsAddress;
use crate::network::Handle;

const PATH: &str = "/metrics";
/// How many readers there may be at once; others wait to be accepted.
const READERS: usize = 4;
/// How long a reader may take for everything.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the head of a request may be.
const HEAD_BYTES: usize = 16 << 10;

/// Where readers come in.
#[derive(Debug)]
pub(super) enum Listener {
    /// By a unix socket.
    Unix(UnixListener),
    /// By a port.
    Tcp(TcpListener),
}

impl Listener {
    /// Listens at an address.
    pub(super) async fn bind(address: &MetricsAddress) -> io::Result<Self> {
        match address {
            MetricsAddress::Unix(path) => super::listen(path).map(Self::Unix),
            MetricsAddress::Loopback(place) => TcpListener::bind(place).await.map(Self::Tcp),
        }
    }

    async fn accept(&self) -> io::Result<Either<UnixStream, TcpStream>> {
        match self {
            Self::Unix(listener) => Ok(Either::Left(listener.accept().await?.0)),
            Self::Tcp(listener) => Ok(Either::Right(listener.accept().await?.0)),
        }
    }
}

/// Serves until it is dropped, or cannot accept any more.
pub(super) async fn serve(listener: Listener, handle: Handle) {
    let readers = Arc::new(Semaphore::new(READERS));
    let tasks = TaskTracker::new();
    loop {
        let Ok(place) = Arc::clone(&readers).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            // The reader went away before its turn.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::error!(error = %error, "metrics are not served any more");
                return;
            }
        };
        let handle = handle.clone();
        tasks.spawn(async move {
            // Who is too slow or speaks nonsense is left.
            drop(tokio::time::timeout(LIMIT, answer(stream, handle)).await);
            drop(place);
        });
    }
}

/// Answers what comes by one connection.
async fn answer(stream: Either<UnixStream, TcpStream>, handle: Handle) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let handle = handle.clone();
        async move { Ok::<_, Infallible>(respond(&request, handle).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIMIT)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn respond(request: &Request<Incoming>, handle: Handle) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, format!("look at {PATH}\n"));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "read only\n".to_owned());
    }
    let registry = handle.registry();
    let counted = tokio::task::spawn_blocking(move || metrics::text(&registry)).await;
    match counted {
        Ok(Ok(text)) => {
            let mut response = plain(StatusCode::OK, text);
            let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Ok(Err(error)) => {
            tracing::error!(error = %crate::network::owner::chain(&error), "metrics not read");
            failed()
        }
        Err(_panic) => failed(),
    }
}

fn failed() -> Response<Full<Bytes>> {
    let text = "netd could not do it; its log says why\n";
    plain(StatusCode::INTERNAL_SERVER_ERROR, text.to_owned())
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
