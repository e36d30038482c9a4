//! What hostile and broken clients send: each is refused with a reason, and the server goes on.

mod support;

use std::io::{Read, Write};
use std::time::Duration;

use serde_json::json;
use support::{LONG, Setup, post_text, start};

const CHAT: &str = "/v1/chat/completions";
const HI: &str = r#"{"messages": [{"role": "user", "content": "hi"}]}"#;

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("nothing")
}

#[test]
fn bodies_that_are_not_json_objects_are_refused() {
    let server = start();
    let check = |body: &str, part: &str| {
        let answer = server.raw(&post_text(CHAT, body));
        assert_eq!(status(&answer), "400", "{body:.80}: {answer}");
        assert!(answer.contains(part), "{answer}");
    };
    check("", "must be valid JSON");
    check("{", "must be valid JSON");
    check("[]", "must be a JSON object; given a list");
    check(&"[".repeat(100_000), "recursion limit exceeded");
    check(&format!("{{\"messages\":{}{}}}", "[".repeat(127), "]".repeat(127)), "recursion limit exceeded");
    check(&format!("{HI} x"), "must be valid JSON");
    check(r#"{"messages": [{"role": "user", "content": "\ud800"}]}"#, "must be valid JSON");
    check(r#"{"messages": [{"role": "root", "content": "x"}]}"#, "must be `system`");
    check(r#"{"prompt": "x"}"#, "`prompt` is not a known field");
}

#[test]
fn empty_prompts_are_refused() {
    let server = start();
    for prompt in [json!(""), json!([]), json!([[]]), json!(["a", ""])] {
        let (status, message, _) = server.refused("/v1/completions", &json!({"prompt": prompt}));
        assert_eq!(status, 400);
        assert!(message.contains("`prompt` must hold"), "{message}");
    }
}

#[test]
fn giant_bodies_are_refused_before_they_are_read() {
    let mut setup = Setup::default();
    setup.config.max_body_bytes = 1000;
    let server = setup.start();
    let head = "host: localhost\r\ncontent-type: application/json\r\nconnection: close";
    let announced = server.raw(&format!("POST {CHAT} HTTP/1.1\r\n{head}\r\ncontent-length: 99999999999\r\n\r\n"));
    assert_eq!(status(&announced), "413", "{announced}");
    assert!(announced.contains("at most 1000 bytes"));
    let chunk = format!("200\r\n{}\r\n", "x".repeat(0x200));
    let chunked = server.raw(&format!("POST {CHAT} HTTP/1.1\r\n{head}\r\ntransfer-encoding: chunked\r\n\r\n{}", chunk.repeat(3)));
    assert_eq!(status(&chunked), "413", "{chunked}");
}

#[test]
fn giant_heads_are_refused() {
    let server = start();
    let answer = server.raw(&format!("GET /health/live HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(100_000)));
    assert_eq!(status(&answer), "431", "{answer:.200}");
    let many: String = (0..500).map(|n| format!("x{n}: y\r\n")).collect();
    assert_eq!(status(&server.raw(&format!("GET /health/live HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"))), "431");
}

#[test]
fn two_lengths_of_one_body_are_refused() {
    let server = start();
    let head = "host: localhost\r\ncontent-type: application/json\r\nconnection: close";
    let both = server.raw(&format!("POST {CHAT} HTTP/1.1\r\n{head}\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello"));
    assert_eq!(status(&both), "400", "{both}");
}

#[test]
fn clients_that_send_slowly_are_dropped() {
    let mut setup = Setup::default();
    setup.config.header_timeout = Duration::from_millis(300);
    setup.config.body_timeout = Duration::from_millis(300);
    let server = setup.start();
    let mut head = server.connect();
    head.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n").unwrap();
    let mut answer = Vec::new();
    // Closed, with or without a word; a server that waits forever fails by the timeout of the read.
    head.read_to_end(&mut answer).expect("the server closes the connection");
    let begun = post_text(CHAT, HI);
    let answer = server.raw(&begun[..begun.len() - 5]);
    assert_eq!(status(&answer), "408", "{answer}");
    assert!(answer.contains("must arrive within 0.3 seconds"));
    assert_eq!(server.get("/health/ready").0, 200);
}

#[test]
fn pages_of_others_may_not_use_the_server() {
    let server = start();
    let with = |header: &str| post_text(CHAT, HI).replacen("host: localhost\r\n", &format!("host: localhost\r\n{header}\r\n"), 1);
    for origin in ["http://evil.example", "null", "http://localhost:1"] {
        let answer = server.raw(&with(&format!("origin: {origin}")));
        assert_eq!(status(&answer), "403", "{answer}");
        assert!(!answer.to_lowercase().contains("access-control-allow-origin"), "{answer}");
    }
    assert_eq!(status(&server.raw(&with("origin: http://localhost"))), "200");
    let preflight = format!(
        "OPTIONS {CHAT} HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\naccess-control-request-method: POST\r\nconnection: close\r\n\r\n"
    );
    assert!(!server.raw(&preflight).to_lowercase().contains("access-control-allow-origin"));
}

#[test]
fn pages_that_were_allowed_may_and_no_others() {
    let mut setup = Setup::default();
    setup.config.cors_origins = vec!["https://chat.example".into()];
    let server = setup.start();
    let with = |origin: &str| {
        post_text(CHAT, HI).replacen("host: localhost\r\n", &format!("host: localhost\r\norigin: {origin}\r\n"), 1)
    };
    let answer = server.raw(&with("https://chat.example")).to_lowercase();
    assert!(answer.contains("access-control-allow-origin: https://chat.example\r\n"), "{answer}");
    assert_eq!(status(&server.raw(&with("https://other.example"))), "403");
}

#[test]
fn names_that_point_here_are_not_let_in() {
    let server = start();
    for host in ["evil.example", "evil.example:8420", "localhost.evil.example", ""] {
        let answer = server.raw(&post_text(CHAT, HI).replacen("host: localhost", &format!("host: {host}"), 1));
        assert_eq!(status(&answer), "403", "{host}: {answer}");
    }
    let answer = server.raw("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(status(&answer), "403", "without any name: {answer}");
    let absolute = post_text(CHAT, HI).replacen(CHAT, &format!("http://evil.example{CHAT}"), 1);
    assert_eq!(status(&server.raw(&absolute)), "403", "the target names a host too");
}

#[test]
fn what_does_not_exist_and_wrong_methods_are_json_errors_too() {
    let server = start();
    let (status, error) = server.get("/v1/nothing");
    assert_eq!((status, &error["error"]["code"]), (404, &json!("not_found")));
    let (status, error) = server.get(CHAT);
    assert_eq!((status, &error["error"]["code"]), (405, &json!("method_not_allowed")));
    let answer = server.raw(&post_text(CHAT, HI).replacen("application/json", "text/plain", 1));
    assert_eq!(self::status(&answer), "415");
    assert!(answer.contains("must be `application/json`; given `text/plain`"), "{answer}");
}

#[test]
fn identities_of_requests_come_back_unless_they_are_tricks() {
    let server = start();
    let get = |id: &str| {
        server.raw(&format!("GET /health/live HTTP/1.1\r\nhost: localhost\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n"))
    };
    assert!(get("mine-1").contains("x-request-id: mine-1\r\n"));
    assert!(get(&"x".repeat(200)).contains("x-request-id: req-"));
    assert!(get("a b").contains("x-request-id: req-"));
}

#[test]
fn a_thousand_broken_requests_leave_nothing_behind() {
    let server = start();
    for number in 0..1000u32 {
        let mut stream = server.connect();
        let request = post_text(CHAT, HI);
        // Cut anywhere, from nothing to everything.
        let cut = (number as usize * 37) % (request.len() + 1);
        let _ = stream.write_all(&request.as_bytes()[..cut]);
    }
    support::eventually("the engine is idle", || {
        let stats = server.engine.stats().unwrap();
        stats.running == 0 && stats.waiting == 0
    });
    support::eventually("no request is active", || server.get("/metrics").1.as_str().unwrap().contains("qern_http_active 0"));
    assert_eq!(server.post(CHAT, &serde_json::from_str(HI).unwrap()).0, 200);
    let _ = LONG;
}
