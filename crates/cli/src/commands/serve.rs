//! `serve`: a model over HTTP.

use crate::args::{Load, Serve};
use crate::catalog::Variant;
use crate::engine;
use crate::interrupt;
use crate::terminal::say_note;
use anyhow::{Result, anyhow};
use medgemma_engine::ServingOptions;
use medgemma_engine::footprint::USUAL_CONTEXT;
use medgemma_serve::{Config, Error, Keys, Started, Tls};
use std::future::pending;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Serves until it is told to end.
///
/// # Errors
/// When the model can't be loaded, the address can't be bound, or it needs keys and there are none.
pub(crate) fn run(args: &Serve, quiet: bool) -> Result<()> {
    let name = name(args);
    let config = Config {
        thinks: Variant::named_in(&args.model).map(|variant| variant.thinks),
        demo: args.model == "demo",
        address: SocketAddr::new(args.host, args.port),
        keys: args.keys.as_deref().map(Keys::read).transpose()?,
        tls: args.tls_cert.clone().zip(args.tls_key.clone()).map(|(certificate, key)| Tls { certificate, key }),
        origins: args.cors_origin.clone(),
        audit: args.audit.clone(),
        sessions: args.sessions.clone(),
        in_flight: args.running.saturating_add(args.queue).min(1 << 20),
        body: args.max_body.saturating_mul(1_000_000),
        pixels: args.max_pixels.saturating_mul(1_000_000),
        images: args.max_images,
        image_hosts: args.image_host.clone(),
        // As `pull` does.
        image_roots: std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from),
        max_tokens: args.max_tokens,
        time: Duration::from_secs(args.time_limit.min(10 * 365 * 86_400)),
        drain: Duration::from_secs(args.drain),
        ..Config::new(name)
    };
    let open = config.keys.is_none();
    let clear = config.tls.is_none() && !args.host.is_loopback();
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let serving = ServingOptions {
        conversations: args.conversations,
        running: args.running,
        of_one: config.keys.as_ref().map_or(args.running, |keys| keys.share(args.running)),
        prompt_tokens_beside: args.prompt_tokens,
    };
    let (model, load) = (args.model.clone(), with_context(args)?);
    let conversations = args.conversations;
    let load = move || {
        let pipeline = engine::load_for_serving(&model, &load, conversations, quiet)
            .map_err(Box::<dyn std::error::Error + Send + Sync>::from)?;
        Ok(pipeline.into_serving(&serving)?)
    };
    let _polite = interrupt::guard();
    let on = move |started| match started {
        _ if quiet => {}
        Started::Listening(address) => say_note(&format!("Listening on {scheme}://{address}; loading the model.")),
        Started::Ready if open => say_note("Ready. Everybody on this machine can ask; --keys asks for a key."),
        Started::Ready if clear => {
            say_note("Ready. Without --tls-cert, keys and content cross the network in the clear.")
        }
        Started::Ready => say_note("Ready."),
        Started::Draining => say_note("Ending: running requests may finish. Ctrl-C ends at once."),
    };
    medgemma_serve::serve(config, load, pending(), on).map_err(|error| match error {
        Error::Load(error) => anyhow!(error),
        other => other.into(),
    })
}

/// The context that each conversation may have: the usual one, when nobody says, as there are several.
fn with_context(args: &Serve) -> Result<Load> {
    let mut load = args.load.clone();
    if load.context.is_none() {
        let longest = engine::open(&args.model, load.mmproj.as_deref())?.checkpoint().config.text.max_position;
        load.context = Some(USUAL_CONTEXT.min(longest));
    }
    Ok(load)
}

/// The model's name in the API: never a path of this machine.
fn name(args: &Serve) -> String {
    let path = Path::new(&args.model);
    match (&args.name, path.exists()) {
        (Some(name), _) => name.clone(),
        (None, true) => {
            let name = path.file_name().map_or_else(|| "medgemma".into(), |name| name.to_string_lossy());
            name.strip_suffix(".gguf").unwrap_or(&name).to_owned()
        }
        (None, false) => args.model.clone(),
    }
}
