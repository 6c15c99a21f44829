//! Stories in `tests/scenarios`: flush-left lines go in, indented lines must come out. With
//! `HOMEOSTAT_BLESS=1` the files are written anew: read the difference before you commit it.

use std::fs;
use std::path::Path;

use homeostat::sim::scenario::{first_difference, tell};

#[test]
fn every_story_is_told_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 20, "the stories are there: {}", files.len());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let told = tell(&text, None).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        if std::env::var_os("HOMEOSTAT_BLESS").is_some() {
            fs::write(&file, &told).unwrap();
        } else if let Some((line, want, got)) = first_difference(&text, &told) {
            panic!("{}:{line}: expected {want:?}, got {got:?}", file.display());
        }
    }
}
