//! A client of HTTP/2 that sends the frames it is told to, well formed or not (RFC 9113 §4, §6).

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::PATIENCE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A connection.
pub(crate) struct Frames<S = TcpStream> {
    stream: S,
}

impl Frames {
    /// Connects and sends the preface and these settings.
    pub(crate) fn open(to: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self::over(stream, settings)
    }

    /// The socket itself.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.stream
    }
}

impl<S: Read + Write> Frames<S> {
    /// Sends the preface and these settings over a stream that is there.
    pub(crate) fn over(mut stream: S, settings: &[(u16, u32)]) -> Self {
        stream.write_all(PREFACE).unwrap();
        let mut this = Self { stream };
        // Of what was said before, nothing is to be remembered (RFC 7541 §4.2): a status is then always spelt out.
        let settings: Vec<u8> = [(1, 0)]
            .iter()
            .chain(settings)
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        this.send(SETTINGS, 0, 0, &settings).unwrap();
        this
    }

    /// Sends one frame.
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(&frame(kind, flags, stream, payload))
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a GET without a body.
    pub(crate) fn get(&mut self, stream: u32, path: &str) -> std::io::Result<()> {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&request("GET", path)))
    }

    /// The next frame; `None` when the other end is gone.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let [a, b, c, kind, flags, s @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.read(&mut payload)?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(s) & 0x7fff_ffff, payload })
    }

    fn read(&mut self, into: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(into) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("no frame came in time")
            }
            Err(_) => None,
        }
    }

    /// The next frame of this kind, others passed over or answered; `None` when the other end is gone.
    pub(crate) fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if wanted(&frame) {
                return Some(frame);
            }
            // As everybody answers; a farewell waits for that (RFC 9113 §6.8).
            match (frame.kind, frame.flags & ACK) {
                (SETTINGS, 0) => drop(self.send(SETTINGS, ACK, 0, b"")),
                (PING, 0) => drop(self.send(PING, ACK, 0, &frame.payload)),
                _ => {}
            }
        }
    }

    /// How a request ended: with a status, or reset, or with the connection.
    pub(crate) fn outcome(&mut self, stream: u32) -> Outcome {
        let of_it = |frame: &Frame| {
            frame.kind == GOAWAY && frame.code() != 0
                || frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM)
        };
        match self.until(of_it) {
            Some(frame) if frame.kind == HEADERS => Outcome::Status(status(&frame.payload)),
            Some(frame) if frame.kind == RST_STREAM => Outcome::Reset(frame.code()),
            Some(frame) => Outcome::Goaway(frame.code()),
            None => Outcome::Closed,
        }
    }

    /// Whether the other end lets go of the connection; what it says before does not matter.
    pub(crate) fn is_closed(&mut self) -> bool {
        while self.next().is_some() {}
        true
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(u16),
    Reset(u32),
    Goaway(u32),
    Closed,
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The fields every request has.
pub(crate) fn request<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "http"), (":authority", "h"), (":path", path)]
}

/// A field block (RFC 7541 §6.2.2): literals that nobody is to remember.
pub(crate) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [&[0][..], &literal(name), &literal(value)].concat()).collect()
}

/// RFC 7541 §5.2, without Huffman's code.
fn literal(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if text.len() < 127 {
        out.push(text.len() as u8);
    } else {
        out.push(127);
        let mut left = text.len() - 127;
        while left >= 128 {
            out.push((left % 128) as u8 | 128);
            left /= 128;
        }
        out.push(left as u8);
    }
    out.extend_from_slice(text.as_bytes());
    out
}

/// The status that a response's field block begins with (RFC 7541, appendix A: 8 to 14; others by the name of 8).
fn status(block: &[u8]) -> u16 {
    // A dynamic table size update may come first.
    let block = if block[0] & 0xe0 == 0x20 { &block[1..] } else { block };
    match block {
        [at @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(at - 0x88)],
        // A literal with that name; three digits in Huffman's code, where 0, 1 and 2 take five bits and the others six.
        [0x08 | 0x48, length, text @ ..] if length & 0x80 != 0 => huffman_digits(&text[..usize::from(length & 0x7f)]),
        [0x08 | 0x48, 3, text @ ..] => std::str::from_utf8(&text[..3]).unwrap().parse().unwrap(),
        _ => panic!("no status at the start of {block:x?}"),
    }
}

/// RFC 7541, appendix B: '0' is 00000, '1' 00001, '2' 00010, '3' 011001 … '9' 011111.
fn huffman_digits(text: &[u8]) -> u16 {
    let mut bits = text.iter().flat_map(|byte| (0..8).rev().map(move |n| u16::from(byte >> n & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let five = (0..5).fold(0, |code, _| code << 1 | bits.next().unwrap());
        let digit = if five < 3 { five } else { (five << 1 | bits.next().unwrap()) - 0b01_1001 + 3 };
        number = number * 10 + digit;
    }
    number
}
