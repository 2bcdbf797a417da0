//! Connections: each is served beside the others, and may take only so long to say what it wants.

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

/// Serves `routes` on every connection until `end` is done; then no more are taken, and those that run may finish what
/// they have begun. Who doesn't send a request's headers within `patience` is let go, and who asks nothing more after an
/// answer, too.
pub(crate) async fn serve(
    mut listener: impl Listener,
    routes: Router,
    patience: Duration,
    end: impl Future<Output = ()>,
) {
    let (ending, ended) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        tokio::select! {
            (stream, _) = listener.accept() => {
                let (routes, ended) = (routes.clone(), ended.clone());
                connections.spawn(connection(TokioIo::new(stream), routes, patience, ended));
            }
            Some(_) = connections.join_next() => {}
            () = &mut end => break,
        }
    }
    drop(listener);
    ending.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn connection<S>(stream: TokioIo<S>, routes: Router, patience: Duration, mut ended: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience);
    let mut served = pin!(http.serve_connection(stream, TowerToHyperService::new(routes)));
    tokio::select! {
        // A client that breaks off, or speaks something else, is let go without a word.
        _ = &mut served => return,
        _ = ended.wait_for(|ended| *ended) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}
