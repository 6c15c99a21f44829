//! One question to the holder of a data folder, over its socket, with a limit on everything.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// Its body.
    pub(super) body: String,
}

/// How long it may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer, bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Where the holder of a folder listens.
pub(super) fn socket(dir: &Path) -> PathBuf {
    dir.join("homeostat.sock")
}

/// Asks for `path` at the socket of the folder `dir`.
///
/// # Errors
/// Nobody listens there, it may not be asked, it does not answer in time, or not in HTTP.
pub(super) fn get(dir: &Path, path: &str) -> io::Result<Answer> {
    ask(socket(dir), path.to_owned(), PATIENCE)
}

/// On a thread of its own: connecting alone may block for ever. A process that ends takes it along.
fn ask(socket: PathBuf, path: String, patience: Duration) -> io::Result<Answer> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        // Who asked may have gone.
        let _ = tell.send(exchange(&socket, &path));
    });
    let late = || {
        let words = format!("no answer within {} s", patience.as_secs_f64());
        io::Error::new(ErrorKind::TimedOut, words)
    };
    told.recv_timeout(patience).unwrap_or_else(|_| Err(late()))
}

/// HTTP/1.0: the answer ends with the connection.
fn exchange(socket: &Path, path: &str) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    let question = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(question.as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| {
        let words = format!("expected HTTP, got {} bytes of something else", bytes.len());
        io::Error::new(ErrorKind::InvalidData, words)
    })
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some(Answer {
        status: status.parse().ok()?,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A socket whose one client is answered with these bytes; `None`: never.
    fn answering(name: &str, answer: Option<&'static str>) -> PathBuf {
        let socket = std::env::temp_dir().join(format!("{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = io::BufReader::new(stream.try_clone().unwrap()).lines();
            let asked = lines.next().unwrap().unwrap();
            assert_eq!(asked, "GET /readyz HTTP/1.0");
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                None => drop(lines.next()),
            }
        });
        socket
    }

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull";
        let socket = answering("check-answers", Some(answer));
        let answer = ask(socket.clone(), "/readyz".to_owned(), PATIENCE).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "full"));
        std::fs::remove_file(&socket).unwrap();
        let error = ask(socket, "/readyz".to_owned(), PATIENCE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_http_or_says_nothing_is_an_error() {
        let socket = answering("check-nonsense", Some("SSH-2.0-nonsense\r\n"));
        let error = ask(socket, "/readyz".to_owned(), PATIENCE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let socket = answering("check-mute", None);
        let error = ask(socket, "/readyz".to_owned(), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
