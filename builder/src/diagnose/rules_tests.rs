//! Which lines count, and which explains which.

use std::time::Duration;

use super::patterns::Weight;
use super::{Certainty, Class, Classifier, Diagnosis, Ending, Event, SETTLE, Source, Stage, tables};

pub(super) const RUN: &str = "0123456789abcdef";
pub(super) const START: Duration = Duration::from_secs(100);

pub(super) fn os() -> Classifier {
    Classifier::new(RUN, Stage::Os)
}

pub(super) fn feed(classifier: &mut Classifier, source: Source, lines: &[&str]) -> Option<Diagnosis> {
    lines.iter().fold(None, |_, line| classifier.feed(source, format!("{line}\n").as_bytes(), START))
}

#[test]
fn an_end_without_a_reason_takes_the_first_cause() {
    let mut classifier = os();
    feed(
        &mut classifier,
        Source::Installer,
        &[
            "01:00:00,000 ERR anaconda:packaging: Payload setup error: no repository",
            "01:00:01,000 ERR anaconda:anaconda: x: StorageError: another",
        ],
    );
    let end =
        ["The installation was stopped due to an error which occurred while running in non-interactive"];
    assert_eq!(feed(&mut classifier, Source::Serial, &end), None, "the other logs get their time");
    assert_eq!(classifier.tick(START + SETTLE / 2), None);
    let diagnosis = classifier.tick(START + SETTLE).unwrap();
    assert_eq!((diagnosis.class, diagnosis.certainty), (Class::PayloadRepo, Certainty::Likely));
    assert!(diagnosis.line.contains("Payload setup error: no repository"), "{diagnosis}");
}

#[test]
fn a_cause_that_another_log_tells_late_counts() {
    let mut classifier = os();
    feed(
        &mut classifier,
        Source::Serial,
        &["An unknown error has occured, look at the /tmp/anaconda-tb* file(s)"],
    );
    feed(
        &mut classifier,
        Source::Installer,
        &["01:00:01,000 ERR x: Not enough disk space to download the packages"],
    );
    assert_eq!(classifier.tick(START + SETTLE).unwrap().class, Class::Storage);
}

#[test]
fn the_installers_own_error_is_better_than_an_earlier_guess() {
    let mut classifier = os();
    feed(
        &mut classifier,
        Source::Installer,
        &["01:00:00,000 INFO x: Curl error (6): an optional repository"],
    );
    feed(
        &mut classifier,
        Source::Serial,
        &[
            "[ 34.5] anaconda[9]: The installation was stopped due to an error which occurred while running",
            "[ 34.5] anaconda[9]: The exact error message is:",
            "[ 34.6] audit: type=1400 in between",
            "[ 34.7] anaconda[9]: The following mandatory spokes are not completed:",
            "[ 34.7] anaconda[9]: Installation Destination",
            "[ 34.8] anaconda[9]: The installer will now terminate.",
        ],
    );
    let diagnosis = classifier.tick(START + SETTLE).unwrap();
    assert_eq!((diagnosis.class, diagnosis.certainty), (Class::Storage, Certainty::Certain), "{diagnosis}");
    assert!(!diagnosis.to_string().contains("audit"), "{diagnosis}");
}

#[test]
fn the_kickstarts_onerror_does_not_hide_what_anaconda_said() {
    let mut classifier = os();
    feed(
        &mut classifier,
        Source::Marks,
        &[
            "KILN-LOG 0123456789abcdef os ==> /tmp/packaging.log",
            "KILN-LOG 0123456789abcdef os 01:00:00,000 ERR packaging: Missed: NoSuchPackage: no-such-thing",
            "KILN-MARK 0123456789abcdef os fail Anaconda stopped with an error",
        ],
    );
    let diagnosis = classifier.finish(&Ending::PoweredOff).unwrap_err();
    assert_eq!(diagnosis.class, Class::PayloadRepo);
    assert!(diagnosis.line.contains("no-such-thing"), "{diagnosis}");
}

#[test]
fn a_script_error_takes_its_class_from_the_phase() {
    for (phase, class) in [
        ("14:03:11 Running pre-installation scripts", Class::PreScript),
        ("Running post-installation scripts", Class::PostScript),
    ] {
        let mut classifier = os();
        let lines = [
            phase,
            "There was an error running the kickstart script at line 3.  This is a fatal error and installation \
             will be aborted.  The details of this error are:",
            "",
            "no such disk",
        ];
        let diagnosis = feed(&mut classifier, Source::Serial, &lines).unwrap();
        assert_eq!(diagnosis.class, class);
        assert!(diagnosis.line.ends_with("The details of this error are: no such disk"), "{diagnosis}");
    }
}

#[test]
fn a_kickstart_error_comes_with_its_line_and_its_words() {
    let lines = [
        "An error occurred during reading the kickstart file:",
        "The following problem occurred on line 14 of the kickstart file:",
        "",
        "Unknown command: pasword",
        "",
        "The installer will now terminate.",
    ];
    let diagnosis = feed(&mut os(), Source::Serial, &lines).unwrap();
    assert_eq!(diagnosis.class, Class::KsParse);
    assert_eq!(
        diagnosis.line,
        "The following problem occurred on line 14 of the kickstart file: Unknown command: pasword"
    );
    let lines = [lines[0], "GRUB2 does not support installation to a partition."];
    let diagnosis = feed(&mut os(), Source::Serial, &lines).unwrap();
    assert!(diagnosis.line.ends_with("GRUB2 does not support installation to a partition."), "{diagnosis}");
}

#[test]
fn a_record_of_several_lines_is_read_as_one() {
    let record = "06:40:04,245 ERR anaconda:anaconda: ui.tui.spokes.storage: storage configuration failed: The \
                  following problem occurred on line 5 of the kickstart file:#012#012Partition \"sda9\" given in \
                  part command does not exist.#012";
    let diagnosis = feed(&mut os(), Source::Installer, &[record]).unwrap();
    assert!(
        diagnosis.line.ends_with("kickstart file: Partition \"sda9\" given in part command does not exist.")
    );

    // The traceback after it adds nothing, nor does the source code it quotes.
    let mut classifier = os();
    let lines = [
        "06:40:53,710 ERR anaconda:anaconda: x: storage configuration failed: You have not defined a root partition",
        "06:40:53,741 CRIT anaconda:anaconda: exception: Traceback (most recent call last):#012  File \"x.py\", line \
         1, in run#012    raise CmdlineError(\"Software selection\")#012errors.CmdlineError: not completed:\
         #012Installation Destination",
    ];
    assert_eq!(feed(&mut classifier, Source::Installer, &lines), None);
    let diagnosis = classifier.tick(START + SETTLE).unwrap();
    assert!(diagnosis.line.ends_with("You have not defined a root partition"), "{diagnosis}");
    assert_eq!(diagnosis.class, Class::Storage);
}

#[test]
fn a_question_needs_no_end_of_line() {
    let mut classifier = os();
    assert_eq!(classifier.feed(Source::Serial, b"Press ENTER to exit: ", START), None);
    // Asking again and again, and other logs, do not make it younger.
    assert_eq!(classifier.feed(Source::Serial, b"", START + SETTLE), None);
    assert_eq!(classifier.feed(Source::Installer, b"x\n", START + SETTLE), None);
    assert_eq!(classifier.tick(START + 2 * SETTLE).unwrap().class, Class::PromptWait);
}

#[test]
fn a_machine_that_is_out_of_memory_may_panic_too() {
    let mut classifier = os();
    feed(&mut classifier, Source::Serial, &["[ 9.1] dnf invoked oom-killer: gfp_mask=0x140cca"]);
    feed(&mut classifier, Source::Serial, &["[ 9.2] Kernel panic - not syncing: x"]);
    classifier.event(&Event::GuestPanicked, START);
    assert_eq!(classifier.tick(START + SETTLE).unwrap().class, Class::Oom);
}

#[test]
fn a_trace_alone_is_a_warning() {
    let mut classifier = os();
    feed(
        &mut classifier,
        Source::Installer,
        &["01:00:00,000 WARNING kernel:Call Trace:", "01:00:00,000 CRIT x: y"],
    );
    assert_eq!(classifier.tick(START + Duration::from_secs(7201)), None);
}

#[test]
fn every_known_line_says_where_it_was_seen_and_can_be_reached() {
    let mut before: Vec<&[&str]> = Vec::new();
    for pattern in tables::GUEST.iter().copied().flatten() {
        let text = pattern.find.concat();
        assert!(!pattern.seen.is_empty() && pattern.find.iter().all(|piece| piece.len() > 2), "{pattern:?}");
        assert!(pattern.weight != Weight::Exact || pattern.find.len() == 1, "{pattern:?}");
        let hidden = before.iter().find(|earlier| {
            let mut rest = text.as_str();
            earlier.iter().all(|piece| {
                rest.split_once(piece).is_some_and(|(_, after)| {
                    rest = after;
                    true
                })
            })
        });
        let same_log =
            tables::GUEST.iter().copied().flatten().any(|other| {
                hidden == Some(&other.find) && pattern.on.iter().all(|log| other.on.contains(log))
            });
        assert!(!same_log, "{pattern:?} is hidden by {hidden:?}");
        before.push(pattern.find);
    }
}
