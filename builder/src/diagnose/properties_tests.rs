//! Whatever a machine writes, and however it is cut.

use std::time::Duration;

use proptest::prelude::*;

use super::{Class, Classifier, Ending, SETTLE, Source, Stage};

const RUN: &str = "0123456789abcdef";
const LOGS: [Source; 3] = [Source::Installer, Source::Serial, Source::Marks];

/// Lines that matter, parts of them, and noise.
fn words() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "KILN-MARK 0123456789abcdef os ok",
        "KILN-MARK 0123456789abcdef os fail %post line 3 (false): exit status 1",
        "KILN-MARK 0123456789abcdef os fail Anaconda stopped with an error",
        "KILN-LOG 0123456789abcdef os grub2-install: error",
        "KILN-STEP 0123456789abcdef os boot loader",
        "[   34.52] anaconda[2628]: The installation was stopped due to an error",
        "[   34.52] anaconda[2628]: The exact error message is:",
        "[   34.52] anaconda[2628]: Non interactive installation failed: x",
        "The installer will now terminate.",
        "00:39:00,957 CRIT anaconda:anaconda: exception: Traceback (most recent call last):#012#012x.CmdlineError: y#012Software selection",
        "storage configuration failed: no disk",
        "Press ENTER to exit: ",
        "Kernel panic - not syncing: x",
        "Call Trace:",
        "Running post-installation scripts",
        "bash.x86_64 (17/338)",
        "\u{1b}[0;1;31mred\u{1b}[0m",
        "#012",
        "…",
    ])
    .prop_map(str::to_owned)
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let end = prop::sample::select(vec!["\n", "\r\n", "\r", " ", ""]);
    let line = prop_oneof![4 => words(), 1 => "[ -~]{0,40}"];
    prop::collection::vec((line, end), 0..12)
        .prop_map(|lines| {
            lines.into_iter().flat_map(|(line, end)| [line, end.to_owned()]).collect::<String>()
        })
        .prop_map(String::into_bytes)
}

fn second(at: u64) -> Duration {
    Duration::from_secs(at)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(pieces in prop::collection::vec((0..3_usize, any::<Vec<u8>>(), 0..5_u64), 0..20)) {
        let mut classifier = Classifier::new(RUN, Stage::Node);
        let mut now = Duration::ZERO;
        for (source, bytes, pause) in pieces {
            now += second(pause);
            classifier.feed(LOGS[source], &bytes, now);
            classifier.tick(now);
        }
        let _ = classifier.finish(&Ending::Exited { status: "?".into(), stderr: "\u{1b}".into() });
    }

    #[test]
    fn where_bytes_are_cut_makes_no_difference(
        source in 0..3_usize, bytes in text(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut whole = Classifier::new(RUN, Stage::Os);
        whole.feed(LOGS[source], &bytes, second(1));
        let mut cut = Classifier::new(RUN, Stage::Os);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.sort_unstable();
        let mut start = 0;
        for end in at.into_iter().chain([bytes.len()]) {
            cut.feed(LOGS[source], &bytes[start..end], second(1));
            start = end;
        }
        prop_assert_eq!(whole.is_done(), cut.is_done());
        prop_assert_eq!(whole.progress(), cut.progress());
        prop_assert_eq!(whole.finish(&Ending::PoweredOff), cut.finish(&Ending::PoweredOff));
    }

    #[test]
    fn a_mark_of_another_run_never_counts(run in "[0-9a-f]{16}", stage in "os|node", rest in "ok|fail .{0,20}") {
        prop_assume!(run != RUN);
        for source in LOGS {
            let mut classifier = Classifier::new(RUN, Stage::Os);
            let line = format!("KILN-MARK {run} {stage} {rest}\n");
            prop_assert_eq!(classifier.feed(source, line.as_bytes(), second(1)), None);
            prop_assert_eq!(classifier.tick(second(60)), None);
            prop_assert!(!classifier.is_done());
            prop_assert_eq!(classifier.finish(&Ending::PoweredOff).unwrap_err().class, Class::PoweredOffWithoutMark);
        }
    }

    #[test]
    fn the_first_diagnosis_stands(first in text(), second_text in text()) {
        let mut classifier = Classifier::new(RUN, Stage::Os);
        classifier.feed(Source::Serial, &first, second(1));
        if let Some(diagnosis) = classifier.tick(second(1) + 2 * SETTLE) {
            prop_assert_eq!(classifier.feed(Source::Marks, &second_text, second(10)), Some(diagnosis.clone()));
            prop_assert_eq!(classifier.finish(&Ending::PoweredOff), Err(diagnosis));
        }
    }

    #[test]
    fn without_our_mark_nothing_is_ever_fine(bytes in any::<Vec<u8>>(), source in 0..3_usize) {
        let mut classifier = Classifier::new(RUN, Stage::Os);
        classifier.feed(LOGS[source], &bytes, second(1));
        prop_assert!(classifier.finish(&Ending::PoweredOff).is_err());
    }
}
