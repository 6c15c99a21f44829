//! Where snapshots lie: named objects, each written whole. Calls block; what is asynchronous below
//! runs on a thread of this module's own.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Name;
use object_store::{
    ClientConfigKey, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::model::Time;

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name, without the folder that was listed.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written, by the store's own clock.
    pub at: Time,
}

/// The store could not do what was asked: what was attempted, on what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ObjectsError(pub String);

/// Named objects. Names are parts joined by `/`; an object is there whole or not at all.
pub trait Objects: Send + Sync {
    /// What lies in a folder, without what lies in folders below it.
    ///
    /// # Errors
    /// The store cannot be reached or read.
    fn list(&self, folder: &str) -> Result<Vec<Object>, ObjectsError>;

    /// An object's bytes; `None`: it is not there.
    ///
    /// # Errors
    /// The store cannot be reached or read.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ObjectsError>;

    /// Writes an object.
    ///
    /// # Errors
    /// Whether it was written cannot be told.
    fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), ObjectsError>;

    /// Writes an object where none is; `false`: there is one, and it stays.
    ///
    /// # Errors
    /// Whether it was written cannot be told.
    fn put_new(&self, name: &str, bytes: Vec<u8>) -> Result<bool, ObjectsError>;

    /// Removes an object, if it is there.
    ///
    /// # Errors
    /// Whether it was removed cannot be told.
    fn delete(&self, name: &str) -> Result<(), ObjectsError>;

    /// Ends what is under way and all that is asked from now on, with an error.
    fn stop(&self);
}

/// The objects behind a URL.
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
    /// Where ours begin.
    root: Name,
    /// As the configuration names it.
    url: String,
    runtime: Handle,
    stopping: AtomicBool,
    /// Ends the thread when it goes.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Remote {
    /// The store that a URL names; reaches nobody.
    ///
    /// # Errors
    /// The URL names none that this program knows, or what it needs is missing.
    pub fn open(url: &str) -> Result<Self, ObjectsError> {
        let failed = |error: &dyn fmt::Display| {
            ObjectsError(format!(
                "snapshots.url = {url:?}: {error}; expected file:///path, or s3://bucket/prefix \
                 with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION (and \
                 AWS_ENDPOINT_URL) in the environment"
            ))
        };
        let (store, root): (Arc<dyn ObjectStore>, &str) = if let Some(rest) =
            url.strip_prefix("s3://")
        {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            ensure_ciphers();
            let retry = RetryConfig {
                max_retries: RETRIES_MAX,
                retry_timeout: RETRY_FOR,
                ..RetryConfig::default()
            };
            let store = AmazonS3Builder::from_env()
                .with_bucket_name(bucket)
                .with_retry(retry)
                .with_config(
                    AmazonS3ConfigKey::Client(ClientConfigKey::Timeout),
                    REQUEST_MAX,
                )
                .build()
                .map_err(|error| failed(&error))?;
            (Arc::new(store), prefix)
        } else if let Some(path) = url.strip_prefix("file://") {
            std::fs::create_dir_all(path).map_err(|error| failed(&error))?;
            let store = LocalFileSystem::new_with_prefix(path).map_err(|error| failed(&error))?;
            (Arc::new(store.with_fsync(true)), "")
        } else {
            return Err(failed(&"not a store that this program knows"));
        };
        let root = Name::parse(root).map_err(|error| failed(&error))?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_MAX)
            .build()
            .map_err(|error| failed(&error))?;
        let (end, ended) = oneshot::channel::<()>();
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new()
            .name("objects".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(ended);
                runtime.shutdown_background();
            })
            .map_err(|error| failed(&error))?;
        Ok(Remote {
            store,
            root,
            url: url.to_owned(),
            runtime: handle,
            stopping: AtomicBool::new(false),
            end: Some(end),
            thread: Some(thread),
        })
    }

    fn name(&self, name: &str) -> Name {
        name.split('/')
            .fold(self.root.clone(), |path, part| path.join(part))
    }

    /// Has something done on the thread, and waits.
    fn wait<T: Send + 'static>(
        &self,
        attempt: &str,
        name: &str,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T, ObjectsError> {
        let failed = |error: &dyn fmt::Display| {
            let url = self.url.trim_end_matches('/');
            ObjectsError(format!("{attempt} {url}/{name}: {error}"))
        };
        let (answer, answered) = mpsc::sync_channel(1);
        let task = self.runtime.spawn(async move {
            // Nobody waits any more only where it was stopped.
            let _ = answer.send(work.await);
        });
        loop {
            if self.stopping.load(Ordering::Relaxed) {
                task.abort();
                return Err(failed(&"the process ends"));
            }
            match answered.recv_timeout(STOP_WITHIN) {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => return Err(failed(&causes(&error))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(failed(&"its thread ended")),
            }
        }
    }
}

impl Objects for Remote {
    fn list(&self, folder: &str) -> Result<Vec<Object>, ObjectsError> {
        let (store, prefix) = (self.store.clone(), self.name(folder));
        let listed = self.wait("listing", folder, async move {
            store.list_with_delimiter(Some(&prefix)).await
        })?;
        let object = |meta: object_store::ObjectMeta| {
            Some(Object {
                name: meta.location.filename()?.to_owned(),
                bytes: meta.size,
                at: Time(meta.last_modified.timestamp_millis()),
            })
        };
        Ok(listed.objects.into_iter().filter_map(object).collect())
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ObjectsError> {
        let (store, path) = (self.store.clone(), self.name(name));
        self.wait("reading", name, async move {
            match store.get(&path).await {
                Ok(found) => Ok(Some(found.bytes().await?.to_vec())),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), ObjectsError> {
        let (store, path) = (self.store.clone(), self.name(name));
        self.wait("writing", name, async move {
            store.put(&path, PutPayload::from(bytes)).await.map(|_| ())
        })
    }

    fn put_new(&self, name: &str, bytes: Vec<u8>) -> Result<bool, ObjectsError> {
        let (store, path) = (self.store.clone(), self.name(name));
        self.wait("writing", name, async move {
            let payload = PutPayload::from(bytes);
            match store.put_opts(&path, payload, PutMode::Create.into()).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn delete(&self, name: &str) -> Result<(), ObjectsError> {
        let (store, path) = (self.store.clone(), self.name(name));
        self.wait("removing", name, async move {
            match store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.stop();
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it was answered to who waited.
            let _ = thread.join();
        }
    }
}

/// rustls asks the process which ciphers to use: ring's, unless somebody chose before.
fn ensure_ciphers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// An error with what caused it, each said once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = inner.source();
    }
    words
}

/// Reads and writes of a local folder at a time.
const BLOCKING_MAX: usize = 4;

/// How soon a call ends after [`Objects::stop`].
const STOP_WITHIN: Duration = Duration::from_millis(50);

/// How long one request may take: that of a file of 64 MiB at 1 MiB/s, and some more.
const REQUEST_MAX: &str = "120 s";

/// How often a request is tried again.
const RETRIES_MAX: usize = 8;

/// For how long.
const RETRY_FOR: Duration = Duration::from_secs(60);
