//! Homeostat: a MAPE-K control loop as an event-sourced stream processor. This page is the map.
//!
//! # A sample's walk
//! 1. An agent's reading lies on `metrics`. [`wire`] reads its bytes, [`monitor`] judges whether it
//!    can be trusted: its values and names, its order by (boot, seq), its clock.
//! 2. [`analyze`] reads it into the node's row: phi, state, symptoms with latches, severity, the
//!    wish. What Plan may use and has not been told leaves as an `Assessment` on `plan-inbox`; a
//!    cycle that closed leaves on `cycles`.
//! 3. [`plan`] asks the wish its questions in order and answers with events: ordered, or withheld
//!    with the reason. [`knowledge`] alone turns an event into changed rows (`evolve`).
//! 4. The events stand on `events` for ever; an order leaves on `directives` in the same commit.
//! 5. [`execute`] is the agent's rule: begin each order once, report what came of it. The outcome
//!    lies on `metrics`, and the walk begins again.
//!
//! Time is the append time of the record in hand; an alarm fires before the record that carries its
//! time. [`topology`] wires the stages, [`runtime`] brings records to them and makes durable what
//! leaves, [`sim`] does all of that under seeded faults.
//!
//! # What holds, and the test that holds it
//! - Run, replay and audit decide the same, byte for byte: `tests/replay.rs`.
//! - What the log accepted is folded once, whatever fails, and rows never hold what the log has not
//!   committed: `tests/crash.rs`, `tests/crash_loop.rs`.
//! - A healthy mesh is left alone: `tests/quiet.rs`.
//! - Much of a mesh at once is not healed but reported: `tests/storm.rs`.
//! - One wrong clock moves nobody else's alarm, and the past causes no order: `tests/clocks.rs`.
//! - Every wish passes every question, in order; what waits is judged again when what held it ends;
//!   one record causes at most 256 events: `tests/plan.rs`.
//! - An order is begun once, and an act that may have been done is never repeated: the tests of
//!   [`execute`], and with a real agent that is killed `tests/agent.rs`.
//! - A bad record is a dead letter with its reason and stops nothing, nor does a panic:
//!   `tests/hostile.rs`.
//! - Nothing that a client of the door sends stops the loop, and what was answered is durable:
//!   `tests/door.rs`.
//! - Who comes to the door from elsewhere does and sees what their token or certificate allows, and
//!   nothing once it is taken away: `tests/tokens.rs`.
//! - `assess` answers as its contract says: `tests/vectors.rs`.
//! - Bytes once written are read for ever: `tests/golden.rs`.
//! - A changed leaf changes the root: the tests of [`knowledge::audit`].
//! - What others write means the same whenever it is folded, and what leaves in another form comes
//!   back as it was: `tests/formats.rs`.
//! - What others are told of records, topics and routes is what we read and write:
//!   `tests/asyncapi.rs`.
//! - An agent that is not ours, written from that page alone, does every order once:
//!   `tests/examples.rs`.
//! - Every back end of the log and of the rows keeps its port's promises: `tests/conformance.rs`.
//! - The real program, killed again and again under load, decides what an undisturbed one does; a
//!   full, damaged or read-only disk is said clearly and loses nothing acknowledged:
//!   `tests/processes`, and file by file `tests/embedded.rs`.
//! - A task's folder is the beginning of what was written, whatever ended it; a snapshot brings
//!   back the rows of its position byte for byte, or is passed over: `tests/rows.rs`.
//! - A log that grows, was trimmed or is held by another process reads the same:
//!   `tests/reading.rs`.
//! - The same on a real broker, through its death, a processor's, a zombie's and lost answers: all
//!   is folded once, and what is not the rows' own log is a clear stop: `tests/kafka`.
//! - A log on Kafka is opened once, under one id, whoever opens it: `tests/kafka_topics.rs`.
//! - An agent on Kafka loses no report and begins no order twice, whichever of the two is killed:
//!   `tests/kafka_agent.rs`.
//! - A log on brokers is read by every command and at every door as it stands there, partitions as
//!   one, and who comes back to follow misses nothing: `tests/kafka_reading.rs`.
//! - On a broker that asks for TLS, a certificate and a password, each kind of client can do what
//!   `topics acls` gives it, and nothing else: `tests/kafka_secure`.
//! - What people say is judged before it is sent, recorded once with who said it, and reaches every
//!   partition or none: `tests/processes`, `tests/door.rs`, `tests/kafka_reading.rs`.
//! - The rooms know only whom they may know, and the pure ones touch nothing: `tests/tidy.rs`.
//!
//! # The rooms
//! Pure: [`model`] (nouns), [`stream`] (the grammar of a stage), the five phases [`monitor`],
//! [`analyze`], [`plan`], [`execute`], [`knowledge`], which do not know each other, and [`wire`]
//! (bytes). Then [`runtime`] (ports, commit, the simulated log), the vendors `embedded`, `kafka`,
//! `rows` (the tasks' RocksDBs and their snapshots) and `registry` (other people's formats),
//! [`topology`] (the loop on one page), [`sim`], [`config`], `telemetry` (what it says of itself),
//! `web` (the door: HTTP) and [`cli`].

// Of the library alone: integration tests and benches may touch the world. `clippy.toml` says what
// to write instead; a room that must do it all the same says so where it is named below.
#![warn(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used
)]

#[cfg(feature = "agent")]
#[expect(
    clippy::disallowed_methods,
    reason = "the rim on a node: it owns files, sockets, processes and reads clocks"
)]
pub mod agent;
pub mod analyze;
#[expect(
    clippy::disallowed_methods,
    reason = "the rim: arguments, files, standard input and output"
)]
pub mod cli;
#[expect(
    clippy::disallowed_methods,
    reason = "the rim: it reads one file and the environment"
)]
pub mod config;
#[cfg(feature = "io")]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a vendor: it owns files, threads and locks"
)]
pub mod embedded;
pub mod execute;
#[cfg(feature = "io")]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a vendor: it owns connections, secrets' files, and reads clocks for its deadlines"
)]
pub mod kafka;
pub mod knowledge;
pub mod model;
pub mod monitor;
pub mod plan;
#[cfg(feature = "io")]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a vendor: it owns a connection, a thread, a file, a lock, and reads clocks"
)]
pub mod registry;
#[cfg(feature = "io")]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a vendor: it owns files, threads and locks"
)]
pub mod rows;
pub mod runtime;
pub mod sim;
pub mod stream;
#[cfg(feature = "agent")]
#[expect(
    clippy::disallowed_methods,
    reason = "the rim: it writes to standard error"
)]
pub mod telemetry;
pub mod topology;
#[cfg(feature = "io")]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the door: it owns sockets, their time-outs and locks"
)]
pub mod web;
pub mod wire;
