//! Probes: whether a peer answers, how fast, and how often it does not.
//!
//! All probes of a round run side by side, those to one peer a little apart, so that a round takes
//! hardly longer than one probe's time limit. A peer that refuses a TCP connection has answered.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use surge_ping::{Client, Config, ICMP, PingIdentifier, PingSequence, SurgeError};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How to reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// By ICMP echo.
    Icmp(IpAddr),
    /// By connecting.
    Tcp(SocketAddr),
}

/// How a round is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// Probes per peer.
    pub(super) probes: u32,
    /// Between two to the same peer.
    pub(super) gap: Duration,
    /// How long one may take.
    pub(super) limit: Duration,
    /// Tells this process's echoes from others'.
    pub(super) ident: u16,
}

/// What came of the probes to one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tally {
    pub(super) sent: u32,
    pub(super) answered: u32,
    /// Of all answers together.
    pub(super) sum_ms: f64,
}

/// Probes every target; per target the tally, or why it cannot be probed from here.
pub(super) async fn probe(targets: &[Target], round: Round) -> Vec<Result<Tally, String>> {
    let sockets = Sockets::open(targets);
    let mut running = JoinSet::new();
    for (index, target) in targets.iter().enumerate() {
        for number in 0..round.probes {
            let one = sockets.prepare(*target, index, number, round);
            running.spawn(async move {
                sleep(round.gap * number).await;
                (index, one.run(round.limit).await)
            });
        }
    }
    let mut tallies = vec![Ok(Tally::default()); targets.len()];
    while let Some(ended) = running.join_next().await {
        // A probe that panicked would be missing here: neither sent nor lost.
        let Ok((index, echo)) = ended else { continue };
        note(&mut tallies[index], echo);
    }
    tallies
}

fn note(tally: &mut Result<Tally, String>, echo: Echo) {
    match (tally, echo) {
        (Ok(tally), Echo::Answered(time)) => {
            tally.sent += 1;
            tally.answered += 1;
            tally.sum_ms += time.as_secs_f64() * 1000.0;
        }
        (Ok(tally), Echo::Lost) => tally.sent += 1,
        (tally @ Ok(_), Echo::Barred(why)) => *tally = Err(why),
        (Err(_), _) => {}
    }
}

/// What came of one probe.
enum Echo {
    Answered(Duration),
    Lost,
    /// This host may not, or cannot, probe so.
    Barred(String),
}

/// The sockets of a round; closed with it, so that between rounds nothing wakes the process.
struct Sockets {
    v4: Result<Option<Client>, String>,
    v6: Result<Option<Client>, String>,
}

impl Sockets {
    fn open(targets: &[Target]) -> Sockets {
        let wanted = |v4: bool| {
            targets
                .iter()
                .any(|target| matches!(target, Target::Icmp(ip) if ip.is_ipv4() == v4))
        };
        let open = |wanted: bool, kind: ICMP| match wanted {
            false => Ok(None),
            true => Client::new(&Config::builder().kind(kind).build())
                .map(Some)
                .map_err(|error| format!("no socket for ICMP echo: {}", first_line(&error))),
        };
        Sockets {
            v4: open(wanted(true), ICMP::V4),
            v6: open(wanted(false), ICMP::V6),
        }
    }

    fn prepare(&self, target: Target, index: usize, number: u32, round: Round) -> Probe {
        let ip = match target {
            Target::Tcp(address) => return Probe::Connect(address),
            Target::Icmp(ip) => ip,
        };
        let socket = if ip.is_ipv4() { &self.v4 } else { &self.v6 };
        match socket {
            Err(why) => Probe::Barred(why.clone()),
            Ok(socket) => Probe::Echo {
                client: socket
                    .clone()
                    .expect("opened, since there is such a target"),
                ip,
                ident: PingIdentifier(round.ident.wrapping_add(index as u16)),
                number: PingSequence(number as u16),
            },
        }
    }
}

enum Probe {
    Connect(SocketAddr),
    Echo {
        client: Client,
        ip: IpAddr,
        ident: PingIdentifier,
        number: PingSequence,
    },
    Barred(String),
}

impl Probe {
    async fn run(self, limit: Duration) -> Echo {
        match self {
            Probe::Barred(why) => Echo::Barred(why),
            Probe::Connect(address) => connect(address, limit).await,
            Probe::Echo {
                client,
                ip,
                ident,
                number,
            } => {
                let mut pinger = client.pinger(ip, ident).await;
                match pinger.timeout(limit).ping(number, &PAYLOAD).await {
                    Ok((_, time)) => Echo::Answered(time),
                    Err(SurgeError::IOError(error)) => not_sent(&error),
                    Err(_) => Echo::Lost,
                }
            }
        }
    }
}

/// As much as `ping` sends.
const PAYLOAD: [u8; 56] = [0; 56];

async fn connect(address: SocketAddr, limit: Duration) -> Echo {
    let start = Instant::now();
    match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Echo::Answered(start.elapsed()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Echo::Answered(start.elapsed())
        }
        Ok(Err(error)) => not_sent(&error),
        Err(_) => Echo::Lost,
    }
}

/// A firewall of this host, or want of its own means, says nothing of the peer; no way there does.
fn not_sent(error: &io::Error) -> Echo {
    const EMFILE: i32 = 24;
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::OutOfMemory => {
            Echo::Barred(format!("this host does not let probes out: {error}"))
        }
        _ if error.raw_os_error() == Some(EMFILE) => {
            Echo::Barred(format!("this process has no files left: {error}"))
        }
        _ => Echo::Lost,
    }
}

fn first_line(error: &io::Error) -> String {
    error.to_string().lines().next().unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const ROUND: Round = Round {
        probes: 3,
        gap: Duration::from_millis(1),
        limit: Duration::from_secs(5),
        ident: 7,
    };

    #[tokio::test]
    async fn a_peer_that_takes_or_refuses_a_connection_has_answered() {
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shut = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let targets = [&open, &shut].map(|peer| Target::Tcp(peer.local_addr().unwrap()));
        drop(shut);
        for tally in probe(&targets, ROUND).await {
            let tally = tally.unwrap();
            assert_eq!((tally.sent, tally.answered), (3, 3));
            assert!(tally.sum_ms > 0.0);
        }
    }

    #[tokio::test]
    async fn an_echo_is_answered_or_the_host_says_why_it_cannot_be_sent() {
        let here = Target::Icmp(IpAddr::from([127, 0, 0, 1]));
        let tallies = probe(&[here, here], ROUND).await;
        match &tallies[0] {
            Ok(tally) => assert_eq!(tally.answered, 3),
            Err(why) => assert!(why.contains("ICMP"), "{why}"),
        }
    }

    #[test]
    fn no_way_there_is_a_loss_and_no_leave_is_none() {
        let mut tally = Ok(Tally::default());
        note(&mut tally, not_sent(&io::ErrorKind::HostUnreachable.into()));
        assert_eq!(tally.as_ref().map(|t| (t.sent, t.answered)), Ok((1, 0)));
        note(
            &mut tally,
            not_sent(&io::ErrorKind::PermissionDenied.into()),
        );
        note(&mut tally, Echo::Answered(Duration::from_millis(2)));
        assert!(tally.unwrap_err().contains("does not let probes out"));
    }
}
