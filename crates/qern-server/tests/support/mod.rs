//! A real server on a free port with a parrot behind it, and the ways that tests talk to it.
#![allow(dead_code, reason = "each test binary uses its own part")]

#[path = "../parrot/mod.rs"]
pub mod parrot;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use qern_engine::{EngineConfig, EngineHandle};
use qern_model::generation::GenerationDefaults;
use qern_model::lora::Adapter;
use qern_model::template::ChatTemplate;
use qern_server::{Config, Keys, Model, Opened, Server};
use serde_json::Value;
use tokio::sync::oneshot;

/// Longer than any stall of a busy machine; tests that wait so long have failed.
pub const LONG: Duration = Duration::from_secs(60);

/// What a test server is like.
pub struct Setup {
    pub config: Config,
    pub keys: &'static str,
    pub step: Duration,
    pub context_len: usize,
    pub engine: EngineConfig,
}

impl Default for Setup {
    fn default() -> Self {
        let config = Config { port: 0, drain_timeout: LONG, ..Config::default() };
        Self { config, keys: "", step: Duration::ZERO, context_len: 2048, engine: EngineConfig::default() }
    }
}

/// A running server. Dropping it stops it, and what it did not finish.
pub struct Running {
    pub address: SocketAddr,
    pub engine: EngineHandle,
    pub stop: Option<oneshot::Sender<()>>,
    pub thread: Option<JoinHandle<usize>>,
}

/// A server as it is by default.
pub fn start() -> Running {
    Setup::default().start()
}

impl Setup {
    /// Starts a server with the models `parrot` and `second`.
    pub fn start(self) -> Running {
        let mut keys = Keys::default();
        keys.add_list(self.keys, "keys").unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = std::sync::mpsc::channel();
        let (engine, tokenizer) = parrot::engine(self.context_len, self.step, self.engine);
        let model = |name: &str, engine: EngineHandle| Model {
            name: name.into(),
            root: "parrot.gguf".into(),
            engine,
            tokenizer: tokenizer.clone(),
            template: Some(ChatTemplate::of_model(None, &tokenizer).unwrap()),
            template_source: None,
            defaults: GenerationDefaults { temperature: Some(0.0), ..GenerationDefaults::default() },
            context_len: self.context_len,
            open_adapter: Some(Arc::new(open_adapter)),
        };
        let models = vec![model("parrot", engine.clone()), model("org/second", engine.clone())];
        let config = self.config;
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = Server::bind(&config).await.unwrap();
                let server = Server::new(listener, config, keys, models).unwrap();
                server.load_adapters(Vec::new()).await.unwrap();
                ready.send(server.address().unwrap()).unwrap();
                server.run(async { _ = stopped.await }).await
            })
        });
        Running { address: started.recv_timeout(LONG).unwrap(), engine, stop: Some(stop), thread: Some(thread) }
    }
}

impl Running {
    /// Says that the server should stop.
    pub fn say_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has; gives the number of requests broken off.
    pub fn join(&mut self) -> usize {
        self.say_stop();
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Status and body of a GET.
    pub fn get(&self, path: &str) -> (u16, Value) {
        let mut response = agent().get(self.url(path)).call().unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Status and body of a POST.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut response = agent().post(self.url(path)).send_json(body).unwrap();
        (response.status().as_u16(), response.body_mut().read_json().unwrap())
    }

    /// The body of a POST that must succeed.
    pub fn ok(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.post(path, body);
        assert_eq!(status, 200, "{body}: {answer}");
        answer
    }

    /// The error of a POST that must be refused: status, message, param.
    pub fn refused(&self, path: &str, body: &Value) -> (u16, String, Option<String>) {
        let (status, answer) = self.post(path, body);
        let error = &answer["error"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (status, text(&error["message"]).unwrap_or_else(|| panic!("{body} gave {answer}")), text(&error["param"]))
    }

    /// The data of all events of a streamed POST, `[DONE]` left out but required.
    pub fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut response = agent().post(self.url(path)).send_json(body).unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        let reader = BufReader::new(response.body_mut().as_reader());
        let mut data: Vec<String> =
            reader.lines().map(Result::unwrap).filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).collect();
        assert_eq!(data.pop().as_deref(), Some("[DONE]"));
        data.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// A connection on which nothing was said.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Sends bytes and reads all that comes back until the server closes.
    pub fn raw(&self, request: &str) -> String {
        let mut stream = self.connect();
        // The server may refuse before everything is sent.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.say_stop();
        self.engine.shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An agent that takes error statuses for answers, and waits as long as it takes.
pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LONG)).build().into()
}

/// A POST as bytes.
pub fn post_text(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What the parrot takes for an adapter: a folder with a file `parrot`.
fn open_adapter(path: &Path) -> qern_model::Result<Opened> {
    let file = path.join("parrot");
    std::fs::read(&file).map_err(|source| qern_model::Error::io(file, source))?;
    let adapter = Adapter::new(&parrot::config(64), Vec::new())?;
    Ok(Opened { adapter: Arc::new(adapter), notes: Vec::new() })
}

/// Waits until something holds.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
