//! A load at a constant rate. A request is due when it is due, whether or not the one before it has been answered; one that
//! had to wait for that is taken to have begun when it was due, so that a proxy that stalls is not asked less.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Latencies in microseconds. A thread for each connection: the kernel wakes it when it is due, within a microsecond.
pub(crate) fn run(port: u16, connections: u32, rate: f64, seconds: f64, token: Option<&str>) -> Value {
    // How long the kernel may let a sleeper sleep on, in nanoseconds; threads have it from the one that makes them.
    std::fs::write("/proc/self/timerslack_ns", "1").unwrap();
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request =
        format!("GET /v1/items?page=2 HTTP/1.1\r\nHost: bench.local\r\nUser-Agent: bench\r\n{authorization}\r\n");
    let (every, count) = (f64::from(connections) / rate, (rate * seconds / f64::from(connections)) as u32);
    let start = Instant::now() + Duration::from_millis(50);
    let mut took: Vec<f64> = thread::scope(|scope| {
        let one = |n: u32| {
            let mut connection = Connection::open(port);
            let due = move |turn: u32| start + Duration::from_secs_f64(f64::from(n) / rate + every * f64::from(turn));
            let request = request.as_bytes();
            scope.spawn(move || (0..count).map(|turn| connection.ask(request, due(turn))).collect::<Vec<f64>>())
        };
        let threads: Vec<_> = (0..connections).map(one).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let wall = start.elapsed().as_secs_f64();
    took.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    json!({ "requests": took.len(), "rate": took.len() as f64 / wall, "p50": at(0.5), "p99": at(0.99), "p999": at(0.999) })
}

struct Connection {
    stream: TcpStream,
    buffer: [u8; 4096],
}

impl Connection {
    fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: [0; 4096] }
    }

    /// Sends a request when it is due, and says how many microseconds its answer took.
    fn ask(&mut self, request: &[u8], due: Instant) -> f64 {
        let now = Instant::now();
        let began = if now < due {
            thread::sleep(due - now);
            Instant::now()
        } else {
            due
        };
        self.stream.write_all(request).unwrap();
        let mut filled = 0;
        while !whole_answer(&self.buffer[..filled]) {
            let read = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert!(read > 0, "the connection was closed");
            filled += read;
        }
        began.elapsed().as_secs_f64() * 1e6
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
