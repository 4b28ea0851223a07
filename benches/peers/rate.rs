//! A load at a constant rate. A request is due when it is due, and its latency counts from then, however late it was sent,
//! so that a proxy that stalls is not asked less.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Of how many requests in a row a 99th percentile is taken.
const BATCH: usize = 1000;

/// Latencies in microseconds, and how late requests were sent. `p99` is the median of the batches' own: on a machine whose
/// daemons keep a core for some milliseconds in each second, the one of all (`p99_all`) says how many of these there were.
///
/// One thread looks at the clock and at all connections without a pause: to be woken takes as long as what is measured, and
/// threads that are woken at once wait for each other.
pub(crate) fn run(port: u16, connections: u32, rate: f64, seconds: f64, token: Option<&str>) -> Value {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request =
        format!("GET /v1/items?page=2 HTTP/1.1\r\nHost: bench.local\r\nUser-Agent: bench\r\n{authorization}\r\n");
    let count = (rate * seconds) as usize;
    // By the turn of the request.
    let (mut took, mut late) = (vec![0.0; count], Vec::with_capacity(count));
    let mut free: VecDeque<Connection> = (0..connections).map(|_| Connection::open(port)).collect();
    let mut busy: Vec<Connection> = Vec::with_capacity(free.len());
    let start = Instant::now() + Duration::from_millis(1);
    let patience = Duration::from_secs_f64(seconds + 10.0);
    let due = |turn: usize| start + Duration::from_secs_f64(turn as f64 / rate);
    while late.len() < count || !busy.is_empty() {
        let now = Instant::now();
        assert!(now < start + patience, "{} requests have no answer", busy.len());
        let turn = late.len();
        if turn < count
            && due(turn) <= now
            && let Some(mut connection) = free.pop_front()
        {
            connection.send(request.as_bytes(), turn);
            late.push(micros(now - due(turn)));
            busy.push(connection);
        }
        for connection in busy.extract_if(.., Connection::is_answered) {
            took[connection.turn] = micros(due(connection.turn).elapsed());
            free.push_back(connection);
        }
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let batches: Vec<f64> = took.chunks(BATCH).map(|batch| quantile(batch, 0.99)).collect();
    json!({
        "requests": count, "rate": rate, "p50": quantile(&took, 0.5), "p99": quantile(&batches, 0.5),
        "p99_all": quantile(&took, 0.99), "p999_all": quantile(&took, 0.999), "late_p99": quantile(&late, 0.99),
    })
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

struct Connection {
    stream: TcpStream,
    turn: usize,
    buffer: [u8; 4096],
    filled: usize,
}

impl Connection {
    fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream, turn: 0, buffer: [0; 4096], filled: 0 }
    }

    fn send(&mut self, request: &[u8], turn: usize) {
        self.stream.write_all(request).unwrap();
        (self.turn, self.filled) = (turn, 0);
    }

    fn is_answered(&mut self) -> bool {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => panic!("the connection was closed"),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("{error}"),
        }
        whole_answer(&self.buffer[..self.filled])
    }
}

/// Whether there is a head, and a body of the length that it names.
fn whole_answer(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    });
    body.len() == length.unwrap_or(0)
}
