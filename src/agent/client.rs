//! An HTTP/1.1 client for the door: over its unix socket, over TCP, or over TLS.
//!
//! Every request has a connection of its own: there are few, and none fails because a kept one
//! grew stale. Everything has a limit: how long an answer may take, how long a piece of a long one,
//! how large an answer or an event may be.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::pass::Pass;
use super::sse::Parser;
use crate::model::{Time, parse_rfc3339};

pub use super::sse::SseEvent;

/// Largest answer that is read whole, bytes.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// For how long a follower hears nothing before it gives the connection up. The door says
/// something every 10 s.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Where a door is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// A unix socket.
    Socket(PathBuf),
    /// TCP.
    Http {
        /// `HOST:PORT`; an IPv6 address in brackets.
        host_port: String,
    },
    /// TLS over TCP.
    Https {
        /// `HOST:PORT`; an IPv6 address in brackets. The certificate must be of this host.
        host_port: String,
    },
}

impl Server {
    /// Reads `http://HOST:PORT`, `https://HOST:PORT`, or the path of a socket.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Server, ClientError> {
        let wrong = || ClientError::Address(text.to_owned());
        let https = text.strip_prefix("https://");
        if let Some(rest) = https.or_else(|| text.strip_prefix("http://")) {
            let host_port = rest.strip_suffix('/').unwrap_or(rest);
            let (host, port) = host_port.rsplit_once(':').ok_or_else(wrong)?;
            let named = !host.is_empty()
                && host
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-._[]:%".contains(c));
            let numbered = port.parse::<u16>().is_ok_and(|port| port > 0);
            if !named || !numbered {
                return Err(wrong());
            }
            let host_port = host_port.to_owned();
            return match https {
                None => Ok(Server::Http { host_port }),
                Some(_) if name_of(&host_port).is_none() => Err(wrong()),
                Some(_) => Ok(Server::Https { host_port }),
            };
        }
        if text.is_empty() || text.contains("://") {
            return Err(wrong());
        }
        let path = text.strip_prefix("unix:").unwrap_or(text);
        Ok(Server::Socket(path.into()))
    }

    /// The socket of the process that holds a data folder.
    pub fn of_folder(dir: &Path) -> Server {
        Server::Socket(dir.join("homeostat.sock"))
    }

    fn host(&self) -> &str {
        match self {
            Server::Socket(_) => "localhost",
            Server::Http { host_port } | Server::Https { host_port } => host_port,
        }
    }

    /// Whether what is sent there stays on this machine.
    pub(super) fn is_near(&self) -> bool {
        match self {
            Server::Socket(_) => true,
            Server::Http { host_port } | Server::Https { host_port } => {
                host_port.starts_with("localhost:")
                    || host_port
                        .parse::<SocketAddr>()
                        .is_ok_and(|address| address.ip().is_loopback())
            }
        }
    }
}

/// Whom a certificate must be of.
fn name_of(host_port: &str) -> Option<ServerName<'static>> {
    let (host, _) = host_port.rsplit_once(':')?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(bare.to_owned()).ok()
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Socket(path) => write!(f, "{}", path.display()),
            Server::Http { host_port } => write!(f, "http://{host_port}"),
            Server::Https { host_port } => write!(f, "https://{host_port}"),
        }
    }
}

/// Why there is no answer: what was attempted on which server, and the next step.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No server is named so.
    #[error(
        "reading the server {0:?}: expected http://HOST:PORT, https://HOST:PORT or the path of a \
         socket"
    )]
    Address(String),
    /// No request can be made of it.
    #[error("{what} on {server}: no valid request: {why}")]
    Request {
        /// What was attempted.
        what: String,
        /// On which server.
        server: Server,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody is there.
    #[error("{what}: connecting to {server}: {source} (is `homeostat run` running there?)")]
    Connect {
        /// What was attempted.
        what: String,
        /// On which server.
        server: Server,
        /// What the system says.
        source: io::Error,
    },
    /// It is not who it should be, or speaks no TLS.
    #[error(
        "{what}: speaking TLS with {server}: {source} (is its certificate of this name, in its \
         time, and by an authority of [agent] ca_file?)"
    )]
    Handshake {
        /// What was attempted.
        what: String,
        /// With which server.
        server: Server,
        /// What went wrong.
        source: io::Error,
    },
    /// It ended before the answer did.
    #[error("{what} on {server}: the connection ended: {source} (try again)")]
    Broken {
        /// What was attempted.
        what: String,
        /// On which server.
        server: Server,
        /// What happened.
        source: hyper::Error,
    },
    /// It took too long.
    #[error("{what} on {server}: nothing came within {seconds} s (is it overloaded, or stopped?)")]
    Late {
        /// What was attempted.
        what: String,
        /// On which server.
        server: Server,
        /// How long it was waited for, s.
        seconds: u64,
    },
    /// More came than is taken.
    #[error("{what} on {server}: more than {limit} bytes came (ask for less: `limit`, `from`)")]
    TooLarge {
        /// What was attempted.
        what: String,
        /// On which server.
        server: Server,
        /// What is taken.
        limit: usize,
    },
    /// It answered that it will not.
    #[error("{what} on {server}: answered {status}: {words}")]
    Declined {
        /// What was attempted.
        what: String,
        /// On which server.
        server: Server,
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        words: String,
    },
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The server's clock, to the second.
    pub date: Option<Time>,
    /// After how many seconds it wants to be asked again.
    pub retry_after_s: Option<u64>,
    /// The body.
    pub body: Vec<u8>,
}

/// A client of one server. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Client {
    server: Server,
    limit: Duration,
    pass: Pass,
}

impl Client {
    /// A client of `server`; `timeout` bounds a whole answer, or the wait for a piece of a long
    /// one. It shows nothing, and over TLS trusts nobody.
    pub fn new(server: Server, timeout: Duration) -> Self {
        Client::showing(server, timeout, Pass::default())
    }

    /// The same that shows this, and trusts whom it names.
    pub fn showing(server: Server, timeout: Duration, pass: Pass) -> Self {
        Client {
            server,
            limit: timeout,
            pass,
        }
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Sends a request and reads the whole answer, whatever its status. `path_and_query` is
    /// already percent-encoded ([`quote`]); an empty `content_type` sends none.
    ///
    /// # Errors
    /// No answer, late, or too large.
    pub async fn send(
        &self,
        method: &str,
        path_and_query: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Answer, ClientError> {
        let what = format!("{method} {path_and_query}");
        let headers = [
            ("content-type", content_type),
            ("accept", "application/json"),
        ];
        let exchange = async {
            let (response, connection) = self.exchange(&what, &headers, body).await?;
            let status = response.status().as_u16();
            let date = date_of(&response);
            let retry_after_s =
                text_of(&response, header::RETRY_AFTER).and_then(|t| t.parse().ok());
            let body = self.whole(&what, response, ANSWER_BYTES_MAX).await?;
            drop(connection);
            Ok(Answer {
                status,
                date,
                retry_after_s,
                body,
            })
        };
        timeout(self.limit, exchange)
            .await
            .unwrap_or_else(|_| Err(self.late(&what, self.limit)))
    }

    /// Asks for something and reads the answer piece by piece.
    ///
    /// # Errors
    /// No answer, late, or a status other than 2xx.
    pub async fn stream(&self, path_and_query: &str) -> Result<Streaming, ClientError> {
        let headers = [("accept", "application/json")];
        self.open(path_and_query, &headers, self.limit).await
    }

    /// Follows server-sent events, from behind `last_event_id` if given.
    ///
    /// # Errors
    /// No answer, late, or a status other than 2xx.
    pub async fn follow(
        &self,
        path_and_query: &str,
        last_event_id: Option<&str>,
    ) -> Result<Events, ClientError> {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_event_id.map(|id| ("last-event-id", id)));
        let streaming = self.open(path_and_query, &headers, SILENCE_MAX).await?;
        Ok(Events {
            streaming,
            parser: Parser::default(),
            ready: VecDeque::new(),
        })
    }

    /// Opens a long answer: the headers within the client's time-out, each piece within `pause`.
    async fn open(
        &self,
        path_and_query: &str,
        headers: &[(&str, &str)],
        pause: Duration,
    ) -> Result<Streaming, ClientError> {
        let what = format!("GET {path_and_query}");
        let opening = async {
            let (response, connection) = self.exchange(&what, headers, Vec::new()).await?;
            if response.status().is_success() {
                return Ok((response, connection));
            }
            let status = response.status().as_u16();
            let body = self.whole(&what, response, ANSWER_BYTES_MAX).await?;
            Err(ClientError::Declined {
                what: what.clone(),
                server: self.server.clone(),
                status,
                words: beginning(&body),
            })
        };
        let opened = timeout(self.limit, opening).await;
        let (response, connection) =
            opened.unwrap_or_else(|_| Err(self.late(&what, self.limit)))?;
        Ok(Streaming {
            date: date_of(&response),
            client: self.clone(),
            what,
            pause,
            body: response.into_body(),
            _connection: connection,
        })
    }

    /// Connects, sends, and reads the head of the answer. `what` begins with method and path.
    async fn exchange(
        &self,
        what: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<(Response<Incoming>, Connection), ClientError> {
        let request = self.request(what, headers, body)?;
        let unreachable = |source| ClientError::Connect {
            what: what.to_owned(),
            server: self.server.clone(),
            source,
        };
        match &self.server {
            Server::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                self.talk(what, stream, request).await
            }
            Server::Http { host_port } => {
                let stream = TcpStream::connect(host_port).await.map_err(unreachable)?;
                // Without it a small request may wait for an acknowledgement; it is no error.
                let _ = stream.set_nodelay(true);
                self.talk(what, stream, request).await
            }
            Server::Https { host_port } => {
                let (Some(tls), Some(name)) = (self.pass.tls(), name_of(host_port)) else {
                    return Err(unreachable(io::Error::other("nobody is trusted there")));
                };
                let stream = TcpStream::connect(host_port).await.map_err(unreachable)?;
                // As above.
                let _ = stream.set_nodelay(true);
                let connected = tls.connect(name, stream).await;
                let stream = connected.map_err(|source| ClientError::Handshake {
                    what: what.to_owned(),
                    server: self.server.clone(),
                    source,
                })?;
                self.talk(what, stream, request).await
            }
        }
    }

    fn request(
        &self,
        what: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let (method, path) = what.split_once(' ').unwrap_or(("GET", what));
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.server.host())
            .header(
                header::USER_AGENT,
                concat!("homeostat/", env!("CARGO_PKG_VERSION")),
            );
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        let invalid = |why: String| ClientError::Request {
            what: what.to_owned(),
            server: self.server.clone(),
            why,
        };
        let token = self.pass.token();
        if let Some(token) = token.map_err(|error| invalid(error.to_string()))? {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request
            .body(Full::new(body.into()))
            .map_err(|error| invalid(error.to_string()))
    }

    async fn talk(
        &self,
        what: &str,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Connection), ClientError> {
        let broken = |source| self.broken(what, source);
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(broken)?;
        // What goes wrong in it is told to the one who waits for the answer.
        let connection = Connection(tokio::spawn(async {
            let _ = connection.await;
        }));
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((response, connection))
    }

    async fn whole(
        &self,
        what: &str,
        response: Response<Incoming>,
        limit: usize,
    ) -> Result<Vec<u8>, ClientError> {
        let mut incoming = response.into_body();
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|source| self.broken(what, source))?;
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            if body.len() + bytes.len() > limit {
                return Err(self.too_large(what, limit));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    fn broken(&self, what: &str, source: hyper::Error) -> ClientError {
        ClientError::Broken {
            what: what.to_owned(),
            server: self.server.clone(),
            source,
        }
    }

    fn late(&self, what: &str, limit: Duration) -> ClientError {
        ClientError::Late {
            what: what.to_owned(),
            server: self.server.clone(),
            seconds: limit.as_secs(),
        }
    }

    fn too_large(&self, what: &str, limit: usize) -> ClientError {
        ClientError::TooLarge {
            what: what.to_owned(),
            server: self.server.clone(),
            limit,
        }
    }
}

/// The task that drives a connection; it ends with whoever waits for the answer.
#[derive(Debug)]
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A long answer.
#[derive(Debug)]
pub struct Streaming {
    /// The server's clock when it began to answer, to the second.
    pub date: Option<Time>,
    client: Client,
    what: String,
    pause: Duration,
    body: Incoming,
    _connection: Connection,
}

impl Streaming {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The connection ended early, or nothing came for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = timeout(self.pause, self.body.frame()).await;
            let frame = frame.map_err(|_| self.client.late(&self.what, self.pause))?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|source| self.client.broken(&self.what, source))?;
            // Trailers are not data.
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}

/// Server-sent events, as they come.
#[derive(Debug)]
pub struct Events {
    streaming: Streaming,
    parser: Parser,
    ready: VecDeque<SseEvent>,
}

impl Events {
    /// The server's clock when it began to answer, to the second.
    pub fn date(&self) -> Option<Time> {
        self.streaming.date
    }

    /// The next event; `None` when the server ended. May be dropped while it waits: nothing is
    /// lost.
    ///
    /// # Errors
    /// The connection ended early, nothing came for [`SILENCE_MAX`], or an event is too large.
    pub async fn next(&mut self) -> Result<Option<SseEvent>, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(bytes) = self.streaming.next().await? else {
                return Ok(None);
            };
            self.parser.feed(&bytes, &mut self.ready).map_err(|large| {
                self.streaming
                    .client
                    .too_large(&self.streaming.what, large.0)
            })?;
        }
    }
}

/// `text` for a part of a path or a query: all but letters, digits and `-._~` percent-encoded.
pub fn quote(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The beginning of what a server said, on one line.
pub(super) fn beginning(body: &[u8]) -> String {
    const LETTERS: usize = 300;
    let text = String::from_utf8_lossy(body);
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(LETTERS).map(clean).collect()
}

fn text_of<T>(response: &Response<T>, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

fn date_of<T>(response: &Response<T>) -> Option<Time> {
    parse_date(text_of(response, header::DATE)?)
}

/// Reads the date of an HTTP header in its one current form (RFC 9110, 5.6.7):
/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_date(text: &str) -> Option<Time> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let (time, zone) = (parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    if zone != "GMT" || parts.next().is_some() {
        return None;
    }
    parse_rfc3339(format!("{year}-{month:02}-{day}T{time}Z").as_bytes()).map(Time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_url_or_path() {
        let http = |text: &str| Server::Http {
            host_port: text.to_owned(),
        };
        let https = |text: &str| Server::Https {
            host_port: text.to_owned(),
        };
        for (text, server) in [
            ("http://127.0.0.1:1618", http("127.0.0.1:1618")),
            ("http://node-7.example:80/", http("node-7.example:80")),
            ("http://[::1]:1618", http("[::1]:1618")),
            ("https://[::1]:1618/", https("[::1]:1618")),
            ("https://door.example:1618", https("door.example:1618")),
            (
                "data/homeostat.sock",
                Server::Socket("data/homeostat.sock".into()),
            ),
            ("unix:/run/h.sock", Server::Socket("/run/h.sock".into())),
        ] {
            assert_eq!(Server::parse(text).unwrap(), server, "{text}");
        }
    }

    #[test]
    fn what_names_no_server_is_refused_with_what_was_expected() {
        for text in [
            "",
            "http://",
            "http://host",
            "http://host:0",
            "http://host:99999",
            "http://host:1618/v1",
            "http://a b:1",
            "ftp://host:1",
            "https://host",
            "https://-:1",
        ] {
            let error = Server::parse(text).unwrap_err().to_string();
            assert!(
                error.contains("expected http://HOST:PORT"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn the_date_of_an_answer_is_read_in_its_one_form() {
        let date = |text| parse_date(text).map(|time| time.to_string());
        let expected = Some("1994-11-06T08:49:37.000Z".to_owned());
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), expected);
        for text in [
            "",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "1994-11-06T08:49:37Z",
        ] {
            assert_eq!(date(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_quoted_for_a_query() {
        assert_eq!(quote("alpha-1_b.c~"), "alpha-1_b.c~");
        assert_eq!(quote("a b&c=d/é%"), "a%20b%26c%3Dd%2F%C3%A9%25");
    }
}
