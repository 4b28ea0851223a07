//! Sessions over HTTP: list them, look at one, end one.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{Refusal, answer, described, limit, parameter, seconds};
use crate::{
    clock::Timestamp,
    issuer::{By, Issuer, RevokeRequest},
    store::{Record, Visit, Whose},
    types::{ClientId, SessionId, Subject},
};

/// There is none of that name.
const NOT_FOUND: Refusal = Refusal::NotFound("there is no such session; it may have ended long ago");

/// Does what is asked at `rest`, behind the path of sessions.
pub(super) async fn act(
    issuer: &Issuer,
    method: &Method,
    rest: &str,
    query: &str,
    by: By,
) -> Result<Response<Full<Bytes>>, Refusal> {
    match (rest.strip_prefix('/'), method) {
        (None, &Method::GET) => list(issuer, query).await,
        (None, _) => Err(Refusal::Method("GET")),
        (Some(id), &Method::GET) => {
            let id = SessionId::parse(id).ok_or(NOT_FOUND)?;
            let record = issuer.session(id).await?.ok_or(NOT_FOUND)?;
            Ok(answer(StatusCode::OK, &session(&record, issuer.now())))
        }
        (Some(id), &Method::DELETE) => {
            let (kind, id) = ("session".into(), Some(id.to_owned()));
            let reason = parameter(query, "reason").unwrap_or_default();
            let request = RevokeRequest { kind, id, reason, ..RevokeRequest::default() };
            let revocation = issuer.revoke(&request, by).await?;
            Ok(answer(StatusCode::OK, &described(&revocation, issuer.url().as_str())))
        }
        (Some(_), _) => Err(Refusal::Method("GET, DELETE")),
    }
}

async fn list(issuer: &Issuer, query: &str) -> Result<Response<Full<Bytes>>, Refusal> {
    let whose = match (parameter(query, "subject"), parameter(query, "client")) {
        (Some(_), Some(_)) => return Err(Refusal::Wrong("either `subject` or `client`, not both".into())),
        (Some(subject), None) => Whose::Subject(Subject::new(subject)),
        (None, Some(client)) => Whose::Client(ClientId::new(client)),
        (None, None) => Whose::Everybodys,
    };
    let after = match parameter(query, "after") {
        Some(text) => {
            Some(SessionId::parse(&text).ok_or(Refusal::Wrong("`after` is not the name of a session".into()))?)
        }
        None => None,
    };
    let limit = limit(query)?;
    let records = issuer.sessions(whose, after, limit).await?;
    let next = records.last().filter(|_| records.len() == limit).map(|last| last.session.id.to_string());
    let now = issuer.now();
    let sessions: Vec<_> = records.iter().map(|record| session(record, now)).collect();
    Ok(answer(StatusCode::OK, &json!({ "sessions": sessions, "next": next })))
}

/// A session in the words of the API. Nothing in it can be presented as a token.
pub fn session(record: &Record, now: Timestamp) -> Value {
    let Record { session, opened, idle_expiry, absolute_expiry, remembered, ended, visits, .. } = record;
    json!({
        "sid": session.id.to_string(),
        "state": record.state(now),
        "sub": session.subject,
        "client_id": session.client,
        "scope": session.scopes.to_string(),
        "remembered": remembered,
        "opened": seconds(*opened),
        "idle_expiry": seconds(*idle_expiry),
        "absolute_expiry": seconds(*absolute_expiry),
        "revoked": ended.map(seconds),
        "rotations": session.generation,
        "history": visits.iter().map(visit).collect::<Vec<_>>(),
    })
}

fn visit(visit: &Visit) -> Value {
    json!({
        "from": seconds(visit.from),
        "last": seconds(visit.last),
        "refreshes": visit.refreshes,
        "address": visit.visitor.address,
        "user_agent": visit.visitor.agent,
    })
}
