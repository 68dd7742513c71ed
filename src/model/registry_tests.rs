use super::*;
use crate::model::artifact::tests::model;

#[test]
fn each_save_is_a_new_revision() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(directory.path().join("models"));
    assert!(registry.names().unwrap().is_empty());
    let first = registry.save(model()).unwrap();
    let mut changed = model();
    changed.intercept = 9.0;
    let second = registry.save(changed).unwrap();
    assert_eq!((first.revision, second.revision), (1, 2));
    assert!(second.path.ends_with("models/sell/2.json"));
    assert_eq!(registry.load("sell").unwrap(), second);
    assert_eq!(registry.load("sell@1").unwrap(), first);
    assert_eq!(registry.names().unwrap(), ["sell"]);
    // A gap is not filled, so that a revision never means two models.
    fs::remove_file(first.path).unwrap();
    assert_eq!(registry.save(model()).unwrap().revision, 3);
    let left = fs::read_dir(directory.path().join("models/sell")).unwrap().count();
    assert_eq!(left, 2, "no temporary file stays");
}

#[test]
fn parallel_saves_get_revisions_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(directory.path());
    let mut revisions: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| registry.save(model()).unwrap().revision)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=8).collect::<Vec<_>>());
}

#[test]
fn says_what_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(directory.path());
    let error = |reference: &str| registry.load(reference).unwrap_err();
    assert!(error("sell").to_string().contains("tidemill train"));
    registry.save(model()).unwrap();
    assert!(error("sel").to_string().contains("did you mean 'sell'?"));
    assert!(error("sell@7").to_string().contains("there are: 1"));
    assert_eq!(error("sell@7").kind(), ErrorKind::NotFound);
    assert_eq!(error("sell@x").kind(), ErrorKind::Invalid);
    for name in ["", "../sell", "a/b", "/etc/passwd", ".hidden", "a b", "a\\b", "..", &"x".repeat(101)] {
        assert_eq!(error(name).kind(), ErrorKind::Invalid, "{name}");
    }
}

#[test]
fn names_the_torn_file() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(directory.path());
    let stored = registry.save(model()).unwrap();
    let text = fs::read_to_string(&stored.path).unwrap();
    fs::write(&stored.path, &text[..text.len() / 2]).unwrap();
    let error = registry.load("sell").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("sell/1.json"), "{error}");
}

#[test]
fn the_promoted_revision_is_served_until_another_is() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(directory.path());
    (0..3).for_each(|_| drop(registry.save(model()).unwrap()));
    assert_eq!((registry.promoted("sell").unwrap(), registry.load("sell").unwrap().revision), (None, 3));
    assert_eq!(registry.promote("sell@1").unwrap().revision, 1);
    assert_eq!(registry.load("sell").unwrap().revision, 1);
    assert_eq!(registry.save(model()).unwrap().revision, 4);
    assert_eq!((registry.load("sell").unwrap().revision, registry.load("sell@newest").unwrap().revision), (1, 4));
    assert_eq!(registry.promote("sell").unwrap().revision, 4, "a plain name promotes the newest");
    assert_eq!(registry.promote("sell@9").unwrap_err().kind(), ErrorKind::NotFound);
    let torn = fs::read_to_string(directory.path().join("sell/2.json")).unwrap();
    fs::write(directory.path().join("sell/2.json"), &torn[..100]).unwrap();
    assert_eq!(registry.promote("sell@2").unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(registry.load("sell").unwrap().revision, 4, "what was refused changed nothing");
    fs::write(directory.path().join("sell/promoted.json"), "{").unwrap();
    assert_eq!(registry.load("sell").unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(registry.names().unwrap(), ["sell"]);
}
