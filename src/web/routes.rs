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

use crate::model::edit_distance;
use crate::stream::Topic;

use super::answer::Refusal;
use super::caller::Caller;
use super::{
    Door, explain, follow, guard, health, incidents, ingest, links, metrics, nodes, raw, say,
};

/// By which way a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// A loopback address: anyone on this machine.
    Tcp,
    /// The socket in the folder: who may open it.
    Socket,
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

/// The routes, for requests that come by this way.
pub(super) fn router(door: &Arc<Door>, via: Via) -> Router {
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
        .with_state(door.clone())
}

/// Every request passes here: it is admitted, and its answer is counted.
async fn pass(
    State(door): Shared,
    Extension(via): Extension<Via>,
    request: Request,
    next: Next,
) -> Response {
    let route = route_of(request.uri().path());
    let begun = Instant::now();
    let admitted = match via {
        Via::Tcp => guard::admit(request.headers()),
        Via::Socket => Ok(()),
    };
    let response = match admitted {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    door.tally
        .answered(route, response.status(), begun.elapsed());
    response
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

async fn prometheus(State(door): Shared, headers: HeaderMap) -> Answered {
    let open = metrics::wants_open(&headers);
    door.read(move |door| metrics::page(door, open)).await
}

async fn samples(State(door): Shared, headers: HeaderMap, body: Body) -> Answered {
    ingest::take_in(&door, ingest::What::Samples, &headers, body).await
}

async fn outcomes(State(door): Shared, headers: HeaderMap, body: Body) -> Answered {
    ingest::take_in(&door, ingest::What::Outcomes, &headers, body).await
}

async fn policies(State(door): Shared, uri: Uri) -> Answered {
    say::in_force(&door, &uri).await
}

async fn policy(
    State(door): Shared,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    say::policy(&door, caller.name(), &uri, &headers, body).await
}

async fn holds(
    State(door): Shared,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    say::hold(&door, caller.name(), &headers, body).await
}

async fn approvals(
    State(door): Shared,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    say::approval(&door, caller.name(), &headers, body).await
}

async fn events(State(door): Shared, uri: Uri, headers: HeaderMap) -> Answered {
    follow::answer(&door, Topic::Events, &uri, &headers).await
}

async fn directives(State(door): Shared, uri: Uri, headers: HeaderMap) -> Answered {
    follow::answer(&door, Topic::Directives, &uri, &headers).await
}

async fn cycles(State(door): Shared, uri: Uri, headers: HeaderMap) -> Answered {
    follow::answer(&door, Topic::Cycles, &uri, &headers).await
}

async fn all_nodes(State(door): Shared, uri: Uri) -> Answered {
    nodes::list(&door, &uri).await
}

async fn one_node(State(door): Shared, Path((mesh, node)): Path<(String, String)>) -> Answered {
    nodes::one(&door, &mesh, &node).await
}

async fn windows(State(door): Shared, Path((mesh, node)): Path<(String, String)>) -> Answered {
    nodes::windows(&door, &mesh, &node).await
}

async fn all_incidents(State(door): Shared, uri: Uri) -> Answered {
    incidents::list(&door, &uri).await
}

async fn why(State(door): Shared, uri: Uri, Path(id): Path<String>) -> Answered {
    explain::tell(&door, &uri, id).await
}

async fn topology(State(door): Shared, uri: Uri) -> Answered {
    links::graph(&door, &uri).await
}

async fn log(State(door): Shared) -> Answered {
    door.read(raw::state).await
}

async fn log_records(State(door): Shared, uri: Uri, Path(topic): Path<String>) -> Answered {
    raw::records(&door, &uri, topic).await
}

async fn log_copies(State(door): Shared, Path(stage): Path<String>) -> Answered {
    door.read(move |door| raw::copies(door, &stage)).await
}

async fn log_copied_rows(
    State(door): Shared,
    uri: Uri,
    Path((stage, id)): Path<(String, String)>,
) -> Answered {
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
