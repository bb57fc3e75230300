//! Our own marks, the machine's end, and what both together mean.

use super::rules_tests::{RUN, START, feed, os};
use super::{Class, Classifier, Ending, Event, SETTLE, Source, Stage};

#[test]
fn our_mark_and_a_power_off_are_a_success() {
    let mut classifier = os();
    assert_eq!(feed(&mut classifier, Source::Marks, &["KILN-MARK 0123456789abcdef os ok"]), None);
    assert_eq!(feed(&mut classifier, Source::Serial, &["[ 1.0] SQUASHFS error: Unable to read page"]), None);
    assert_eq!(feed(&mut classifier, Source::Serial, &["An unknown error has occured, look at"]), None);
    assert!(classifier.is_done());
    assert_eq!(classifier.finish(&Ending::PoweredOff), Ok(()));
}

#[test]
fn a_mark_is_not_enough_if_the_machine_did_not_power_off() {
    for (ending, class) in [
        (Ending::Reset, Class::GuestReset),
        (Ending::Panicked, Class::Panic),
        (Ending::Stopped("host-signal".into()), Class::HostQemu),
        (
            Ending::Exited {
                status: "exit status: 1".into(),
                stderr: "qemu: No space left on device".into(),
            },
            Class::HostDiskFull,
        ),
    ] {
        let mut classifier = os();
        feed(&mut classifier, Source::Serial, &["KILN-MARK 0123456789abcdef os ok"]);
        assert_eq!(classifier.finish(&ending).unwrap_err().class, class, "{ending:?}");
    }
}

#[test]
fn a_power_off_without_a_mark_shows_how_far_it_was() {
    let mut classifier = os();
    feed(
        &mut classifier,
        Source::Serial,
        &["Configuring storage", "", "[  OK  ] Reached target Power-Off.", "[ 39.1] reboot: Power down"],
    );
    let diagnosis = classifier.finish(&Ending::PoweredOff).unwrap_err();
    assert_eq!(diagnosis.class, Class::PoweredOffWithoutMark);
    assert_eq!(diagnosis.line, "it was preparing the disk, and its last words were: Configuring storage");
    let silent = os().finish(&Ending::PoweredOff).unwrap_err();
    assert_eq!(silent.class, Class::PoweredOffWithoutMark);
}

#[test]
fn the_mark_of_another_stage_is_none() {
    let mut classifier = os();
    assert_eq!(feed(&mut classifier, Source::Marks, &["KILN-MARK 0123456789abcdef node ok"]), None);
    assert!(!classifier.is_done());
}

#[test]
fn a_failed_script_is_told_at_once_with_its_last_words() {
    let mut classifier = os();
    let diagnosis = feed(
        &mut classifier,
        Source::Marks,
        &[
            "KILN-STEP 0123456789abcdef os boot loader for BIOS machines",
            "KILN-LOG 0123456789abcdef os Installing for i386-pc platform.",
            "KILN-LOG 0123456789abcdef os grub2-install: error: no BIOS boot partition.",
            "KILN-MARK 0123456789abcdef os fail %post line 9 (grub2-install): exit status 1",
        ],
    )
    .unwrap();
    assert_eq!(diagnosis.class, Class::PostScript);
    assert_eq!(diagnosis.line, "%post line 9 (grub2-install): exit status 1");
    assert_eq!(diagnosis.context.last().unwrap(), "grub2-install: error: no BIOS boot partition.");
}

#[test]
fn what_fails_in_the_node_stage_is_node_install() {
    let mut classifier = Classifier::new(RUN, Stage::Node);
    let lines = [
        "KILN-LOG 0123456789abcdef node agent: the payload's k3s has another sha256",
        "KILN-MARK 0123456789abcdef node fail %pre line 30 (agent install): exit status 1",
    ];
    let diagnosis = feed(&mut classifier, Source::Marks, &lines).unwrap();
    assert_eq!(diagnosis.class, Class::NodeInstall);
    assert_eq!(diagnosis.context, ["agent: the payload's k3s has another sha256"]);
}

#[test]
fn the_consoles_words_for_a_panic_are_better_than_the_events() {
    let mut classifier = os();
    classifier.event(&Event::GuestPanicked, START);
    feed(&mut classifier, Source::Serial, &["[ 9.2] Kernel panic - not syncing: sysrq triggered crash"]);
    let diagnosis = classifier.tick(START + SETTLE).unwrap();
    assert_eq!(diagnosis.source, Source::Serial);
    assert!(diagnosis.line.contains("sysrq triggered crash"));
}

#[test]
fn a_full_host_disk_is_told_at_once() {
    let event = Event::BlockIoError { device: "root".into(), nospace: true, reason: "No space left".into() };
    assert_eq!(os().event(&event, START).unwrap().class, Class::HostDiskFull);
    let mut classifier = os();
    assert_eq!(classifier.event(&Event::Stop, START), None);
    assert_eq!(classifier.tick(START + SETTLE).unwrap().class, Class::HostQemu);
}

#[test]
fn reports_and_steps_are_kept() {
    let mut classifier = Classifier::new(RUN, Stage::Node);
    feed(
        &mut classifier,
        Source::Marks,
        &["KILN-STEP 0123456789abcdef node trimming", "KILN-REPORT 0123456789abcdef node {\"format\":1}"],
    );
    assert_eq!(classifier.progress().item.as_deref(), Some("trimming"));
    assert_eq!(classifier.report(), Some("{\"format\":1}"));
}
