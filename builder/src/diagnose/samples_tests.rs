//! Recorded logs: each file's first line says where it was published.

use std::time::Duration;

use super::Source::{Installer, Qemu, Serial};
use super::{Class, Classifier, Diagnosis, Ending, Phase, SETTLE, Source, Stage};

const RUN: &str = "0123456789abcdef";

/// How soon a log says that all is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Its last line was not even needed, or no more than the settling time after it.
    Live,
    /// Only once the machine is off: a cause without an end.
    AtEnd,
}
use When::{AtEnd, Live};

struct Sample {
    name: &'static str,
    log: &'static str,
    source: Source,
    class: Class,
    when: When,
    /// Part of the line shown.
    line: &'static str,
}

macro_rules! samples {
    ($($name:literal $source:ident $class:ident $when:ident $line:literal;)*) => {
        [$(Sample {
            name: $name,
            log: include_str!(concat!("samples/", $name, ".log")),
            source: $source,
            class: Class::$class,
            when: $when,
            line: $line,
        }),*]
    };
}

macro_rules! healthy {
    ($($name:literal $source:ident $phase:ident;)*) => {
        [$(($name, include_str!(concat!("samples/", $name, ".log")), $source, Phase::$phase)),*]
    };
}

/// Name, log it is of, class, whether the log alone ends the bake, part of the line shown.
fn failures() -> [Sample; 43] {
    samples! {
        "dracut-stage2-1" Serial DracutStage2 Live "Anaconda installer errors begin";
        "dracut-stage2-2" Serial DracutStage2 Live "[ -e \"/dev/root\" ]";
        "dracut-stage2-3" Serial DracutStage2 Live "/dev/centos/root does not exist";
        "dracut-stage2-4" Serial DracutStage2 Live "/dev/disk/by-label/OpenMandrivaLx_2015.0 does not exist";
        "dracut-stage2-5" Serial DracutStage2 Live "no suitable images";
        "media-check-1" Serial MediaCheck Live "the result is: FAIL.";
        "media-check-2" Serial MediaCheck Live "FATAL: CD check failed";
        "firmware-boot-1" Serial FirmwareBoot Live "No bootable option or device was found";
        "firmware-boot-2" Serial FirmwareBoot Live "UEFI Interactive Shell";
        "firmware-boot-3" Serial FirmwareBoot Live "Unable to mount root fs on unknown-block(0,0)";
        "panic-1" Serial Panic Live "Attempted to kill init! exitcode=0x00007f00";
        "panic-2" Serial Panic Live "sysrq triggered crash";
        "oom-1" Serial Oom Live "Out of memory: Kill process 27438";
        "oom-2" Installer Oom Live "Couldn't fork %post(binutils-2.35.2-43.el9.x86_64): Cannot allocate memory";
        "oom-3" Serial Oom Live "requires 1536 MB of memory to install";
        "scriptlet-2" Installer Scriptlet Live "rpm package coreutils-common";
        "scriptlet-3" Installer Scriptlet Live "rpm package insights-client";
        "scriptlet-1" Installer Scriptlet Live "rpm package grub2-common";
        "ks-parse-1" Installer KsParse Live "line 29 of the kickstart file: Unknown command: ostreecontainer";
        "ks-parse-2" Serial KsParse Live "unrecognized arguments: --only=sda";
        "storage-1" Serial Storage Live "Requested boot drive \"sdd\" doesn't exist";
        "storage-2" Installer Storage AtEnd "StorageConfigurationError: No usable disks.";
        "storage-3" Serial Storage Live "occurred while installing the boot loader";
        "storage-4" Installer Storage AtEnd "installing package sg3_utils-1.44-6.el8.x86_64 needs 12KB";
        "storage-5" Serial Storage Live "'NoneType' object has no attribute 'short_label'";
        "storage-6" Serial Storage Live "An unknown error has occured";
        "storage-7" Serial Storage Live "storage configuration failed:";
        "payload-repo-1" Installer PayloadRepo Live "Software selection";
        "payload-repo-2" Installer PayloadRepo Live "Software selection";
        "payload-repo-3" Serial PayloadRepo Live "Error setting up software";
        "payload-repo-4" Serial PayloadRepo Live "The command 'ostree container image deploy";
        "payload-repo-5" Installer PayloadRepo AtEnd "The base repository is invalid";
        "post-script-1" Serial PostScript Live "line 12.  This error: Switching: Initializing storage";
        "post-script-2" Serial PostScript Live "Non interactive installation failed";
        "installer-1" Serial Installer Live "Failed to create directory \"/mnt/sysroot/var\"";
        "installer-2" Installer Installer Live "Anaconda crashed on signal 11";
        "installer-3" Serial Installer Live "OSError: [Errno 2] No such file or directory";
        "installer-4" Serial Installer Live "Pane is dead";
        "prompt-wait-1" Serial PromptWait Live "Please make your choice from above";
        "prompt-wait-2" Serial PromptWait Live "Would you like to ignore this and continue";
        "host-qemu-1" Qemu HostQemu Live "Could not access KVM kernel module: Permission denied";
        "host-qemu-2" Qemu HostQemu Live "Failed to get \"write\" lock";
        "host-disk-full-1" Qemu HostDiskFull Live "No space left on device";
    }
}

/// Name, log it is of, the phase it gets to.
fn healthy() -> [(&'static str, &'static str, Source, Phase); 9] {
    healthy! {
        "healthy-1" Serial Starting;
        "healthy-2" Serial PostScripts;
        "healthy-3" Installer Booting;
        "healthy-4" Installer Booting;
        "healthy-5" Serial Booting;
        "healthy-6" Installer Installing;
        "healthy-7" Installer Booting;
        "healthy-8" Installer Downloading;
        "healthy-9" Serial Installing;
    }
}

/// The log itself, without the line that names its source.
fn body(log: &str) -> &str {
    log.split_once('\n').unwrap().1
}

fn live(log: &str, source: Source) -> (Classifier, Option<Diagnosis>) {
    let mut classifier = Classifier::new(RUN, Stage::Os);
    let now = Duration::from_secs(50);
    classifier.feed(source, body(log).as_bytes(), now);
    // A prompt without its end of line counts once it has stayed, and then settles.
    classifier.tick(now + SETTLE);
    let diagnosis = classifier.tick(now + 2 * SETTLE);
    (classifier, diagnosis)
}

#[test]
fn every_sample_names_its_public_source() {
    let logs = failures().map(|sample| (sample.name, sample.log));
    for (name, log) in logs.into_iter().chain(healthy().map(|(name, log, ..)| (name, log))) {
        let first = log.lines().next().unwrap();
        assert!(first.starts_with("# https://"), "{name}: {first}");
    }
}

#[test]
fn recorded_failures_get_their_class_and_line() {
    for Sample { name, log, source, class, when, line } in failures() {
        let diagnosis = if source == Qemu {
            let ending = Ending::Exited { status: "exit status: 1".to_owned(), stderr: body(log).to_owned() };
            Classifier::new(RUN, Stage::Os).finish(&ending).unwrap_err()
        } else {
            let (mut classifier, live) = live(log, source);
            assert_eq!(live.is_some(), when == Live, "{name}: {live:?}");
            live.unwrap_or_else(|| classifier.finish(&Ending::PoweredOff).unwrap_err())
        };
        assert_eq!(diagnosis.class, class, "{name}:\n{diagnosis}");
        assert!(diagnosis.line.contains(line), "{name}:\n{diagnosis}");
    }
}

#[test]
fn every_class_that_a_log_can_show_has_a_sample() {
    // These come from our own marks, QEMU's events, or the clock.
    let others = [
        Class::Input,
        Class::PreScript,
        Class::NodeInstall,
        Class::Inspect,
        Class::Stall,
        Class::GuestReset,
        Class::PoweredOffWithoutMark,
    ];
    for class in Class::all().filter(|class| !others.contains(class)) {
        assert!(failures().iter().any(|sample| sample.class == class), "no sample of {class}");
    }
}

#[test]
fn healthy_logs_give_no_diagnosis() {
    for (name, log, source, phase) in healthy() {
        let (mut classifier, diagnosis) = live(log, source);
        assert_eq!(diagnosis, None, "{name}");
        assert_eq!(classifier.progress().phase, phase, "{name}");
        let done = format!("KILN-MARK {RUN} os ok\n");
        classifier.feed(Source::Marks, done.as_bytes(), Duration::from_secs(90));
        assert_eq!(classifier.finish(&Ending::PoweredOff), Ok(()), "{name}");
    }
}

#[test]
fn how_a_log_is_cut_makes_no_difference() {
    for Sample { name, log, source, .. } in failures().into_iter().filter(|sample| sample.source != Qemu) {
        let now = Duration::from_secs(50);
        let finish = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut classifier = Classifier::new(RUN, Stage::Os);
            pieces.for_each(|piece| drop(classifier.feed(source, piece, now)));
            classifier.finish(&Ending::PoweredOff)
        };
        let bytes = body(log).as_bytes();
        let whole = finish(&mut std::iter::once(bytes));
        for size in [1, 2, 7, 64, 1000] {
            assert_eq!(finish(&mut bytes.chunks(size)), whole, "{name} in pieces of {size}");
        }
    }
}
