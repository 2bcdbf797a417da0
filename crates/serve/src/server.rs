//! Starting and ending a server, and its routes.

use crate::api::now;
use crate::assets;
use crate::audit::{Audit, Log};
use crate::body::Room;
use crate::config::Config;
use crate::connections::{self, Patience};
use crate::error::Error;
use crate::failure::Failure;
use crate::fetch::Fetcher;
use crate::form::Forms;
use crate::guard;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::places::Places;
use crate::routes;
use crate::sessions::Sessions;
use crate::tls;
use crate::worker::{self, Order};
use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use axum::serve::ListenerExt;
use medgemma_engine::Serving;
use medgemma_engine::pipeline::Frontend;
use medgemma_kernels::Backend;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio_rustls::TlsAcceptor;

/// How long connections may take to tell that the server ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// What handlers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: Option<Audit>,
    /// Conversations that are kept, where any are.
    pub(crate) sessions: Option<Sessions>,
    pub(crate) ready: OnceLock<Ready>,
    pub(crate) draining: AtomicBool,
    /// Places of requests that may be computed or wait, or be prepared.
    pub(crate) places: Places,
    /// Room for requests' bodies.
    pub(crate) room: Room,
    /// Turns true when the server ends, whatever runs.
    pub(crate) cut: watch::Sender<bool>,
    /// What fetches pictures, where any may be fetched.
    pub(crate) fetcher: Option<Arc<Fetcher>>,
    /// When the server began, in seconds since 1970.
    pub(crate) started: u64,
}

/// A loaded model.
pub(crate) struct Ready {
    pub(crate) frontend: Frontend,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) forms: OnceLock<Result<Forms, Failure>>,
    /// Bytes of the longest token.
    longest: usize,
}

impl Ready {
    /// What is behind a model that sends its orders there.
    pub(crate) fn new(frontend: Frontend, orders: mpsc::Sender<Order>) -> Self {
        let tokenizer = frontend.tokenizer();
        let lengths = (0..tokenizer.vocab_size() as u32).filter_map(|id| tokenizer.token(id).map(str::len));
        Self { longest: lengths.max().unwrap_or(1), frontend, orders, forms: OnceLock::new() }
    }

    /// Refuses so many bytes of text where they can't be few enough tokens for the context, without making tokens of them.
    ///
    /// # Errors
    /// 400.
    pub(crate) fn check_length(&self, bytes: usize) -> Result<(), Failure> {
        let (least, context) = (bytes / self.longest, self.frontend.context());
        match least > context {
            true => Err(medgemma_engine::Error::Context { wanted: least, context }.into()),
            false => Ok(()),
        }
    }

    /// What holds answers to forms; made for the first that asks, as few do.
    pub(crate) fn forms(&self) -> Result<&Forms, Failure> {
        self.forms.get_or_init(|| Forms::new(&self.frontend)).as_ref().map_err(Clone::clone)
    }
}

impl Shared {
    /// Before the model is loaded.
    ///
    /// # Errors
    /// When pictures may be fetched, but the authorities to trust can't be read; or when conversations are to be kept, but
    /// the file can't be used.
    pub(crate) fn new(config: Config, metrics: Arc<Metrics>, audit: Option<Audit>) -> Result<Self, Error> {
        Ok(Self {
            places: Places::new(config.in_flight, config.keys.as_ref()),
            room: Room::new(config.body),
            cut: watch::Sender::new(false),
            fetcher: Fetcher::new(&config)?.map(Arc::new),
            sessions: open_sessions(&config)?,
            config,
            metrics,
            audit,
            ready: OnceLock::new(),
            started: now(),
            draining: AtomicBool::new(false),
        })
    }

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
/// When the files of TLS can't be used; when the address can't be bound, or can be reached from other machines and there are no keys; when the audit log
/// can't be written; or when `load` fails.
pub fn serve<B: Backend>(
    config: Config,
    load: impl FnOnce() -> Result<Serving<B>, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
    on: impl Fn(Started) + Send + Sync + 'static,
) -> Result<(), Error> {
    if config.keys.is_none() && !config.address.ip().is_loopback() {
        return Err(Error::NeedsKeys(config.address));
    }
    let acceptor = config.tls.as_ref().map(tls::acceptor).transpose();
    let acceptor = acceptor.map_err(|(path, problem)| Error::Tls { path, problem })?;
    let metrics = Arc::default();
    let log = open_log(&config, &metrics)?;
    let audit = log.as_ref().map(|log| log.audit.clone());
    let path = config.audit.clone().unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(run(config, (metrics, audit), acceptor, load, stop, Arc::new(on)));
    // Ends what still runs, and with it the rows of the audit log.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match log.map_or(0, Log::close) {
        0 => result,
        left => result.and(Err(Error::Audit { path, problem: format!("the ends of {left} requests aren't in it") })),
    }
}

fn open_log(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Log>, Error> {
    let Some(path) = &config.audit else { return Ok(None) };
    let wrong = |problem| Error::Audit { path: path.clone(), problem };
    check_names(config).map_err(wrong)?;
    Log::open(path, &config.model, config.in_flight, metrics).map(Some).map_err(wrong)
}

fn open_sessions(config: &Config) -> Result<Option<Sessions>, Error> {
    let Some(path) = &config.sessions else { return Ok(None) };
    let wrong = |problem| Error::Sessions { path: path.clone(), problem };
    check_names(config).map_err(wrong)?;
    Sessions::open(path).map(Some).map_err(wrong)
}

/// Refuses keys without names, where owners are told apart by those.
fn check_names(config: &Config) -> Result<(), String> {
    match config.keys.as_ref().and_then(Keys::nameless) {
        Some(line) => {
            Err(format!("it tells keys by their names: line {line} of the file of keys needs one (sha256:DIGEST NAME)"))
        }
        None => Ok(()),
    }
}

async fn run<B: Backend>(
    config: Config,
    (metrics, audit): (Arc<Metrics>, Option<Audit>),
    acceptor: Option<TlsAcceptor>,
    load: impl FnOnce() -> Result<Serving<B>, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
    on: Arc<dyn Fn(Started) + Send + Sync>,
) -> Result<(), Error> {
    let address = config.address;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })?;
    on(Started::Listening(listener.local_addr()?));
    let drain = config.drain;
    let shared = Arc::new(Shared::new(config, metrics, audit)?);
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
    let end = async move { begun.notified().await };
    let routes = routes(Arc::clone(&shared));
    let patience = Patience { headers: shared.config.headers, reading: shared.config.reading };
    let mut server = match acceptor {
        None => tokio::spawn(connections::serve(listener.tap_io(at_once), routes, patience, end)),
        Some(acceptor) => {
            tokio::spawn(connections::serve(tls::Listener::new(listener, acceptor)?, routes, patience, end))
        }
    };
    let result = tokio::select! {
        result = &mut ended => result.unwrap_or(Err(Error::Stopped)),
        () = stop => Ok(()),
        () = told_to_end() => Ok(()),
    };
    announced.abort();
    begin_drain.notify_one();
    let mut drained = false;
    if result.is_ok() {
        shared.draining.store(true, Ordering::Relaxed);
        on(Started::Draining);
        drained = tokio::time::timeout(drain, &mut server).await.is_ok();
    }
    abort.store(true, Ordering::Relaxed);
    if !drained {
        // Whoever still waits is told why nothing more comes.
        shared.cut.send_replace(true);
        let _ = tokio::time::timeout(FAREWELL, &mut server).await;
    }
    server.abort();
    result
}

/// Tokens are sent as they come, not when there are more.
fn at_once(stream: &mut TcpStream) {
    let _ = stream.set_nodelay(true);
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
            let _ = shared.ready.set(Ready::new(serving.frontend(), orders));
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

async fn other(method: Method, uri: Uri) -> Response {
    let file = assets::file(&uri);
    match (file, matches!(method, Method::GET | Method::HEAD)) {
        (Some(file), true) => file,
        (Some(_), false) => wrong_method(uri).await,
        (None, _) => Failure::not_found("there is no such route").of(uri.path()),
    }
}

async fn wrong_method(uri: Uri) -> Response {
    let failure = Failure::bad("this route takes another method");
    Failure { status: StatusCode::METHOD_NOT_ALLOWED, ..failure }.of(uri.path())
}
