use super::*;
use standin::{COMMIT, Hub, Reply, Request, listing};

#[path = "../../tests/support/hub.rs"]
#[allow(dead_code)] // shared with the tests of the program
mod standin;

/// Longer than a few reads, and different everywhere.
fn weights() -> Vec<u8> {
    (0..CHUNK * 3 + 17).map(|i| (i * 7 + i / 251) as u8).collect()
}

const CONFIG: &[u8] = br#"{"model_type": "gemma3"}"#;

#[derive(Default)]
struct Notes {
    notes: Vec<String>,
    stop_after: Option<u64>,
    have: u64,
}

impl Watch for Notes {
    fn file(&mut self, _: &File) {}
    fn have(&mut self, bytes: u64) {
        self.have = bytes;
    }
    fn done(&mut self, _: &File) {}
    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
    fn stopped(&self) -> bool {
        self.stop_after.is_some_and(|at| self.have >= at)
    }
}

struct Try {
    folder: tempfile::TempDir,
    watch: Notes,
    verify: bool,
    token: Option<&'static str>,
}

impl Try {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), watch: Notes::default(), verify: false, token: None }
    }

    fn pull(&mut self, hub: &Hub) -> Result<PathBuf> {
        let client = Client::new(&hub.url, self.token.map(str::to_owned))?.impatient();
        let cache = Cache::new(self.folder.path());
        let id = HubId::parse("google/model")?;
        let repo = Repo::ask(&client, &id, &mut self.watch)?;
        let files = super::super::plan(&id, &repo, None)?;
        let pull = Pull { client: &client, cache: &cache, id: &id, repo: &repo, verify: self.verify };
        pull.run(&files, &mut self.watch)
    }

    fn failure(&mut self, hub: &Hub) -> String {
        format!("{:#}", self.pull(hub).unwrap_err())
    }

    /// Names of what lies in `blobs/`, unfinished ones too.
    fn blobs(&self) -> Vec<PathBuf> {
        let folder = self.folder.path().join("models--google--model/blobs");
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }
}

/// A hub with one model, whose weights are answered for by `weights`.
fn hub_of(answer: impl Fn(&Request, &[u8]) -> Reply + Send + 'static) -> Hub {
    let body = weights();
    Hub::start(move |request| match request.path.as_str() {
        path if path.starts_with("/api/models/google/model/revision/main") => {
            Reply::ok(listing(&[("config.json", CONFIG), ("model.safetensors", &body)]))
        }
        path if path == format!("/google/model/resolve/{COMMIT}/config.json") => Reply::ok(CONFIG),
        path if path == format!("/google/model/resolve/{COMMIT}/model.safetensors") => answer(request, &body),
        _ => Reply::status(404),
    })
}

fn is_whole(snapshot: &Path) -> bool {
    fs::read(snapshot.join("model.safetensors")).is_ok_and(|bytes| bytes == weights())
        && fs::read(snapshot.join("config.json")).is_ok_and(|bytes| bytes == CONFIG)
}

#[test]
fn a_model_lands_in_the_layout_that_python_reads() {
    let mut test = Try::new();
    let snapshot = test.pull(&hub_of(Reply::range)).unwrap();
    let repo = test.folder.path().join("models--google--model");
    assert_eq!(snapshot, repo.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert!(is_whole(&snapshot));
    #[cfg(unix)]
    {
        let target = fs::read_link(snapshot.join("model.safetensors")).unwrap();
        let name = target.strip_prefix("../../blobs").unwrap().to_str().unwrap();
        assert_eq!(name.len(), 64, "large files are named by their SHA-256");
        let target = fs::read_link(snapshot.join("config.json")).unwrap();
        assert_eq!(target.file_name().unwrap().len(), 40, "small ones by git's id");
    }
    assert_eq!(test.blobs().len(), 2);
}

#[test]
fn what_is_here_is_not_asked_for_again() {
    let hub = hub_of(Reply::range);
    let mut test = Try::new();
    test.pull(&hub).unwrap();
    let before = hub.requests().len();
    test.pull(&hub).unwrap();
    assert_eq!(hub.requests().len(), before + 1, "the listing alone");
}

#[test]
fn a_connection_that_breaks_is_resumed_where_it_broke() {
    let tries = AtomicUsize::new(0);
    let hub = hub_of(move |request, body| {
        let reply = Reply::range(request, body);
        // Each of more connections than are retried in a row brings a little.
        match tries.fetch_add(1, Ordering::Relaxed) {
            0..8 => reply.cut(10_000),
            _ => reply,
        }
    });
    let mut test = Try::new();
    assert!(is_whole(&test.pull(&hub).unwrap()));
    let asked: Vec<usize> =
        hub.requests().iter().filter(|r| r.path.ends_with("safetensors")).map(Request::from).collect();
    assert_eq!(asked, (0..9).map(|i| i * 10_000).collect::<Vec<_>>());
    assert!(test.watch.notes[0].contains("trying again"), "{:?}", test.watch.notes);
}

#[test]
fn a_pull_that_was_stopped_goes_on() {
    let hub = hub_of(Reply::range);
    let mut test = Try::new();
    test.watch.stop_after = Some(1000);
    assert!(test.failure(&hub).contains("medgemma pull google/model"));
    assert!(!test.folder.path().join("models--google--model/refs/main").exists());
    let part = test.blobs().into_iter().find(|path| path.extension().is_some()).expect("a part is kept");
    let len = fs::metadata(part).unwrap().len() as usize;
    assert!(len >= 1000);
    test.watch = Notes::default();
    assert!(is_whole(&test.pull(&hub).unwrap()));
    assert!(hub.requests().iter().any(|request| request.from() == len));
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let tries = AtomicUsize::new(0);
    let hub = hub_of(move |_, body| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::ok(body).cut(5000),
        _ => Reply::ok(body),
    });
    assert!(is_whole(&Try::new().pull(&hub).unwrap()));
}

#[test]
fn a_range_that_was_not_asked_for_is_refused() {
    let tries = AtomicUsize::new(0);
    let hub = hub_of(move |_, body| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::ok(body).cut(5000),
        _ => Reply { status: 206, body: body.to_vec(), ..Reply::default() }.with("content-range", "bytes 7-8/9"),
    });
    assert!(Try::new().failure(&hub).contains("another part than asked for"));
}

#[test]
fn bytes_that_are_not_the_hubs_are_removed() {
    let hub = hub_of(|_, body| Reply::ok(body.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>()));
    let mut test = Try::new();
    let text = test.failure(&hub);
    assert!(text.contains("model.safetensors: its checksum is not the hub's"), "{text}");
    assert_eq!(test.blobs().len(), 1, "config.json alone stays");
}

#[test]
fn a_damaged_part_is_not_built_upon() {
    let hub = hub_of(Reply::range);
    let mut test = Try::new();
    test.watch.stop_after = Some(1000);
    test.pull(&hub).unwrap_err();
    test.watch = Notes::default();
    let part = test.blobs().into_iter().find(|path| path.extension().is_some()).unwrap();
    let mut bytes = fs::read(&part).unwrap();
    bytes[3] ^= 1;
    fs::write(&part, bytes).unwrap();
    assert!(is_whole(&test.pull(&hub).unwrap()));
    assert!(test.watch.notes.iter().any(|note| note.contains("damaged")));
}

#[test]
fn verify_finds_and_mends_a_damaged_file() {
    let hub = hub_of(Reply::range);
    let mut test = Try::new();
    let snapshot = test.pull(&hub).unwrap();
    let mut bytes = weights();
    bytes[3] ^= 1;
    fs::write(snapshot.join("model.safetensors"), bytes).unwrap();
    test.pull(&hub).unwrap();
    assert!(!is_whole(&snapshot));
    test.verify = true;
    test.pull(&hub).unwrap();
    assert!(is_whole(&snapshot));
}

#[test]
fn more_than_was_listed_is_refused() {
    let hub = hub_of(|_, body| Reply::ok([body, b"more"].concat()));
    assert!(Try::new().failure(&hub).contains("sends more than it lists"));
}

#[test]
fn a_busy_hub_is_asked_again_and_a_broken_one_given_up() {
    let tries = AtomicUsize::new(0);
    let busy = hub_of(move |request, body| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::status(503),
        1 => Reply::status(429),
        2 => Reply::status(500),
        _ => Reply::range(request, body),
    });
    assert!(is_whole(&Try::new().pull(&busy).unwrap()));
    let broken = hub_of(|_, _| Reply::status(502));
    let text = Try::new().failure(&broken);
    assert!(text.contains("try again") && text.contains("502"), "{text}");
    assert_eq!(broken.requests().iter().filter(|r| r.path.ends_with("safetensors")).count(), 5);
}

#[test]
fn a_gated_model_says_where_its_licence_is() {
    let gated = |status| hub_of(move |_, _| Reply::status(status).with("x-error-code", "GatedRepo"));
    let mut test = Try::new();
    let hub = gated(401);
    let text = test.failure(&hub);
    assert!(text.contains(&format!("accept its licence at {}/google/model", hub.url)), "{text}");
    assert!(text.contains("medgemma pull google/model --token"), "{text}");
    test.token = Some("hf_x");
    let text = test.failure(&gated(403));
    assert!(text.contains("this token may not read it"), "{text}");
    let text = test.failure(&hub_of(|_, _| Reply::status(401)));
    assert!(text.contains("refuses the token"), "{text}");
}

#[test]
fn a_name_that_the_hub_lacks_is_said() {
    let hub = Hub::start(|_| Reply::status(401).with("x-error-code", "RepoNotFound"));
    assert!(Try::new().failure(&hub).contains("check the name"));
    let hub = Hub::start(|_| Reply::status(404).with("x-error-code", "RevisionNotFound"));
    assert!(Try::new().failure(&hub).contains("no revision \"main\""));
    let hub = Hub::start(|_| Reply::status(404));
    assert!(Try::new().failure(&hub).contains("check the name"));
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let other = Hub::start(|_| Reply::ok(weights()));
    let elsewhere = format!("{}/blob", other.url);
    let leaving = hub_of(move |_, _| Reply::status(302).with("location", &elsewhere));
    let mut test = Try::new();
    test.token = Some("hf_secret");
    let text = test.failure(&leaving);
    assert!(text.contains("only https is followed") && !text.contains("hf_secret"), "{text}");
    assert!(other.requests().is_empty());
    assert!(leaving.requests().iter().all(|request| request.header("authorization") == Some("Bearer hf_secret")));

    let own = Hub::start(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => Reply::ok(listing(&[("model.safetensors", &weights())])),
        "/blobs/x" => Reply::range(request, &weights()),
        _ => Reply::status(307).with("location", "/blobs/x"),
    });
    test.pull(&own).unwrap();
    assert!(own.requests().iter().all(|request| request.header("authorization").is_some()));
}

#[test]
fn endless_redirects_end() {
    let hub = Hub::start(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => Reply::ok(listing(&[("model.safetensors", b"x")])),
        _ => Reply::status(302).with("location", "/round"),
    });
    assert!(Try::new().failure(&hub).contains("redirects more than"));
}

#[test]
fn names_that_leave_the_cache_are_not_written() {
    for name in ["../../model.safetensors", "/model.safetensors", "model-../../../x.safetensors"] {
        let body: &'static [u8] = b"x";
        let list = listing(&[("config.json", CONFIG), (name, body)]);
        let hub = Hub::start(move |request| match request.path.starts_with("/api/") {
            true => Reply::ok(list.clone()),
            false => Reply::ok(body),
        });
        let mut test = Try::new();
        assert!(test.failure(&hub).contains("outside the cache"));
        assert_eq!(fs::read_dir(test.folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn two_pulls_at_once_share_the_work() {
    let hub = hub_of(move |request, body| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        Reply::range(request, body)
    });
    let mut one = Try::new();
    let path = one.folder.path().to_owned();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let client = Client::new(&hub.url, None).unwrap().impatient();
            let (cache, id) = (Cache::new(&path), HubId::parse("google/model").unwrap());
            let repo = Repo::ask(&client, &id, &mut Notes::default()).unwrap();
            let files = super::super::plan(&id, &repo, None).unwrap();
            let pull = Pull { client: &client, cache: &cache, id: &id, repo: &repo, verify: false };
            pull.run(&files, &mut Notes::default()).unwrap()
        });
        assert!(is_whole(&one.pull(&hub).unwrap()));
        assert!(is_whole(&other.join().unwrap()));
    });
    // A connection that breaks on a busy machine is made again, for the rest: no file is begun twice.
    let requests = hub.requests();
    let begun = requests.iter().filter(|request| request.path.ends_with("/model.safetensors") && request.from() == 0);
    assert_eq!(begun.count(), 1, "{requests:?}\n{:?}", one.watch.notes);
}

#[test]
fn a_pull_that_waits_for_another_can_be_stopped() {
    let hub = hub_of(Reply::range);
    let mut test = Try::new();
    let snapshot = test.pull(&hub).unwrap();
    let blob = fs::canonicalize(snapshot.join("model.safetensors")).unwrap();
    let locks = test.folder.path().join(".locks/models--google--model");
    let other = fs::File::open(locks.join(blob.with_extension("lock").file_name().unwrap())).unwrap();
    other.lock().unwrap();
    // Asked to stop once the first file, which nobody holds, is here.
    test.watch = Notes { stop_after: Some(CONFIG.len() as u64), ..Notes::default() };
    let text = test.failure(&hub);
    assert!(text.contains("stopped") && text.contains("goes on from here"), "{text}");
}
