//! A broker whose answers to the end of a transaction get lost on the way.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Forwards to a broker; while told to, it lets ends of transactions through and eats what is
/// answered.
pub struct Proxy {
    eats: Arc<AtomicBool>,
    eaten: Arc<AtomicUsize>,
}

impl Proxy {
    /// Listens there for a broker that is reached at `broker`.
    pub fn start(listener: TcpListener, broker: String) -> Self {
        let proxy = Proxy {
            eats: Arc::default(),
            eaten: Arc::default(),
        };
        let (eats, eaten) = (proxy.eats.clone(), proxy.eaten.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&broker) else {
                    continue;
                };
                serve(client, server, eats.clone(), eaten.clone());
            }
        });
        proxy
    }

    /// From now on the answers are eaten, or not.
    pub fn eat(&self, eats: bool) {
        self.eats.store(eats, Ordering::SeqCst);
    }

    /// How many answers were eaten.
    pub fn eaten(&self) -> usize {
        self.eaten.load(Ordering::SeqCst)
    }
}

fn serve(client: TcpStream, server: TcpStream, eats: Arc<AtomicBool>, eaten: Arc<AtomicUsize>) {
    let copies = (client.try_clone().unwrap(), server.try_clone().unwrap());
    // Once an end of a transaction went through, this connection answers nothing more.
    let mute = Arc::new(AtomicBool::new(false));
    let muted = mute.clone();
    std::thread::spawn(move || {
        let (mut client, mut server) = (client, server);
        while let Some(request) = frame(&mut client) {
            let key = i16::from_be_bytes([request[4], request[5]]);
            if key == END_TRANSACTION && eats.load(Ordering::SeqCst) {
                mute.store(true, Ordering::SeqCst);
                eaten.fetch_add(1, Ordering::SeqCst);
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
