//! What happens to files and directories: editors, mounts, links, outages.

use super::*;

#[tokio::test]
async fn editors_save_without_a_moment_of_nothing() {
    let mut story = Story::begin(with_web);
    story.until_services(&["web=1"]).await;
    story.seen.clear();
    // vim: a probe, the old file away, a new one in its place, the old one deleted.
    story.write("4913", "");
    fs::remove_file(story.path("4913")).unwrap();
    story.write(".web.yaml.swp", "b0VIM");
    fs::rename(story.path("web.yaml"), story.path("web.yaml~")).unwrap();
    story.write("web.yaml", service("web", 2));
    fs::remove_file(story.path("web.yaml~")).unwrap();
    fs::remove_file(story.path(".web.yaml.swp")).unwrap();
    story.until_services(&["web=2"]).await;
    // Emacs: a lock that points nowhere, and an autosave file.
    std::os::unix::fs::symlink("me@host.1234:1", story.path(".#web.yaml")).unwrap();
    story.write("#web.yaml#", service("web", 99));
    story.write("web.yaml", service("web", 3));
    story.until_services(&["web=3"]).await;
    // Atomic: a temporary file over the old one.
    story.write("web.yaml.tmp", service("web", 4));
    fs::rename(story.path("web.yaml.tmp"), story.path("web.yaml")).unwrap();
    story.until_services(&["web=4"]).await;
    assert!(story.seen.iter().all(|services| services.len() == 1), "{:?}", story.seen);
    assert_eq!(story.problems(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_file_that_is_being_written_is_read_when_it_is_whole() {
    use std::io::Write;
    // On a machine that stalls, two writes may be so far apart that the file looks finished: then once more.
    for attempt in 0.. {
        let mut story = Story::begin(with_web);
        story.until_services(&["web=1"]).await;
        story.seen.clear();
        let mut file = fs::File::create(story.path("web.yaml")).unwrap();
        let (mut last, mut longest) = (tokio::time::Instant::now(), Duration::ZERO);
        for index in 1..=12 {
            file.write_all(service(&format!("s{index}"), index).as_bytes()).unwrap();
            longest = longest.max(last.elapsed());
            last = tokio::time::Instant::now();
            story.for_a_while(Duration::from_millis(25)).await;
        }
        drop(file);
        story.until("all twelve", |story| story.services().len() == 12).await;
        let partly =
            story.seen.iter().filter(|services| services.len() < 12 && *services != &["web=1"]).count();
        if partly == 0 {
            return;
        }
        assert!(longest > Duration::from_millis(70) && attempt < 10, "{longest:?}: {:?}", story.seen);
    }
}

#[tokio::test]
async fn a_mounted_config_map_changes_all_at_once() {
    let version = |directory: &Path, number: u8| {
        let inner = directory.join(format!("..2026_{number}"));
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("a.yaml"), service("a", number)).unwrap();
        fs::write(inner.join("b.yaml"), service("b", number)).unwrap();
        std::os::unix::fs::symlink(format!("..2026_{number}"), directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    };
    let mut story = Story::begin(|directory| {
        empty(directory);
        version(directory, 1);
        for name in ["a.yaml", "b.yaml"] {
            std::os::unix::fs::symlink(format!("..data/{name}"), directory.join(name)).unwrap();
        }
    });
    story.until_services(&["a=1", "b=1"]).await;
    story.seen.clear();
    version(&story.root.path().join("manifests"), 2);
    fs::remove_dir_all(story.path("..2026_1")).unwrap();
    story.until_services(&["a=2", "b=2"]).await;
    let mixed = story
        .seen
        .iter()
        .filter(|services| ![["a=1", "b=1"], ["a=2", "b=2"]].contains(&[&services[0], &services[1]]));
    assert_eq!(mixed.count(), 0, "{:?}", story.seen);
}

#[tokio::test]
async fn a_directory_that_vanishes_is_told_and_its_last_state_serves() {
    let mut story = Story::looking_every(Duration::from_millis(200), with_web);
    story.until_services(&["web=1"]).await;
    story.health.clear();
    let directory = story.root.path().join("manifests");
    fs::remove_dir_all(&directory).unwrap();
    story.until("that is told", |story| !story.health.is_empty()).await;
    assert!(!story.health[0].0 && story.health[0].1.contains("still serves"), "{:?}", story.health);
    story.for_a_while(Duration::from_millis(1500)).await;
    assert_eq!((story.health.len(), story.services()), (1, vec!["web=1".to_owned()]));
    with_web(&directory);
    story.write("web.yaml", service("web", 2));
    story.until("it is back", |story| story.health.len() == 2 && story.services() == ["web=2"]).await;
    assert!(story.health[1].0);
    // And it is watched again, not only looked at.
    story.write("web.yaml", service("web", 3));
    story.until_services(&["web=3"]).await;
    assert!(story.seen.iter().all(|services| services.len() == 1), "{:?}", story.seen);
}

#[tokio::test]
async fn a_directory_may_come_later() {
    let mut story = Story::begin(|_| {});
    story.until("that is told", |story| !story.health.is_empty()).await;
    assert!(!story.health[0].0 && story.health[0].1.contains("nothing is served yet"), "{:?}", story.health);
    story.for_a_while(Duration::from_millis(1500)).await;
    assert!(!story.desired.ready() && story.health.len() == 1);
    with_web(&story.root.path().join("manifests"));
    story.until_services(&["web=1"]).await;
    assert!(story.health[1].0);
}

#[tokio::test]
async fn changes_nobody_tells_of_are_found() {
    let mut story = Story::looking_every(Duration::from_millis(200), |directory| {
        empty(directory);
        let elsewhere = directory.with_file_name("elsewhere.yaml");
        fs::write(&elsewhere, service("web", 1)).unwrap();
        std::os::unix::fs::symlink(elsewhere, directory.join("web.yaml")).unwrap();
    });
    story.until_services(&["web=1"]).await;
    fs::write(story.root.path().join("elsewhere.yaml"), service("web", 2)).unwrap();
    story.until_services(&["web=2"]).await;
    // The directory as a whole replaced by another: the watch is on the old one.
    let other = story.root.path().join("other");
    with_web(&other);
    fs::rename(story.root.path().join("manifests"), story.root.path().join("old")).unwrap();
    fs::rename(other, story.root.path().join("manifests")).unwrap();
    story.until_services(&["web=1"]).await;
    story.write("web.yaml", service("web", 3));
    story.until_services(&["web=3"]).await;
}
