//! `sidegate healthcheck`: what an image without a shell asks itself.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use super::{FAILED, check::listing, end, say};
use crate::config;

/// How long all of it may take: less than what Docker and others wait by default.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much of an answer is read, in bytes; ours have some 150.
const MAX_ANSWER: usize = 4096;

/// Whom to ask, and what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration of the process that runs, which says where its admin listener is
    #[arg(long, default_value = "config.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Where its admin listener is, in place of a configuration; an address and a port, such as <http://127.0.0.1:9900>
    #[arg(long, value_name = "URL", conflicts_with = "config", value_parser = address_in)]
    url: Option<SocketAddr>,
    /// Ask whether it wants requests (/readyz), not whether it lives (/livez)
    #[arg(long)]
    ready: bool,
}

/// Asks the process that runs how it is: 0 when it is well. Whatever else is found is 1, since Docker keeps 2 for itself.
pub fn main(args: &Args) -> ExitCode {
    let address = match args.url.map_or_else(|| configured(&args.config), Ok) {
        Ok(address) => address,
        Err(why) => return end(FAILED, why),
    };
    let path = if args.ready { "/readyz" } else { "/livez" };
    match ask(address, path) {
        Ok((200, text)) => {
            say(text);
            ExitCode::SUCCESS
        }
        Ok((status, text)) => end(FAILED, format_args!("http://{address}{path} answers with {status}: {text}")),
        Err(error) => end(FAILED, format_args!("http://{address}{path}: {error}")),
    }
}

fn address_in(url: &str) -> Result<SocketAddr, String> {
    let address = url.strip_prefix("http://").ok_or("this begins with http://")?;
    let address = address.strip_suffix('/').unwrap_or(address);
    address.parse().map_err(|_| "this is an IP address and a port, without a path".into())
}

/// Where the admin listener of a configuration is to be found, from here.
fn configured(config: &Path) -> Result<SocketAddr, String> {
    let mut address = config::load(config).map_err(|errors| listing(&errors))?.config.admin.address;
    if address.port() == 0 {
        return Err(format!("{}: `admin.address` has port 0: only --url can say which it became", config.display()));
    }
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

/// The status of an answer, and what its body says.
fn ask(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; MAX_ANSWER];
    while answer.len() < MAX_ANSWER {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no whole answer in time"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            // What Unix calls a read that has run into its time-out.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Response::new(&mut headers);
    match (head.parse(&answer), head.code) {
        (Ok(httparse::Status::Complete(length)), Some(status)) => {
            Ok((status, String::from_utf8_lossy(&answer[length..]).trim().to_owned()))
        }
        _ => Err(io::Error::other("what answers speaks no HTTP")),
    }
}
