//! Tests of the local directory.

use super::*;

thread_local! {
    /// What was made durable on this thread, in order.
    pub(super) static SYNCED: std::cell::RefCell<Vec<PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// What `work` makes durable, relative to `root`; staged files by that word.
fn synced_by(root: &FsPath, work: impl FnOnce()) -> Vec<String> {
    SYNCED.take();
    work();
    let relative = |path: PathBuf| {
        let path = path.strip_prefix(root).unwrap().display().to_string();
        if path.contains(STAGED) { "staged".to_owned() } else { path }
    };
    SYNCED.take().into_iter().map(relative).collect()
}

#[test]
fn both_stored_and_already_stored_mean_durable_up_to_the_root() {
    let directory = tempfile::tempdir().unwrap();
    let (root, file) = (directory.path(), directory.path().join("a/b/c"));
    let create = || {
        let put = Put {
            root: Arc::new(root.to_path_buf()),
            location: "a/b/c".to_owned(),
            file: file.clone(),
            mode: PutMode::Create,
        };
        put.whole(&PutPayload::from_static(b"x"))
    };
    // The contents first, then the names from the innermost outwards.
    assert_eq!(synced_by(root, || drop(create().unwrap())), ["staged", "a/b", "a", ""]);
    // What another writer left, perhaps without having come so far.
    assert_eq!(synced_by(root, || drop(create().unwrap_err())), ["a/b/c", "a/b", "a", ""]);
}

#[test]
fn a_new_root_is_durable_with_everything_above_it_that_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("x/y");
    let synced = synced_by(directory.path(), || LocalStore::create_root(&root).unwrap());
    for part in ["", "x", "x/y"] {
        assert!(synced.iter().any(|path| path == part), "{part:?} of {synced:?}");
    }
    assert_eq!(synced_by(directory.path(), || LocalStore::create_root(&root).unwrap()), [""; 0]);
}

struct Bench {
    directory: tempfile::TempDir,
    store: LocalStore,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::new(directory.path().to_path_buf(), None);
        Self { directory, store }
    }

    async fn put(&self, key: &str, bytes: &'static [u8]) -> Result<PutResult> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.store.put_opts(&Path::from(key), PutPayload::from_static(bytes), options).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Vec<String> {
        let prefix = (!prefix.is_empty()).then(|| Path::from(prefix));
        let stream = match after {
            Some(after) => self.store.list_with_offset(prefix.as_ref(), &Path::from(after)),
            None => self.store.list(prefix.as_ref()),
        };
        stream.map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap()
    }

    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut waiting = vec![self.directory.path().to_path_buf()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    waiting.push(path);
                } else {
                    found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found
    }
}

#[tokio::test]
async fn the_first_create_wins_and_leaves_nothing_else() {
    let bench = Bench::new();
    bench.put("a/b/c", b"first").await.unwrap();
    let refused = bench.put("a/b/c", b"second").await.unwrap_err();
    assert!(matches!(refused, Error::AlreadyExists { .. }), "{refused}");
    assert_eq!(fs::read(bench.directory.path().join("a/b/c")).unwrap(), b"first");
    assert_eq!(bench.files(), ["c"]);
}

#[tokio::test]
async fn others_can_not_read_a_backup() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    bench.put("a/b", b"x").await.unwrap();
    for path in ["a", "a/b"] {
        let mode = fs::metadata(bench.directory.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o027, 0, "{path}: {mode:o}");
    }
}

#[tokio::test]
async fn listings_are_in_the_order_of_keys_and_go_on_after_one() {
    let bench = Bench::new();
    // '-' and '.' sort before '/', digits after it.
    for key in ["a/x", "a-b", "a.b/y", "a0", "a/sub/z", "b"] {
        bench.put(key, b"x").await.unwrap();
    }
    let all = ["a-b", "a.b/y", "a/sub/z", "a/x", "a0", "b"];
    assert_eq!(bench.list("", None).await, all);
    for (n, after) in all.iter().enumerate() {
        assert_eq!(bench.list("", Some(after)).await, all[n + 1..], "after {after}");
    }
    assert_eq!(bench.list("", Some("a/m")).await, all[2..]);
    assert_eq!(bench.list("a", None).await, ["a/sub/z", "a/x"]);
    assert_eq!(bench.list("nowhere", None).await, [""; 0]);
}

#[tokio::test]
async fn an_entry_that_can_not_be_looked_at_fails_the_listing() {
    let bench = Bench::new();
    bench.put("a/b", b"x").await.unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, bench.directory.path().join(name));
    link("nowhere", "a/dangling").unwrap();
    assert_eq!(bench.list("", None).await, ["a/b"]);
    link("loop", "a/loop").unwrap();
    assert!(matches!(bench.store.list(None).try_collect::<Vec<_>>().await, Err(Error::Generic { .. })));
    let level = bench.store.list_with_delimiter(Some(&Path::from("a"))).await;
    assert!(matches!(level, Err(Error::Generic { .. })));
}

#[tokio::test]
async fn staged_files_are_never_listed_and_old_ones_are_removed() {
    let bench = Bench::new();
    let staged = |name: &str| bench.directory.path().join(format!("{STAGED}{name}"));
    fs::write(staged("old"), b"torn").unwrap();
    fs::write(staged("new"), b"being written").unwrap();
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options().write(true).open(staged("old")).unwrap().set_modified(long_ago).unwrap();
    bench.put("a", b"x").await.unwrap();
    assert_eq!(bench.list("", None).await, ["a"]);
    assert!(!staged("old").try_exists().unwrap());
    assert!(staged("new").try_exists().unwrap());
    assert!(bench.put(&format!("b/{STAGED}x"), b"x").await.is_err());
}

#[tokio::test]
async fn a_missing_directory_is_told_from_a_missing_object() {
    let bench = Bench::new();
    let missing = |error: Error| match error {
        Error::NotFound { source, .. } => source.is::<RootMissing>(),
        error => panic!("{error}"),
    };
    let get = |store: &LocalStore| {
        let store = LocalStore { root: Arc::clone(&store.root), limiter: None };
        async move { store.get_opts(&Path::from("a"), GetOptions::new()).await.unwrap_err() }
    };
    assert!(!missing(get(&bench.store).await));
    let gone = LocalStore::new(bench.directory.path().join("gone"), None);
    assert!(missing(get(&gone).await));
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let put = gone.put_opts(&Path::from("a/b"), PutPayload::from_static(b"x"), options).await;
    assert!(missing(put.unwrap_err()));
    assert!(missing(gone.list(None).try_next().await.unwrap_err()));
}

#[tokio::test]
async fn a_directory_is_no_object_and_an_object_no_directory() {
    let bench = Bench::new();
    bench.put("a/b", b"x").await.unwrap();
    let get = bench.store.get_opts(&Path::from("a"), GetOptions::new()).await.unwrap_err();
    assert!(matches!(get, Error::NotFound { .. }), "{get}");
    assert!(matches!(bench.put("a", b"x").await.unwrap_err(), Error::Generic { .. }));
    assert!(matches!(bench.put("a/b/c", b"x").await.unwrap_err(), Error::Generic { .. }));
    assert_eq!(bench.files(), ["b"]);
}

#[tokio::test]
async fn removing_the_last_object_removes_its_directories_but_not_the_root() {
    let bench = Bench::new();
    bench.put("a/b/c", b"x").await.unwrap();
    bench.put("a/d", b"x").await.unwrap();
    let remove = |key: &str| {
        let location = futures::stream::once(futures::future::ready(Ok(Path::from(key)))).boxed();
        bench.store.delete_stream(location).try_collect::<Vec<_>>()
    };
    remove("a/b/c").await.unwrap();
    let level = bench.store.list_with_delimiter(Some(&Path::from("a"))).await.unwrap();
    assert_eq!(level.common_prefixes, []);
    remove("a/d").await.unwrap();
    assert!(matches!(remove("a/d").await.unwrap_err(), Error::NotFound { .. }));
    assert!(bench.directory.path().try_exists().unwrap());
    assert_eq!(bench.list("", None).await, [""; 0]);
}
