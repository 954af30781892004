//! Text as manifests: through the reader, the model and the compiler to decisions and their explanations.
//!
//! ```text
//! input: choice | state (0xff state)*     state: file (0xfe file)*     the second file is JSON, the others are YAML
//! ```

use std::path::Path;

use super::world::World;

const FILES: [&str; 4] = ["a.yaml", "b.json", "c.yaml", "d.yaml"];
/// States of the directory in one input.
const STATES: usize = 6;

/// Runs the target.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else { return };
    let folder = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
    let mut world = World::new(folder.path(), *choice);
    for state in text.split(|byte| *byte == 0xff).take(STATES) {
        write(folder.path(), state);
        world.step();
    }
}

fn write(folder: &Path, state: &[u8]) {
    let mut contents = state.splitn(FILES.len(), |byte| *byte == 0xfe);
    for name in FILES {
        match contents.next() {
            Some(content) => std::fs::write(folder.join(name), content).expect("a file on a tmpfs"),
            None => drop(std::fs::remove_file(folder.join(name))),
        }
    }
}
