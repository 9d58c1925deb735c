//! A web server that misbehaves on request: every answer is made by a function of the test's.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// Longest that a connection may stay silent.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a client asked for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        let first = lines.next()?;
        let (method, rest) = first.split_once(' ')?;
        let header = |line: String| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let path = rest.split(' ').next()?.to_owned();
        Some(Self { method: method.to_owned(), path, headers: lines.filter_map(header).collect() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(&name.to_ascii_lowercase()).map(String::as_str)
    }

    pub(crate) fn is_get(&self) -> bool {
        self.method == "GET"
    }

    /// The first byte that is asked for.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("Range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// How the body is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Manner {
    #[default]
    Whole,
    /// The connection ends after this many bytes of the body.
    Cut(usize),
    /// After this many bytes, nothing more comes and the connection stays.
    Stall(usize),
    /// In pieces, without a length.
    Chunked,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) manner: Manner,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn body(mut self, bytes: &[u8]) -> Self {
        self.body = bytes.to_vec();
        self
    }

    pub(crate) fn manner(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }

    fn send(&self, head: bool, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut text = format!("HTTP/1.1 {} Because\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if self.manner == Manner::Chunked {
            text += "Transfer-Encoding: chunked\r\n";
        } else if !self.headers.iter().any(|(name, _)| name == "Content-Length") {
            text += &format!("Content-Length: {}\r\n", self.body.len());
        }
        stream.write_all(format!("{text}\r\n").as_bytes())?;
        match self.manner {
            _ if head => {}
            Manner::Whole => stream.write_all(&self.body)?,
            Manner::Cut(count) => stream.write_all(&self.body[..count.min(self.body.len())])?,
            Manner::Stall(count) => {
                stream.write_all(&self.body[..count.min(self.body.len())])?;
                stream.flush()?;
                let _ = stream.read(&mut [0]); // returns once the client has had enough
            }
            Manner::Chunked => {
                for piece in self.body.chunks(1000) {
                    stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                    stream.write_all(piece)?;
                    stream.write_all(b"\r\n")?;
                }
                stream.write_all(b"0\r\n\r\n")?;
            }
        }
        stream.flush()
    }
}

/// A server that runs as long as the test.
#[derive(Clone)]
pub(crate) struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), log: Arc::default() };
        let (log, answer) = (Arc::clone(&server.log), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer, mut stream) = (Arc::clone(&log), Arc::clone(&answer), stream.unwrap());
                thread::spawn(move || {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let Some(request) = Request::read(&stream) else { return };
                    log.lock().unwrap().push(request.clone());
                    let _ = answer(&request).send(request.method == "HEAD", &mut stream); // the client may have left
                });
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked for so far.
    pub(crate) fn log(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// What was asked for with GET so far, without the lists of files.
    pub(crate) fn gets(&self) -> Vec<Request> {
        self.log().into_iter().filter(|request| request.is_get() && !request.path.starts_with("/api/")).collect()
    }
}
