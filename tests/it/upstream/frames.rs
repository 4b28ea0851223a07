//! An HTTP/2 upstream that is made of frames, for what no library would send.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What came from the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// A connection.
    Open,
    /// A request's head on a stream, and whether that is all of it.
    Head(u32, bool),
    /// So much of a body.
    Data(u32, usize),
    /// A stream was given up, with an error code.
    Reset(u32, u32),
    /// The connection ended.
    Closed,
}

/// The upstream.
pub(super) struct Frames {
    pub(super) address: SocketAddr,
    came: Arc<Mutex<Vec<Came>>>,
}

impl Frames {
    /// Begins each connection with `settings`, and sends what `answer` makes of the n-th request's stream.
    pub(super) fn start(settings: &[u8], answer: impl Fn(usize, u32) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let came: Arc<Mutex<Vec<Came>>> = Arc::default();
        let frames = Self { address: listener.local_addr().unwrap(), came: came.clone() };
        let (answer, settings) = (Arc::new(answer), frame(SETTINGS, 0, 0, settings));
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (came, answer) = (came.clone(), answer.clone());
                stream.write_all(&settings).unwrap();
                thread::spawn(move || {
                    came.lock().unwrap().push(Came::Open);
                    // It ends as the connection does.
                    let _ = serve(&mut stream, &came, &*answer);
                    came.lock().unwrap().push(Came::Closed);
                });
            }
        });
        frames
    }

    /// All that has come so far.
    pub(super) fn came(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }

    /// How many requests have come.
    pub(super) fn requests(&self) -> usize {
        self.came().iter().filter(|came| matches!(came, Came::Head(..))).count()
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

fn serve(
    stream: &mut TcpStream,
    came: &Mutex<Vec<Came>>,
    answer: &dyn Fn(usize, u32) -> Vec<u8>,
) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 24])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload)?;
        let id = u32::from_be_bytes(id);
        let note = |what| came.lock().unwrap().push(what);
        match kind {
            HEADERS => {
                let n = came.lock().unwrap().iter().filter(|came| matches!(came, Came::Head(..))).count();
                note(Came::Head(id, flags & END_STREAM != 0));
                stream.write_all(&answer(n, id))?;
            }
            DATA => note(Came::Data(id, payload.len())),
            RST_STREAM => note(Came::Reset(id, u32::from_be_bytes(payload.try_into().unwrap()))),
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload))?,
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[a, b, c, kind, flags][..], &id.to_be_bytes(), payload].concat()
}

/// A whole response: 200 without a body.
pub(super) fn ok(id: u32) -> Vec<u8> {
    // 0x88 is `:status: 200` (RFC 7541, appendix A).
    frame(HEADERS, END_HEADERS | END_STREAM, id, &[0x88])
}

/// A response's head.
pub(super) fn head(id: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, id, &[0x88])
}

/// A part of a response's body.
pub(super) fn data(id: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0, id, bytes)
}

/// A stream is given up.
pub(super) fn reset(id: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, id, &code.to_be_bytes())
}

/// The connection will be, and streams after `last` are not looked at.
pub(super) fn go_away(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), 0_u32.to_be_bytes()].concat())
}

pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const INTERNAL_ERROR: u32 = 2;
pub(super) const CANCEL: u32 = 8;
/// SETTINGS_INITIAL_WINDOW_SIZE of 0.
pub(super) const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];
