//! A local directory on a disk that is full, read-only or gone.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use walden_core::{ErrorKind, ObjectKey};
use walden_store::{CreateOutcome, RetryBudget, Store, StoreConfig, StoreError};
use walden_testkit::conformance::{noise, seal};
use walden_testkit::stores::TestStore;

fn open(path: &Path) -> Store {
    TestStore::directory(path).open(&StoreConfig::default()).unwrap()
}

async fn create(store: &Store, key: &str, bytes: usize) -> Result<CreateOutcome, StoreError> {
    let budget = RetryBudget::seeded(Duration::from_secs(30), 1);
    let object = seal("name", &noise(bytes, 1), 1).unwrap();
    store.create_once(&ObjectKey::parse(key).unwrap(), &object, &budget).await
}

fn files_below(path: &Path) -> Vec<String> {
    let found = Command::new("find").arg(path).args(["-type", "f"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A file system of one mebibyte, or nothing where the test may not mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(directory.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_and_says_so() {
    let Some(disk) = SmallDisk::mount() else {
        println!("a file system can't be mounted here: not checked");
        return;
    };
    let store = open(disk.0.path());
    assert_eq!(create(&store, "main/small", 1000).await.unwrap(), CreateOutcome::Created);
    let error = create(&store, "main/large", 2 << 20).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LocalIo, "{error:?}");
    assert!(error.to_string().contains("main/large"), "{error}");
    assert!(error.hint().unwrap().contains("make room"));
    assert_eq!(store.counters().put.requests, 2, "a full disk is not tried again");
    let files = files_below(disk.0.path());
    assert!(files.len() == 1 && files[0].ends_with("main/small"), "{files:?}");
    assert_eq!(create(&store, "main/large", 100_000).await.unwrap(), CreateOutcome::Created);
}

#[tokio::test]
async fn a_missing_directory_is_not_made_by_writing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("not/mounted");
    let store = open(&root);
    let error = create(&store, "main/a", 10).await.unwrap_err();
    assert!(matches!(error, StoreError::BucketNotFound { word: "directory", .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("walden init"));
    assert!(!root.try_exists().unwrap());
    store.create_root().await.unwrap();
    store.create_root().await.unwrap();
    assert_eq!(create(&store, "main/a", 10).await.unwrap(), CreateOutcome::Created);
}

#[tokio::test]
async fn a_directory_without_rights_is_denied() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    if std::fs::write(directory.path().join("probe"), b"x").is_ok() {
        println!("this user may write everywhere: not checked");
        return;
    }
    let error = create(&open(directory.path()), "main/a", 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.hint().unwrap().contains("owner"));
}
