//! Files that are changed while the process runs.
//!
//! They are read again about once a second and compared by their bytes: that sees a file that is rewritten, one that is
//! renamed into place, and the symlink of a Kubernetes volume that is turned to another folder, all in the same way.

use std::{sync::Arc, time::Duration};

use rustls::server::ProducesTickets;

use super::{
    Terminator,
    files::{Certificate, ClientCas, Fault, Seen, Standing},
    new_ticketer,
};
use crate::{clock::Clock, server::config::Listener, telemetry::Metrics};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks after the files of all listeners.
pub struct FileWatch {
    listeners: Vec<Watched>,
    metrics: Metrics,
}

/// One listener's.
struct Watched {
    name: Arc<str>,
    tls: Arc<Terminator>,
    /// In the order of the listener's certificates.
    certificates: Vec<State>,
    /// What was in the file of the clients' CAs when it was refused last.
    refused_cas: Option<Seen>,
}

/// What has been said of a certificate, lest it be said every second.
struct State {
    /// What was in its files when they were refused last.
    refused: Option<Seen>,
    standing: Standing,
}

/// CAs of clients, and the keys for the sessions of those they have signed for.
type Trust = (ClientCas, Arc<dyn ProducesTickets>);

impl FileWatch {
    /// Tells the metrics when the certificates expire. Those that have, the configuration's check has warned of.
    pub fn new(listeners: &[Listener], metrics: &Metrics) -> Self {
        let watched = |listener: &Listener| {
            let tls = listener.tls.clone()?;
            let state = |certificate: &Arc<Certificate>| {
                metrics.certificate_expires(&listener.name, &certificate.files.name, certificate.expires());
                State { refused: None, standing: certificate.standing(Clock::System.now()) }
            };
            let certificates = tls.current().parts.certificates.iter().map(state).collect();
            Some(Watched { name: listener.name.clone(), tls, certificates, refused_cas: None })
        };
        Self { listeners: listeners.iter().filter_map(watched).collect(), metrics: metrics.clone() }
    }

    /// Looks at the files until it is dropped; ends at once where there are none.
    pub async fn run(mut self) {
        while !self.listeners.is_empty() {
            tokio::time::sleep(INTERVAL).await;
            // A disk may take its time: on a thread that may wait for it.
            let looked = tokio::task::spawn_blocking(move || {
                self.listeners.iter_mut().for_each(|listener| listener.look(&self.metrics));
                self
            });
            match looked.await {
                Ok(this) => self = this,
                Err(error) => return tracing::error!(%error, "certificates on disk are not looked at any more"),
            }
        }
    }
}

impl Watched {
    /// Takes up what has changed and can be used. What cannot is said once, and what there was before serves on: a gateway
    /// with yesterday's certificate is of more use than one without.
    fn look(&mut self, metrics: &Metrics) {
        let mut parts = self.tls.current().parts.clone();
        let mut changed = false;
        for (certificate, state) in parts.certificates.iter_mut().zip(&mut self.certificates) {
            let file = certificate.files.name.clone();
            match state.reload(certificate) {
                None => {}
                Some(Ok(new)) => {
                    metrics.tls_reloaded("ok");
                    metrics.certificate_expires(&self.name, &file, new.expires());
                    tracing::info!(listener = %self.name, %file, "took up a certificate that has changed");
                    (*certificate, changed) = (Arc::new(new), true);
                }
                Some(Err(faults)) => {
                    metrics.tls_reloaded("failed");
                    for Fault::Certificate(fault) | Fault::Key(fault) in faults {
                        tracing::error!(listener = %self.name, "{fault}; the certificate from before is served on");
                    }
                }
            }
            if let Some(concern) = state.concern(certificate) {
                tracing::warn!(listener = %self.name, %file, "{concern}");
            }
        }
        match self.reload_client_cas(parts.client_cas.as_deref()) {
            None => {}
            Some(Ok((client_cas, ticketer))) => {
                metrics.tls_reloaded("ok");
                tracing::info!(listener = %self.name, "took up CAs of clients that have changed");
                (parts.client_cas, parts.ticketer, changed) = (Some(Arc::new(client_cas)), ticketer, true);
            }
            Some(Err(fault)) => {
                metrics.tls_reloaded("failed");
                tracing::error!(listener = %self.name, "{fault}; the CAs of clients from before are trusted on");
            }
        }
        if changed {
            self.tls.replace(parts);
        }
    }

    /// With the CAs come other keys for tickets: a session is resumed without another look at the client's certificate, and
    /// must not bring in one whose CA has gone.
    fn reload_client_cas(&mut self, old: Option<&ClientCas>) -> Option<Result<Trust, String>> {
        let (auth, old) = self.tls.client_auth.as_ref().zip(old)?;
        let (seen, contents) = ClientCas::read(auth);
        is_news(seen, old.seen, &mut self.refused_cas).then(|| {
            let cas = ClientCas::of(auth, seen, contents)?;
            let ticketer = new_ticketer().map_err(|error| format!("no keys for session tickets: {error}"))?;
            Ok((cas, ticketer))
        })
    }
}

impl State {
    fn reload(&mut self, old: &Certificate) -> Option<Result<Certificate, Vec<Fault>>> {
        let pair = old.files.read();
        is_news(pair.seen, old.seen, &mut self.refused).then(|| {
            let new = Certificate::of(old.files.clone(), pair)?;
            // Whatever there is to say about the new one has not been said.
            self.standing = Standing::Valid;
            Ok(new)
        })
    }

    /// What there is to say about how the certificate stands, once.
    fn concern(&mut self, certificate: &Certificate) -> Option<String> {
        let standing = certificate.standing(Clock::System.now());
        let before = std::mem::replace(&mut self.standing, standing);
        (standing != before).then(|| certificate.concern(standing)).flatten()
    }
}

/// Whether what is in a file is neither what is served nor what was looked at last and refused.
fn is_news(seen: Seen, served: Seen, refused: &mut Option<Seen>) -> bool {
    let news = seen != served && *refused != Some(seen);
    // As though it will be refused; if it is taken up, it is what is served.
    *refused = (seen != served).then_some(seen);
    news
}
