//! What people say to Plan: `POST /v1/policy`, `/v1/holds`, `/v1/approvals`; and `GET /v1/policy`,
//! what is in force.
//!
//! What Plan would reject is refused at once, with what is there instead (`topology/say.rs`); the
//! rest is answered when it is durable. Sent again it changes nothing more.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::model::{MeshId, NodeId, NodeKey};
use crate::runtime::{Store, TimeSource};
use crate::stream::Topic;
use crate::topology::now::NowError;
use crate::topology::say::{Known, Said, SayError, Whom, commitment, hex};

use super::Door;
use super::access::Asker;
use super::answer::{Refusal, json, lines};
use super::caller::Caller;
use super::ingest::{durable, not_kept};
use super::nodes::PLAN;
use super::query::Asked;

/// Who says something.
pub(super) struct Speaker {
    /// What they showed, and what they may.
    pub(super) by: Arc<Asker>,
    /// Whose process it is where nothing was to be shown.
    pub(super) caller: Caller,
}

impl Speaker {
    /// What records call them. Reads files of the system.
    fn name(&self) -> String {
        match self.by.is_named() {
            true => self.by.name.clone(),
            false => self.caller.name(),
        }
    }

    /// Lets who may decide in a mesh pass; the empty one stands for all. Which mesh it is, who may
    /// not is not told.
    fn ensure_decides(&self, mesh: &MeshId) -> Result<(), Refusal> {
        match self.by.sees(mesh) {
            true => Ok(()),
            false => Err(self.by.forbidden(&format!(
                "it reaches beyond the meshes in which {:?} may decide",
                self.by.name
            ))),
        }
    }

    /// Why what they say is refused; who sees some meshes only is told nothing of the others.
    fn refused(&self, error: SayError) -> Refusal {
        match (&error, self.by.sees_all("this")) {
            (SayError::Unknown(_) | SayError::Conflict(_), Err(_)) => Refusal::not_found(
                "nothing there that this can mean, or not in a mesh of yours: name it as \
                 MESH/NODE; GET /v1/nodes lists what you may see",
            ),
            _ => refused(error),
        }
    }
}

/// `POST /v1/policy?mesh=`: the body is the policy's TOML; without a mesh for all.
///
/// # Errors
/// It is no policy, the mesh is unknown, or nobody can say whether it is durable.
pub(super) async fn policy(
    door: &Arc<Door>,
    by: Speaker,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let asked = Asked::read(uri, &["mesh"])?;
    let body = door.bodies.read(headers, body).await?;
    let text = std::str::from_utf8(&body)
        .map_err(|error| Refusal::bad(format!("reading the policy: {error}; expected TOML")))?;
    let said = Said::Policy {
        mesh: asked.mesh.unwrap_or_else(MeshId::none),
        text: text.to_owned(),
    };
    say(door, by, said, None).await
}

/// `POST /v1/holds`: `{"who"|"mesh_id","node_id"|"all", "for_s"?, "reason"?, "release"?}`.
///
/// # Errors
/// It means nothing, nobody is meant, there is nothing to release, or nobody can say whether it is
/// durable.
pub(super) async fn hold(
    door: &Arc<Door>,
    by: Speaker,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let body = door.bodies.read(headers, body).await?;
    let expected = "{\"who\": \"NODE, MESH/NODE or MESH\", \"for_s\": 7200, \"reason\": \"why\"}, \
                    with \"mesh_id\" and \"node_id\" or \"all\": true instead of who, and \
                    \"release\": true to end one";
    let asked: HoldAsked = object(&body, expected)?;
    let whom = asked.whom(expected)?;
    if asked.release {
        if asked.for_s.is_some() || asked.reason.is_some() {
            return Err(Refusal::bad(
                "a release with for_s or reason: expected neither, it counts at once",
            ));
        }
        return say(door, by, Said::Release { whom }, None).await;
    }
    let for_ms = match asked.for_s {
        Some(for_s) if !(1..=FOR_S_MAX).contains(&for_s) => {
            return Err(Refusal::bad(format!(
                "for_s = {for_s}: expected 1 to {FOR_S_MAX}; without it a hold lasts until it is \
                 released"
            )));
        }
        for_s => for_s.map(|for_s| for_s * 1000),
    };
    let reason = match asked.reason.as_deref() {
        None | Some("") => None,
        Some(words) => {
            let salt = draw_salt()
                .map_err(|error| Refusal::failed("drawing a salt for the reason", &error))?;
            Some((commitment(&salt, words), hex(&salt)))
        }
    };
    let said = Said::Hold {
        whom,
        for_ms,
        reason: reason
            .as_ref()
            .map_or(String::new(), |(made, _)| made.clone()),
    };
    say(door, by, said, reason).await
}

/// `POST /v1/approvals`: `{"id", "approved"?}`.
///
/// # Errors
/// It means nothing, nothing waits under this id, or nobody can say whether it is durable.
pub(super) async fn approval(
    door: &Arc<Door>,
    by: Speaker,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let body = door.bodies.read(headers, body).await?;
    let expected = "{\"id\": \"wh-..\", \"approved\": true}, false to reject";
    let AnswerAsked { id, approved } = object(&body, expected)?;
    say(door, by, Said::Answer { id, approved }, None).await
}

/// `GET /v1/policy`: what is in force, per mesh, one object a line; the empty mesh id is what holds
/// for meshes that are opened from now on.
///
/// # Errors
/// Rows or events cannot be read.
pub(super) async fn in_force(
    door: &Arc<Door>,
    by: Arc<Asker>,
    uri: &Uri,
) -> Result<Response, Refusal> {
    let asked = by.of(Asked::read(uri, &["mesh"])?.mesh)?;
    door.read(move |door| {
        let all = known(door, |known| known.policies())?;
        let all = all.map_err(|error| refused(error.into()))?;
        let wanted = all
            .iter()
            .filter(|policy| by.sees(&policy.mesh))
            .filter(|policy| asked.as_ref().is_none_or(|mesh| *mesh == policy.mesh));
        let text: String = wanted.map(|policy| policy.json() + "\n").collect();
        Ok(super::nodes::with_held(door, lines(text)))
    })
    .await
}

/// Judges, appends and answers what `by` says. `reason`: what was committed to, and the salt.
async fn say(
    door: &Arc<Door>,
    by: Speaker,
    said: Said,
    reason: Option<(String, String)>,
) -> Result<Response, Refusal> {
    let (kept, answer) = door
        .write(move |door| {
            let name = by.name();
            let ready = known(door, |known| known.judge(&said, &name))?;
            let ready = ready.map_err(|error| by.refused(error))?;
            by.ensure_decides(&ready.mesh)?;
            let kept = ready.incoming().map(|record| {
                let kept = match ready.mesh.is_none() {
                    true => door.log.append_to_all(Topic::PlanInbox, record),
                    false => door.log.append(Topic::PlanInbox, vec![record]),
                };
                kept.map_err(not_kept)
            });
            let mut told = ready.json(&name);
            if let Some((made, salt)) = &reason {
                // The object's last brace makes room for it.
                told.pop();
                told += &format!(",\"reason\":\"{made}\",\"reason_salt\":\"{salt}\"}}");
            }
            Ok((kept.transpose()?, json(StatusCode::OK, told)))
        })
        .await?;
    if let Some(kept) = kept {
        durable(door, kept).await?;
    }
    Ok(answer)
}

/// Asks what is known here.
fn known<T>(door: &Door, ask: impl FnOnce(&mut Known<'_>) -> T) -> Result<T, Refusal> {
    let Some(title) = door.log.title() else {
        return Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the log is not opened yet: nobody could decide; start `homeostat run`",
        ));
    };
    let rows: Vec<(i32, std::rc::Rc<dyn Store>)> = door.log.rows(PLAN);
    let mut source = door.source()?;
    Ok(ask(&mut Known {
        partitions: title.partitions,
        rows: Some(&rows),
        source: &mut *source,
        now: match title.time_source {
            TimeSource::Log => Some(door.log.now()),
            TimeSource::Sample => None,
        },
    }))
}

fn refused(error: SayError) -> Refusal {
    let status = match &error {
        SayError::Bad(_) => StatusCode::BAD_REQUEST,
        SayError::Unknown(_) => StatusCode::NOT_FOUND,
        SayError::Conflict(_) => StatusCode::CONFLICT,
        SayError::Now(NowError::Moved) => {
            return Refusal::later(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), 1);
        }
        SayError::Now(error) => return Refusal::failed("reading what is known", error),
    };
    Refusal::new(status, error.to_string())
}

fn object<T: DeserializeOwned>(body: &[u8], expected: &str) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::bad(format!("reading the body: {error}; expected {expected}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldAsked {
    who: Option<String>,
    mesh_id: Option<String>,
    node_id: Option<String>,
    #[serde(default)]
    all: bool,
    for_s: Option<i64>,
    reason: Option<String>,
    #[serde(default)]
    release: bool,
}

impl HoldAsked {
    fn whom(&self, expected: &str) -> Result<Whom, Refusal> {
        let name = |what: &str| Refusal::bad(format!("{what}: expected a name of 1 to 255 bytes"));
        let mesh = match &self.mesh_id {
            None => None,
            Some(mesh) => Some(
                MeshId::parse(mesh)
                    .filter(|mesh| !mesh.is_none())
                    .ok_or_else(|| name("mesh_id"))?,
            ),
        };
        let node = match &self.node_id {
            None => None,
            Some(node) => Some(NodeId::parse(node).ok_or_else(|| name("node_id"))?),
        };
        match (self.all, &self.who, mesh, node) {
            (true, None, None, None) => Ok(Whom::All),
            (false, Some(who), None, None) => Ok(Whom::Named(who.clone())),
            (false, None, Some(mesh), None) => Ok(Whom::Mesh(mesh)),
            (false, None, Some(mesh), Some(node)) => Ok(Whom::Node(NodeKey { mesh, node })),
            _ => Err(Refusal::bad(format!("who is meant? expected {expected}"))),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerAsked {
    id: String,
    #[serde(default = "yes")]
    approved: bool,
}

fn yes() -> bool {
    true
}

/// Salt for a commitment.
///
/// # Errors
/// The system has none.
pub fn draw_salt() -> std::io::Result<[u8; 32]> {
    use std::io::Read as _;
    let mut salt = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut salt)?;
    Ok(salt)
}

/// Longest hold with an end, s: ten years.
pub const FOR_S_MAX: i64 = 3650 * 86_400;
