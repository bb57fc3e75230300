use super::*;
use proptest::prelude::*;

/// The arguments, one option with its value a line.
fn shown(command: &Command) -> String {
    let mut lines = String::new();
    for word in command.argv() {
        let word = word.to_str().unwrap();
        let separator = match word.strip_prefix('-') {
            Some(rest) if rest.starts_with(char::is_alphabetic) && !lines.is_empty() => "\n",
            Some(_) => "",
            None => " ",
        };
        lines.push_str(separator);
        lines.push_str(word);
    }
    lines
}

#[test]
fn an_installer() {
    let command = Command::new("bake", Accel::Tcg)
        .memory_mib(4096)
        .on_reset(OnReset::Exit)
        .screen()
        .disk(Disk::qcow2("/w/disk.qcow2", "bakeroot").throwaway())
        .cdrom("/isos/Alma, 9.iso")
        .cdrom("/w/oemdrv.iso")
        .serial_file("/w/serial.log")
        .port("io.kiln.bake.0", PortEnd::File("/w/marks.log".into()))
        .port("org.qemu.guest_agent.0", PortEnd::Socket("qga.sock".into()))
        .kernel(Kernel {
            kernel: "/c/vmlinuz".into(),
            initrd: Some("/c/initrd.img".into()),
            append: "inst.cmdline console=tty0, console=ttyS0".into(),
        });
    assert_eq!(
        shown(&command),
        "-name bake
-machine q35
-accel tcg,thread=multi
-cpu max
-smp 2
-m 4096
-nodefaults
-no-user-config
-display none
-no-reboot
-vga std
-qmp unix:qmp.sock,server=on,wait=off
-device virtio-rng-pci
-device pvpanic
-device virtio-scsi-pci,id=scsi0
-drive if=none,id=disk0,format=qcow2,cache=unsafe,discard=unmap,detect-zeroes=unmap,file=/w/disk.qcow2
-device scsi-hd,bus=scsi0.0,drive=disk0,bootindex=1,rotation_rate=1,werror=stop,rerror=stop,serial=bakeroot
-drive if=none,id=cd0,media=cdrom,format=raw,readonly=on,file=/isos/Alma,, 9.iso
-device scsi-cd,bus=scsi0.0,drive=cd0
-drive if=none,id=cd1,media=cdrom,format=raw,readonly=on,file=/w/oemdrv.iso
-device scsi-cd,bus=scsi0.0,drive=cd1
-chardev file,id=serial0,path=/w/serial.log
-serial chardev:serial0
-device virtio-serial-pci,id=ports
-chardev file,id=port0,path=/w/marks.log
-device virtserialport,bus=ports.0,chardev=port0,name=io.kiln.bake.0
-chardev socket,id=port1,server=on,wait=off,path=qga.sock
-device virtserialport,bus=ports.0,chardev=port1,name=org.qemu.guest_agent.0
-nic none
-kernel /c/vmlinuz
-initrd /c/initrd.img
-append inst.cmdline console=tty0, console=ttyS0"
    );
}

#[test]
fn a_node() {
    let forward = Forward { host: "127.0.0.1:16443".parse().unwrap(), guest: 6443 };
    let segment = Net::Segment { group: "239.1.2.3:4567".parse().unwrap() };
    let command = Command::new("home-k3s-s1", Accel::Kvm)
        .cpus(NonZeroU32::new(4).unwrap())
        .firmware(Firmware::Ovmf { code: "/fw/code.fd".into(), vars: "/n/vars.fd".into() })
        .disk(Disk::qcow2("/n/disk.qcow2", "root"))
        .nic(Net::User { forwards: vec![forward], restrict: true }, None)
        .nic(segment, Some("52:54:00:00:00:01".parse().unwrap()))
        .oem_string_file("/n/seed.smbios");
    let shown = shown(&command);
    for line in [
        "-accel kvm\n-cpu host\n-smp 4\n",
        "-drive if=pflash,unit=0,format=raw,readonly=on,file=/fw/code.fd\n",
        "-drive if=pflash,unit=1,format=raw,file=/n/vars.fd\n",
        "cache=writeback,",
        "-serial none\n",
        "-netdev user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:16443-:6443\n-device virtio-net-pci,netdev=net0,romfile=\n",
        "-netdev socket,id=net1,mcast=239.1.2.3:4567,localaddr=127.0.0.1\n-device virtio-net-pci,netdev=net1,romfile=,mac=52:54:00:00:00:01\n",
        "-smbios type=11,path=/n/seed.smbios",
    ] {
        assert!(shown.contains(line), "{line:?} is missing in\n{shown}");
    }
    assert!(
        !shown.contains("-no-reboot") && !shown.contains("-vga") && !shown.contains("-kernel"),
        "{shown}"
    );
}

#[test]
fn secure_boot_brings_system_management_mode_and_a_tpm() {
    let secure = Firmware::SecureBoot { code: "/fw/code.fd".into(), vars: "/n/vars.fd".into() };
    let shown = shown(&Command::new("x", Accel::Tcg).firmware(secure));
    for line in [
        "-machine q35,smm=on\n",
        "-global driver=cfi.pflash01,property=secure,value=on\n",
        "-chardev socket,id=tpm0,path=tpm.sock\n-tpmdev emulator,id=tpm0,chardev=tpm0\n-device tpm-tis,tpmdev=tpm0\n",
        "-drive if=pflash,unit=0,format=raw,readonly=on,file=/fw/code.fd\n",
    ] {
        assert!(shown.contains(line), "{line:?} is missing in\n{shown}");
    }
}

#[test]
fn the_pasted_form_starts_the_same_program() {
    let command = Command::new("it's", Accel::Tcg).serial_file("/a b/serial,1");
    let line = command.to_shell(Path::new("/run/my vm"));
    assert!(line.starts_with(r"cd '/run/my vm' && qemu-system-x86_64 -name 'it'\''s' "), "{line}");
    assert!(line.contains("'file,id=serial0,path=/a b/serial,,1'"), "{line}");
}

proptest! {
    #[test]
    fn a_shell_reads_every_word_back(word in "[ -~]{0,40}") {
        let script = format!("printf %s {}", shell_word(word.as_ref()));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }

    #[test]
    fn a_comma_never_begins_an_option(path in "[a-z,]{1,30}") {
        let shown = shown(&Command::new("x", Accel::Tcg).cdrom(&path));
        let escaped = path.replace(',', ",,");
        let end = format!("file={escaped}\n");
        prop_assert!(shown.contains(&end), "{}", shown);
    }
}
