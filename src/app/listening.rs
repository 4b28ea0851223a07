//! Where it listens and what there is, for who starts it.

use std::{io, net::SocketAddr, sync::Arc};

use super::wants_demo;
use crate::{config::Config, server::Bound};

/// Where it really listens, and what there is: for who starts it.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Each listener's name, address, whether it speaks TLS, and whether it answers the issuer's paths.
    pub listeners: Vec<(Arc<str>, SocketAddr, bool, bool)>,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The issuer's `iss`, where there is one.
    pub issuer: Option<String>,
    routes: Vec<String>,
    demo: bool,
}

impl Listening {
    pub(super) fn of(config: &Config, bound: &[Bound], admin: SocketAddr) -> Self {
        let listeners = config.server.listeners.iter().zip(bound);
        let upstreams = &config.gateway.upstreams;
        Self {
            listeners: listeners
                .map(|(configured, bound)| {
                    (configured.name.clone(), bound.address, configured.tls.is_some(), configured.issuer)
                })
                .collect(),
            admin,
            issuer: config.issuer.as_ref().map(|issuer| issuer.url.to_string()),
            routes: config.gateway.routes.iter().map(|route| route.describe(&upstreams[route.upstream].name)).collect(),
            demo: wants_demo(config),
        }
    }

    pub(super) fn print(&self, out: &mut impl io::Write) -> io::Result<()> {
        writeln!(out, "Sidegate {} (pid {}) is ready.", env!("CARGO_PKG_VERSION"), std::process::id())?;
        for (name, address, tls, issuer) in &self.listeners {
            let scheme = if *tls { "https" } else { "http" };
            let issuer = if *issuer { ", with the issuer" } else { "" };
            writeln!(out, "  listener  {name:<10} {scheme}://{address}{issuer}")?;
        }
        writeln!(out, "  admin     {:<10} http://{}/metrics", "", self.admin)?;
        if let Some(issuer) = &self.issuer {
            writeln!(out, "  issuer    {:<10} {issuer}", "")?;
        }
        for route in &self.routes {
            writeln!(out, "  route     {route}")?;
        }
        if let (true, Some(url)) = (self.demo, &self.issuer) {
            let token = format!("{url}/oauth/token");
            writeln!(
                out,
                "\nTry:\n  curl -u testclient:secret -d 'grant_type=password&username=test&password=test' {token}"
            )?;
        }
        Ok(())
    }
}
