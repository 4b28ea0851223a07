//! Binding an address for ourselves alone; who has it, if somebody else does.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{config::Listener, tls::Terminator};

/// A listener that is bound.
pub struct Bound {
    /// What was asked for.
    pub(super) listener: Listener,
    /// Where it really listens.
    pub address: SocketAddr,
    socket: TcpListener,
}

/// An address that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("{address} is in use by {owner}")]
    InUse {
        /// The address.
        address: SocketAddr,
        /// The process, as far as it can be seen.
        owner: String,
    },
    /// The system refuses it.
    #[error("cannot listen on {address}: {cause}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
}

/// Binds a listener. Its port is ours alone: no SO_REUSEPORT, so that a second instance fails and does not share.
///
/// # Errors
/// When the address cannot be had; names the process that has it where that can be seen.
pub fn bind(listener: &Listener) -> Result<Bound, BindError> {
    let (socket, address) = bind_address(listener.address)?;
    // A response is written in one piece; waiting for more would only delay it. Connections take this over from the
    // socket they are accepted on (tcp(7)).
    socket2::SockRef::from(&socket).set_tcp_nodelay(true).map_err(|cause| BindError::Refused { address, cause })?;
    Ok(Bound { listener: listener.clone(), address, socket })
}

/// Binds an address; answers the socket, not blocking, and where it really is.
///
/// # Errors
/// See [`bind`].
pub fn bind_address(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let refused = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = owner_of(address).unwrap_or_else(|| "another process".into());
            BindError::InUse { address, owner }
        }
        _ => BindError::Refused { address, cause },
    };
    let socket = listen(address).map_err(refused)?;
    let real = socket.local_addr().map_err(refused)?;
    Ok((socket, real))
}

/// So many connections may wait to be accepted, if the system lets them (`net.core.somaxconn`). The standard library's
/// 128 are gone in a moment at the edge, and who finds no room tries again a second later.
const BACKLOG: i32 = 4096;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // As the standard library does: a restart need not wait for connections that are long closed.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Bound {
    /// Another listener on the same socket: whoever waits to be accepted does not see that there are two.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub(super) fn again(&self, listener: Listener) -> Result<Self, BindError> {
        let address = self.address;
        let socket = self.socket.try_clone().map_err(|cause| BindError::Refused { address, cause })?;
        Ok(Self { listener, address, socket })
    }

    /// Begins to accept, on the runtime this is called in.
    pub(super) fn accepting(self) -> io::Result<Accepting> {
        let Self { listener: Listener { name, tls, issuer, .. }, socket, address: _ } = self;
        Ok(Accepting { name, tls, issuer, socket: tokio::net::TcpListener::from_std(socket)? })
    }
}

/// A listener that accepts.
pub(super) struct Accepting {
    pub(super) name: Arc<str>,
    pub(super) tls: Option<Arc<Terminator>>,
    pub(super) issuer: bool,
    socket: tokio::net::TcpListener,
}

impl Accepting {
    /// The next connection, on the runtime that accepts.
    pub(super) async fn accept(&self) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
        loop {
            match self.socket.accept().await {
                // The client hung up while it waited in the queue.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                accepted => return accepted,
            }
        }
    }
}

/// `sidegate with pid 123`: who listens where we would, if /proc lets us see it.
fn owner_of(address: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|table| listening_inode(table, address))?;
    let socket = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.map(|entry| entry.path()).filter(|path| holds(path, &socket)).find_map(|path| {
        let command = std::fs::read_to_string(path.join("comm")).ok()?;
        Some(format!("{} with pid {}", command.trim(), path.file_name()?.to_str()?))
    })
}

fn holds(process: &Path, socket: &str) -> bool {
    let descriptors = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|target| target.as_os_str() == socket)
}

/// proc(5), /proc/net/tcp: `sl local_address rem_address st … inode`; state 0A listens.
fn listening_inode(table: &str, address: SocketAddr) -> Option<String> {
    let text = std::fs::read_to_string(table).ok()?;
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let listening = parse_address(fields.get(1)?)?;
        (in_the_way(listening, address) && *fields.get(3)? == "0A").then(|| fields.get(9).map(ToString::to_string))?
    })
}

/// `0100007F:0BB8` is 127.0.0.1:3000: words of 32 bits as the machine stores them, then the port as a number.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.rsplit_once(':')?;
    let word = |n: usize| Some(u32::from_str_radix(words.get(8 * n..8 * n + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match words.len() {
        8 => IpAddr::from(word(0)?),
        32 => IpAddr::from(<[u8; 16]>::try_from([word(0)?, word(1)?, word(2)?, word(3)?].concat()).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// Whether who listens at `one` keeps others from listening at `other`.
pub fn in_the_way(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    // [::] takes IPv4 as well; 0.0.0.0 takes no IPv6.
    let covers = |wild: IpAddr, ip: IpAddr| wild.is_unspecified() && (wild.is_ipv6() || ip.is_ipv4());
    one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}
