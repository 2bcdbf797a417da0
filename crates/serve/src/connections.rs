//! Connections: each is served beside the others, and may take only so long to say what it wants and to take what it is
//! answered.

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

/// How long connections may make the server wait.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// For a request's headers, and for another request.
    pub(crate) headers: Duration,
    /// For anything to be read of what is sent.
    pub(crate) reading: Duration,
}

/// Serves `routes` on every connection until `end` is done; then no more are taken, and those that run may finish what
/// they have begun. Who doesn't send a request's headers in time is let go, and who asks nothing more after an answer, or
/// reads nothing of it, too.
pub(crate) async fn serve(
    mut listener: impl Listener,
    routes: Router,
    patience: Patience,
    end: impl Future<Output = ()>,
) {
    let (ending, ended) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        tokio::select! {
            (stream, _) = listener.accept() => {
                let (routes, ended) = (routes.clone(), ended.clone());
                connections.spawn(connection(stream, routes, patience, ended));
            }
            Some(_) = connections.join_next() => {}
            () = &mut end => break,
        }
    }
    drop(listener);
    ending.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn connection<S>(stream: S, routes: Router, patience: Patience, mut ended: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(patience.reading));
    let stream = TokioIo::new(Box::pin(stream));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience.headers);
    let mut served = pin!(http.serve_connection(stream, TowerToHyperService::new(routes)));
    tokio::select! {
        // A client that breaks off, or speaks something else, is let go without a word.
        _ = &mut served => return,
        _ = ended.wait_for(|ended| *ended) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}
