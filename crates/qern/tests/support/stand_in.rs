//! A model hub on this machine: answers one request per connection as a test's closure says, and keeps what it was asked.
//! Can drop a connection midway, drip, lie about lengths, and act as a CONNECT proxy.

use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// One request received.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The first byte asked for.
    pub fn start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    cut: Option<usize>,
    /// Wait this long after every tenth of the body.
    drip: Option<Duration>,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), cut: None, drip: None }
    }

    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::status(200) }
    }

    pub fn redirect(target: impl Into<String>) -> Self {
        Self::status(302).header("location", target)
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_string(), value.into()));
        self
    }

    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub fn cut_after(self, bytes: usize) -> Self {
        Self { cut: Some(bytes), ..self }
    }

    pub fn drip(self, pause: Duration) -> Self {
        Self { drip: Some(pause), ..self }
    }
}

/// A file as the hub serves it: ranges, tags, its length and hash.
pub fn file(content: &[u8], request: &Request) -> Reply {
    let reply = match request.start() {
        Some(start) if start >= content.len() => Reply::status(416),
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
            Reply { status: 206, ..Reply::body(&content[start..]) }.header("content-range", range)
        }
        None => Reply::body(content),
    };
    labelled(reply, content)
}

/// The headers by which the hub says what a large file is.
pub fn labelled(reply: Reply, content: &[u8]) -> Reply {
    let hash = sha256(content);
    reply
        .header("x-linked-etag", format!("\"{hash}\""))
        .header("x-linked-size", content.len().to_string())
        .header("etag", format!("\"{hash}\""))
}

pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The running stand-in; its threads end with the test process.
pub struct StandIn {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl StandIn {
    /// Answers every request by `answer`, which is also told how many came before.
    pub fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                // A client that goes away is part of the play.
                thread::spawn(move || serve(stream, &log, &*answer));
            }
        });
        Self { port, requests }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The same server under another host name.
    pub fn other_url(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The first byte that each request asked for.
    pub fn starts(&self) -> Vec<Option<usize>> {
        self.requests().iter().map(Request::start).collect()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request, usize) -> Reply) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut request = read_request(&mut reader)?;
    if request.method == "CONNECT" {
        (&stream).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
        request = read_request(&mut reader)?;
    }
    let before = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.len() - 1
    };
    write_reply(&stream, &answer(&request, before)).ok()
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut lines = reader.lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
    let headers = lines.take_while(|line| !line.is_empty());
    let headers =
        headers.filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_string(), value.trim().to_string())));
    Some(Request { method, path, headers: headers.collect() })
}

fn write_reply(mut stream: &TcpStream, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Status\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.headers.iter().any(|(name, _)| name == "content-length") {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
    match reply.drip {
        None => stream.write_all(body)?,
        Some(pause) => {
            for piece in body.chunks(body.len().div_ceil(10).max(1)) {
                stream.write_all(piece)?;
                stream.flush()?;
                thread::sleep(pause);
            }
        }
    }
    stream.flush()
}
