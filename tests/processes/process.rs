//! Real processes: `homeostat run` on a folder of a test's own, killed with its parent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use homeostat::agent::client::{Answer, Client, ClientError, Server};

/// A folder of a test's own, removed at its end: data in `data`, the configuration beside it.
pub struct Home(pub PathBuf);

impl Home {
    /// An empty one with this configuration.
    pub fn new(name: &str, config: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("homeostat-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Home::at(dir, config)
    }

    /// The same in a folder that is there already.
    pub fn at(dir: PathBuf, config: &str) -> Self {
        fs::write(dir.join("homeostat.toml"), config).unwrap();
        Home(dir)
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// A command on this folder.
    pub fn command(&self, args: &[&str]) -> Command {
        // Dead with its parent, however that dies.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_homeostat")])
            .args(args)
            .arg("--config")
            .arg(self.0.join("homeostat.toml"))
            .arg("--data")
            .arg(self.data());
        command
    }

    /// What a command on this folder says.
    pub fn ask(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program starts")
    }

    /// What a command that must succeed prints.
    pub fn lines(&self, args: &[&str]) -> Vec<String> {
        let output = self.ask(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// A processor on this folder, once it is ready.
    pub fn run(&self) -> Processor {
        self.start(&[], &[])
    }

    /// The same with more arguments.
    pub fn run_with(&self, args: &[&str]) -> Processor {
        self.start(args, &[])
    }

    /// The same with more in its environment.
    pub fn run_seeing(&self, environment: &[(&str, &str)]) -> Processor {
        self.start(&[], environment)
    }

    fn start(&self, args: &[&str], environment: &[(&str, &str)]) -> Processor {
        let said = fs::File::options()
            .create(true)
            .append(true)
            .open(self.0.join("stderr"))
            .unwrap();
        let child = self
            .command(&[&["run", "--listen", "127.0.0.1:0"], args].concat())
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .expect("the program starts");
        let mut processor = Processor {
            child,
            socket: self.data().join("homeostat.sock"),
        };
        let pid = processor.child.id();
        let ours = || {
            let holder = fs::read_to_string(self.data().join("holder.json")).unwrap_or_default();
            // Not the socket of one that was killed before.
            holder.contains(&format!("\"pid\":{pid},")) && holder.contains("listen")
        };
        until(START, "the processor is ready", || {
            if let Some(status) = processor.child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", self.said());
            }
            ours()
                && processor
                    .get("/readyz")
                    .is_ok_and(|answer| answer.status == 200)
        });
        processor
    }

    /// What processors on this folder said on standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(self.0.join("stderr")).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{} said:\n{}", self.0.display(), self.said());
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A processor that runs.
pub struct Processor {
    child: Child,
    socket: PathBuf,
}

impl Processor {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it in the middle of whatever it does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end and waits.
    pub fn stop(mut self) -> ExitStatus {
        let pid = self.pid().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        self.wait(Duration::from_secs(15))
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut ended = None;
        until(limit, "the processor ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.expect("waited for")
    }

    /// A request through its socket.
    pub fn get(&self, path: &str) -> Result<Answer, ClientError> {
        send(&self.socket, "GET", path, Vec::new())
    }

    /// Samples as JSON lines through its socket.
    pub fn post(&self, lines: &str) -> Result<Answer, ClientError> {
        send(
            &self.socket,
            "POST",
            "/v1/metrics",
            lines.as_bytes().to_vec(),
        )
    }

    /// Waits until everything sent is folded and decided.
    pub fn settle(&self) {
        until(Duration::from_secs(60), "everything is folded", || {
            let answer = self.get("/v1/log").expect("the processor answers");
            let log: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            let of = |list: &str, topic: &str, field: &str| {
                let rows = log[list].as_array().unwrap();
                let row = rows.iter().find(|row| row["topic"] == topic);
                row.map_or(0, |row| row[field].as_i64().unwrap())
            };
            ["metrics", "plan-inbox"]
                .iter()
                .all(|topic| of("topics", topic, "end") == of("positions", topic, "next"))
        });
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request through a socket.
pub fn send(socket: &Path, method: &str, path: &str, body: Vec<u8>) -> Result<Answer, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = Client::new(Server::Socket(socket.to_owned()), Duration::from_secs(10));
    let kind = (method == "POST").then_some("application/x-ndjson");
    runtime.block_on(client.send(method, path, kind.unwrap_or_default(), body))
}

/// Waits for a condition, or fails at the deadline.
pub fn until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// How long a processor may take to be ready.
const START: Duration = Duration::from_secs(30);
