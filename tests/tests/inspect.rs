//! What `builder inspect` says of images: of the one that was baked, and of a
//! copy that somebody has been at.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kiln_tests::leftovers::assert_no_process;
use kiln_tests::{lab, run};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
/// One run of the installer's machine under emulation, with others beside it.
const MACHINE: Duration = Duration::from_secs(600);

/// What is done to the mounted copy, and the rule that must say so.
const PLANTED: &[(&str, &str)] = &[
    ("host-keys", "echo x >etc/ssh/ssh_host_rsa_key"),
    ("names", "echo node >etc/hostname"),
    ("random-seed", "mkdir -p var/lib/systemd; echo x >var/lib/systemd/random-seed"),
    ("credential-secret", "echo x >var/lib/systemd/credential.secret"),
    ("account-backups", "cp etc/shadow etc/shadow-"),
    ("network-profiles", "echo x >etc/NetworkManager/system-connections/e.nmconnection"),
    ("name-servers", "rm -f etc/resolv.conf; echo nameserver 10.0.0.1 >etc/resolv.conf"),
    ("installer", "echo x >root/anaconda-ks.cfg"),
    ("history", "echo x >root/.bash_history"),
    ("logs", "echo x >var/log/messages"),
    ("journal", "mkdir -p var/log/journal/0123"),
    ("temporary", "echo x >var/tmp/x"),
    ("editor-backups", "cp etc/fstab etc/fstab.bak"),
    ("k3s-node", "mkdir -p etc/rancher/k3s; echo x >etc/rancher/k3s/config.yaml"),
    ("k3s-state", "mkdir -p var/lib/rancher/k3s/server"),
    ("k3s-agent-state", "mkdir -p var/lib/rancher/k3s/agent; echo x >var/lib/rancher/k3s/agent/client.key"),
    ("agent-state", "mkdir var/lib/kiln"),
    ("ssh-keys", "mkdir -p root/.ssh; echo x >root/.ssh/authorized_keys"),
    ("machine-id", "rm etc/machine-id; echo 0123456789abcdef0123456789abcdef >etc/machine-id"),
    (
        "boot-entries",
        "for e in boot/loader/entries/*; do cp \"$e\" boot/loader/entries/0123456789abcdef0123456789abcdef-x.conf; done",
    ),
    ("private-keys", "echo '-----BEGIN EC PRIVATE KEY-----' >etc/forgotten"),
    ("passwords", "sed -i 's/^root:[^:]*:/root::/' etc/shadow"),
    ("root-accounts", "echo 'toor:x:0:0::/root:/bin/bash' >>etc/passwd"),
    ("sudo", "mkdir -p etc/sudoers.d; echo 'toor ALL=(ALL) NOPASSWD: ALL' >etc/sudoers.d/toor"),
    ("image-record", "sed -i s/v1.28.5-v1/v1.28.5-v2/ usr/lib/kiln/image.json"),
    ("programs", "echo x >>usr/local/bin/agent"),
    ("units", "ln -s ../k3s.service etc/systemd/system/multi-user.target.wants/k3s.service"),
    ("boot-loaders", "dd if=/dev/zero of=\"$disk\" bs=440 count=1 conv=notrunc"),
    ("kernels", "rm boot/initramfs-*"),
    (
        "labels",
        "python3 -c 'import os; os.setxattr(\"usr/local/bin/k3s\", \"security.selinux\", b\"u:object_r:etc_t:s0\\0\")'",
    ),
    ("sshd", "rm etc/ssh/sshd_config.d/00-kiln.conf"),
    ("sysctl", "echo kernel.kptr_restrict=0 >etc/sysctl.d/99-x.conf"),
    ("modules", "rm etc/modprobe.d/kiln.conf"),
    ("services", "rm etc/systemd/system/debug-shell.service"),
    ("modes", "chmod 0666 etc/fstab"),
    ("enforcing", "sed -i s/^SELINUX=.*/SELINUX=permissive/ etc/selinux/config"),
];

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The kickstart that does it, with the installer's tools.
fn kickstart() -> String {
    let mut script = String::from(
        "%pre --interpreter=/bin/bash\nexec >/dev/ttyS0 2>&1\nset -eux\nudevadm settle\n\
         trap 'sync; echo o >/proc/sysrq-trigger; sleep 60' EXIT\n\
         disk=$(readlink -f /dev/disk/by-id/*bakeroot)\nmkdir -p /mnt/sysroot\nmount \"${disk}4\" /mnt/sysroot\n\
         mount \"${disk}3\" /mnt/sysroot/boot\ncd /mnt/sysroot\n",
    );
    for (_, command) in PLANTED {
        let _ = writeln!(script, "{command}");
    }
    script + "cd /\numount /mnt/sysroot/boot /mnt/sysroot\nsync\necho ALL PLANTED\n%end\n"
}

/// A copy of `image` in `home` that was changed in a machine of its own.
fn planted(image: &Path, home: &Path) -> PathBuf {
    let path = |name: &str| home.join(name);
    let overlay = path("overlay.qcow2");
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(image).arg(&overlay);
    run(create, SOON).success();
    let mut extract = Command::new("xorriso");
    extract.args(["-osirrox", "on", "-indev"]).arg(lab().media());
    for (inside, name) in [("vmlinuz", "vmlinuz"), ("initrd.img", "initrd")] {
        extract.arg("-extract").arg(format!("/images/pxeboot/{inside}")).arg(path(name));
    }
    run(extract, SOON).success();
    fs::write(path("ks.cfg"), kickstart()).unwrap();
    let mut volume = Command::new("xorriso");
    volume.args(["-as", "mkisofs", "-quiet", "-V", "OEMDRV", "-R", "-o"]).arg(path("oemdrv.iso"));
    volume.arg("-graft-points").arg(format!("/ks.cfg={}", path("ks.cfg").display()));
    run(volume, SOON).success();

    let mut label = Command::new("xorriso");
    label.args(["-indev"]).arg(lab().media()).arg("-pvd_info");
    let label = run(label, SOON).success().stdout;
    let label =
        label.lines().find_map(|line| line.strip_prefix("Volume Id    : ")).unwrap().trim().to_owned();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]);
    qemu.args(["-no-reboot", "-nodefaults", "-display", "none", "-device", "virtio-scsi-pci"]);
    qemu.arg("-kernel").arg(path("vmlinuz")).arg("-initrd").arg(path("initrd"));
    qemu.arg("-append").arg(format!(
        "inst.stage2=hd:LABEL={label} inst.ks=hd:LABEL=OEMDRV:/ks.cfg inst.cmdline console=ttyS0"
    ));
    let drive = |file: &Path, rest: &str| format!("file={},{rest}", file.display());
    qemu.arg("-drive").arg(drive(&overlay, "if=none,id=disk,format=qcow2,cache=unsafe"));
    qemu.args(["-device", "scsi-hd,drive=disk,serial=bakeroot"]);
    for (id, file) in [("dvd", lab().media().to_owned()), ("oemdrv", path("oemdrv.iso"))] {
        qemu.arg("-drive").arg(drive(&file, &format!("if=none,id={id},format=raw,readonly=on")));
        qemu.arg("-device").arg(format!("scsi-cd,drive={id}"));
    }
    qemu.arg("-serial").arg(format!("file:{}", path("serial.log").display()));
    run(qemu, MACHINE).success();
    let said = String::from_utf8_lossy(&fs::read(path("serial.log")).unwrap()).into_owned();
    assert!(said.contains("\nALL PLANTED"), "not everything could be planted:\n{said}");

    // What is inspected stands alone.
    let disk = path("disk.qcow2");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-O", "qcow2"]).arg(&overlay).arg(&disk);
    run(convert, SOON).success();
    disk
}

#[test]
fn the_baked_image_was_inspected_and_nothing_was_found() {
    let image = lab().image();
    let report = json(&image.join("inspect.json"));
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(report["findings"], Value::Array(Vec::new()), "{report:#}");
    assert_eq!(report["logins"], Value::Array(Vec::new()), "{report:#}");
    assert_eq!(report["image"]["harden"], "baseline", "{report:#}");
    assert_eq!(report["disk"]["partitions"].as_array().unwrap().len(), 4, "{report:#}");
    assert_eq!(report["disk"]["bios_loader"], true, "{report:#}");
    assert_eq!(report["labels"]["checked"], report["labels"]["right"], "{report:#}");
    assert!(report["packages"].as_array().unwrap().len() > 100, "{report:#}");
    let sums = fs::read_to_string(image.join("SHA256SUMS")).unwrap();
    assert!(sums.contains("inspect.json"), "{sums}");
}

#[test]
fn everything_planted_is_found() {
    let home = tempfile::tempdir().unwrap();
    let image = lab().image();
    let disk = planted(&image.join("disk.qcow2"), home.path());
    fs::copy(image.join("manifest.json"), home.path().join("manifest.json")).unwrap();
    let mut inspect = lab().builder();
    inspect.arg("inspect").arg(&disk).arg("--iso").arg(lab().media());
    inspect.args(["--json", "--accel", "tcg", "--cache"]).arg(lab().cache().join("bake"));
    let outcome = run(inspect, MACHINE).code(1);
    let report: Value =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"));
    let found: BTreeSet<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["rule"].as_str().unwrap())
        .collect();
    let missed: Vec<_> = PLANTED.iter().filter(|(rule, _)| !found.contains(rule)).collect();
    assert!(missed.is_empty(), "nobody noticed {missed:?}\n{report:#}");
    assert_no_process(home.path());
}

#[test]
fn what_is_no_image_is_refused_before_a_machine_starts() {
    let home = tempfile::tempdir().unwrap();
    let disk = home.path().join("disk.qcow2");
    let cases: [(&[u8], &str); 2] =
        [(b"not a disk", "not a qcow2"), (b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\x70", "backing file")];
    for (bytes, why) in cases {
        let mut padded = bytes.to_vec();
        padded.resize(1024, 0);
        fs::write(&disk, padded).unwrap();
        let mut inspect = lab().builder();
        inspect.arg("inspect").arg(&disk).arg("--iso").arg(lab().media());
        inspect.args(["--accel", "tcg", "--cache"]).arg(home.path().join("cache"));
        run(inspect, SOON).code(2).says(&["disk.qcow2", why]);
    }
}
