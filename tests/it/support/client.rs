//! An HTTP/1.1 client that says what it is told to, well formed or not, and reads the answer strictly.

use std::{
    io::{ErrorKind, Read, Write as _},
    net::{SocketAddr, TcpStream},
};

use super::PATIENCE;

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The only header of a name; panics when there are more.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} stands twice");
        value
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// A member of a JSON body that is a string.
    pub(crate) fn member(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_else(|| panic!("no {name} in {self:?}")).to_owned()
    }
}

/// One request on a connection of its own.
pub(crate) fn request(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    try_request(to, method, path, headers, body).unwrap()
}

/// The same, for when the other end may be gone.
pub(crate) fn try_request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "Connection: close\r\n\r\n";
    let mut connection = Connection::open(to)?;
    connection.send(&[head.as_bytes(), body].concat())?;
    connection.answer(method == "HEAD")
}

/// Raw bytes on a connection of their own, and the answer.
pub(crate) fn raw(to: SocketAddr, bytes: &[u8]) -> std::io::Result<Answer> {
    let mut connection = Connection::open(to)?;
    connection.send(bytes)?;
    connection.answer(false)
}

/// A connection that stays open.
pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new() })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer, whatever its framing.
    pub(crate) fn answer(&mut self, head_only: bool) -> std::io::Result<Answer> {
        let (status, headers) = loop {
            let end = loop {
                if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                    break at;
                }
                self.more()?;
            };
            let rest = self.unread.split_off(end + 4);
            let head = String::from_utf8(std::mem::replace(&mut self.unread, rest)).unwrap();
            let mut lines = head.trim_end().split("\r\n");
            let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            let headers: Vec<(String, String)> = lines
                .map(|line| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned())).unwrap())
                .collect();
            // 100 Continue is not the answer.
            if status >= 200 {
                break (status, headers);
            }
        };
        let mut answer = Answer { status, headers, body: Vec::new() };
        if head_only || status == 204 || status == 304 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = self.chunks()?;
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            while self.unread.len() < length {
                self.more()?;
            }
            let rest = self.unread.split_off(length);
            answer.body = std::mem::replace(&mut self.unread, rest);
        } else {
            self.stream.read_to_end(&mut self.unread)?;
            answer.body = std::mem::take(&mut self.unread);
        }
        Ok(answer)
    }

    fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(line.split(';').next().unwrap(), 16).unwrap();
            while self.unread.len() < size + 2 {
                self.more()?;
            }
            let rest = self.unread.split_off(size + 2);
            let chunk = std::mem::replace(&mut self.unread, rest);
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(at) = find(&self.unread, b"\r\n") {
                let rest = self.unread.split_off(at + 2);
                let line = std::mem::replace(&mut self.unread, rest);
                return Ok(String::from_utf8(line[..at].to_vec()).unwrap());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            n => {
                self.unread.extend_from_slice(&buffer[..n]);
                Ok(())
            }
        }
    }

    /// Waits until the other end closes; whether it did so without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty() && self.unread.is_empty(),
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }

    /// The socket itself.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
