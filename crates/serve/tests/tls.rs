//! TLS and pages of other origins.

#[allow(dead_code)] // shared with other tests
mod support;

use medgemma_serve::{Config, Error, Tls};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use support::{Answer, Server, ask, config, parsed, receive};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A certificate for localhost that signs itself, and its key, made for these tests alone:
/// `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 36500
/// -subj "/CN=medgemma test" -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -addext "basicConstraints=critical,CA:FALSE"`
fn files() -> Tls {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    Tls { certificate: folder.join("cert.pem"), key: folder.join("key.pem") }
}

fn client(trusted: &[CertificateDer<'static>]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

fn secret(server: &Server, client: &Arc<ClientConfig>, request: &str) -> std::io::Result<Answer> {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(server.address).unwrap());
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(parsed(bytes))
}

#[test]
fn with_a_certificate_it_speaks_tls_and_nothing_else() {
    let server = Server::loading(Config { tls: Some(files()), ..config() }, || {});
    let trusted = [CertificateDer::from_pem_file(files().certificate).unwrap()];
    let trusting = client(&trusted);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    // Who connects and says nothing, or something else, holds up nobody.
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    server
        .wait_until("the model is loaded", |server| secret(server, &trusting, &get("/health")).unwrap().status == 200);
    let body = ask("Hello!").to_string();
    let post = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = secret(&server, &trusting, &post).unwrap();
    assert!(answer.json()["choices"][0]["message"]["content"].is_string(), "{}", answer.body);
    for (origin, status) in [("https://localhost", 200), ("http://localhost", 403)] {
        let post = post.replacen("\r\n", &format!("\r\nOrigin: {origin}\r\n"), 1);
        assert_eq!(secret(&server, &trusting, &post).unwrap().status, status, "{origin}");
    }
    drop(silent);
    assert_eq!(server.get("/health").status, 0, "nothing is said in the clear");
    assert!(secret(&server, &client(&[]), &get("/health")).is_err(), "who doesn't trust it asks nothing");
}

#[test]
fn files_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.pem");
    std::fs::write(&other, "no PEM, but a secret").unwrap();
    let wrong = |tls: Tls| {
        let started = medgemma_serve::serve::<medgemma_kernels::CpuBackend>(
            Config { tls: Some(tls), ..config() },
            || Err("it must not be loaded".into()),
            std::future::pending(),
            |_| {},
        );
        let Err(error @ Error::Tls { .. }) = started else { panic!("{started:?}") };
        error.to_string()
    };
    let good = files();
    for tls in [
        Tls { certificate: other.clone(), ..good.clone() },
        Tls { key: other.clone(), ..good.clone() },
        Tls { key: folder.path().join("none.pem"), ..good.clone() },
        Tls { certificate: good.key.clone(), ..good.clone() },
    ] {
        let error = wrong(tls);
        assert!(error.contains(".pem: ") && !error.contains("secret"), "{error}");
    }
    let error = wrong(Tls { key: good.certificate.clone(), ..good });
    assert!(error.ends_with("cert.pem: there is no private key in it (PEM is expected)"), "{error}");
}

#[test]
fn pages_of_named_origins_may_ask_and_no_others() {
    let origins = vec!["https://pages.example".parse().unwrap()];
    let server = Server::start(Config { origins, ..config() });
    let path = "/v1/chat/completions";
    let body = ask("Hello!").to_string();
    let asked = |origin: &str| receive(server.send("POST", path, &format!("Origin: {origin}\r\n"), body.as_bytes()));
    let answer = asked("https://pages.example");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("access-control-allow-origin: https://pages.example\r\n"), "{}", answer.head);
    assert!(answer.head.contains("vary: origin"), "{}", answer.head);
    let preflight = |origin: &str| {
        let headers = format!("Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n");
        receive(server.send("OPTIONS", path, &headers, b""))
    };
    let allowed = preflight("https://pages.example");
    assert_eq!(allowed.status, 204);
    assert!(allowed.head.contains("access-control-allow-headers: authorization"), "{}", allowed.head);
    for origin in ["http://pages.example", "https://pages.example.evil", "https://evil.example", "null"] {
        for answer in [asked(origin), preflight(origin)] {
            assert_eq!(answer.status, 403, "{origin}");
            assert!(!answer.head.contains("access-control"), "{}", answer.head);
        }
    }
}
