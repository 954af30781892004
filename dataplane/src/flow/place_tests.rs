//! Where a region may lie, and every way a place can be wrong.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::kit::at;
use super::place::{self, boot_id};
use super::*;

fn tmpfs() -> tempfile::TempDir {
    let private = fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().prefix("tunway-test-").permissions(private).tempdir_in("/dev/shm").unwrap()
}

fn config(dir: &Path) -> RegionConfig {
    RegionConfig { dir: Some(dir.to_owned()), name: "tun0".into(), max_flows_v4: 1, max_flows_v6: 1 }
}

fn refused(dir: &Path) -> RegionError {
    Region::open(&config(dir), at(1)).expect_err("it must be refused")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_region_is_a_private_file_of_its_full_size_and_is_made_anew_when_found() {
    let dir = tmpfs();
    let inside = dir.path().join("made");
    let region = Region::open(&config(&inside), at(1)).unwrap();
    let path = inside.join(file_name("tun0"));
    let Placement::File { path: placed, found } = region.placement() else { panic!() };
    assert_eq!((placed, *found), (&path, false));
    assert_eq!((mode(&inside), mode(&path)), (0o700, 0o600));
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), region.bytes() as u64);
    assert!(std::os::unix::fs::MetadataExt::blocks(&meta) * 512 >= meta.len(), "no holes");
    assert_ne!(boot_id(), [0, 0]);

    // A flow in the first one is not in the second, and the first one's memory stays valid.
    let table = Table::<2>::new(&region, Ttls::default());
    let mut worker = kit::Worker::new(&table, 0);
    let key = kit::forward(crate::packet::tuple::Proto::Udp, 1);
    worker.open(&kit::new(key, at(1)), 1);
    let again = Region::open(&config(&inside), at(2)).unwrap();
    assert!(matches!(again.placement(), Placement::File { found: true, .. }));
    assert_eq!(Table::<2>::new(&again, Ttls::default()).live(), 0);
    assert!(kit::find(&table, key).is_some());
}

#[test]
fn a_disk_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, RegionError::NotTmpfs { .. }), "{error}");
    assert!(error.to_string().contains("/dev/shm/tunway"), "{error}");
}

#[test]
fn no_space_names_the_size_and_leaves_nothing() {
    let dir = tmpfs();
    let error = place::file(dir.path(), "tun0", 1 << 44).unwrap_err();
    assert!(matches!(error, RegionError::NoSpace { .. }), "{error}");
    assert!(error.to_string().contains("17592186044416 bytes (16777216 MiB)"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn links_and_odd_files_are_refused_and_left_alone() {
    let dir = tmpfs();
    let (path, elsewhere) = (dir.path().join(file_name("tun0")), dir.path().join("elsewhere"));
    fs::write(&elsewhere, "precious").unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(matches!(refused(dir.path()), RegionError::NotPlain { .. }));
    assert!(path.is_symlink());
    fs::remove_file(&path).unwrap();

    // A second name for somebody's file.
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(&elsewhere, &path).unwrap();
    assert!(matches!(refused(dir.path()), RegionError::NotPlain { .. }));
    fs::remove_file(&path).unwrap();

    fs::create_dir(&path).unwrap();
    assert!(matches!(refused(dir.path()), RegionError::NotPlain { .. }));
    fs::remove_dir(&path).unwrap();
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");

    // The directory itself.
    let link = dir.path().join("link");
    let real = dir.path().join("real");
    fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    assert!(matches!(refused(&link), RegionError::NotPlain { .. }));
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(refused(&dir.path().join("file")), RegionError::NotPlain { .. }));
}

#[test]
fn what_others_may_read_or_own_is_refused() {
    let dir = tmpfs();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let error = refused(dir.path());
    assert!(error.to_string().contains("mode 0755") && error.to_string().contains("chmod"), "{error}");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();

    let path = dir.path().join(file_name("tun0"));
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(refused(dir.path()), RegionError::Open { .. }));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();

    // Only root can give a file away; anybody else meets root's own directory instead.
    if map::user() == 0 {
        chown(&path, Some(65_534), None).unwrap();
        let error = refused(dir.path());
        assert!(matches!(error, RegionError::Foreign { owner: 65_534, user: 0, .. }), "{error}");
        fs::remove_file(&path).unwrap();
        chown(dir.path(), Some(65_534), None).unwrap();
        assert!(matches!(refused(dir.path()), RegionError::Foreign { .. }));
    } else {
        assert!(matches!(
            refused(Path::new("/dev/shm")),
            RegionError::Foreign { .. } | RegionError::Open { .. }
        ));
    }
}

#[test]
fn a_name_cannot_leave_its_directory() {
    let dir = tmpfs();
    for name in ["../tun0", "a/b", ".hidden", ""] {
        let error =
            Region::open(&RegionConfig { name: name.into(), ..config(dir.path()) }, at(1)).unwrap_err();
        assert!(matches!(error, RegionError::Name { .. }), "{name:?}: {error}");
    }
}

#[test]
fn a_missing_parent_is_an_error_that_names_the_path() {
    let dir = tmpfs();
    let error = refused(&dir.path().join("no/where"));
    assert!(error.to_string().contains("no/where"), "{error}");
}

#[test]
fn without_any_place_memory_is_taken_and_the_reasons_are_kept() {
    let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let missing = disk.path().join("a/b");
    let region = Region::open_first(&[disk.path(), &missing], &config(disk.path()), at(1)).unwrap();
    let warning = region.placement().warning().expect("an operator must hear of it");
    assert!(warning.contains("not on tmpfs") && warning.contains("a/b"), "{warning}");
    let shm = tmpfs();
    let region = Region::open_first(&[disk.path(), shm.path()], &config(disk.path()), at(1)).unwrap();
    assert_eq!(region.placement().warning(), None);
    assert!(shm.path().join(file_name("tun0")).exists());
}

#[test]
fn a_memory_limit_is_told_before_it_kills() {
    let error = RegionError::Limit {
        path: "/sys/fs/cgroup/pod/memory.max".into(),
        bytes: 60 << 20,
        limit: 64 << 20,
        used: 10 << 20,
    };
    let text = error.to_string();
    assert!(
        text.contains("62914560 bytes (60 MiB)") && text.contains("pod/memory.max allows 67108864"),
        "{text}"
    );
    assert!(text.contains("maxFlows"), "{text}");
    // Whatever limits this machine has, nobody may have an exabyte.
    if let Some(limit) = limit::nearest() {
        let all = usize::try_from(limit.left().saturating_add(1)).unwrap();
        assert!(matches!(place::fits_limit(all), Err(RegionError::Limit { .. })));
    }
}
