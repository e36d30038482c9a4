//! Downloads against a stand-in hub that misbehaves in every way: the file is right or absent, never half-written, and the
//! token goes to the hub alone.

mod support;

use qern::hub::{Client, HubConfig, HubError, Progress, RepoName, Wanted};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::stand_in::{Reply, Request, StandIn, file, labelled, sha256};
use tempfile::TempDir;

/// Not a multiple of anything, longer than the pieces that are moved at once.
fn content() -> Vec<u8> {
    (0..700_001_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn config(endpoint: &str) -> HubConfig {
    HubConfig { attempts: 3, backoff: Duration::from_millis(1), ..HubConfig::at(endpoint) }
}

struct Target {
    folder: TempDir,
}

impl Target {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("models/m.gguf")
    }

    fn part(&self) -> PathBuf {
        self.folder.path().join("models/m.gguf.part")
    }

    fn fetch(&self, config: HubConfig) -> Result<(), HubError> {
        self.fetch_known(config, None, None)
    }

    fn fetch_known(&self, config: HubConfig, size: Option<u64>, sha256: Option<&str>) -> Result<(), HubError> {
        let repo = RepoName::parse("owner/repo").unwrap();
        let wanted = Wanted { repo: &repo, revision: "main", file: "m.gguf", destination: &self.path(), size, sha256 };
        Client::new(config)?.fetch(&wanted, Progress::Silent)
    }

    /// The file is there, whole, and nothing else is.
    fn assert_right(&self) {
        assert!(fs::read(self.path()).unwrap() == content(), "the file has other bytes");
        assert_eq!(names(&self.folder.path().join("models")), ["m.gguf"]);
    }

    /// Neither the file nor a part of it is there.
    fn assert_absent(&self) {
        assert!(!self.path().exists() && !self.part().exists());
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Fetches from a hub that answers by `answer`, and returns the hub.
fn check_right(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> StandIn {
    let (hub, target) = (StandIn::start(answer), Target::new());
    target.fetch(config(&hub.url())).unwrap();
    target.assert_right();
    hub
}

/// The same for a hub that cannot be satisfied; returns the error's words.
fn check_absent(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static, words: &str) {
    let (hub, target) = (StandIn::start(answer), Target::new());
    let error = target.fetch(config(&hub.url())).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
    assert!(error.contains("m.gguf") && error.contains("owner/repo"), "the error does not name the file: {error}");
    target.assert_absent();
}

#[test]
fn a_file_is_fetched_by_the_hubs_path() {
    let hub = check_right(|request, _| file(&content(), request));
    assert_eq!(hub.requests()[0].path, "/owner/repo/resolve/main/m.gguf");
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn a_dropped_connection_is_resumed_at_the_next_byte() {
    let hub = check_right(|request, before| {
        let reply = file(&content(), request);
        if before < 2 { reply.cut_after(200_000) } else { reply }
    });
    assert_eq!(hub.starts(), [None, Some(200_000), Some(400_000)]);
}

#[test]
fn progress_counts_as_progress_however_often_it_breaks() {
    let hub = check_right(|request, _| file(&content(), request).cut_after(70_000));
    assert_eq!(hub.requests().len(), 11);
}

#[test]
fn an_earlier_run_is_resumed_and_a_finished_file_not_asked_for() {
    let hub = StandIn::start(|request, before| {
        let reply = file(&content(), request);
        match before {
            0 => reply.cut_after(300_000),
            1..3 => Reply::status(503),
            _ => reply,
        }
    });
    let target = Target::new();
    let error = target.fetch(config(&hub.url())).unwrap_err().to_string();
    assert!(error.contains("300 kB are kept"), "{error}");
    assert!(!target.path().exists());
    assert_eq!(target.part().metadata().unwrap().len(), 300_000);
    target.fetch(config(&hub.url())).unwrap();
    target.assert_right();
    assert_eq!(hub.starts().last(), Some(&Some(300_000)));
    let tag = format!("\"{}\"", sha256(&content()));
    assert_eq!(hub.requests().last().unwrap().header("if-range"), Some(tag.as_str()));
    let asked = hub.requests().len();
    target.fetch(config(&hub.url())).unwrap();
    assert_eq!(hub.requests().len(), asked);
}

#[test]
fn a_hub_that_ignores_ranges_is_started_over_with() {
    check_right(|_, before| {
        let reply = labelled(Reply::body(content()), &content());
        if before == 0 { reply.cut_after(200_000) } else { reply }
    });
}

#[test]
fn a_file_that_changed_is_started_over() {
    let hub = check_right(|request, before| {
        let old = vec![7; 700_001];
        if before == 0 { file(&old, request).cut_after(200_000) } else { file(&content(), request) }
    });
    assert_eq!(hub.starts(), [None, Some(200_000), None]);
}

#[test]
fn resumed_bytes_that_are_wrong_are_fetched_again() {
    let hub = StandIn::start(|request, before| {
        if (1..3).contains(&before) {
            Reply::status(500)
        } else {
            file(&content(), request).cut_after(if before == 0 { 200_000 } else { 900_000 })
        }
    });
    let target = Target::new();
    target.fetch(config(&hub.url())).unwrap_err();
    fs::write(target.part(), vec![9; 200_000]).unwrap();
    target.fetch(config(&hub.url())).unwrap();
    target.assert_right();
}

#[test]
fn bytes_without_a_record_are_not_resumed() {
    let (hub, target) = (StandIn::start(|request, _| file(&content(), request)), Target::new());
    fs::create_dir_all(target.part().parent().unwrap()).unwrap();
    fs::write(target.part(), "from somewhere").unwrap();
    target.fetch(config(&hub.url())).unwrap();
    target.assert_right();
    assert_eq!(hub.starts(), [None]);
}

#[test]
fn a_wrong_hash_leaves_nothing() {
    check_absent(|_, _| labelled(Reply::body(vec![1; 700_001]), &content()), "should have SHA-256");
}

#[test]
fn what_is_known_beforehand_counts_before_what_the_hub_says() {
    let hub = StandIn::start(|request, _| file(&content(), request));
    for (size, hash, words) in [(Some(5), None, "should have 5 bytes"), (None, Some("ab".repeat(32)), "should have SHA-256 abab")]
    {
        let target = Target::new();
        let error = target.fetch_known(config(&hub.url()), size, hash.as_deref()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        target.assert_absent();
    }
    let target = Target::new();
    target.fetch_known(config(&hub.url()), Some(700_001), Some(&sha256(&content()))).unwrap();
    target.assert_right();
}

#[test]
fn lies_about_lengths_leave_nothing_whole() {
    check_absent(
        |_, _| labelled(Reply::body(&content()[..5000]), &content()),
        "should have 700001 bytes, but the hub offers 5000",
    );
    check_absent(|_, _| labelled(Reply::body([content(), content()].concat()), &content()), "should have 700001 bytes");
    // Fewer bytes than announced, again and again: what came is kept for later, the file does not appear.
    let short = |_: &Request, _: usize| labelled(Reply::body(&content()[..5000]).header("content-length", "700001"), &content());
    let (hub, target) = (StandIn::start(short), Target::new());
    let error = target.fetch(config(&hub.url())).unwrap_err().to_string();
    assert!(error.contains("failed 3 times in a row"), "{error}");
    assert!(!target.path().exists());
}

#[test]
fn a_part_that_starts_elsewhere_than_asked_is_refused() {
    let hub = StandIn::start(|request, before| match before {
        0 => file(&content(), request).cut_after(200_000),
        _ => labelled(Reply::body(&content()[100..]).with_status(206), &content())
            .header("content-range", "bytes 100-700000/700001"),
    });
    let target = Target::new();
    let error = target.fetch(config(&hub.url())).unwrap_err().to_string();
    assert!(error.contains("starts at another byte"), "{error}");
    assert!(!target.path().exists());
}

#[test]
fn a_busy_hub_is_asked_again() {
    for status in [408, 429, 500, 502, 503, 504] {
        let hub =
            check_right(
                move |request, before| {
                    if before < 2 { Reply::status(status).header("retry-after", "0") } else { file(&content(), request) }
                },
            );
        assert_eq!(hub.requests().len(), 3);
    }
    check_absent(|_, _| Reply::status(500), "status 500");
}

#[test]
fn a_refusal_says_what_to_do() {
    check_absent(|_, _| Reply::status(401).header("x-error-message", "Invalid\tcredentials"), "(status 401: Invalidcredentials)");
    check_absent(|_, _| Reply::status(403), "set HF_TOKEN");
    check_absent(|_, _| Reply::status(404).header("x-error-code", "EntryNotFound"), "EntryNotFound; check the name's spelling");
    check_absent(|_, _| Reply::status(418), "status 418");
}

#[test]
fn the_token_stays_with_the_hub() {
    let elsewhere = Arc::new(StandIn::start(|request, _| file(&content(), request)));
    for cross in [true, false] {
        let target_url = elsewhere.other_url();
        let hub = StandIn::start(move |request, _| match request.path.as_str() {
            "/moved" => file(&content(), request),
            _ if cross => labelled(Reply::redirect(format!("{target_url}/blob?signature=1")), &content()),
            _ => labelled(Reply::redirect("/moved"), &content()),
        });
        let target = Target::new();
        target.fetch(HubConfig { token: Some("secret".into()), ..config(&hub.url()) }).unwrap();
        target.assert_right();
        assert!(hub.requests().iter().all(|request| request.header("authorization") == Some("Bearer secret")));
    }
    let requests = elsewhere.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests.iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn the_hash_of_a_redirected_file_is_the_hubs_own() {
    let elsewhere = Arc::new(StandIn::start(|_, _| labelled(Reply::body(vec![2; 700_001]), &vec![2; 700_001])));
    let url = elsewhere.url();
    check_absent(move |_, _| labelled(Reply::redirect(url.clone()), &content()), "should have SHA-256");
}

#[test]
fn redirects_that_lead_nowhere_good_are_not_followed() {
    for (target, words) in [
        ("file:///etc/passwd", "only http and https"),
        ("ftp://127.0.0.1/x", "only http and https"),
        ("/again", "too many redirects"),
    ] {
        check_absent(move |_, _| Reply::redirect(target), words);
    }
    check_absent(|_, _| Reply::status(302), "without a target");
}

#[test]
fn a_public_hub_cannot_redirect_into_this_network() {
    // The hub is public as far as the client knows: it is reached through a proxy, which is this stand-in.
    for target in [
        "http://127.0.0.1:9/x",
        "http://localhost:9/x",
        "http://169.254.169.254/latest",
        "http://[::1]:9/x",
        "http://[::ffff:10.0.0.1]/x",
    ] {
        let proxy = StandIn::start(move |_, _| Reply::redirect(target));
        let goal = Target::new();
        let via = Some(ureq::Proxy::new(&proxy.url()).unwrap());
        let error = goal.fetch(HubConfig { proxy: via, ..config("http://hub.example") }).unwrap_err().to_string();
        assert!(error.contains("private address"), "{target}: {error}");
        goal.assert_absent();
    }
}

#[test]
fn a_proxy_is_used() {
    let proxy = StandIn::start(|request, _| file(&content(), request));
    let target = Target::new();
    let via = Some(ureq::Proxy::new(&proxy.url()).unwrap());
    target.fetch(HubConfig { proxy: via, ..config("http://hub.example") }).unwrap();
    target.assert_right();
    assert_eq!(proxy.requests()[0].header("host"), Some("hub.example"));
}

#[test]
fn a_slow_hub_is_waited_for_and_a_silent_one_is_not() {
    let hub = StandIn::start(|request, _| file(&content(), request).drip(Duration::from_millis(60)));
    let target = Target::new();
    target.fetch(HubConfig { read_timeout: Duration::from_millis(400), ..config(&hub.url()) }).unwrap();
    target.assert_right();
    let silent = StandIn::start(|request, _| file(&content(), request).drip(Duration::from_secs(2)));
    let (target, started) = (Target::new(), Instant::now());
    let error =
        target.fetch(HubConfig { attempts: 1, read_timeout: Duration::from_millis(200), ..config(&silent.url()) }).unwrap_err();
    assert!(matches!(error, HubError::Broken { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2) && !target.path().exists());
}

#[test]
fn a_full_disk_is_found_out_before_anything_is_written() {
    let hub = StandIn::start(|request, _| file(&content(), request));
    let target = Target::new();
    let error = target.fetch(HubConfig { free_space: |_| Some(500_000), ..config(&hub.url()) }).unwrap_err().to_string();
    assert!(error.contains("needs 700 kB more") && error.contains("has 500 kB free"), "{error}");
    target.assert_absent();
}

#[test]
fn two_downloads_of_one_file_do_the_work_once() {
    let hub = StandIn::start(|request, _| file(&content(), request).drip(Duration::from_millis(20)));
    let target = Target::new();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                target.fetch(config(&hub.url())).unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    assert_eq!((done.into_inner(), hub.requests().len()), (4, 1));
    target.assert_right();
}

#[test]
fn a_hub_that_is_not_there_is_given_up_at_once() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (target, started) = (Target::new(), Instant::now());
    for endpoint in [format!("http://127.0.0.1:{port}"), "http://no-such-host.invalid".to_string()] {
        let error = target.fetch(config(&endpoint)).unwrap_err();
        assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(20));
    target.assert_absent();
}

#[test]
fn names_that_leave_their_folder_are_refused_before_any_request() {
    let hub = StandIn::start(|request, _| file(&content(), request));
    let client = Client::new(config(&hub.url())).unwrap();
    let repo = RepoName::parse("owner/repo").unwrap();
    let target = Target::new();
    for (name, revision) in [("../m.gguf", "main"), ("/m.gguf", "main"), ("m.gguf", "../main"), ("a\\b", "main")] {
        let wanted = Wanted { repo: &repo, revision, file: name, destination: &target.path(), size: None, sha256: None };
        assert!(matches!(client.fetch(&wanted, Progress::Silent), Err(HubError::Name(_))), "{name}");
    }
    assert!(hub.requests().is_empty());
}

#[test]
fn a_listing_gives_files_with_sizes_hashes_and_the_commit() {
    let hash = "ab".repeat(32);
    let json = format!(
        r#"{{"sha": "0123abc", "siblings": [{{"rfilename": "config.json", "size": 12}},
            {{"rfilename": "m.gguf", "size": 1, "lfs": {{"sha256": "{hash}", "size": 99}}}}]}}"#
    );
    let hub = StandIn::start(move |_, _| Reply::body(json.clone()));
    let repository =
        Client::new(config(&hub.url())).unwrap().repository(&RepoName::parse("owner/repo").unwrap(), "refs/pr/1").unwrap();
    assert_eq!(hub.requests()[0].path, "/api/models/owner/repo/revision/refs%2Fpr%2F1?blobs=true");
    assert_eq!(repository.commit, "0123abc");
    let files: Vec<_> = repository.files.iter().map(|file| (file.name.as_str(), file.size, file.sha256.as_deref())).collect();
    assert_eq!(files, [("config.json", Some(12), None), ("m.gguf", Some(99), Some(hash.as_str()))]);
}

#[test]
fn a_hostile_listing_is_refused() {
    for (json, words) in [
        (r#"{"siblings": [{"rfilename": "../../.bashrc"}]}"#, "relative path"),
        (r#"{"siblings": [{"rfilename": "C:\\x"}]}"#, "must not hold"),
        (r#"{"sha": "../x", "siblings": []}"#, "hub revision"),
        (r#"{"siblings": 5}"#, "invalid type"),
        ("not json", "expected"),
    ] {
        let hub = StandIn::start(move |_, _| Reply::body(json));
        let client = Client::new(config(&hub.url())).unwrap();
        let error = client.repository(&RepoName::parse("owner/repo").unwrap(), "main").unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("owner/repo"), "{json}: {error}");
    }
}
