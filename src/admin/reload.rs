//! What an operator sees of the configuration, and how to have another one taken up.

use std::sync::Mutex;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::api::{Refusal, answer};
use crate::clock::{Clock, Timestamp};

/// Where it is shown.
pub(super) const CONFIG: &str = "/admin/config";
/// Where another is asked for.
pub(super) const RELOAD: &str = "/admin/reload";

/// Somebody wants the configuration to be read again, and waits to hear what came of it.
pub struct Ask {
    /// Where to say so; why not, line by line, where it is refused.
    pub reply: oneshot::Sender<Result<(), String>>,
}

/// How it stands with the configuration.
#[derive(Debug)]
pub struct Standing {
    /// The one that serves, without its secrets.
    shown: Value,
    since: Timestamp,
    /// How many have been taken up, the first one included.
    taken_up: u64,
    /// Why the latest one was not, and when.
    refused: Option<(Timestamp, String)>,
}

impl Standing {
    /// With the first one.
    pub fn new(shown: Value) -> Self {
        Self { shown, since: Clock::System.now(), taken_up: 1, refused: None }
    }

    /// Another one serves.
    pub fn loaded(&mut self, shown: Value) {
        (self.shown, self.since, self.refused) = (shown, Clock::System.now(), None);
        self.taken_up += 1;
    }

    /// Another one was refused.
    pub fn refused(&mut self, why: String) {
        self.refused = Some((Clock::System.now(), why));
    }

    /// Whether that says something else than what was last said of a configuration.
    pub fn is_news<T>(&self, outcome: &Result<T, String>) -> bool {
        match outcome {
            Ok(_) => true,
            Err(why) => self.refused.as_ref().is_none_or(|(_, before)| before != why),
        }
    }
}

/// Shows it.
pub(super) fn show(standing: &Mutex<Standing>, method: &Method) -> Result<Response<Full<Bytes>>, Refusal> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Refusal::Method("GET, HEAD"));
    }
    // A panic elsewhere leaves nothing half said.
    let standing = standing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let refused = standing
        .refused
        .as_ref()
        .map(|(at, why)| json!({ "at": at.as_secs(), "why": why.lines().collect::<Vec<_>>() }));
    Ok(answer(
        StatusCode::OK,
        &json!({
            "config": standing.shown,
            "since": standing.since.as_secs(),
            "taken_up": standing.taken_up,
            "refused": refused,
        }),
    ))
}

/// Has it read again, and waits for what comes of it.
pub(super) async fn reload(asks: &mpsc::Sender<Ask>, method: &Method) -> Result<Response<Full<Bytes>>, Refusal> {
    if method != Method::POST {
        return Err(Refusal::Method("POST"));
    }
    let (reply, outcome) = oneshot::channel();
    let ending = || Refusal::Ending;
    asks.send(Ask { reply }).await.map_err(|_| ending())?;
    match outcome.await.map_err(|_| ending())? {
        Ok(()) => Ok(answer(StatusCode::OK, &json!({ "taken_up": true }))),
        Err(why) => Err(Refusal::Config(why)),
    }
}
