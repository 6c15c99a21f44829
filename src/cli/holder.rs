//! The process that holds a data folder, asked through its socket: what it answers, and its log as
//! a [`Source`].

use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::runtime::Runtime;

use crate::agent::client::{Answer, Client, ClientError, Server};
use crate::runtime::frame::{FrameError, LogState, read_chunk, read_rows};
use crate::runtime::{
    Chunk, KeyValue, LogError, Position, RowsCopy, Source, Title, TopicPartition,
};

/// The holder of a folder.
#[derive(Clone)]
pub(super) struct Holder(Rc<Talk>);

struct Talk {
    runtime: Runtime,
    client: Client,
}

impl Holder {
    /// The holder of a folder; `None` when nobody answers there.
    pub(super) fn find(dir: &Path) -> anyhow::Result<Option<Holder>> {
        Holder::find_patient(dir, ANSWER_MAX)
    }

    /// The same, to be asked for what may take so long.
    pub(super) fn find_patient(dir: &Path, answer_max: Duration) -> anyhow::Result<Option<Holder>> {
        let server = Server::of_folder(dir);
        if let Server::Socket(path) = &server
            && !path.exists()
        {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting to talk with the holder")?;
        let client = Client::new(server, answer_max);
        let holder = Holder(Rc::new(Talk { runtime, client }));
        match holder.ask("GET", "/v1/log", "", Vec::new()) {
            // A socket that was left behind by who was killed.
            Err(ClientError::Connect { source, .. })
                if matches!(
                    source.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::NotFound
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(Some(holder)),
        }
    }

    /// Asks for something.
    pub(super) fn ask(
        &self,
        method: &str,
        path_and_query: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Answer, ClientError> {
        let Talk { runtime, client } = &*self.0;
        runtime.block_on(client.send(method, path_and_query, content_type, body))
    }

    /// Asks for something and expects to get it.
    pub(super) fn get(&self, path_and_query: &str) -> anyhow::Result<Vec<u8>> {
        let answer = self.ask("GET", path_and_query, "", Vec::new())?;
        if answer.status != 200 {
            bail!(self.refused(path_and_query, &answer));
        }
        Ok(answer.body)
    }

    /// Tells it to do something and expects it done.
    pub(super) fn post(&self, path: &str, body: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let answer = self.ask("POST", path, "application/json", body)?;
        if answer.status != 200 {
            bail!(self.refused(path, &answer));
        }
        Ok(answer.body)
    }

    /// Its log, to be read.
    pub(super) fn source(&self) -> HolderSource {
        HolderSource(self.clone())
    }

    fn refused(&self, what: &str, answer: &Answer) -> String {
        let words = String::from_utf8_lossy(&answer.body);
        let words: String = words.trim().chars().take(WORDS_MAX).collect();
        let (server, status) = (self.0.client.server(), answer.status);
        format!("asking {server} for {what}: it answered {status}: {words}")
    }
}

/// The log of a folder, read through its holder.
pub(super) struct HolderSource(Holder);

impl HolderSource {
    fn get(&self, path_and_query: &str) -> Result<Vec<u8>, LogError> {
        let failed = |error: anyhow::Error| LogError::Failed(format!("{error:#}"));
        self.0.get(path_and_query).map_err(failed)
    }

    fn state(&self) -> Result<LogState, LogError> {
        let body = self.get("/v1/log")?;
        serde_json::from_slice(&body).map_err(|error| strange("/v1/log", &error.to_string()))
    }
}

impl Source for HolderSource {
    fn title(&mut self) -> Result<Title, LogError> {
        Ok(self.state()?.title())
    }

    fn start(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        Ok(self.state()?.topic(of).map_or(0, |topic| topic.start))
    }

    fn end(&mut self, of: TopicPartition) -> Result<i64, LogError> {
        Ok(self.state()?.topic(of).map_or(0, |topic| topic.end))
    }

    fn position(&mut self, inbox: TopicPartition) -> Result<Option<Position>, LogError> {
        Ok(self.state()?.position(inbox))
    }

    fn read(
        &mut self,
        of: TopicPartition,
        from: i64,
        to: i64,
        records_max: usize,
    ) -> Result<Chunk, LogError> {
        let topic = of.topic.name();
        let mut path = format!("/v1/log/{topic}?from={from}&to={to}&limit={records_max}");
        if of.partition > 0 {
            path += &format!("&partition={}", of.partition);
        }
        let chunk = read_chunk(&self.get(&path)?).map_err(|error| cut(&path, &error))?;
        if chunk.next <= from {
            return Err(strange(
                &path,
                &format!("next {} does not move", chunk.next),
            ));
        }
        Ok(chunk)
    }

    fn copies(&mut self, stage: &str) -> Result<Vec<RowsCopy>, LogError> {
        let path = format!("/v1/log/copies/{stage}");
        serde_json::from_slice(&self.get(&path)?)
            .map_err(|error| strange(&path, &error.to_string()))
    }

    fn copied_rows(
        &mut self,
        copy: &RowsCopy,
        after: &[u8],
        rows_max: usize,
    ) -> Result<Vec<KeyValue>, LogError> {
        let after: String = after.iter().map(|byte| format!("{byte:02x}")).collect();
        let (stage, id) = (&copy.stage, copy.id);
        let path = format!("/v1/log/copies/{stage}/{id}?after={after}&limit={rows_max}");
        read_rows(&self.get(&path)?).map_err(|error| cut(&path, &error))
    }
}

fn cut(what: &str, error: &FrameError) -> LogError {
    strange(what, &error.to_string())
}

fn strange(what: &str, detail: &str) -> LogError {
    LogError::Failed(format!(
        "reading {what} through the holder: {detail}; is it of the same version as this program?"
    ))
}

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How much of a refusal is repeated, characters.
const WORDS_MAX: usize = 500;
