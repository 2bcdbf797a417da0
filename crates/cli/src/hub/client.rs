//! HTTP to the hub: who gets the token, which redirects are followed, what an answer's status means.

use super::download::Watch;
use anyhow::{Context, Result, anyhow, bail};
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

/// Redirects that one request may take.
const MAX_REDIRECTS: usize = 5;
/// Tries after the first that a request gets.
const TRIES: u32 = 4;
/// How long one read may hang before the request counts as dead.
const STALL: Duration = Duration::from_secs(30);

/// A connection to one hub.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    /// Scheme and authority, with a path before the API's when the hub is a mirror behind one.
    endpoint: Uri,
    token: Option<String>,
    /// The wait before the first of several tries; each further one waits twice as long.
    patience: Duration,
}

/// What went wrong with one request, and whether trying again can help.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The status, when the hub answered.
    pub(crate) status: Option<StatusCode>,
    /// The hub's own word for it (`GatedRepo`, `RepoNotFound`, …).
    pub(crate) code: Option<String>,
    /// What happened.
    pub(crate) error: anyhow::Error,
    /// Whether it may be different next time.
    pub(crate) passing: bool,
}

impl Client {
    /// A client of `endpoint` (`https://…`, or `http://…` for a mirror), with a token that only that host gets.
    pub(crate) fn new(endpoint: &str, token: Option<String>) -> Result<Self> {
        let uri: Uri = endpoint
            .trim_end_matches('/')
            .parse()
            .with_context(|| format!("--endpoint {endpoint:?} is not a URL; give https://HOST"))?;
        if !matches!(uri.scheme_str(), Some("https" | "http")) || uri.host().is_none() {
            bail!("--endpoint {endpoint:?} is not a URL; give https://HOST");
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            bail!("--endpoint holds a name or password: it would end up in messages; use --token");
        }
        if token.is_some() && uri.scheme_str() == Some("http") && !is_loopback(&uri) {
            bail!("the token would travel unencrypted to {endpoint}: use https, or leave it out with --token \"\"");
        }
        let tls = TlsConfig::builder().root_certs(root_certs()?).build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("medgemma/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(STALL))
            .timeout_connect(Some(STALL))
            .timeout_recv_response(Some(STALL))
            .timeout_per_read(Some(STALL))
            .tls_config(tls)
            .build();
        Ok(Self { agent: config.new_agent(), endpoint: uri, token, patience: Duration::from_secs(1) })
    }

    /// Whether requests carry a token.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The endpoint as it was given, without a slash at its end.
    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.to_string().trim_end_matches('/').to_owned()
    }

    /// Asks for `path` (which begins with a slash), from byte `from` on. Any status but success is a failure.
    pub(crate) fn get(&self, path: &str, from: u64) -> Result<Response<Body>, Failure> {
        let mut uri: Uri = format!("{}{path}", self.endpoint()).parse().map_err(Failure::fatal)?;
        let mut own = true;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&uri);
            if let Some(token) = self.token.as_ref().filter(|_| own) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| Failure::from_transport(error, &uri))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if !status.is_redirection() {
                return Err(Failure::from_status(status, response.headers(), &uri));
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let next = redirect(&uri, location.unwrap_or_default()).map_err(Failure::fatal)?;
            // Once a redirect has left the hub, no later one brings the token back.
            own = own && same_host(&next, &self.endpoint);
            uri = next;
        }
        Err(Failure::fatal(anyhow!("{} redirects more than {MAX_REDIRECTS} times", self.endpoint())))
    }
}

impl Client {
    /// Asks for `path` as often as it is worth it.
    pub(crate) fn get_patiently(&self, path: &str, watch: &mut dyn Watch) -> Result<Response<Body>, Failure> {
        let mut failures = 0;
        loop {
            let failure = match self.get(path, 0) {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            failures += 1;
            if !failure.passing || failures > self.tries() || watch.stopped() {
                return Err(failure);
            }
            self.pause(&failure, failures, watch);
        }
    }

    /// Tries after the first that a request gets before it is given up.
    pub(crate) fn tries(&self) -> u32 {
        TRIES
    }

    /// Says what failed and waits, longer with each failure in a row, but not longer than the user wants to.
    pub(crate) fn pause(&self, failure: &Failure, failures: u32, watch: &mut dyn Watch) {
        let wait = self.patience * 2_u32.saturating_pow(failures.saturating_sub(1)).min(16);
        let why = crate::one_line(&failure.error);
        watch.note(&format!("{why}: trying again in {:.0} s", wait.as_secs_f32().ceil()));
        let until = Instant::now() + wait;
        while Instant::now() < until && !watch.stopped() {
            std::thread::sleep(Duration::from_millis(50).min(wait));
        }
    }

    /// The same client, waiting less: for tests.
    #[cfg(test)]
    pub(crate) fn impatient(mut self) -> Self {
        self.patience = Duration::from_millis(1);
        self
    }
}

impl Failure {
    /// One that trying again won't change.
    pub(crate) fn fatal(error: impl Into<anyhow::Error>) -> Self {
        Self { status: None, code: None, error: error.into(), passing: false }
    }

    /// One that may be different next time.
    pub(crate) fn passing(error: impl Into<anyhow::Error>) -> Self {
        Self { passing: true, ..Self::fatal(error) }
    }

    fn from_status(status: StatusCode, headers: &HeaderMap, uri: &Uri) -> Self {
        let code = headers.get("x-error-code").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let busy = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        let error = anyhow!("{} answered {status}", uri.host().unwrap_or("the hub"));
        Self { status: Some(status), code, error, passing: busy || status.is_server_error() }
    }

    fn from_transport(error: ureq::Error, uri: &Uri) -> Self {
        use ureq::Error::{ConnectionFailed, HostNotFound, Io, Protocol, Timeout};
        let passing = matches!(error, Io(_) | Timeout(_) | HostNotFound | ConnectionFailed | Protocol(_));
        let host = uri.authority().map_or_else(String::new, |host| host.as_str().to_owned());
        Self { passing, ..Self::fatal(anyhow::Error::new(error).context(format!("no answer from {host}"))) }
    }
}

/// Where a redirect leads: over https, or on the same host; anything else could be listened to.
fn redirect(from: &Uri, location: &str) -> Result<Uri> {
    let refused = || anyhow!("{} redirects to {location:?}, which is refused: only https is followed", host(from));
    if location.starts_with('/') && !location.starts_with("//") {
        let scheme = from.scheme_str().unwrap_or("https");
        return format!("{scheme}://{}{location}", host(from)).parse().map_err(|_| refused());
    }
    let to: Uri = location.parse().map_err(|_| refused())?;
    match to.scheme_str() {
        Some("https") if to.host().is_some() => Ok(to),
        Some("http") if same_host(&to, from) => Ok(to),
        _ => Err(refused()),
    }
}

/// Whether two addresses are of one server: scheme, host and port.
fn same_host(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let name = |uri: &Uri| uri.host().map(str::to_lowercase);
    a.scheme_str() == b.scheme_str() && name(a) == name(b) && port(a) == port(b)
}

fn host(uri: &Uri) -> &str {
    uri.authority().map_or("", |authority| authority.as_str())
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// Mozilla's roots, or those of `SSL_CERT_FILE`: hospitals' proxies often sign with their own.
fn root_certs() -> Result<RootCerts> {
    let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) else {
        return Ok(RootCerts::WebPki);
    };
    let name = std::path::Path::new(&path).display().to_string();
    let pem = std::fs::read(&path).with_context(|| format!("SSL_CERT_FILE: {name}"))?;
    let mut certs: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(cert) = item.with_context(|| format!("SSL_CERT_FILE: {name}"))? {
            certs.push(cert);
        }
    }
    if certs.is_empty() {
        bail!("SSL_CERT_FILE: {name} holds no certificate");
    }
    Ok(RootCerts::new_with_certs(&certs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn redirects_go_to_https_or_stay() {
        let hub = uri("https://huggingface.co/a/b/resolve/main/x");
        assert_eq!(redirect(&hub, "/api/cache?x=1").unwrap(), uri("https://huggingface.co/api/cache?x=1"));
        assert_eq!(redirect(&hub, "https://cdn.example/x").unwrap(), uri("https://cdn.example/x"));
        for bad in ["http://cdn.example/x", "http://huggingface.co/x", "//cdn.example/x", "file:///etc/passwd", ""] {
            assert!(redirect(&hub, bad).is_err(), "{bad}");
        }
        let mirror = uri("http://127.0.0.1:8000/a");
        assert_eq!(redirect(&mirror, "http://127.0.0.1:8000/b").unwrap(), uri("http://127.0.0.1:8000/b"));
        assert!(redirect(&mirror, "http://127.0.0.1:8001/b").is_err());
    }

    #[test]
    fn the_token_stays_with_its_server() {
        assert!(same_host(&uri("https://Huggingface.co/x"), &uri("https://huggingface.co:443")));
        assert!(!same_host(&uri("https://huggingface.co.evil.example"), &uri("https://huggingface.co")));
        assert!(!same_host(&uri("http://huggingface.co"), &uri("https://huggingface.co")));
        assert!(!same_host(&uri("https://huggingface.co:8443"), &uri("https://huggingface.co")));
    }

    #[test]
    fn a_token_never_travels_unencrypted() {
        assert!(Client::new("http://hub.example", Some("t".into())).is_err());
        assert!(Client::new("http://hub.example", None).is_ok());
        assert!(Client::new("http://127.0.0.1:1", Some("t".into())).is_ok());
        assert!(Client::new("http://[::1]:1", Some("t".into())).is_ok());
        assert!(Client::new("https://user:secret@hub.example", None).is_err_and(|e| !e.to_string().contains("secret")));
        assert!(Client::new("ftp://hub.example", None).is_err());
        assert!(Client::new("huggingface.co", None).is_err());
    }
}
