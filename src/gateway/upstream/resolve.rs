//! From an upstream's URLs to its addresses, now and again.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::time::sleep;

use super::{
    Endpoints, Upstream,
    endpoint::{Address, Endpoint},
};
use crate::gateway::config::{self, Origin, Speech, Target};

/// After how long a look-up that failed is tried again; longer each time, up to the usual interval.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The most addresses an upstream has.
const MOST: usize = 256;

/// What an upstream's URLs name.
pub(super) struct Origins(Vec<Named>);

struct Named {
    place: Place,
    authority: Box<str>,
    server_name: Option<ServerName<'static>>,
}

enum Place {
    Is(Address),
    /// A host's name and a port.
    Name(Box<str>, u16),
}

impl Origins {
    pub(super) fn of(config: &config::Upstream, demo: Option<SocketAddr>) -> Self {
        match &config.target {
            Target::Origins(origins) => Self(origins.iter().map(|origin| Named::of(origin, &config.speech)).collect()),
            Target::Demo => {
                // Without the page there is nothing at port 0, and the answer is 502.
                let address = demo.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
                let place = Place::Is(Address::Tcp(address));
                Self(vec![Named { place, authority: address.to_string().into(), server_name: None }])
            }
        }
    }

    /// The endpoints, if there is nothing to be looked up.
    pub(super) fn known_from_the_start(&self) -> Endpoints {
        let is_known = |named: &Named| matches!(named.place, Place::Is(_));
        if self.0.iter().all(is_known) { Endpoints::Known(self.endpoints(&[], &[])) } else { Endpoints::Unknown }
    }

    /// All names, looked up.
    ///
    /// # Errors
    /// When none of the URLs leads anywhere; the last failure.
    async fn look_up(&self) -> io::Result<Vec<Vec<SocketAddr>>> {
        let (mut found, mut failure) = (Vec::new(), None);
        for named in &self.0 {
            let Place::Name(host, port) = &named.place else {
                found.push(Vec::new());
                continue;
            };
            match tokio::net::lookup_host((&**host, *port)).await {
                Ok(addresses) => found.push(addresses.take(MOST).collect()),
                Err(error) => {
                    failure = Some(error);
                    found.push(Vec::new());
                }
            }
        }
        // Half an answer could take addresses away that are as good as before.
        failure.map_or(Ok(found), Err)
    }

    /// Endpoints at the addresses that were found; those that there were `before` stay, with what is known of them.
    fn endpoints(&self, found: &[Vec<SocketAddr>], before: &[Arc<Endpoint>]) -> Arc<[Arc<Endpoint>]> {
        let mut seen = HashSet::new();
        let mut endpoints = Vec::new();
        for (n, named) in self.0.iter().enumerate() {
            let addresses: Vec<Address> = match &named.place {
                Place::Is(address) => vec![address.clone()],
                Place::Name(..) => found.get(n).into_iter().flatten().copied().map(Address::Tcp).collect(),
            };
            for address in addresses {
                if endpoints.len() == MOST || !seen.insert(address.to_string()) {
                    continue;
                }
                let same = |old: &&Arc<Endpoint>| old.address == address && old.authority == named.authority;
                endpoints.push(before.iter().find(same).cloned().unwrap_or_else(|| {
                    Arc::new(Endpoint::new(address, named.authority.clone(), named.server_name.clone()))
                }));
            }
        }
        endpoints.into()
    }
}

impl Named {
    fn of(origin: &Origin, speech: &Speech) -> Self {
        let (host, port) = match origin {
            Origin::Tcp { host, port } => (host, *port),
            Origin::Unix(path) => {
                let place = Place::Is(Address::Unix(Arc::<Path>::from(path.as_path())));
                return Self { place, authority: "localhost".into(), server_name: None };
            }
        };
        let address: Option<IpAddr> = host.parse().ok();
        let authority = match address {
            Some(IpAddr::V6(_)) => format!("[{host}]:{port}"),
            Some(IpAddr::V4(_)) | None => format!("{host}:{port}"),
        };
        let server_name = match speech {
            Speech::Tls(tls) => tls.server_name.clone().or_else(|| ServerName::try_from(host.to_string()).ok()),
            Speech::Http1 | Speech::Http2 => None,
        };
        let place = match address {
            Some(ip) => Place::Is(Address::Tcp(SocketAddr::new(ip, port))),
            None => Place::Name(host.clone(), port),
        };
        Self { place, authority: authority.into(), server_name }
    }
}

/// Looks names up for as long as the upstream is there. What was found last stays until something else is found: a name
/// server that is down takes nothing down with it.
pub(super) async fn keep_up(upstream: Weak<Upstream>, origins: Origins) {
    let mut wait = FIRST_RETRY;
    loop {
        let found = origins.look_up().await;
        let Some(upstream) = upstream.upgrade() else { return };
        let refresh = upstream.config.dns_refresh;
        let pause = match found {
            Ok(found) => {
                wait = FIRST_RETRY;
                upstream.found(&origins, &found);
                refresh
            }
            Err(error) => {
                tracing::warn!(upstream = %upstream.config.name, %error, "a name cannot be looked up");
                upstream.found_nothing();
                let pause = wait.min(refresh);
                wait *= 2;
                pause
            }
        };
        drop(upstream);
        sleep(pause).await;
    }
}

impl Upstream {
    fn found(&self, origins: &Origins, found: &[Vec<SocketAddr>]) {
        self.endpoints.send_if_modified(|endpoints| {
            let now = origins.endpoints(found, endpoints.list());
            let same = endpoints.are_known()
                && now.len() == endpoints.list().len()
                && now.iter().all(|one| endpoints.list().iter().any(|old| Arc::ptr_eq(one, old)));
            if !same {
                tracing::debug!(upstream = %self.config.name, endpoints = now.len(), "its names lead elsewhere now");
                *endpoints = Endpoints::Known(now);
            }
            !same
        });
        self.count();
    }

    fn found_nothing(&self) {
        self.endpoints.send_if_modified(|endpoints| {
            let first = !endpoints.are_known();
            if first {
                *endpoints = Endpoints::Known(Arc::new([]));
            }
            first
        });
    }
}
