//! A socket in the data folder, over which commands of the same user speak to the process that runs. A line comes in, and a
//! text goes out.

use std::{
    fs::{self, Permissions},
    future::Future,
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use crate::telemetry::audit::{Audit, Event, Facts};

/// Its name.
pub const SOCKET: &str = "admin.sock";
/// How much a line may have, in bytes.
const MAX_LINE: u64 = 4096;
/// How long it may take to say a command, and as long to take its answer.
const MOST: Duration = Duration::from_secs(30);
/// How long it may take to do it. A copy of a large store is what takes longest.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// How many commands are listened to at a time.
const MAX_COMMANDS: usize = 16;

/// What a command came to.
pub type Outcome = Result<String, String>;

/// Takes the socket in `folder`, which belongs to this process: what lies there is a left-over.
///
/// # Errors
/// When it cannot be had.
pub fn bind(folder: &Path) -> io::Result<UnixListener> {
    let path = folder.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers commands for as long as it is polled. `answer` gets a line, and as which user of the machine it was sent.
pub async fn serve<F, A>(listener: UnixListener, audit: Audit, answer: F)
where
    F: Fn(String, u32) -> A + Clone + Send + 'static,
    A: Future<Output = Outcome> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_COMMANDS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a command");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (answer, audit) = (answer.clone(), audit.clone());
        tokio::spawn(async move {
            let _place = place;
            match timeout(LONGEST, converse(stream, &audit, answer)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a command broke off"),
                Err(_) => tracing::warn!("a command took too long"),
            }
        });
    }
}

async fn converse<F, A>(stream: UnixStream, audit: &Audit, answer: F) -> io::Result<()>
where
    F: Fn(String, u32) -> A,
    A: Future<Output = Outcome>,
{
    // The file's mode says the same; this holds where somebody has widened it.
    let (theirs, ours) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    let mut stream = BufReader::new(stream);
    let outcome = if theirs == ours || theirs == 0 {
        let mut line = String::new();
        timeout(MOST, (&mut stream).take(MAX_LINE).read_line(&mut line)).await??;
        answer(line.trim_end().to_owned(), theirs).await
    } else {
        audit.tell(Event::CommandRefused, Facts { uid: Some(theirs), ..Facts::default() });
        Err("only the user who runs it is listened to".into())
    };
    let (word, text) = match outcome {
        Ok(text) => ("ok", text),
        Err(text) => ("error", text),
    };
    timeout(MOST, stream.write_all(format!("{word}\n{text}").as_bytes())).await??;
    stream.shutdown().await
}
