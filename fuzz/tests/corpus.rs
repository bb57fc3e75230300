//! Every target takes its whole corpus, findings of earlier runs among it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use std::path::Path;

#[test]
fn every_case_of_every_corpus_is_taken_without_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut cases = 0;
    for (name, target) in kiln_fuzz::TARGETS {
        let before = cases;
        for case in std::fs::read_dir(corpus.join(name)).unwrap() {
            let path = case.unwrap().path();
            println!("{}", path.display());
            target(&std::fs::read(path).unwrap());
            cases += 1;
        }
        assert!(cases > before, "{name} has no corpus");
    }
    println!("{cases} cases");
}
