//! Which path leads where.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tracing::{debug, info, warn};

use crate::model::edit_distance;
use crate::stream::Topic;

use super::access::{Access, Asker, Needs, needs};
use super::answer::Refusal;
use super::caller::Caller;
use super::say::{self, Speaker};
use super::tls::Peer;
use super::{Door, explain, follow, guard, health, incidents, ingest, links, metrics, nodes, raw};

/// By which way a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// An address: anyone who can reach it.
    Tcp,
    /// The socket in the folder: who may open it.
    Socket,
}

impl Via {
    /// What the log calls who needed to show nothing else.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Via::Tcp => "loopback",
            Via::Socket => "socket",
        }
    }
}

/// Every route, as documented.
pub(super) const ROUTES: [&str; 25] = [
    "/",
    "/livez",
    "/readyz",
    "/metrics",
    "/v1/metrics",
    "/v1/outcomes",
    "/v1/policy",
    "/v1/holds",
    "/v1/approvals",
    "/v1/events",
    "/v1/directives",
    "/v1/cycles",
    "/v1/nodes",
    "/v1/nodes/{mesh}/{node}",
    "/v1/nodes/{mesh}/{node}/windows",
    "/v1/incidents",
    "/v1/explain/{id}",
    "/v1/topology",
    "/v1/log",
    "/v1/log/{topic}",
    "/v1/log/copies/{stage}",
    "/v1/log/copies/{stage}/{id}",
    "/v1/backup",
    "/v1/",
    "/v1",
];

type Answered = Result<Response, Refusal>;
type Shared = State<Arc<Door>>;
/// Who asks: put there by [`pass`].
type By = Extension<Arc<Asker>>;

/// The routes, for requests that come by this way.
pub(super) fn router(door: &Arc<Door>, access: &Arc<Access>, via: Via) -> Router {
    Router::new()
        .route("/", get(dashboard))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(prometheus))
        .route("/v1", get(routes))
        .route("/v1/", get(routes))
        .route("/v1/metrics", post(samples))
        .route("/v1/outcomes", post(outcomes))
        .route("/v1/policy", get(policies).post(policy))
        .route("/v1/holds", post(holds))
        .route("/v1/approvals", post(approvals))
        .route("/v1/events", get(events))
        .route("/v1/directives", get(directives))
        .route("/v1/cycles", get(cycles))
        .route("/v1/nodes", get(all_nodes))
        .route("/v1/nodes/{mesh}/{node}", get(one_node))
        .route("/v1/nodes/{mesh}/{node}/windows", get(windows))
        .route("/v1/incidents", get(all_incidents))
        .route("/v1/explain/{id}", get(why))
        .route("/v1/topology", get(topology))
        .route("/v1/log", get(log))
        .route("/v1/log/{topic}", get(log_records))
        .route("/v1/log/copies/{stage}", get(log_copies))
        .route("/v1/log/copies/{stage}/{id}", get(log_copied_rows))
        .route("/v1/backup", post(backup))
        .fallback(nowhere)
        .method_not_allowed_fallback(not_so)
        .layer(from_fn_with_state(door.clone(), pass))
        .layer(Extension(via))
        .layer(Extension(access.clone()))
        .with_state(door.clone())
}

/// Every request passes here: it is known who asks and that they may, its answer is counted, and
/// who said something is written down.
async fn pass(
    State(door): Shared,
    Extension(via): Extension<Via>,
    Extension(access): Extension<Arc<Access>>,
    mut request: Request,
    next: Next,
) -> Response {
    let route = route_of(request.uri().path());
    let begun = Instant::now();
    let method = request.method().clone();
    let admitted = admit(&access, via, route, &request);
    let (asker, response) = match admitted {
        Ok(asker) => {
            if let Some(asker) = &asker {
                request.extensions_mut().insert(asker.clone());
            }
            (asker, next.run(request).await)
        }
        Err((asker, refusal)) => (asker, refusal.into_response()),
    };
    if method != Method::GET && method != Method::HEAD {
        note(asker.as_deref(), &method, route, response.status());
    }
    door.tally
        .answered(route, response.status(), begun.elapsed());
    response
}

/// Who asks, if they may; else why not, and who it was if that is known. Where nothing is needed
/// nobody is asked who they are.
fn admit(
    access: &Access,
    via: Via,
    route: &str,
    request: &Request,
) -> Result<Option<Arc<Asker>>, (Option<Arc<Asker>>, Refusal)> {
    let (headers, method) = (request.headers(), request.method());
    if via == Via::Tcp {
        guard::admit(headers, access.is_guarded()).map_err(|refusal| (None, refusal))?;
    }
    let path = request.uri().path();
    let needs = needs(route, method);
    if needs == Needs::Nothing {
        return Ok(None);
    }
    let asker = access
        .who(via, headers, request.extensions().get::<Peer>())
        .map_err(|refusal| (None, refusal))?;
    match asker.may(needs, method, path) {
        Ok(()) => Ok(Some(asker)),
        Err(refusal) => Err((Some(asker), refusal)),
    }
}

/// Writes down who said something; of samples, which come all the time, only where every request is
/// written.
fn note(asker: Option<&Asker>, method: &Method, route: &str, status: StatusCode) {
    let (by, status) = (asker.map_or("?", |asker| &asker.name), status.as_u16());
    match (status, route) {
        // Who showed nothing that is known is anybody: they must not fill the log.
        (401, _) | (_, "/v1/metrics") => debug!(by, %method, route, status, "a write"),
        (403, _) => warn!(by, %method, route, status, "a write that is not allowed"),
        _ => info!(by, %method, route, status, "a write"),
    }
}

/// The documented route that a path is of; else a word that is no route, so that what clients make
/// up is one series.
fn route_of(path: &str) -> &'static str {
    let fits = |route: &&&str| {
        let mut route = route.split('/');
        let mut path = path.split('/');
        loop {
            match (route.next(), path.next()) {
                (None, None) => return true,
                (Some(want), Some(got)) if want == got => {}
                (Some(want), Some(got)) if want.starts_with('{') && !got.is_empty() => {}
                _ => return false,
            }
        }
    };
    // A fixed word fits better than one in braces.
    let fixed = ROUTES.iter().find(|route| **route == path);
    fixed
        .or_else(|| ROUTES.iter().find(fits))
        .copied()
        .unwrap_or("other")
}

async fn nowhere(method: Method, uri: Uri) -> Refusal {
    let path = uri.path();
    let nearest = nearest(path);
    Refusal::not_found(format!(
        "{method} {path:?}: there is no such route; near to it: {}; GET /v1 lists all",
        nearest.join(", ")
    ))
}

/// The three routes whose spelling is nearest.
fn nearest(path: &str) -> Vec<&'static str> {
    let path: String = path.chars().take(PATH_COMPARED).collect();
    let mut near: Vec<_> = ROUTES
        .iter()
        .map(|route| (edit_distance(&path, route), *route))
        .collect();
    near.sort_unstable();
    near.into_iter().map(|(_, route)| route).take(3).collect()
}

async fn not_so(method: Method, uri: Uri) -> Refusal {
    let other = if method == Method::POST {
        "GET"
    } else {
        "POST"
    };
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} {}: this route is for {other}", uri.path()),
    )
}

async fn routes() -> Response {
    let body = serde_json::json!({ "routes": ROUTES });
    super::answer::json(StatusCode::OK, body.to_string())
}

async fn dashboard(State(door): Shared) -> Response {
    door.page.show()
}

async fn livez(State(door): Shared) -> Answered {
    door.aside(|door| Ok(health::live(door))).await
}

async fn readyz(State(door): Shared) -> Answered {
    door.aside(|door| Ok(health::ready(door))).await
}

async fn prometheus(State(door): Shared, Extension(by): By, headers: HeaderMap) -> Answered {
    let open = metrics::wants_open(&headers);
    door.read(move |door| metrics::page(door, &by, open)).await
}

async fn samples(
    State(door): Shared,
    Extension(by): By,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    ingest::take_in(&door, by, ingest::What::Samples, &headers, body).await
}

async fn outcomes(
    State(door): Shared,
    Extension(by): By,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    ingest::take_in(&door, by, ingest::What::Outcomes, &headers, body).await
}

async fn policies(State(door): Shared, Extension(by): By, uri: Uri) -> Answered {
    say::in_force(&door, by, &uri).await
}

async fn policy(
    State(door): Shared,
    Extension(by): By,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    say::policy(&door, Speaker { by, caller }, &uri, &headers, body).await
}

async fn holds(
    State(door): Shared,
    Extension(by): By,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    say::hold(&door, Speaker { by, caller }, &headers, body).await
}

async fn approvals(
    State(door): Shared,
    Extension(by): By,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    say::approval(&door, Speaker { by, caller }, &headers, body).await
}

async fn events(
    State(door): Shared,
    Extension(access): Extension<Arc<Access>>,
    Extension(by): By,
    uri: Uri,
    headers: HeaderMap,
) -> Answered {
    follow::answer(&door, (access, by), Topic::Events, &uri, &headers).await
}

async fn directives(
    State(door): Shared,
    Extension(access): Extension<Arc<Access>>,
    Extension(by): By,
    uri: Uri,
    headers: HeaderMap,
) -> Answered {
    follow::answer(&door, (access, by), Topic::Directives, &uri, &headers).await
}

async fn cycles(
    State(door): Shared,
    Extension(access): Extension<Arc<Access>>,
    Extension(by): By,
    uri: Uri,
    headers: HeaderMap,
) -> Answered {
    follow::answer(&door, (access, by), Topic::Cycles, &uri, &headers).await
}

async fn all_nodes(State(door): Shared, Extension(by): By, uri: Uri) -> Answered {
    nodes::list(&door, by, &uri).await
}

async fn one_node(
    State(door): Shared,
    Extension(by): By,
    Path((mesh, node)): Path<(String, String)>,
) -> Answered {
    nodes::one(&door, &by, &mesh, &node).await
}

async fn windows(
    State(door): Shared,
    Extension(by): By,
    Path((mesh, node)): Path<(String, String)>,
) -> Answered {
    nodes::windows(&door, &by, &mesh, &node).await
}

async fn all_incidents(State(door): Shared, Extension(by): By, uri: Uri) -> Answered {
    incidents::list(&door, by, &uri).await
}

async fn why(State(door): Shared, Extension(by): By, uri: Uri, Path(id): Path<String>) -> Answered {
    explain::tell(&door, by, &uri, id).await
}

async fn topology(State(door): Shared, Extension(by): By, uri: Uri) -> Answered {
    links::graph(&door, by, &uri).await
}

async fn log(State(door): Shared, Extension(by): By) -> Answered {
    by.sees_all("the log")?;
    door.read(raw::state).await
}

async fn log_records(
    State(door): Shared,
    Extension(by): By,
    uri: Uri,
    Path(topic): Path<String>,
) -> Answered {
    by.sees_all("the log")?;
    raw::records(&door, &uri, topic).await
}

async fn log_copies(State(door): Shared, Extension(by): By, Path(stage): Path<String>) -> Answered {
    by.sees_all("the log")?;
    door.read(move |door| raw::copies(door, &stage)).await
}

async fn log_copied_rows(
    State(door): Shared,
    Extension(by): By,
    uri: Uri,
    Path((stage, id)): Path<(String, String)>,
) -> Answered {
    by.sees_all("the log")?;
    raw::copied_rows(&door, &uri, stage, id).await
}

async fn backup(
    State(door): Shared,
    Extension(via): Extension<Via>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    raw::backup(&door, via, &headers, body).await
}

/// How much of a path is compared with the routes.
const PATH_COMPARED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_its_route() {
        for (path, route) in [
            ("/", "/"),
            ("/v1/nodes/a/b", "/v1/nodes/{mesh}/{node}"),
            ("/v1/nodes/a/b/windows", "/v1/nodes/{mesh}/{node}/windows"),
            ("/v1/log/copies", "/v1/log/{topic}"),
            ("/v1/log/copies/x", "/v1/log/copies/{stage}"),
            ("/v1/events", "/v1/events"),
            ("/v1/nodes//b", "other"),
            ("/v2", "other"),
            ("", "other"),
        ] {
            assert_eq!(route_of(path), route, "{path}");
        }
    }

    #[test]
    fn a_wrong_path_is_told_the_nearest() {
        assert_eq!(nearest("/v1/event")[0], "/v1/events");
        assert_eq!(nearest("/helthz").len(), 3);
    }
}
