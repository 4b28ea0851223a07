//! An upstream on a raw socket, which remembers what reached it byte for byte and answers as it is told.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A request as it reached the upstream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reached {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reached {
    /// All values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The request target.
    pub(crate) fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }
}

/// The upstream.
#[derive(Clone)]
pub(crate) struct Upstream {
    address: SocketAddr,
    reached: Arc<Mutex<Vec<Reached>>>,
    connections: Arc<Mutex<usize>>,
}

impl Upstream {
    /// Answers everything with 200 and `hello`.
    pub(crate) fn start() -> Self {
        Self::answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec())
    }

    /// Answers with the bytes that `answer` makes; an empty answer closes the connection.
    pub(crate) fn answering(answer: impl Fn(&Reached) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::with(move |request, stream| {
            let bytes = answer(request);
            !bytes.is_empty() && stream.write_all(&bytes).is_ok()
        })
    }

    /// Does what it likes with the connection; it is kept while the answer is `true`.
    pub(crate) fn with(act: impl Fn(&Reached, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream =
            Self { address: listener.local_addr().unwrap(), reached: Arc::default(), connections: Arc::default() };
        let (this, act) = (upstream.clone(), Arc::new(act));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (this, act) = (this.clone(), act.clone());
                *this.connections.lock().unwrap() += 1;
                thread::spawn(move || this.serve(stream, &*act));
            }
        });
        upstream
    }

    /// Takes connections, and nothing that comes over them, until `done` returns.
    pub(crate) fn reading_nothing(done: impl Fn() + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream =
            Self { address: listener.local_addr().unwrap(), reached: Arc::default(), connections: Arc::default() };
        let done = Arc::new(done);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let done = done.clone();
                thread::spawn(move || {
                    done();
                    drop(stream);
                });
            }
        });
        upstream
    }

    fn serve(&self, mut stream: TcpStream, act: &dyn Fn(&Reached, &mut TcpStream) -> bool) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(request) = read_request(&mut reader) {
            self.reached.lock().unwrap().push(request.clone());
            if !act(&request, &mut stream) {
                return;
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has reached it since this was last asked.
    pub(crate) fn take(&self) -> Vec<Reached> {
        std::mem::take(&mut self.reached.lock().unwrap())
    }

    /// The only request that has reached it since this was last asked.
    pub(crate) fn only(&self) -> Reached {
        let mut reached = self.take();
        assert_eq!(reached.len(), 1, "{reached:?}");
        reached.remove(0)
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Reached> {
    let mut line = || {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end_matches("\r\n").to_owned())
    };
    let mut request = Reached { line: line()?, ..Reached::default() };
    loop {
        let line = line()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        request.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    if request.all("transfer-encoding") == ["chunked"] {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            request.body.extend_from_slice(&chunk[..size]);
        }
        // What follows the last chunk.
        let mut trailer = String::new();
        while reader.read_line(&mut trailer).ok()? > 2 {
            trailer.clear();
        }
    } else if let [length] = request.all("content-length")[..] {
        request.body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut request.body).ok()?;
    }
    Some(request)
}
