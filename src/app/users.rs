//! The file of users, looked at while the process runs.

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    config::{counted, users},
    io::Stamp,
    issuer::{Issuer, User, UsersFile},
};

/// How often it is looked whether the file has changed.
const USERS_INTERVAL: Duration = Duration::from_millis(500);

/// Has the issuer take up the users of a file that has changed. One that is wrong is refused as a whole.
pub(super) async fn tend_users(issuer: Arc<Issuer>, UsersFile { path, mut seen }: UsersFile) {
    let mut departed = Vec::new();
    loop {
        let file = path.clone();
        // A disk that is slow keeps a thread of its own waiting. A panic there has been logged.
        let looking = tokio::task::spawn_blocking(move || changed(&file, seen)).await;
        let change = looking.ok().flatten();
        let has_changed = change.is_some();
        if let Some(Found { stamp, users }) = change {
            seen = stamp;
            match users.and_then(|users| Ok((issuer.replace_users(&users)?, users))) {
                Ok((gone, users)) => {
                    departed.extend(gone);
                    let disabled = users.iter().filter(|user| user.disabled).count();
                    tracing::info!(file = %path.display(), disabled, "the file of users has changed: {} from now on", counted(users.len(), "user"));
                }
                Err(why) => tracing::error!("{why}; the users of before stay"),
            }
        }
        // They can neither log in nor refresh any more, whether the store takes it now or later.
        match issuer.end_sessions(&departed).await {
            Ok(()) => departed.clear(),
            Err(cause) if has_changed => {
                tracing::error!(%cause, "the sessions of those who are no users any more have not ended; it is tried again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(USERS_INTERVAL).await;
    }
}

/// What is at the path now.
struct Found {
    stamp: Option<Stamp>,
    /// Its users, or the first thing that is wrong with them.
    users: Result<Vec<User>, String>,
}

/// `None` where it is as it was `seen`.
fn changed(path: &Path, seen: Option<Stamp>) -> Option<Found> {
    let stamp = Stamp::of(path).ok();
    if stamp == seen {
        return None;
    }
    let users = users::load(path).map_err(|errors| match errors.problems() {
        [] => "it is wrong".to_owned(),
        [only] => only.to_string(),
        [first, more @ ..] => format!("{first} (and {} more)", more.len()),
    });
    Some(Found { stamp, users })
}
