//! Starting and ending a server, and its routes.

use crate::assets;
use crate::config::Config;
use crate::error::Error;
use crate::failure::Failure;
use crate::form::Forms;
use crate::guard;
use crate::metrics::Metrics;
use crate::routes;
use crate::worker::{self, Order};
use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use medgemma_engine::Serving;
use medgemma_engine::pipeline::Frontend;
use medgemma_kernels::Backend;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, oneshot};

/// What handlers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) ready: OnceLock<Ready>,
    pub(crate) draining: AtomicBool,
    /// Requests that may be computed or wait.
    pub(crate) in_flight: Arc<Semaphore>,
    /// Requests that may be prepared at once: each may hold many pictures.
    pub(crate) preparing: Arc<Semaphore>,
}

/// A loaded model.
pub(crate) struct Ready {
    pub(crate) frontend: Frontend,
    pub(crate) orders: mpsc::Sender<Order>,
    forms: OnceLock<Result<Forms, Failure>>,
}

impl Ready {
    /// What holds answers to forms; made for the first that asks, as few do.
    pub(crate) fn forms(&self) -> Result<&Forms, Failure> {
        self.forms.get_or_init(|| Forms::new(&self.frontend)).as_ref().map_err(Clone::clone)
    }
}

impl Shared {
    /// The model, when it is loaded and new requests are taken.
    pub(crate) fn ready(&self) -> Result<&Ready, Failure> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Failure::unavailable("the server is ending"));
        }
        self.ready.get().ok_or_else(|| Failure::unavailable("the model is being loaded"))
    }
}

/// What happens while a server starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It listens, and answers 503 until the model is loaded.
    Listening(SocketAddr),
    /// The model is loaded.
    Ready,
    /// It takes no more requests and ends when those that run have ended.
    Draining,
}

/// Loads a model by `load` and serves it until the process is told to end (SIGTERM or Ctrl-C) or `stop` is done;
/// requests that run then may go on for [`Config::drain`]. `on` is told of how far it is.
///
/// # Errors
/// When the address can't be bound, or can be reached from other machines and there are no keys; or when `load` fails.
pub fn serve<B: Backend>(
    config: Config,
    load: impl FnOnce() -> Result<Serving<B>, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
    on: impl Fn(Started) + Send + Sync + 'static,
) -> Result<(), Error> {
    if config.keys.is_none() && !config.address.ip().is_loopback() {
        return Err(Error::NeedsKeys(config.address));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(run(config, load, stop, Arc::new(on)));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run<B: Backend>(
    config: Config,
    load: impl FnOnce() -> Result<Serving<B>, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
    on: Arc<dyn Fn(Started) + Send + Sync>,
) -> Result<(), Error> {
    let address = config.address;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })?;
    on(Started::Listening(listener.local_addr()?));
    let drain = config.drain;
    let shared = Arc::new(Shared {
        in_flight: Arc::new(Semaphore::new(config.in_flight)),
        preparing: Arc::new(Semaphore::new(2)),
        config,
        metrics: Arc::default(),
        ready: OnceLock::new(),
        draining: AtomicBool::new(false),
    });
    let abort = Arc::new(AtomicBool::new(false));
    let (mut ended, ready) = compute(&shared, load, &abort)?;
    let told = Arc::clone(&on);
    let announced = tokio::spawn(async move {
        if ready.await.is_ok() {
            told(Started::Ready);
        }
    });
    let begin_drain = Arc::new(Notify::new());
    let begun = Arc::clone(&begin_drain);
    let server = axum::serve(listener, routes(Arc::clone(&shared)))
        .with_graceful_shutdown(async move { begun.notified().await });
    let mut server = tokio::spawn(server.into_future());
    let result = tokio::select! {
        result = &mut ended => result.unwrap_or(Err(Error::Stopped)),
        () = stop => Ok(()),
        () = told_to_end() => Ok(()),
    };
    announced.abort();
    if result.is_ok() {
        shared.draining.store(true, Ordering::Relaxed);
        on(Started::Draining);
        begin_drain.notify_one();
        let _ = tokio::time::timeout(drain, &mut server).await;
    }
    server.abort();
    abort.store(true, Ordering::Relaxed);
    result
}

type Ended = oneshot::Receiver<Result<(), Error>>;

/// Starts the thread that loads the model and computes. It says when it is ready, and when it has ended.
fn compute<B: Backend>(
    shared: &Arc<Shared>,
    load: impl FnOnce() -> Result<Serving<B>, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    abort: &Arc<AtomicBool>,
) -> Result<(Ended, oneshot::Receiver<()>), Error> {
    let (tell_end, ended) = oneshot::channel();
    let (tell_ready, ready) = oneshot::channel();
    let (shared, abort) = (Arc::clone(shared), Arc::clone(abort));
    std::thread::Builder::new().name("engine".into()).spawn(move || {
        let result = load().map(|serving| {
            let (orders, received) = mpsc::channel();
            let metrics = Arc::clone(&shared.metrics);
            metrics.occupancy(serving.occupancy());
            // Set once, here.
            let _ = shared.ready.set(Ready { frontend: serving.frontend(), orders, forms: OnceLock::new() });
            drop(shared);
            let _ = tell_ready.send(());
            worker::run(serving, &received, &metrics, &abort);
        });
        let _ = tell_end.send(match result {
            Ok(()) => Err(Error::Stopped),
            Err(error) => Err(Error::Load(error)),
        });
    })?;
    Ok((ended, ready))
}

/// Waits for SIGTERM or Ctrl-C.
async fn told_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn routes(shared: Arc<Shared>) -> Router {
    let all = routes::all().into_iter();
    all.fold(Router::new(), |router, route| router.route(route.path, route.answer))
        .fallback(other)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), guard::check))
        .with_state(shared)
}

async fn other(uri: Uri) -> Response {
    assets::file(&uri).unwrap_or_else(|| Failure::not_found("there is no such route").into_response())
}

async fn wrong_method() -> Failure {
    Failure { status: StatusCode::METHOD_NOT_ALLOWED, ..Failure::bad("this route takes another method") }
}
