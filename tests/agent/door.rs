//! A door that an agent can be tested on: takes what comes, orders what it is told to.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};

/// What came to it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub samples: Vec<Value>,
    pub outcomes: Vec<Value>,
    /// Of each follower its query, a blank, and its `Last-Event-ID`.
    pub follows: Vec<String>,
    /// Requests that were told to come later.
    pub declined: usize,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    moved: Condvar,
}

impl Shared {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap());
        self.moved.notify_all();
    }
}

/// A door on a unix socket or a port, on a thread of its own. Dropping it closes it.
pub struct Door {
    shared: Arc<Shared>,
    orders: watch::Sender<Vec<String>>,
    status: watch::Sender<u16>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// What each connection needs.
#[derive(Clone)]
struct Rooms {
    log_id: String,
    time_source: &'static str,
    shared: Arc<Shared>,
    orders: watch::Receiver<Vec<String>>,
    status: watch::Receiver<u16>,
}

impl Door {
    pub fn open(socket: &Path, log_id: &str) -> Door {
        Door::with_time(socket, log_id, "log")
    }

    /// A door whose log has its time from there.
    pub fn with_time(socket: &Path, log_id: &str, time_source: &'static str) -> Door {
        let _ = std::fs::remove_file(socket);
        let listen = || Way::Socket(UnixListener::bind(socket).unwrap());
        Door::begin(listen, log_id, time_source)
    }

    /// A door on a port of this machine.
    pub fn on_port(listener: std::net::TcpListener, log_id: &str) -> Door {
        listener.set_nonblocking(true).unwrap();
        Door::begin(
            || Way::Port(TcpListener::from_std(listener).unwrap()),
            log_id,
            "log",
        )
    }

    fn begin(listen: impl FnOnce() -> Way, log_id: &str, time_source: &'static str) -> Door {
        let (orders, orders_seen) = watch::channel(Vec::new());
        let (status, status_seen) = watch::channel(200);
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared::default());
        let rooms = Rooms {
            log_id: log_id.to_owned(),
            time_source,
            shared: shared.clone(),
            orders: orders_seen,
            status: status_seen,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let listener = {
            let _entered = runtime.enter();
            listen()
        };
        let thread = std::thread::spawn(move || {
            // With the runtime every connection ends.
            runtime.block_on(serve(listener, rooms, stopped));
        });
        Door {
            shared,
            orders,
            status,
            stop,
            thread: Some(thread),
        }
    }

    /// Puts a directive behind the others.
    pub fn order(&self, json: String) {
        self.orders.send_modify(|orders| orders.push(json));
    }

    /// What is sent is answered with this status from now on.
    pub fn answer_with(&self, status: u16) {
        self.status.send_replace(status);
    }

    pub fn seen(&self) -> Seen {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits until what came is enough, within a minute.
    pub fn wait(&self, what: &str, is_enough: impl Fn(&Seen) -> bool) {
        let seen = self.shared.seen.lock().unwrap();
        let limit = Duration::from_secs(60);
        let waited = self
            .shared
            .moved
            .wait_timeout_while(seen, limit, |seen| !is_enough(seen));
        let (seen, late) = waited.unwrap();
        assert!(!late.timed_out(), "waited for {what}, came: {seen:?}");
    }

    /// Waits until a moment, whatever comes.
    pub fn wait_until(&self, moment: Instant) {
        let seen = self.shared.seen.lock().unwrap();
        let limit = moment.saturating_duration_since(Instant::now());
        drop(self.shared.moved.wait_timeout_while(seen, limit, |_| true));
    }

    /// Closes it; what came to it.
    pub fn close(mut self) -> Seen {
        self.shut();
        self.seen()
    }

    fn shut(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shut();
    }
}

pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

/// Where a door is.
enum Way {
    Socket(UnixListener),
    Port(TcpListener),
}

async fn serve(way: Way, rooms: Rooms, mut stopped: watch::Receiver<bool>) {
    loop {
        let accepted = async {
            match &way {
                Way::Socket(listener) => {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(attend(stream, rooms.clone()));
                }
                Way::Port(listener) => {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(attend(stream, rooms.clone()));
                }
            }
        };
        tokio::select! {
            () = accepted => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}

async fn attend(stream: impl AsyncRead + AsyncWrite + Unpin, rooms: Rooms) {
    let service = service_fn(|request| answer(rooms.clone(), request));
    let serving = hyper::server::conn::http1::Builder::new();
    // A client that went away is no fault of the door.
    let _ = serving
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(rooms: Rooms, request: Request<Incoming>) -> Result<Response<Words>, Infallible> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or("").to_owned();
    Ok(match path.as_str() {
        "/v1/log" => {
            let log = serde_json::json!({
                "log_id": rooms.log_id,
                "prefix": "homeostat.",
                "time_source": rooms.time_source,
            });
            whole(200, log.to_string())
        }
        "/v1/directives" => {
            let last = request.headers().get("last-event-id");
            let last = last.map(|id| id.to_str().unwrap().to_owned());
            let follow = format!("{query} {}", last.as_deref().unwrap_or("-"));
            rooms.shared.note(|seen| seen.follows.push(follow));
            let from = last.map_or(0, |id| id.parse::<usize>().unwrap() + 1);
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(tell(rooms.orders, from, sender));
            Response::new(Words::Live(receiver))
        }
        "/v1/metrics" | "/v1/outcomes" => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            take(&rooms, &path, &body)
        }
        _ => whole(404, "no such thing".to_owned()),
    })
}

fn take(rooms: &Rooms, path: &str, body: &[u8]) -> Response<Words> {
    let status = *rooms.status.borrow();
    if status != 200 {
        rooms.shared.note(|seen| seen.declined += 1);
        return whole(status, "later".to_owned());
    }
    let text = std::str::from_utf8(body).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let taken = format!("{{\"accepted\":{},\"rejected\":[]}}", lines.len());
    rooms.shared.note(|seen| match path {
        "/v1/metrics" => seen.samples.extend(lines),
        _ => seen.outcomes.extend(lines),
    });
    whole(200, taken)
}

/// Tells a follower the orders from one on, and those to come.
async fn tell(
    mut orders: watch::Receiver<Vec<String>>,
    mut next: usize,
    sender: mpsc::Sender<Bytes>,
) {
    loop {
        let fresh: Vec<String> = orders
            .borrow_and_update()
            .iter()
            .skip(next)
            .cloned()
            .collect();
        for order in fresh {
            let data = order.replace('\n', "\ndata: ");
            let event = format!(": keep\n\nid: {next}\ndata: {data}\n\n");
            if sender.send(event.into()).await.is_err() {
                return;
            }
            next += 1;
        }
        if orders.changed().await.is_err() {
            return;
        }
    }
}

fn whole(status: u16, text: String) -> Response<Words> {
    let mut response = Response::new(Words::Whole(Some(text.into())));
    *response.status_mut() = status.try_into().unwrap();
    response
}

/// An answer, whole or as it comes.
enum Words {
    Whole(Option<Bytes>),
    Live(mpsc::Receiver<Bytes>),
}

impl Body for Words {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Words::Whole(bytes) => Poll::Ready(bytes.take()),
            Words::Live(receiver) => receiver.poll_recv(cx),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

// Every test binary takes its part of this; named here, the rest of it is not dead.
const _: (
    fn(&Path, &str) -> Door,
    fn(std::net::TcpListener, &str) -> Door,
    fn(&Door, u16),
    fn(&Door, Instant),
    fn(Door) -> Seen,
) = (
    Door::open,
    Door::on_port,
    Door::answer_with,
    Door::wait_until,
    Door::close,
);
