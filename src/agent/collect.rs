//! Collectors: what this host measures of itself, and why not the rest.
//!
//! A metric that cannot be measured is missing, never 0: a wrong number heals a healthy host.
//!
//! Peers that were **configured** always count: over all of them, latency is the mean of the
//! answers, loss the part of the probes that got none, connectivity how many answered at all.
//!
//! Peers that were **discovered** owe nobody an answer, so they prove health, and only what is
//! known of them proves illness:
//! - a router counts once it answered in this run, as long as it is the same router (its hardware
//!   address); a neighbour counts while it answers. A phone that fell asleep, a firewall that drops
//!   echoes, a laptop taken elsewhere are no illness of this host.
//! - Latency and loss are those of the best router that counts, else of the best neighbour: what is
//!   wrong with this host is wrong towards everyone.
//! - If none counts, all three are missing: nobody there is not the same as nobody reached.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, System};
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep_until, timeout};

use super::AgentError;
use super::probe::{Round, Tally, Target, probe};
use crate::config::settings::AgentSettings;
use crate::model::{Metric, Metrics};

/// One of the eight metrics, as this host has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    /// Which.
    pub metric: Metric,
    /// Its value, or why there is none.
    pub found: Result<f64, Missing>,
}

/// Why a metric is not measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Why.
    pub why: String,
    /// What would mend it.
    pub next: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.next)
    }
}

/// Measures each metric once, as an agent with these settings would at its start.
///
/// # Errors
/// A setting that no agent can start with.
pub async fn survey(settings: &AgentSettings) -> Result<Vec<Survey>, AgentError> {
    let mut collector = Collector::new(settings, std::process::id().into())?;
    Ok(collector.measure(Duration::from_secs(10)).await)
}

/// What was found, as a reading has it.
pub(super) fn metrics(found: &[Survey]) -> Metrics {
    let mut metrics = Metrics::default();
    for survey in found {
        if let Ok(value) = survey.found {
            // A value out of its range was not measured either.
            let _ = metrics.try_set(survey.metric, value);
        }
    }
    metrics
}

/// Measures this host, again and again.
pub(super) struct Collector {
    system: System,
    /// When the CPU's time was looked at last.
    looked: Instant,
    round: Round,
    named: Vec<Named>,
    discover: bool,
    peers_max: usize,
    /// Discovered routers that answered in this run, with their hardware address then.
    answered: BTreeMap<IpAddr, Option<HardwareAddress>>,
}

impl Collector {
    /// `number` tells this process's echoes from others'.
    pub(super) fn new(settings: &AgentSettings, number: i64) -> Result<Collector, AgentError> {
        let mut system = System::new();
        system.refresh_cpu_usage();
        let named: Result<Vec<Named>, AgentError> = settings
            .peers
            .iter()
            .take(settings.peers_max)
            .map(|text| Named::parse(text))
            .collect();
        Ok(Collector {
            system,
            looked: Instant::now(),
            round: Round {
                probes: settings.probes,
                gap: GAP_MAX,
                limit: Duration::from_millis(settings.probe_timeout_ms),
                ident: number as u16,
            },
            named: named?,
            discover: settings.discover,
            peers_max: settings.peers_max,
            answered: BTreeMap::new(),
        })
    }

    /// All eight metrics, each with its value or why not; takes about as long as one probe, whose
    /// like are spread over no more than half of `interval`.
    pub(super) async fn measure(&mut self, interval: Duration) -> Vec<Survey> {
        self.round.gap = GAP_MAX.min(interval / 2 / self.round.probes.max(1));
        let links = self.links().await;
        let cpu = self.cpu_percent().await;
        let memory = self.memory_percent();
        let link = |value: fn(&Links) -> Option<f64>| match &links {
            Ok(links) => value(links).ok_or_else(|| missing("no peer answered", REACH)),
            Err(missing) => Err(missing.clone()),
        };
        let of_the_mesh = missing("a host cannot know it: the mesh does", SENT_BY_THE_MESH);
        let found = |metric| match metric {
            Metric::CpuPercent => cpu.clone(),
            Metric::MemoryPercent => memory.clone(),
            Metric::MeshConnectivity => link(|links| Some(f64::from(links.answered))),
            Metric::LatencyMs => link(|links| links.latency_ms),
            Metric::PacketLoss => link(|links| Some(links.loss_percent)),
            Metric::MttrMinutes | Metric::ZeroTrustSuccessRate | Metric::FrequencyHz => {
                Err(of_the_mesh.clone())
            }
        };
        let survey = |metric| Survey {
            metric,
            found: found(metric),
        };
        Metric::ALL.into_iter().map(survey).collect()
    }

    /// CPU time used since the last look, over all processors.
    async fn cpu_percent(&mut self) -> Result<f64, Missing> {
        // More often the system's counters say too little.
        sleep_until(self.looked + MINIMUM_CPU_UPDATE_INTERVAL).await;
        self.system.refresh_cpu_usage();
        self.looked = Instant::now();
        let used = f64::from(self.system.global_cpu_usage());
        match self.system.cpus().is_empty() || !used.is_finite() {
            true => Err(missing(
                "the system does not tell its CPU time",
                "is /proc mounted?",
            )),
            false => Ok(used.clamp(0.0, 100.0)),
        }
    }

    /// Memory that is not available to programs, of all there is.
    fn memory_percent(&mut self) -> Result<f64, Missing> {
        self.system.refresh_memory();
        let (total, available) = (self.system.total_memory(), self.system.available_memory());
        match total {
            0 => Err(missing(
                "the system does not tell its memory",
                "is /proc mounted?",
            )),
            _ => Ok(100.0 * (1.0 - available.min(total) as f64 / total as f64)),
        }
    }

    /// Connectivity, latency and loss.
    async fn links(&mut self) -> Result<Links, Missing> {
        match (self.named.is_empty(), self.discover) {
            (false, _) => self.links_to_named().await,
            (true, true) => self.links_to_discovered().await,
            (true, false) => Err(missing(
                "no peers are configured, and discovery is off",
                "name some in [agent] peers, or set discover = true",
            )),
        }
    }

    async fn links_to_named(&mut self) -> Result<Links, Missing> {
        let mut targets = Vec::new();
        let mut whys = Vec::new();
        for named in &mut self.named {
            match named.resolve(self.round.limit).await {
                Ok(target) => targets.push(target),
                Err(why) => whys.push(why),
            }
        }
        let mut tallies = Vec::new();
        for found in probe(&targets, self.round).await {
            match found {
                Ok(tally) => tallies.push(tally),
                Err(why) => whys.push(why),
            }
        }
        if tallies.iter().any(|tally| tally.answered == 0) {
            // Its name may mean another address by now.
            self.named.iter_mut().for_each(Named::forget_time);
        }
        let next = "see `homeostat check`, or name others in [agent] peers";
        let why = whys.first().map_or("no probes are sent", String::as_str);
        Links::over(&tallies).ok_or_else(|| missing(format!("no peer can be probed: {why}"), next))
    }

    async fn links_to_discovered(&mut self) -> Result<Links, Missing> {
        const NEXT: &str = "name peers in [agent] peers, with :port over TCP";
        let mut found = discover().map_err(|why| missing(why, NEXT))?;
        found.truncate(self.peers_max);
        if found.is_empty() {
            return Err(missing(
                "the system knows no router and no neighbours",
                NEXT,
            ));
        }
        let targets: Vec<Target> = found.iter().map(|d| Target::Icmp(d.address)).collect();
        let mut whys = Vec::new();
        let mut probed = Vec::new();
        for (discovered, tally) in found.into_iter().zip(probe(&targets, self.round).await) {
            match tally {
                Ok(tally) => probed.push((discovered, tally)),
                Err(why) => whys.push(why),
            }
        }
        if let (true, Some(why)) = (probed.is_empty(), whys.into_iter().next()) {
            return Err(missing(why, PING_GROUP));
        }
        judge(&probed, &mut self.answered)
            .ok_or_else(|| missing("no router and no neighbour has answered an echo yet", NEXT))
    }
}

/// Between two probes to one peer, at most.
const GAP_MAX: Duration = Duration::from_millis(200);

/// For how long a name is not asked for again.
const NAME_LASTS: Duration = Duration::from_secs(600);

const PING_GROUP: &str =
    "sysctl -w net.ipv4.ping_group_range=\"0 2147483647\", or peers with :port over TCP";

const REACH: &str = "are the peers up? `ping` one";

const SENT_BY_THE_MESH: &str = "let the mesh's collector send it with POST /v1/metrics";

fn missing(why: impl Into<String>, next: &str) -> Missing {
    Missing {
        why: why.into(),
        next: next.to_owned(),
    }
}

/// What the probes of a round say of this host.
#[derive(Clone, Debug, PartialEq)]
struct Links {
    answered: u32,
    latency_ms: Option<f64>,
    loss_percent: f64,
}

impl Links {
    /// Over all of these peers; `None` when nothing was sent.
    fn over(tallies: &[Tally]) -> Option<Links> {
        let sent: u32 = tallies.iter().map(|t| t.sent).sum();
        let answers: u32 = tallies.iter().map(|t| t.answered).sum();
        let sum_ms: f64 = tallies.iter().map(|t| t.sum_ms).sum();
        (sent > 0).then(|| Links {
            answered: tallies.iter().filter(|t| t.answered > 0).count() as u32,
            latency_ms: (answers > 0).then(|| sum_ms / f64::from(answers)),
            loss_percent: 100.0 * f64::from(sent - answers) / f64::from(sent),
        })
    }
}

type HardwareAddress = [u8; 6];

/// A peer that the system knows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Discovered {
    address: IpAddr,
    hardware: Option<HardwareAddress>,
    router: bool,
}

/// What discovered peers say of this host; notes which routers answered. `None`: nothing.
fn judge(
    probed: &[(Discovered, Tally)],
    answered: &mut BTreeMap<IpAddr, Option<HardwareAddress>>,
) -> Option<Links> {
    let same = |then: &Option<HardwareAddress>, now: &Option<HardwareAddress>| {
        then == now || then.is_none() || now.is_none()
    };
    let counts = |(peer, tally): &&(Discovered, Tally)| {
        let known = || answered.get(&peer.address);
        let is_known = || known().is_some_and(|then| same(then, &peer.hardware));
        tally.answered > 0 || peer.router && tally.sent > 0 && is_known()
    };
    let counted: Vec<&(Discovered, Tally)> = probed.iter().filter(counts).collect();
    for (peer, _) in probed.iter().filter(|(p, t)| p.router && t.answered > 0) {
        answered.insert(peer.address, peer.hardware);
    }
    // A router before any neighbour, then the most answers, then the fastest ones.
    let best = counted.iter().max_by(|(a, x), (b, y)| {
        let rank = |peer: &Discovered, tally: &Tally| (peer.router, tally.answered);
        let faster = y.sum_ms.total_cmp(&x.sum_ms);
        rank(a, x).cmp(&rank(b, y)).then(faster)
    })?;
    let answered = counted.iter().filter(|(_, t)| t.answered > 0).count() as u32;
    let links = Links::over(&[best.1])?;
    Some(Links { answered, ..links })
}

/// Routers and neighbours that the system knows, routers first. Never this host itself.
#[cfg(target_os = "linux")]
fn discover() -> Result<Vec<Discovered>, String> {
    use procfs::net::{ARPFlags, arp, route};

    const UP: u16 = 1;
    let entries = arp().map_err(|error| format!("reading /proc/net/arp: {error}"))?;
    let neighbours: BTreeMap<IpAddr, Option<HardwareAddress>> = entries
        .into_iter()
        .filter(|entry| entry.flags.contains(ARPFlags::COM) && entry.device != "lo")
        .map(|entry| (entry.ip_address.into(), entry.hw_address))
        .collect();
    let routes = route().map_err(|error| format!("reading /proc/net/route: {error}"))?;
    let routers: std::collections::BTreeSet<IpAddr> = routes
        .iter()
        .filter(|r| r.destination.is_unspecified() && r.mask.is_unspecified())
        .filter(|r| r.flags & UP != 0 && !r.gateway.is_unspecified() && r.iface != "lo")
        .map(|r| r.gateway.into())
        .collect();
    let router = |address: &IpAddr| Discovered {
        address: *address,
        hardware: neighbours.get(address).copied().flatten(),
        router: true,
    };
    let neighbour = |(address, hardware): (&IpAddr, &Option<HardwareAddress>)| Discovered {
        address: *address,
        hardware: *hardware,
        router: false,
    };
    let others = neighbours.iter().filter(|(a, _)| !routers.contains(*a));
    let all = routers.iter().map(router).chain(others.map(neighbour));
    Ok(all.filter(|peer| !peer.address.is_loopback()).collect())
}

/// No other system is asked.
#[cfg(not(target_os = "linux"))]
fn discover() -> Result<Vec<Discovered>, String> {
    Err("peers are discovered on Linux only".to_owned())
}

/// A configured peer.
#[derive(Debug)]
struct Named {
    text: String,
    host: String,
    /// Over TCP; else by ICMP echo.
    port: Option<u16>,
    /// What its name meant, and until when that is not asked again.
    known: Option<(Target, Instant)>,
}

impl Named {
    /// Reads `HOST`, `HOST:PORT`, an address, or an IPv6 address in brackets with a port.
    fn parse(text: &str) -> Result<Named, AgentError> {
        let wrong = || {
            AgentError::Setting(format!(
                "[agent] peers: {text:?}, expected an address or a name, with :port over TCP"
            ))
        };
        let (host, port) = match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
            (Ok(ip), _) => (ip.to_string(), None),
            (_, Ok(address)) => (address.ip().to_string(), Some(address.port())),
            _ => match text.rsplit_once(':') {
                Some((host, port)) => (host.to_owned(), Some(port.parse().map_err(|_| wrong())?)),
                None => (text.to_owned(), None),
            },
        };
        let letters = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(letters) || port == Some(0) {
            return Err(wrong());
        }
        Ok(Named {
            text: text.to_owned(),
            host,
            port,
            known: None,
        })
    }

    /// Where it is; an old answer rather than none.
    async fn resolve(&mut self, limit: Duration) -> Result<Target, String> {
        match self.known {
            Some((target, until)) if Instant::now() < until => return Ok(target),
            _ => {}
        }
        let name = (self.host.as_str(), self.port.unwrap_or(0));
        let asked = timeout(limit, lookup_host(name)).await;
        let found = match asked {
            Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(mut addresses)) => addresses.next().ok_or("no address".to_owned()),
        };
        match (found, self.known) {
            (Ok(address), _) => {
                let target = match self.port {
                    Some(_) => Target::Tcp(address),
                    None => Target::Icmp(address.ip()),
                };
                self.known = Some((target, Instant::now() + NAME_LASTS));
                Ok(target)
            }
            (Err(_), Some((target, _))) => Ok(target),
            (Err(why), None) => Err(format!("asking where {} is: {why}", self.text)),
        }
    }

    /// Has the name asked for again, and keeps what it meant in case nobody answers.
    fn forget_time(&mut self) {
        self.known = self.known.map(|(target, _)| (target, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8, router: bool) -> Discovered {
        Discovered {
            address: IpAddr::from([10, 0, 0, last]),
            hardware: Some([last; 6]),
            router,
        }
    }

    fn tally(answered: u32, mean_ms: f64) -> Tally {
        Tally {
            sent: 5,
            answered,
            sum_ms: mean_ms * f64::from(answered),
        }
    }

    fn links(answered: u32, latency_ms: impl Into<Option<f64>>, loss_percent: f64) -> Links {
        Links {
            answered,
            latency_ms: latency_ms.into(),
            loss_percent,
        }
    }

    #[test]
    fn configured_peers_always_count() {
        assert_eq!(Links::over(&[]), None);
        let silent = tally(0, 0.0);
        assert_eq!(Links::over(&[silent]), Some(links(0, None, 100.0)));
        let both = [tally(5, 2.0), tally(4, 5.0), silent, silent];
        assert_eq!(Links::over(&both), Some(links(2, 30.0 / 9.0, 55.0)));
    }

    #[test]
    fn discovered_peers_that_never_answered_say_nothing() {
        let mut answered = BTreeMap::new();
        let silent = tally(0, 0.0);
        let round = [(peer(1, true), silent), (peer(2, false), silent)];
        assert_eq!(judge(&round, &mut answered), None);
        assert_eq!(judge(&[], &mut answered), None);
    }

    #[test]
    fn a_neighbour_that_fell_asleep_is_no_illness() {
        let mut answered = BTreeMap::new();
        let router = (peer(1, true), tally(5, 1.0));
        let awake = [router.clone(), (peer(2, false), tally(5, 3.0))];
        assert_eq!(judge(&awake, &mut answered), Some(links(2, 1.0, 0.0)));
        let drowsy = [router.clone(), (peer(2, false), tally(1, 800.0))];
        assert_eq!(judge(&drowsy, &mut answered), Some(links(2, 1.0, 0.0)));
        let asleep = [router, (peer(2, false), tally(0, 0.0))];
        assert_eq!(judge(&asleep, &mut answered), Some(links(1, 1.0, 0.0)));
        // Alone with it, and it sleeps: nothing is known.
        assert_eq!(judge(&asleep[1..], &mut answered), None);
    }

    #[test]
    fn a_router_that_answered_before_is_missed() {
        let mut answered = BTreeMap::new();
        judge(&[(peer(1, true), tally(5, 1.0))], &mut answered);
        let silent = tally(0, 0.0);
        let gone = [(peer(1, true), silent)];
        assert_eq!(judge(&gone, &mut answered), Some(links(0, None, 100.0)));
        let unresolved = Discovered {
            hardware: None,
            ..peer(1, true)
        };
        let lossy = [(unresolved, silent), (peer(2, false), tally(5, 1.0))];
        assert_eq!(judge(&lossy, &mut answered), Some(links(1, None, 100.0)));
    }

    #[test]
    fn another_router_at_the_same_address_must_answer_first() {
        let mut answered = BTreeMap::new();
        judge(&[(peer(1, true), tally(5, 1.0))], &mut answered);
        let elsewhere = Discovered {
            hardware: Some([9; 6]),
            ..peer(1, true)
        };
        assert_eq!(judge(&[(elsewhere, tally(0, 0.0))], &mut answered), None);
    }

    #[test]
    fn without_a_router_the_best_neighbour_speaks() {
        let mut answered = BTreeMap::new();
        let round = [
            (peer(2, false), tally(2, 1.0)),
            (peer(3, false), tally(5, 9.0)),
            (peer(4, false), tally(5, 4.0)),
        ];
        assert_eq!(judge(&round, &mut answered), Some(links(3, 4.0, 0.0)));
    }

    #[test]
    fn peers_are_addresses_or_names_with_or_without_a_port() {
        for (text, host, port) in [
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:22", "10.0.0.1", Some(22)),
            ("fe80::1", "fe80::1", None),
            ("[fd00::1]:22", "fd00::1", Some(22)),
            ("router.lan", "router.lan", None),
            ("router.lan:443", "router.lan", Some(443)),
        ] {
            let named = Named::parse(text).unwrap();
            assert_eq!((named.host.as_str(), named.port), (host, port), "{text}");
        }
        for text in [
            "",
            "a b",
            "host:",
            "host:x",
            ":22",
            "host:0",
            "host:99999",
            "h/ost",
        ] {
            let error = Named::parse(text).unwrap_err().to_string();
            assert!(error.contains("with :port over TCP"), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn what_is_not_measured_says_why_and_what_next() {
        let settings = AgentSettings {
            discover: false,
            ..AgentSettings::default()
        };
        let found = survey(&settings).await.unwrap();
        let measured = metrics(&found);
        assert!(measured.has(Metric::CpuPercent) && measured.has(Metric::MemoryPercent));
        assert_eq!(measured.count(), 2, "{found:?}");
        let why = |metric: Metric| {
            let survey = found.iter().find(|survey| survey.metric == metric);
            survey.unwrap().found.as_ref().unwrap_err().to_string()
        };
        assert!(why(Metric::PacketLoss).contains("discovery is off"));
        assert!(why(Metric::MttrMinutes).contains("POST /v1/metrics"));
    }

    #[tokio::test]
    async fn discovery_measures_or_says_why_not() {
        for survey in survey(&AgentSettings::default()).await.unwrap() {
            match survey.found {
                Ok(value) => assert!(survey.metric.admits(value), "{survey:?}"),
                Err(missing) => assert!(!missing.why.is_empty() && !missing.next.is_empty()),
            }
        }
    }
}
