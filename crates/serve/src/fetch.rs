//! Pictures by address: from servers that the operator listed, and no others.
//!
//! What an address in a request could be misused for: to reach what only this machine can (a router, a cloud's metadata,
//! another service), by the address itself, by a redirect, or by a name that is pointed somewhere else. So an address
//! must be listed with scheme, host and port, each redirect's too; a name must lead to a public address, or to one that
//! is listed itself, and what was looked up is what is connected to. Time and bytes are bounded, and errors say neither
//! the address nor what came from there.

use crate::config::Config;
use crate::error::Error;
use crate::failure::Failure;
use crate::image;
use crate::server::Shared;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use medgemma_gemma::text::{Message, Part};
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

/// Redirects of one picture.
const REDIRECTS: usize = 3;
/// Requests whose pictures are fetched at once: others wait.
const AT_ONCE: usize = 4;

/// A server that pictures may be fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageHost {
    tls: bool,
    /// A name in lower case, or an address.
    host: String,
    port: u16,
}

impl FromStr for ImageHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let uri: Option<Uri> = url.parse().ok();
        let alone = uri.filter(|uri| matches!(uri.path(), "" | "/") && uri.query().is_none());
        alone.as_ref().and_then(Self::of).ok_or_else(|| {
            "a host of pictures is a name or an address, and nothing else: pacs.example, 10.0.0.5:8443; \
             http://10.0.0.5:8042 where it has no TLS"
                .into()
        })
    }
}

impl ImageHost {
    /// The server that an address is of; `None` when it can't be asked.
    fn of(uri: &Uri) -> Option<Self> {
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?.as_str();
        let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
        // An authority may end in a colon, or hold a port that is none.
        let port = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some(_) => uri.port_u16()?,
            None if tls => 443,
            None => 80,
        };
        (plain && !authority.contains('@')).then_some(Self { tls, host, port })
    }

    /// Its address, where it was listed by that.
    fn address(&self) -> Option<IpAddr> {
        self.host.trim_matches(['[', ']']).parse().ok()
    }
}

/// What fetches pictures.
pub(crate) struct Fetcher {
    agent: Agent,
    hosts: Vec<ImageHost>,
    time: Duration,
    places: Arc<Semaphore>,
}

impl Fetcher {
    /// Of the servers that are listed; `None` when none is.
    pub(crate) fn new(config: &Config) -> Result<Option<Self>, Error> {
        if config.image_hosts.is_empty() {
            return Ok(None);
        }
        let roots = config.image_roots.as_deref().map_or(Ok(RootCerts::WebPki), roots)?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A proxy would look names up itself.
            .proxy(None)
            .max_idle_connections(0)
            .user_agent(concat!("medgemma/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        let listed = config.image_hosts.iter().filter_map(ImageHost::address).collect();
        let resolver = Careful { listed, inner: DefaultResolver::default() };
        Ok(Some(Self {
            agent: Agent::with_parts(agent, DefaultConnector::new(), resolver),
            hosts: config.image_hosts.clone(),
            time: config.image_time,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }))
    }

    /// The bytes behind an address, `most` of them.
    fn get(&self, url: &str, most: usize, until: Instant) -> Result<Vec<u8>, &'static str> {
        let mut uri: Uri = url.parse().map_err(|_| "it isn't an address")?;
        for _ in 0..=REDIRECTS {
            if !ImageHost::of(&uri).is_some_and(|host| self.hosts.contains(&host)) {
                return Err("it isn't at one of the hosts that this server fetches pictures from");
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(SLOW);
            }
            let request = self.agent.get(&uri).config().timeout_global(Some(left)).build();
            let mut response = request.call().map_err(|error| problem(&error))?;
            let status = response.status();
            if status.is_redirection() {
                let place = response.headers().get("location").and_then(|place| place.to_str().ok());
                uri = place.and_then(|place| redirected(&uri, place)).ok_or("its host redirects nowhere")?;
                continue;
            }
            if status.as_u16() != 200 {
                return Err(match status.as_u16() {
                    401 | 403 => "its host doesn't give it to this server",
                    404 | 410 => "its host has no such picture",
                    _ => "its host doesn't give it",
                });
            }
            // One more than it may have shows that it has more.
            let body = response.body_mut().with_config().limit(most as u64 + 1).read_to_vec();
            let body = body.map_err(|error| problem(&error))?;
            return if body.len() > most { Err(LARGE) } else { Ok(body) };
        }
        Err("its host redirects too often")
    }
}

const SLOW: &str = "its host took too long";
const LARGE: &str = "the pictures of a request are larger together than a request may be";

fn problem(error: &ureq::Error) -> &'static str {
    match error {
        ureq::Error::Timeout(_) => SLOW,
        ureq::Error::BodyExceedsLimit(_) => LARGE,
        ureq::Error::Other(inner) if inner.is::<Private>() => {
            "its host's name leads to an address that isn't public: the operator must list the address, too"
        }
        _ => "its host gives no answer",
    }
}

/// Where a redirect leads: to an address, or to a path of the same host.
fn redirected(from: &Uri, place: &str) -> Option<Uri> {
    if place.starts_with('/') && !place.starts_with("//") {
        return format!("{}://{}{place}", from.scheme_str()?, from.authority()?).parse().ok();
    }
    place.parse().ok()
}

/// Puts pictures in the place of their addresses, as data URLs, where the operator listed hosts for that.
/// `within` is as for [`image::place`].
pub(crate) async fn bring(
    shared: &Arc<Shared>,
    messages: Vec<Message>,
    within: Option<&'static str>,
) -> Result<Vec<Message>, Failure> {
    let Some(fetcher) = shared.fetcher.clone().filter(|_| addresses(&messages) > 0) else { return Ok(messages) };
    let pictures: usize = messages.iter().map(Message::images).sum();
    if pictures > shared.config.images {
        let problem = format!("a request may have {} pictures at most", shared.config.images);
        return Err(Failure::field(within.unwrap_or("messages"), problem));
    }
    let until = Instant::now() + fetcher.time;
    let places = Arc::clone(&fetcher.places);
    let place = tokio::time::timeout(fetcher.time, places.acquire_owned()).await;
    let Ok(Ok(place)) = place else { return Err(Failure::busy()) };
    let most = shared.config.body;
    let brought = tokio::task::spawn_blocking(move || {
        let brought = inline(&fetcher, messages, within, most, until);
        drop(place);
        brought
    });
    brought.await.map_err(|_| Failure::engine("the pictures couldn't be fetched"))?
}

fn is_address(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme)))
}

fn addresses(messages: &[Message]) -> usize {
    let parts = messages.iter().flat_map(|message| &message.content);
    parts.filter(|part| matches!(part, Part::Image { url: Some(url) } if is_address(url))).count()
}

fn inline(
    fetcher: &Fetcher,
    mut messages: Vec<Message>,
    within: Option<&str>,
    mut most: usize,
    until: Instant,
) -> Result<Vec<Message>, Failure> {
    for (at, message) in messages.iter_mut().enumerate() {
        for (part, content) in message.content.iter_mut().enumerate() {
            let Part::Image { url: Some(url) } = content else { continue };
            if !is_address(url) {
                continue;
            }
            let wrong = |problem| Failure::field(&image::place(within, at, part), problem);
            let bytes = fetcher.get(url, most, until).map_err(wrong)?;
            most -= bytes.len();
            // What it is, its bytes say.
            *url = format!("data:application/octet-stream;base64,{}", STANDARD.encode(bytes));
        }
    }
    Ok(messages)
}

/// Finds addresses, but none inside a network that nobody listed.
#[derive(Debug)]
struct Careful {
    listed: Vec<IpAddr>,
    inner: DefaultResolver,
}

/// A name leads to addresses that may not be asked.
#[derive(Debug, thiserror::Error)]
#[error("not a public address")]
struct Private;

impl Resolver for Careful {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let mut allowed = self.empty();
        for address in found.iter() {
            if is_public(address.ip()) || self.listed.contains(&address.ip()) {
                allowed.push(*address);
            }
        }
        if allowed.is_empty() { Err(ureq::Error::Other(Box::new(Private))) } else { Ok(allowed) }
    }
}

/// Whether an address is anybody's to ask: none of this machine, of its network, or with a meaning of its own.
/// Registries: IANA's IPv4 and IPv6 special-purpose addresses.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let special = v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || matches!((a, b, c), (0, ..) | (100, 64..=127, _) | (192, 0, 0) | (192, 88, 99) | (198, 18..=19, _))
                || a >= 224;
            !special
        }
        IpAddr::V6(v6) => {
            let [a, b, ..] = v6.segments();
            // Of what is given out (2000::/3): no tunnels (Teredo's 2001::/32 and its like, 6to4), no documentation.
            a & 0xe000 == 0x2000
                && !matches!((a, b), (0x2001, 0..=0x01ff | 0x0db8) | (0x2002, _) | (0x3fff, 0..=0x0fff))
        }
    }
}

/// Authorities in a PEM file, for hosts whose certificates a hospital's own authority signs.
fn roots(path: &Path) -> Result<RootCerts, Error> {
    let wrong = |problem: String| Error::ImageRoots { path: path.to_owned(), problem };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut found: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(one) = item.map_err(|error| wrong(error.to_string()))? {
            found.push(one);
        }
    }
    match found.is_empty() {
        true => Err(wrong("there is no certificate in it (PEM is expected)".into())),
        false => Ok(RootCerts::new_with_certs(&found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> ImageHost {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_is_no_pattern_and_no_page() {
        assert_eq!(host("pacs.example"), host("HTTPS://Pacs.Example:443/"));
        assert_eq!(host("http://10.0.0.5"), host("http://10.0.0.5:80"));
        assert_ne!(host("pacs.example"), host("http://pacs.example"));
        assert_ne!(host("pacs.example"), host("pacs.example:8443"));
        assert_eq!(host("[::1]:8042").address(), Some("::1".parse().unwrap()));
        for text in [
            "",
            "*",
            "*.example",
            "pacs.example/x",
            "pacs.example?x",
            "a@b",
            "ftp://a",
            "a b",
            "a:x",
            "a:",
            "file:///x",
        ] {
            assert!(text.parse::<ImageHost>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_that_look_like_a_listed_one_are_others() {
        let listed = host("http://pacs.example:8042");
        for url in [
            "http://pacs.example:8042@evil.example/x",
            "http://evil.example/http://pacs.example:8042/",
            "http://pacs.example.evil.example:8042/x",
            "http://pacs.example:80428/x",
            "http://pacs.example:/x",
            "https://pacs.example:8042/x",
            "http://user:secret@pacs.example:8042/x",
        ] {
            let of = url.parse::<Uri>().ok().as_ref().and_then(ImageHost::of);
            assert_ne!(of, Some(listed.clone()), "{url}");
        }
        assert_eq!(ImageHost::of(&"http://PACS.example:8042/a?b".parse().unwrap()), Some(listed));
    }

    #[test]
    fn only_public_addresses_are_public() {
        for text in ["1.1.1.1", "172.15.0.1", "192.0.1.1", "100.128.0.1", "2606:4700::1111", "2a00::1"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:8.8.8.8",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn redirects_are_paths_or_whole_addresses() {
        let from: Uri = "https://a.example:8443/x?y".parse().unwrap();
        assert_eq!(redirected(&from, "/z"), "https://a.example:8443/z".parse().ok());
        assert_eq!(redirected(&from, "https://b.example/z"), "https://b.example/z".parse().ok());
        // Such have no scheme, or no host: they are never listed.
        for place in ["//b.example/z", "z", "", "file:///etc/passwd"] {
            assert!(redirected(&from, place).as_ref().and_then(ImageHost::of).is_none(), "{place}");
        }
    }
}
