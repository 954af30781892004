//! The fuzz targets over their corpora (`tests/fuzz/corpus/TARGET`) and over everything they ever found
//! (`tests/regress/TARGET`), with the toolchain everything else is built with.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tests::fuzz::TARGETS;

/// Bytes of all corpora together, at most: they are part of the repository.
const MOST_BYTES: u64 = 1 << 20;

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn folders(target: &str) -> [PathBuf; 2] {
    ["fuzz/corpus", "regress"].map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target))
}

/// Every input of a target; the names of those that fail.
fn replay(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of this name");
    let [corpus, regress] = folders(target).map(|folder| files(&folder));
    assert!(corpus.len() >= 10, "{target} has a corpus of {} files", corpus.len());
    let count = corpus.len() + regress.len();
    let failed: Vec<_> = corpus
        .into_iter()
        .chain(regress)
        .filter(|file| {
            let data = fs::read(file).expect("an input");
            catch_unwind(AssertUnwindSafe(|| run(&data))).is_err()
        })
        .collect();
    assert!(failed.is_empty(), "{target}: {} of {count} inputs fail: {failed:#?}", failed.len());
}

macro_rules! replays {
    ($($target:ident)+) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })+

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($target)),+]);
        }
    };
}

replays!(frames engine region config documents objects socket);

#[test]
fn every_finding_belongs_to_a_target_and_the_corpora_stay_small() {
    let regress = Path::new(env!("CARGO_MANIFEST_DIR")).join("regress");
    for folder in files(&regress).iter().filter(|path| path.is_dir()) {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "{name} is no target");
    }
    let all = TARGETS.iter().flat_map(|(target, _)| folders(target)).flat_map(|folder| files(&folder));
    let bytes: u64 = all.map(|file| fs::metadata(file).expect("an input").len()).sum();
    assert!(bytes <= MOST_BYTES, "{bytes} bytes of inputs: `cargo fuzz cmin` makes them fewer");
}
