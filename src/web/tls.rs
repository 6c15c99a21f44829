//! TLS over TCP: the door's certificate, and who showed one of theirs.
//!
//! A client certificate is asked for where `web.client_ca_file` names its authorities, and may be
//! left out: a token does as well. One that is shown must be theirs and in its time, or the
//! connection does not begin. What it says is its DNS names (subject alternative names); its common
//! name says nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, crypto};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webpki::EndEntityCert;

use crate::config::secret::read_private;
use crate::config::settings::WebSettings;

use super::server::WebError;

/// How a door speaks TLS.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    client_ca: Option<[u8; 32]>,
}

/// What a connection's client certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// Its DNS names, in small letters.
    pub(super) names: Vec<String>,
    /// The authorities that it was held against.
    pub(super) ca: Option<[u8; 32]>,
}

impl Tls {
    /// Reads the certificates that the settings name; `None` where they name none.
    ///
    /// # Errors
    /// One of them cannot be read or used.
    pub(super) fn read(web: &WebSettings) -> Result<Option<Tls>, WebError> {
        if web.certificate_file.is_empty() {
            return Ok(None);
        }
        let file = &web.certificate_file;
        let (chain, _) = certificates("web.certificate_file", file)?;
        let key_file = Path::new(&web.key_file);
        let key = read_private("web.key_file", key_file)?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|error| unusable("web.key_file", &web.key_file, &error))?;
        let provider = Arc::new(crypto::ring::default_provider());
        let of_door = |error: rustls::Error| unusable("web.certificate_file", file, &error);
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(of_door)?;
        let mut client_ca = None;
        let config = match web.client_ca_file.as_str() {
            "" => config.with_no_client_auth(),
            ca_file => {
                let of_clients =
                    |error: &dyn std::fmt::Display| unusable("web.client_ca_file", ca_file, error);
                let (authorities, hash) = certificates("web.client_ca_file", ca_file)?;
                client_ca = Some(hash);
                let mut roots = RootCertStore::empty();
                for authority in authorities {
                    roots.add(authority).map_err(|error| of_clients(&error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .allow_unauthenticated()
                        .build()
                        .map_err(|error| of_clients(&error))?;
                config.with_client_cert_verifier(verifier)
            }
        };
        let mut config = config.with_single_cert(chain, key).map_err(of_door)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(Tls {
            acceptor: Arc::new(config).into(),
            client_ca,
        }))
    }

    /// The authorities of clients' certificates: their file's SHA-256.
    pub(super) fn client_ca(&self) -> Option<[u8; 32]> {
        self.client_ca
    }

    /// Who is at the other end; `None` if they showed no certificate.
    pub(super) fn peer(&self, stream: &TlsStream<TcpStream>) -> Option<Peer> {
        let shown = stream.get_ref().1.peer_certificates()?.first()?;
        let names = match EndEntityCert::try_from(shown) {
            Ok(certificate) => {
                let names = certificate.valid_dns_names();
                names.map(str::to_ascii_lowercase).collect()
            }
            // It was verified, so it can be read; else it says nothing.
            Err(_) => Vec::new(),
        };
        Some(Peer {
            names,
            ca: self.client_ca,
        })
    }
}

/// The certificates in a file, and its SHA-256.
fn certificates(
    key: &'static str,
    file: &str,
) -> Result<(Vec<CertificateDer<'static>>, [u8; 32]), WebError> {
    let bytes = fs::read(file).map_err(|error| unusable(key, file, &error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| unusable(key, file, &error))?;
    if found.is_empty() {
        return Err(unusable(key, file, &"no certificate in it"));
    }
    Ok((found, Sha256::digest(&bytes).into()))
}

fn unusable(key: &'static str, file: &str, why: &dyn std::fmt::Display) -> WebError {
    WebError::Certificate {
        key,
        path: file.into(),
        why: why.to_string(),
    }
}
