//! Clients by the thousand, and bodies by the gigabyte: limited answers, and the loop goes on.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::process::{Home, Processor, until};

const CONFIG: &str = "
[agent]
enabled = false
[log]
min_free_mib = 1
write_buffer_mib = 16
";

/// Where the door listens.
fn address(home: &Home) -> SocketAddr {
    let holder = std::fs::read_to_string(home.data().join("holder.json")).unwrap();
    let holder: Value = serde_json::from_str(&holder).unwrap();
    let listen = holder["listen"].as_str().unwrap();
    listen.strip_prefix("http://").unwrap().parse().unwrap()
}

fn resident_mib(processor: &Processor) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", processor.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() / 1024
}

fn goes_on(processor: &Processor, seq: i64) {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let line = format!(
        "{{\"mesh_id\":\"m\",\"node_id\":\"n\",\"seq\":{seq},\"time\":{now},\"cpu_percent\":50}}"
    );
    assert_eq!(processor.post(&line).unwrap().status, 200);
    processor.settle();
}

#[test]
fn ten_thousand_connections_are_answered_or_turned_away_and_the_loop_goes_on() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let wanted = (CONNECTIONS as u64 + 500).min(most);
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let connections = CONNECTIONS.min(wanted as usize - 400);
    let home = Home::new("flood", CONFIG);
    let processor = home.run();
    let address = address(&home);
    goes_on(&processor, 1);
    let mut open = Vec::new();
    let mut refused = 0;
    for i in 0..connections {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(mut stream) => {
                // Some say nothing, some rubbish, some half a request.
                let words: &[u8] = match i % 3 {
                    0 => b"",
                    1 => b"\x16\x03\x01 garbage \x00\xff\r\n\r\n",
                    _ => b"POST /v1/metrics HTTP/1.1\r\nContent-Length: 99\r\n",
                };
                // One that was turned away is no error.
                let _ = stream.write_all(words);
                open.push(stream);
            }
            Err(_) => refused += 1,
        }
        if i % 2_500 == 2_499 {
            goes_on(&processor, 2 + i as i64);
        }
    }
    assert!(
        refused < connections / 10,
        "{refused} of {connections} were not even heard"
    );
    goes_on(&processor, 1_000_000);
    let resident = resident_mib(&processor);
    assert!(
        resident < 200,
        "{resident} MiB for {connections} connections"
    );
    // Those who never say what they want are let go.
    until(Duration::from_secs(40), "all are let go", || {
        open.retain_mut(|stream| {
            stream.set_nonblocking(true).unwrap();
            let mut bytes = [0; 512];
            // What is left to read is an answer; then the end or a reset.
            match stream.read(&mut bytes) {
                Ok(0) => false,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
                Ok(_) => true,
            }
        });
        open.is_empty()
    });
    goes_on(&processor, 2_000_000);
    assert!(processor.stop().success());
}

#[test]
fn a_gigabyte_is_refused_before_it_is_sent() {
    let home = Home::new("gigabyte", CONFIG);
    let processor = home.run();
    for head in [
        "Content-Length: 1073741824\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let mut stream = TcpStream::connect(address(&home)).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        write!(
            stream,
            "POST /v1/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n"
        )
        .unwrap();
        let block = [b'x'; 65_536];
        let mut sent = 0_u64;
        while sent < 1 << 30 {
            let chunk = match head.starts_with('T') {
                true => [b"10000\r\n", &block[..], b"\r\n"].concat(),
                false => block.to_vec(),
            };
            if stream.write_all(&chunk).is_err() {
                break;
            }
            sent += chunk.len() as u64;
        }
        assert!(sent < 100 << 20, "{head}: {sent} bytes were taken");
        let resident = resident_mib(&processor);
        assert!(resident < 150, "{head}: {resident} MiB");
    }
    goes_on(&processor, 1);
}

const CONNECTIONS: usize = 10_000;
