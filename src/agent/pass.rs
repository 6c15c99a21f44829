//! What an agent shows at a door over TCP, and whom it trusts there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore, crypto};
use tokio_rustls::TlsConnector;

use super::AgentError;
use super::client::Server;
use crate::config::secret::{SecretError, read_token};
use crate::config::settings::AgentSettings;

/// A token, and authorities.
#[derive(Clone, Default)]
pub struct Pass {
    token_file: Option<PathBuf>,
    tls: Option<TlsConnector>,
}

impl Pass {
    /// What these settings say for a server: nothing for a socket, whose mode says who may.
    ///
    /// # Errors
    /// The token or the authorities cannot be used.
    pub fn of(settings: &AgentSettings, server: &Server) -> Result<Pass, AgentError> {
        if matches!(server, Server::Socket(_)) {
            return Ok(Pass::default());
        }
        let token_file = match settings.token_file.as_str() {
            "" => None,
            file => Some(PathBuf::from(file)),
        };
        let tls = match server {
            Server::Https { .. } => Some(connector(&settings.ca_file)?),
            Server::Http { .. } | Server::Socket(_) => None,
        };
        let pass = Pass { token_file, tls };
        let shown = pass.token();
        let shown = shown.map_err(|error| AgentError::Setting(error.to_string()))?;
        if shown.is_some() && pass.tls.is_none() && !server.is_near() {
            tracing::warn!(%server, "the token goes there in the clear: expected https://");
        }
        Ok(pass)
    }

    /// The token, read anew, so that another one needs no new start.
    pub(super) fn token(&self) -> Result<Option<String>, SecretError> {
        let read = |file: &PathBuf| read_token("agent.token_file", file);
        self.token_file.as_ref().map(read).transpose()
    }

    /// What speaks TLS.
    pub(super) fn tls(&self) -> Option<&TlsConnector> {
        self.tls.as_ref()
    }
}

/// Never what the token is.
impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass")
            .field("token_file", &self.token_file)
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

/// Speaks TLS with whom an authority in `ca_file` vouches for; without one, the system's.
fn connector(ca_file: &str) -> Result<TlsConnector, AgentError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        "" => {
            let system = rustls_native_certs::load_native_certs();
            // Some of them are of forms that nobody verifies with: the others do.
            roots.add_parsable_certificates(system.certs);
        }
        file => {
            for authority in authorities(Path::new(file)).map_err(|why| unusable(file, &why))? {
                roots.add(authority).map_err(|why| unusable(file, &why))?;
            }
        }
    }
    if roots.is_empty() {
        let from = match ca_file {
            "" => "the system's authorities",
            file => file,
        };
        return Err(unusable(from, &"no certificate in it"));
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| unusable(ca_file, &why))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = fs::read(file).map_err(|error| error.to_string())?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    found.map_err(|error| error.to_string())
}

fn unusable(file: &str, why: &dyn std::fmt::Display) -> AgentError {
    AgentError::Setting(format!(
        "reading {file} (agent.ca_file): {why}; expected the certificate of the authority that \
         vouches for the door, in PEM"
    ))
}
