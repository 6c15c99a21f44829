//! Listening, and a connection from its beginning to its end.
//!
//! 1. [`bind`] reads who may come (`access.rs`) and takes an address, one that is not loopback only
//!    if somebody is named; and the socket in the folder (mode 0600 before anyone can connect; a
//!    stale one is replaced: whoever holds the folder is alone).
//! 2. [`serve`] accepts. One connection too many is told so at once and closed; of some of them
//!    what they still send is waited for, so that the answer is not lost with it.
//! 3. A connection has a time for its TLS handshake, for its headers (also between requests),
//!    bounded headers, and a time for each write. A body has its own limits (`body.rs`).
//! 4. At the end of a connection what is still being sent is read and dropped for a moment: else
//!    the answer to a body that was refused unread would be lost with it.
//! 5. When told to stop, nobody is accepted any more, requests under way are answered, followers
//!    end, and after a bounded time the rest is cut.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::config::secret::SecretError;
use crate::config::settings::Settings;

use super::Door;
use super::access::Access;
use super::caller::Caller;
use super::paced::Paced;
use super::routes::{Via, router};
use super::story;
use super::tls::{Peer, Tls};

/// The door cannot open.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The address is none that may be listened on.
    #[error(
        "reading web.listen = {listen:?}: {detail}; expected an address and port such as \
         127.0.0.1:1618 (port 0: any free one)"
    )]
    Address {
        /// As given.
        listen: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Anyone in the network could send and read there.
    #[error(
        "listening on {address}: it is not loopback, expected [[token]] entries that say who may \
         come; add one (README, \"Open the door to others\"), or listen on 127.0.0.1:1618"
    )]
    Open {
        /// Which.
        address: SocketAddr,
    },
    /// A token or private key cannot be used.
    #[error("opening the door: {0}")]
    Secret(#[from] SecretError),
    /// Two entries are one to the door.
    #[error(
        "opening the door: the [[token]] entries {one:?} and {other:?} have the same token or \
         certificate, expected one each: else nobody can say who did what"
    )]
    Same {
        /// One.
        one: String,
        /// The other.
        other: String,
    },
    /// A certificate cannot be used.
    #[error(
        "opening the door: reading {} ({key}): {why}; expected certificates in PEM that this user \
         may read, and a key that fits", path.display()
    )]
    Certificate {
        /// The key that names it.
        key: &'static str,
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// TLS cannot begin or end while clients are there.
    #[error(
        "reading web.certificate_file again: TLS begins or ends with the next start only, expected \
         both files as at the start; start again"
    )]
    Speech,
    /// The address cannot be had.
    #[error("listening on {address}: {source}; name another with --listen (port 0: any free one)")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("{attempt} the socket {}: {source}; {next}", path.display())]
    Socket {
        /// What was attempted.
        attempt: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What to do.
        next: &'static str,
    },
}

/// Where a door listens.
pub struct Bound {
    /// The address, with the port that was found.
    pub address: SocketAddr,
    /// The socket.
    pub socket: PathBuf,
    /// Who may come.
    pub access: Arc<Access>,
    tcp: TcpListener,
    unix: UnixListener,
    connections_max: usize,
}

impl Bound {
    /// Where it is, for a client over TCP.
    pub fn url(&self) -> String {
        let scheme = match self.access.tls() {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://{}", self.address)
    }
}

/// Takes the address and the socket. In a runtime.
///
/// # Errors
/// The address is none or not to be had, or not loopback and nobody is named who may come; a token
/// or certificate cannot be used; the socket cannot be made.
pub fn bind(settings: &Settings, dir: &Path) -> Result<Bound, WebError> {
    let access = Arc::new(Access::read(settings)?);
    let address = access.address();
    let listen = |source| WebError::Listen { address, source };
    let tcp = listen_tcp(address).map_err(listen)?;
    let address = tcp.local_addr().map_err(listen)?;
    let socket = dir.join(SOCKET);
    let unix = listen_unix(&socket)?;
    Ok(Bound {
        address,
        socket,
        access,
        tcp,
        unix,
        connections_max: connections(settings.web.connections_max),
    })
}

/// The address that is written so.
///
/// # Errors
/// It is none.
pub(super) fn address(listen: &str) -> Result<SocketAddr, WebError> {
    let wrong = |detail: &str| WebError::Address {
        listen: listen.to_owned(),
        detail: detail.to_owned(),
    };
    let numeric = match listen.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => listen.to_owned(),
    };
    numeric
        .parse()
        .map_err(|_| wrong("this is no address and port"))
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn listen_unix(path: &Path) -> Result<UnixListener, WebError> {
    let failed = |attempt, next| {
        move |source| WebError::Socket {
            attempt,
            path: path.to_owned(),
            source,
            next,
        }
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("looking for", "see who may read the folder")(error)),
        Ok(_) => {
            let next = "remove what lies there by hand";
            std::fs::remove_file(path).map_err(failed("removing", next))?;
        }
    }
    let next = "a shorter path for --data may help: a socket's may have 107 bytes";
    let socket = UnixSocket::new_stream().map_err(failed("making", next))?;
    socket.bind(path).map_err(failed("making", next))?;
    // Before it listens nobody can connect, so nobody does under another mode.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(failed("setting the mode of", "see who owns the folder"))?;
    socket.listen(BACKLOG).map_err(failed("listening on", next))
}

/// How many connections each listener may have: as configured, if the system allows so many files
/// beside those that the log needs.
fn connections(wanted: usize) -> usize {
    let files = (2 * wanted + FILES_OF_OTHERS) as u64;
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.unwrap_or(u64::MAX) < files {
        let raised = Rlimit {
            current: Some(files.min(allowed)),
            maximum: limit.maximum,
        };
        // Refused: then the limit is what it was, read again below.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    let current = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = current.saturating_sub(FILES_OF_OTHERS as u64) / 2;
    wanted
        .min(usize::try_from(room).unwrap_or(wanted))
        .max(CONNECTIONS_MIN)
}

/// Serves until told to stop, then ends within a few seconds.
///
/// # Errors
/// None today: what fails on a connection ends that connection.
pub async fn serve(
    bound: Bound,
    door: Arc<Door>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), WebError> {
    let mut tasks = JoinSet::new();
    tasks.spawn(story::follow(door.clone()));
    let mut gates = [Via::Tcp, Via::Socket].map(|via| Gate {
        app: router(&door, &bound.access, via),
        room: Arc::new(Semaphore::new(bound.connections_max)),
        regrets: Arc::new(Semaphore::new(REGRETS_MAX)),
        door: door.clone(),
    });
    let [tcp, unix] = &mut gates;
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = bound.tcp.accept() => match accepted {
                Ok((stream, peer)) => {
                    // Without it a small answer may wait for an acknowledgement; it is no error.
                    let _ = stream.set_nodelay(true);
                    let ours = stream.local_addr().ok();
                    let ends = ours.map(|ours| (peer, ours));
                    let caller = Caller::Tcp { ends };
                    match bound.access.tls() {
                        None => tcp.admit(stream, caller, &mut tasks),
                        Some(tls) => tcp.admit_through(tls, stream, caller, &mut tasks),
                    }
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            accepted = bound.unix.accept() => match accepted {
                Ok((stream, _)) => {
                    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                    unix.admit(stream, Caller::Socket { uid }, &mut tasks);
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
    door.stopping.send_replace(true);
    drop((bound.tcp, bound.unix));
    // Nobody answers there any more; if it cannot be removed the next start does it.
    let _ = std::fs::remove_file(&bound.socket);
    let all = async { while tasks.join_next().await.is_some() {} };
    let _ = timeout(GRACE, all).await;
    tasks.shutdown().await;
    Ok(())
}

/// Waits until told to stop, or until nobody is left who could tell.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A way in: who may come through it at a time.
struct Gate {
    app: Router,
    room: Arc<Semaphore>,
    /// How many more may be waited for that found no room.
    regrets: Arc<Semaphore>,
    door: Arc<Door>,
}

impl Gate {
    /// The same as [`Gate::admit`] where the client speaks TLS: who finds no room hears nothing, as
    /// saying it would take a handshake.
    fn admit_through(&self, tls: Tls, stream: TcpStream, caller: Caller, tasks: &mut JoinSet<()>) {
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            self.door.tally.turned_away();
            return;
        };
        let (app, door) = (self.app.clone(), self.door.clone());
        tasks.spawn(async move { attend_through(tls, stream, caller, app, &door, place).await });
    }

    fn admit<S>(&self, mut stream: S, caller: Caller, tasks: &mut JoinSet<()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self.room.clone().try_acquire_owned() {
            Ok(place) => {
                let (app, door) = (self.app.clone(), self.door.clone());
                tasks.spawn(async move {
                    let _open = door.tally.opened();
                    attend(stream, (caller, None), app, &door).await;
                    drop(place);
                });
            }
            Err(_) => {
                self.door.tally.turned_away();
                if say_no_room(&mut stream)
                    && let Ok(place) = self.regrets.clone().try_acquire_owned()
                {
                    tasks.spawn(async move {
                        linger(stream).await;
                        drop(place);
                    });
                }
            }
        }
    }
}

/// A connection that speaks TLS, to its end. A handshake that takes too long is none.
async fn attend_through(
    tls: Tls,
    stream: TcpStream,
    caller: Caller,
    app: Router,
    door: &Door,
    _place: OwnedSemaphorePermit,
) {
    let _open = door.tally.opened();
    let patience = Duration::from_secs(door.settings.read_timeout_s);
    match timeout(patience, tls.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let peer = tls.peer(&stream);
            attend(stream, (caller, peer), app, door).await;
        }
        Ok(Err(error)) => debug!("a TLS handshake failed: {error}"),
        Err(_) => debug!("a TLS handshake took longer than web.read_timeout_s"),
    }
}

/// A connection to its end: where it comes from, and who showed a certificate at its beginning.
async fn attend<S>(stream: S, (caller, peer): (Caller, Option<Peer>), app: Router, door: &Door)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = &door.settings;
    let paced = Paced::new(stream, Duration::from_secs(settings.write_timeout_s));
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(caller);
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        Box::pin(app.call(request))
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(settings.read_timeout_s))
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(paced), service);
    let mut stopping = door.stopping.subscribe();
    let mut stop = pin!(stopped(&mut stopping));
    let mut told = false;
    // How it ends is the client's affair: its garbage, its haste, its slowness.
    let _ = poll_fn(|context| {
        if !told && stop.as_mut().poll(context).is_ready() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(context)
    })
    .await;
    let mut stream = connection.into_parts().io.into_inner();
    if told {
        let _ = stream.shutdown().await;
    } else {
        linger(stream).await;
    }
}

/// Ends our side, then drops what still comes, for a moment and not for ever so much: a client that
/// sends on is cut off.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let rest = async {
        stream.shutdown().await?;
        let mut piece = vec![0; 16 * 1024];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut piece).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, rest).await;
}

/// Tells a connection that there is no room for it, without waiting: a new one's buffer is empty.
fn say_no_room<S: AsyncWrite + Unpin>(stream: &mut S) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    let written = Pin::new(stream).poll_write(&mut context, NO_ROOM.as_bytes());
    matches!(written, Poll::Ready(Ok(length)) if length == NO_ROOM.len())
}

/// The socket's name in the folder.
pub(super) const SOCKET: &str = "homeostat.sock";

/// How long requests under way have when the door closes.
const GRACE: Duration = Duration::from_secs(3);

/// How long the rest of what a client sends is read and dropped.
const LINGER: Duration = Duration::from_secs(1);

/// How much of it.
const LINGER_BYTES: usize = 16 << 20;

/// How long to wait when nobody can be accepted: no file is free, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Connections without room that are waited for at a time.
const REGRETS_MAX: usize = 64;

/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// What is buffered of a connection's bytes; no head of a request may be larger.
const BUFFER_BYTES: usize = 64 * 1024;

/// Files that the log, its rows and the agent may need.
const FILES_OF_OTHERS: usize = 1024;

/// However few files the system allows, so many may connect.
const CONNECTIONS_MIN: usize = 16;

const NO_ROOM: &str = concat!(
    "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n",
    "connection: close\r\ncontent-length: 86\r\n\r\n",
    "{\"error\":\"too many connections (web.connections_max): close one, or come again later\"}"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_listened_on_with_its_port() {
        for (listen, expected) in [
            ("127.0.0.1:1618", Some("127.0.0.1:1618")),
            ("127.8.0.1:0", Some("127.8.0.1:0")),
            ("[::1]:80", Some("[::1]:80")),
            ("localhost:7", Some("127.0.0.1:7")),
            ("0.0.0.0:1618", Some("0.0.0.0:1618")),
            ("[::]:1", Some("[::]:1")),
            ("127.0.0.1", None),
            ("example.org:80", None),
            ("", None),
        ] {
            let address = address(listen).ok().map(|a| a.to_string());
            assert_eq!(address.as_deref(), expected, "{listen}");
        }
    }

    #[test]
    fn what_others_can_reach_is_not_listened_on_for_everyone() {
        for listen in ["0.0.0.0:0", "192.168.0.1:1618", "[::]:1"] {
            let mut settings = Settings::default();
            settings.web.listen = listen.to_owned();
            let error = match bind(&settings, Path::new("/nowhere")) {
                Ok(bound) => panic!("{}", bound.address),
                Err(error) => error.to_string(),
            };
            assert!(
                error.contains("[[token]]") && error.contains("127.0.0.1:1618"),
                "{error}"
            );
        }
    }

    #[test]
    fn no_room_is_said_in_whole() {
        let (head, body) = NO_ROOM.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
