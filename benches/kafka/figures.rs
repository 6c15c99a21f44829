//! What is measured between two moments.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::broker::cpu_of;

/// A moment, and how many records were done by then.
pub struct Mark {
    at: Instant,
    records: u64,
    own: Duration,
    broker: Duration,
}

impl Mark {
    pub fn now(records: u64, broker_pid: u32) -> Self {
        Mark {
            at: Instant::now(),
            records,
            own: own_cpu(),
            broker: cpu_of(broker_pid),
        }
    }

    /// What it took since then, a record.
    pub fn figures(&self, records: u64, broker_pid: u32) -> String {
        let now = Mark::now(records, broker_pid);
        let count = (now.records - self.records) as f64;
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count;
        format!(
            "{:>9.0} events/s  {:>6.2} us of CPU an event  {:>6.2} the broker's",
            count / (now.at - self.at).as_secs_f64(),
            each(now.own - self.own),
            each(now.broker - self.broker)
        )
    }
}

fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What a process has in memory, and the most it had.
pub fn memory_mib(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or_default() / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}
