//! Two requests to a Schema Registry: which schema an id has, and which id a schema.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::secret::read_password;

/// Where a registry is and how it is asked.
#[derive(Clone)]
pub struct Server {
    host_port: String,
    /// What stands before every path, without a slash at its end.
    base: String,
    /// The value of the header `authorization`.
    authorization: Option<String>,
    limit: Duration,
    bytes_max: usize,
}

/// A registry's answer is not there or not what is needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The file with the password.
    #[error("{0}")]
    Password(String),
    /// It has no such schema, for all it knows now.
    #[error("asking {0}: it has none of this id")]
    Unknown(String),
    /// It answered something for good that is of no use.
    #[error("asking {0}")]
    Useless(String),
    /// It could not be reached, was late, or said that it failed.
    #[error("asking {0}")]
    Failed(String),
    /// What is kept in the data folder is not to be used.
    #[error("{0}")]
    Kept(String),
    /// A word of the configuration.
    #[error("{0}")]
    Config(String),
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())
    }
}

impl Server {
    /// The registry at `http://HOST:PORT/base`; a password's file may be none, empty.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn new(
        url: &str,
        password_file: &str,
        limit: Duration,
        bytes_max: usize,
    ) -> Result<Server, RegistryError> {
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let (host_port, base) = rest.split_once('/').unwrap_or((rest, ""));
        let base = match base.trim_end_matches('/') {
            "" => String::new(),
            base => format!("/{base}"),
        };
        let authorization = match password_file {
            "" => None,
            file => {
                let key = "formats.registry_password_file";
                let text = read_password(key, Path::new(file))
                    .map_err(|error| RegistryError::Password(error.to_string()))?;
                Some(format!("Basic {}", base64(text.as_bytes())))
            }
        };
        Ok(Server {
            host_port: host_port.to_owned(),
            base,
            authorization,
            limit,
            bytes_max,
        })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.host_port, self.base)
    }

    /// The text of the schema with this id.
    pub(super) async fn schema(&self, id: u32) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            schema: String,
            #[serde(rename = "schemaType")]
            kind: Option<String>,
            #[serde(default)]
            references: Vec<serde::de::IgnoredAny>,
        }
        let path = format!("/schemas/ids/{id}");
        let (status, body) = self.ask("GET", &path, String::new()).await?;
        let what = format!("{} for schema {id}", self.url());
        match status {
            200 => {}
            404 => return Err(RegistryError::Unknown(what)),
            _ => return Err(self.declined(&what, status, &body)),
        }
        let useless = |why: String| RegistryError::Useless(format!("{what}: {why}"));
        // A body that is none may be a proxy's: it is asked again.
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| {
            RegistryError::Failed(format!("{what}: answered what is no schema: {error}"))
        })?;
        if let Some(kind) = answer.kind.filter(|kind| kind != "AVRO") {
            return Err(useless(format!("it is of type {kind}, expected AVRO")));
        }
        if !answer.references.is_empty() {
            return Err(useless(
                "it refers to other subjects, expected a schema that is whole".to_owned(),
            ));
        }
        Ok(answer.schema)
    }

    /// Registers a schema under a subject and answers its id.
    pub(super) async fn register(&self, subject: &str, text: &str) -> Result<u32, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            id: u32,
        }
        let path = format!("/subjects/{subject}/versions");
        let body = serde_json::json!({ "schema": text }).to_string();
        let (status, body) = self.ask("POST", &path, body).await?;
        let what = format!("{} to take the schema of {subject}", self.url());
        if status != 200 {
            return Err(self.declined(&what, status, &body));
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| {
            RegistryError::Failed(format!("{what}: answered what is no id: {error}"))
        })?;
        Ok(answer.id)
    }

    /// What a status other than the wanted one means.
    fn declined(&self, what: &str, status: u16, body: &[u8]) -> RegistryError {
        const LETTERS: usize = 300;
        let text = String::from_utf8_lossy(body);
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let words: String = text.trim().chars().take(LETTERS).map(clean).collect();
        RegistryError::Failed(format!("{what}: answered {status}: {words}"))
    }

    /// Status and body of an answer, whole and in time.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        body: String,
    ) -> Result<(u16, Vec<u8>), RegistryError> {
        let failed =
            |why: String| RegistryError::Failed(format!("{}: {method} {path}: {why}", self.url()));
        let exchange = async {
            let stream = TcpStream::connect(&self.host_port)
                .await
                .map_err(|error| failed(error.to_string()))?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| failed(error.to_string()))?;
            // What goes wrong in it is told to the one who waits for the answer.
            let connection = Connection(tokio::spawn(async {
                let _ = connection.await;
            }));
            let mut request = Request::builder()
                .method(method)
                .uri(format!("{}{path}", self.base))
                .header(header::HOST, &self.host_port)
                .header(header::ACCEPT, TYPE)
                .header(header::CONTENT_TYPE, TYPE);
            if let Some(value) = &self.authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            let request = request
                .body(Full::new(Bytes::from(body)))
                .map_err(|error| failed(error.to_string()))?;
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| failed(error.to_string()))?;
            let status = response.status().as_u16();
            let mut incoming = response.into_body();
            let mut body = Vec::new();
            while let Some(frame) = incoming.frame().await {
                let frame = frame.map_err(|error| failed(error.to_string()))?;
                let Ok(bytes) = frame.into_data() else {
                    continue;
                };
                if body.len() + bytes.len() > self.bytes_max {
                    let max = self.bytes_max;
                    return Err(RegistryError::Useless(format!(
                        "{}: {method} {path}: answered more than {max} bytes \
                         (formats.schema_max_kib)",
                        self.url()
                    )));
                }
                body.extend_from_slice(&bytes);
            }
            drop(connection);
            Ok((status, body))
        };
        let late = || failed(format!("no answer within {} ms", self.limit.as_millis()));
        timeout(self.limit, exchange)
            .await
            .unwrap_or_else(|_| Err(late()))
    }
}

/// The task that drives a connection; it ends with whoever waits for the answer.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a registry speaks.
const TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// RFC 4648, 4, with padding: HTTP's basic authentication wants it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() {
                letter.into()
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_its_password_are_written_as_http_wants_them() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("Aladdin:open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn what_is_printed_of_a_server_has_no_secret() {
        let server = Server {
            authorization: Some("Basic c2VjcmV0".to_owned()),
            ..Server::new("http://r:8081/api/", "", Duration::ZERO, 0).unwrap()
        };
        assert_eq!(format!("{server:?}"), "http://r:8081/api");
    }
}
