//! A broker to which the end of a transaction gets lost on the way, or the answer on the way back.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Forwards to a broker; while told to, it loses ends of transactions.
pub struct Proxy {
    loses: Arc<Mutex<Option<Lost>>>,
    lost: Arc<AtomicUsize>,
}

/// What of an end of a transaction gets lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The broker has it, nobody hears of that.
    Answer,
    /// The broker never hears of it.
    Request,
}

impl Proxy {
    /// Listens there for a broker that is reached at `broker`.
    pub fn start(listener: TcpListener, broker: String) -> Self {
        let proxy = Proxy {
            loses: Arc::default(),
            lost: Arc::default(),
        };
        let (loses, lost) = (proxy.loses.clone(), proxy.lost.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&broker) else {
                    continue;
                };
                serve(client, server, loses.clone(), lost.clone());
            }
        });
        proxy
    }

    /// From now on this gets lost.
    pub fn lose(&self, what: Option<Lost>) {
        *self.loses.lock().unwrap() = what;
    }

    /// How many ends of transactions lost something.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }
}

fn serve(
    client: TcpStream,
    server: TcpStream,
    loses: Arc<Mutex<Option<Lost>>>,
    lost: Arc<AtomicUsize>,
) {
    let copies = (client.try_clone().unwrap(), server.try_clone().unwrap());
    // Once an end of a transaction lost something, this connection answers nothing more.
    let mute = Arc::new(AtomicBool::new(false));
    let muted = mute.clone();
    std::thread::spawn(move || {
        let (mut client, mut server) = (client, server);
        while let Some(request) = frame(&mut client) {
            let key = i16::from_be_bytes([request[4], request[5]]);
            let what = *loses.lock().unwrap();
            if key == END_TRANSACTION && what.is_some() {
                mute.store(true, Ordering::SeqCst);
                lost.fetch_add(1, Ordering::SeqCst);
                if what == Some(Lost::Request) {
                    continue;
                }
            }
            if server.write_all(&request).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    });
    std::thread::spawn(move || {
        let (mut client, mut server) = copies;
        while let Some(answer) = frame(&mut server) {
            if !muted.load(Ordering::SeqCst) && client.write_all(&answer).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    });
}

/// A request or answer, with its length before it.
fn frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut frame = length.to_vec();
    frame.resize(4 + u32::from_be_bytes(length) as usize, 0);
    stream.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

/// The API key of Kafka's EndTxn.
const END_TRANSACTION: i16 = 26;
