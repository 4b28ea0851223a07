//! What commands of the same user have the process that runs do, over the socket in its data folder.

use std::{path::PathBuf, sync::Arc};

use crate::{
    admin,
    clock::{Roughly, Timestamp},
    issuer::{By, Issuer, RevokeRequest, SessionsRequest},
    store::{Record, Revocation, Whose},
    types::{ClientId, SessionId, Subject},
};

/// Does what a command of the same user says, or of root; `uid` is whose it is.
pub(super) async fn obey(issuer: Arc<Issuer>, line: String, uid: u32) -> admin::socket::Outcome {
    let by = By::command(uid);
    let wrong = || "this Sidegate does not know that command; it may be older than the one that asks".to_owned();
    let revoked = |entry: Revocation| describe(&entry, issuer.url().as_str());
    if let Some(request) = line.strip_prefix("revoke ") {
        let request: RevokeRequest = serde_json::from_str(request).map_err(|_| wrong())?;
        let entry = issuer.revoke(&request, by).await;
        return entry.map(revoked).map_err(|error| error.to_string());
    }
    if let Some(kid) = line.strip_prefix("keys revoke ") {
        let (kind, id, reason) = ("key".into(), Some(kid.into()), "`sidegate keys revoke`".into());
        let request = RevokeRequest { kind, id, reason, ..RevokeRequest::default() };
        issuer.revoke(&request, by).await.map_err(|error| error.to_string())?;
        return Ok(issuer.list_keys());
    }
    if let Some(rest) = line.strip_prefix("revocations lift ") {
        let (number, reason) = rest.split_once(' ').ok_or_else(wrong)?;
        let (number, reason): (u64, String) =
            (number.parse().map_err(|_| wrong())?, serde_json::from_str(reason).map_err(|_| wrong())?);
        let entry = issuer.lift(number, &reason, by).await;
        return entry.map(revoked).map_err(|error| error.to_string());
    }
    if let Some((after, limit)) = line.strip_prefix("revocations list ").and_then(|rest| rest.split_once(' ')) {
        let (after, limit) = (after.parse().map_err(|_| wrong())?, limit.parse().map_err(|_| wrong())?);
        let entries = issuer.revocations(after, limit).await.map_err(|error| error.to_string())?;
        let lines: Vec<_> = entries.into_iter().map(revoked).collect();
        return Ok(if lines.is_empty() { "nothing is revoked".into() } else { lines.join("\n") });
    }
    if let Some(query) = line.strip_prefix("sessions list ") {
        let SessionsRequest { subject, client, after, limit } = serde_json::from_str(query).map_err(|_| wrong())?;
        let whose = match (subject, client) {
            (Some(subject), _) => Whose::Subject(Subject::new(subject)),
            (None, Some(client)) => Whose::Client(ClientId::new(client)),
            (None, None) => Whose::Everybodys,
        };
        let after = match after {
            Some(text) => Some(SessionId::parse(&text).ok_or("--after is not the name of a session")?),
            None => None,
        };
        let records = issuer.sessions(whose, after, limit).await.map_err(|error| error.to_string())?;
        let lines: Vec<_> = records.iter().map(|record| session_line(record, issuer.now())).collect();
        return Ok(if lines.is_empty() { "there are no sessions".into() } else { lines.join("\n") });
    }
    if let Some(id) = line.strip_prefix("sessions show ") {
        let unknown = || "there is no such session; it may have ended long ago".to_owned();
        let id = SessionId::parse(id).ok_or_else(unknown)?;
        let record = issuer.session(id).await.map_err(|error| error.to_string())?.ok_or_else(unknown)?;
        return Ok(session_text(&record, issuer.now()));
    }
    if let Some(path) = line.strip_prefix("store backup ") {
        let path: PathBuf = serde_json::from_str(path).map_err(|_| wrong())?;
        let file = format!("file         {}", path.display());
        let copied = issuer.back_up(path).await.map_err(|error| error.to_string())?;
        return Ok(format!("{copied}\n{file}"));
    }
    if line == "store stats" {
        let stats = issuer.stats().await.map_err(|error| error.to_string())?;
        return Ok(format!(
            "sessions     {}\nrevocations  {}\nepochs       {}\ncodes        {}\nbytes        {}\nlog          {}",
            stats.sessions, stats.revocations, stats.epochs, stats.codes, stats.bytes, stats.log
        ));
    }
    let obeying = tokio::task::spawn_blocking(move || {
        let words: Vec<_> = line.split(' ').collect();
        let outcome = match words[..] {
            ["keys", "list"] => return Ok(issuer.list_keys()),
            ["keys", "rotate"] => issuer.rotate_keys(false, by),
            ["keys", "rotate", "now"] => issuer.rotate_keys(true, by),
            _ => return Err(wrong()),
        };
        outcome.map_err(|error| error.to_string())
    });
    obeying.await.unwrap_or_else(|_| Err("it failed; the log says how".into()))
}

/// A session in a line.
fn session_line(record: &Record, now: Timestamp) -> String {
    let Record { session, visits, .. } = record;
    let last = visits
        .last()
        .map_or_else(String::new, |visit| format!("last seen {} from {}", ago(visit.last, now), visit.visitor.address));
    format!(
        "{}  {:<10}  {} at {}, opened {}, {last}",
        session.id,
        record.state(now),
        session.subject,
        session.client,
        ago(record.opened, now)
    )
}

/// A session with its history.
fn session_text(record: &Record, now: Timestamp) -> String {
    use std::fmt::Write as _;
    let mut text = session_line(record, now);
    let _ = write!(text, "\n  scope      {}\n  rotations  {}", record.session.scopes, record.session.generation);
    if let Some(left) = record.idle_expiry.since(now).filter(|_| record.state(now) == "live") {
        let _ = write!(text, "\n  ends       in {}, unless it is refreshed before", Roughly(left));
    }
    for visit in &record.visits {
        let _ = write!(
            text,
            "\n  {} to {}: {} refreshes, {}, {}",
            ago(visit.from, now),
            ago(visit.last, now),
            visit.refreshes,
            visit.visitor.address,
            visit.visitor.agent
        );
    }
    text
}

fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", Roughly(now.since(then).unwrap_or_default()))
}

/// An entry of the revocation log, for a person.
fn describe(entry: &Revocation, own: &str) -> String {
    let issuer = entry.issuer.as_ref().map_or(own, |issuer| issuer.as_str());
    let verb = if entry.lifts { "lifted" } else { "revoked" };
    let left = entry.until.since(entry.at).unwrap_or_default().as_secs();
    let Revocation { number, what, reason, .. } = entry;
    let name = what.id().map(|id| format!(" {id}")).unwrap_or_default();
    format!("{number}  {verb} {}{name} of {issuer} for {left} s: {reason}", what.kind())
}
