//! Keys, limits, disconnects, the way down: how the server holds up.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Duration;

use qern_engine::EngineConfig;
use qern_server::{Config, Keys, Server};
use serde_json::{Value, json};
use support::{Running, Setup, eventually, post_text, start};

const CHAT: &str = "/v1/chat/completions";

fn hi() -> Value {
    json!({"messages": [{"role": "user", "content": "hi"}]})
}

/// An answer of hundreds of tokens.
fn count(more: &str) -> String {
    format!(r#"{{"messages": [{{"role": "user", "content": "count"}}]{more}}}"#)
}

/// Steps so slow that an answer of hundreds of tokens is not over while a test looks at it, whatever the machine does.
fn slow() -> Setup {
    Setup { step: Duration::from_millis(100), ..Setup::default() }
}

fn running(server: &Running) -> usize {
    server.engine.stats().unwrap().running
}

/// Begins a streamed answer and reads until its first text.
fn begin(server: &Running) -> BufReader<std::net::TcpStream> {
    let mut stream = server.connect();
    stream.write_all(post_text(CHAT, &count(r#", "stream": true"#)).as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !line.contains(r#""content":"1"#) {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended early");
    }
    reader
}

#[test]
fn only_known_keys_are_let_in() {
    let server = Setup { keys: "first-key,admin:second-key", ..Setup::default() }.start();
    let ask = |header: &str, value: &str| {
        let mut response = support::agent().post(server.url(CHAT)).header(header, value).send_json(hi()).unwrap();
        let body: Value = response.body_mut().read_json().unwrap();
        (response.status().as_u16(), body["error"]["code"].clone())
    };
    assert_eq!(ask("x-other", "first-key"), (401, json!("invalid_api_key")));
    assert_eq!(ask("authorization", "Bearer wrong-key"), (401, json!("invalid_api_key")));
    assert_eq!(ask("authorization", "Basic first-key"), (401, json!("invalid_api_key")));
    for (header, value) in [("authorization", "Bearer first-key"), ("x-api-key", "first-key"), ("x-api-key", "second-key")] {
        assert_eq!(ask(header, value).0, 200);
    }
    assert_eq!(server.get("/v1/models").0, 401);
    assert_eq!(server.get("/metrics").0, 401);
    assert_eq!(server.get("/health/live").0, 200);
}

#[test]
fn a_reader_that_leaves_cancels_its_answer() {
    let server = slow().start();
    let reader = begin(&server);
    eventually("the engine says so", || running(&server) == 1);
    drop(reader);
    eventually("the engine noticed", || running(&server) == 0);
    assert_eq!(server.engine.stats().unwrap().counts.cancelled, 1);
}

#[test]
fn a_client_that_hangs_up_on_a_whole_answer_cancels_it() {
    let server = slow().start();
    let mut stream = server.connect();
    stream.write_all(post_text(CHAT, &count("")).as_bytes()).unwrap();
    eventually("the answer has begun", || running(&server) == 1);
    drop(stream);
    eventually("the engine noticed", || running(&server) == 0);
}

#[test]
fn a_reader_that_stops_reading_is_dropped() {
    let mut setup = Setup { context_len: 1024, ..Setup::default() };
    setup.config.write_timeout = Duration::from_millis(500);
    let server = setup.start();
    let mut stream = server.connect();
    // Far more than the buffers of two sockets.
    let body = count(r#", "stream": true, "n": 4, "logprobs": true, "top_logprobs": 20, "ignore_eos": true"#);
    let mut streams = Vec::new();
    stream.write_all(post_text(CHAT, &body).as_bytes()).unwrap();
    streams.push(stream);
    for _ in 0..3 {
        let mut stream = server.connect();
        stream.write_all(post_text(CHAT, &body).as_bytes()).unwrap();
        streams.push(stream);
    }
    eventually("all have begun", || server.engine.stats().unwrap().counts.generated_tokens > 0);
    eventually("the server gave up on them", || {
        server.get("/metrics").1.as_str().unwrap().contains("qern_http_active 0") && running(&server) == 0
    });
    drop(streams);
}

#[test]
fn too_many_requests_are_refused_with_the_time_to_come_back() {
    let engine = EngineConfig { max_sequences: 1, max_waiting: 1, ..EngineConfig::default() };
    let server = Setup { engine, ..slow() }.start();
    let first = begin(&server);
    let mut second = server.connect();
    second.write_all(post_text(CHAT, &count("")).as_bytes()).unwrap();
    eventually("the second waits", || server.engine.stats().unwrap().waiting == 1);
    let mut response = support::agent().post(server.url(CHAT)).send_json(hi()).unwrap();
    assert_eq!(response.status(), 429);
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    let error: Value = response.body_mut().read_json().unwrap();
    assert_eq!((&error["error"]["type"], &error["error"]["code"]), (&json!("rate_limit_error"), &json!("queue_full")));
    assert!(server.get("/metrics").1.as_str().unwrap().contains("qern_requests_refused_total{model_name=\"parrot\"} 1"));
    drop((first, second));
}

#[test]
fn no_more_requests_are_answered_at_once_than_configured() {
    let mut setup = slow();
    setup.config.max_requests = 1;
    let server = setup.start();
    let first = begin(&server);
    let (status, error) = server.post(CHAT, &hi());
    assert_eq!((status, &error["error"]["code"]), (429, &json!("too_many_requests")));
    assert_eq!(server.get("/health/ready").0, 200, "probes are always answered");
    drop(first);
    eventually("there is a place again", || server.post(CHAT, &hi()).0 == 200);
}

#[test]
fn what_runs_may_finish_and_nothing_new_begins() {
    let mut server = Setup { step: Duration::from_millis(2), ..Setup::default() }.start();
    let mut reader = begin(&server);
    server.say_stop();
    eventually("the server drains", || server.get("/health/ready").0 == 503);
    let mut response = support::agent().post(server.url(CHAT)).send_json(hi()).unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(response.body_mut().read_json::<Value>().unwrap()["error"]["code"], "draining");
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains(r#""finish_detail":"end_token""#) && rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(server.join(), 0);
}

#[test]
fn what_runs_too_long_is_broken_off_and_counted() {
    let mut setup = slow();
    setup.config.drain_timeout = Duration::from_millis(100);
    let mut server = setup.start();
    let _reader = begin(&server);
    assert_eq!(server.join(), 1);
}

#[test]
fn a_silent_stream_is_kept_alive() {
    let mut setup = Setup { step: Duration::from_millis(700), ..Setup::default() };
    setup.config.ping_after = Duration::from_millis(100);
    let server = setup.start();
    let mut stream = server.connect();
    stream.write_all(post_text(CHAT, &count(r#", "stream": true, "max_tokens": 1"#)).as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("\n: ping\n\n"), "{text}");
}

#[test]
fn a_port_in_use_is_said() {
    let server = start();
    let config = Config { port: server.address.port(), ..Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(Server::bind(&config)).expect_err("the port is taken");
    let expected = format!(
        "cannot listen on {}: another program does already; stop it, or choose another port by --port (0 takes a free one)",
        server.address
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_server_needs_models_of_different_names() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config { port: 0, ..Config::default() };
    let listener = runtime.block_on(Server::bind(&config)).unwrap();
    let error = Server::new(listener, config, Keys::default(), Vec::new()).err().expect("there is no model");
    assert_eq!(error.to_string(), "a server needs at least one model; name one by -m");
    let twice = qern_server::check_names(["a", "b", "a"]).unwrap_err().to_string();
    assert_eq!(twice, "models must have different names; `a` is given twice");
}

#[test]
fn metrics_have_our_names_and_vllms() {
    let server = start();
    server.ok(CHAT, &hi());
    let (status, text) = server.get("/metrics");
    assert_eq!(status, 200);
    let text = text.as_str().unwrap();
    for line in [
        "vllm:num_requests_running{model_name=\"parrot\"} 0",
        "vllm:request_success_total{model_name=\"parrot\",finished_reason=\"stop\"} 1",
        "qern_answers_total{model_name=\"parrot\",finished_reason=\"stop\"} 1",
        "vllm:time_to_first_token_seconds_count{model_name=\"parrot\"} 1",
        "vllm:time_to_first_token_seconds_count{model_name=\"org/second\"} 0",
        "qern_http_requests_total{path=\"/v1/chat/completions\",method=\"POST\",status=\"200\"} 1",
    ] {
        assert!(text.lines().any(|given| given == line), "{line} in\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}
