//! Installs onto a fake root, with fakes of SELinux's tools.

mod login;
mod root;
mod seal;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef";
const IMAGE: &str = r#"{"version":"alma9-k3-node-amd64-v1.28.5-v1","k3s":"v1.28.5+k3s1"}"#;

/// Labels everything `<path>_t`, unless told to do it wrong.
#[derive(Default)]
struct FakeTools {
    labels: RefCell<BTreeMap<PathBuf, String>>,
    idle: bool,
    calls: RefCell<Vec<String>>,
}

impl FakeTools {
    fn wanted(path: &Path) -> String {
        let kind = if path.ends_with("k3s") { "container_runtime_exec_t" } else { "etc_t" };
        format!("system_u:object_r:{kind}:s0")
    }
}

impl Tools for FakeTools {
    fn prepare(&self, _root: &Root) -> Result<()> {
        Ok(())
    }

    fn run(&self, _root: &Root, program: &str, arguments: &[&OsStr]) -> Result<String> {
        let paths = arguments.iter().map(Path::new).filter(|path| !path.starts_with("/etc/selinux"));
        let paths: Vec<_> = paths.filter(|path| path.is_absolute()).collect();
        self.calls.borrow_mut().push(program.to_owned());
        if program == "rpm" {
            return Ok("bash\t0\t5.1.8\t9.el9\tx86_64\tGPLv3+\n".to_owned());
        }
        if program == "setfiles" {
            assert_eq!(arguments[0], "-F");
            for path in paths.iter().filter(|_| !self.idle) {
                self.labels.borrow_mut().insert(path.to_path_buf(), Self::wanted(path) + "\0");
            }
            return Ok(String::new());
        }
        Ok(paths.iter().map(|path| Self::wanted(path) + "\n").collect())
    }

    fn label_of(&self, _root: &Root, path: &Path) -> Result<Option<Vec<u8>>> {
        Ok(self.labels.borrow().get(path).map(|label| label.clone().into_bytes()))
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    tools: FakeTools,
}

impl Fixture {
    /// A root as Anaconda leaves it, and then some.
    fn new() -> Self {
        let this = Self { dir: crate::testing::tempdir().unwrap(), tools: FakeTools::default() };
        this.write("usr/lib/os-release", "ID=\"almalinux\"\nPLATFORM_ID=\"platform:el9\"\n");
        this.link("../usr/lib/os-release", "etc/os-release");
        this.write("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n");
        this.write("etc/selinux/targeted/contexts/files/file_contexts", "");
        this.write("etc/machine-id", &format!("{ID}\n"));
        this.write("etc/ssh/ssh_host_ed25519_key", "secret");
        this.write("etc/ssh/sshd_config", "keep");
        this.write("root/anaconda-ks.cfg", "rootpw x");
        this.write("root/.ssh/authorized_keys", "ssh-ed25519 AAAA");
        this.write("var/log/anaconda/program.log", "x");
        this.write("var/log/chrony/tracking.log", "x");
        this.write("var/log/wtmp", "x");
        this.write("etc/shadow-", "root:x");
        this.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nadm:x:3:4:adm:/var/adm:/sbin/nologin\n");
        this.write("etc/shadow", "root:!!:19000:0:99999:7:::\nadm:*:19000:0:99999:7:::\n");
        this.write("etc/group", "root:x:0:\nadm:x:4:\n");
        this.write("etc/gshadow", "root:::\nadm:::\n");
        this.write("var/lib/rancher/k3s/agent/containerd/x", "x");
        this.write(&format!("boot/loader/entries/{ID}-5.14.conf"), "title x");
        this.write("boot/grub2/grubenv", &grubenv(ID));
        this.link("/dev/null", "tmp/link");
        for dir in ["etc/systemd/system", "usr/local/bin", "var/lib"] {
            fs::create_dir_all(this.path(dir)).unwrap();
        }
        for (name, content) in [
            ("agent", "agent"),
            ("k3s", "k3s"),
            ("units/kiln-agent.service", "[Unit]"),
            ("units/k3s.service", "[Unit]"),
            ("units/k3s-agent.service", "[Unit]"),
            ("images/airgap.tar.zst", "images"),
        ] {
            this.write_to("payload", name, content);
        }
        this.write_spec("");
        this
    }

    /// As [`Fixture::new`], for an image that is hardened so and has this
    /// login, both JSON.
    fn ordered(harden: &str, login: Option<&str>) -> Self {
        let this = Self::new();
        this.write_to("payload", "hardening/etc/ssh/sshd_config.d/00-kiln.conf", "PermitRootLogin no\n");
        this.order(harden, login);
        this
    }

    fn order(&self, harden: &str, login: Option<&str>) {
        self.write_spec(&format!(
            "{}{}",
            format_args!(r#""image":{},"#, IMAGE.replace('}', &format!(r#","harden":"{harden}"}}"#))),
            login.map(|login| format!(r#""login":{login},"#)).unwrap_or_default()
        ));
    }

    fn write_to(&self, area: &str, name: &str, content: &str) {
        let path = self.dir.path().join(area).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn write(&self, name: &str, content: &str) {
        self.write_to("root", name, content);
    }

    fn link(&self, target: &str, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    /// Writes `install.json` over what the payload holds; `more` replaces
    /// the image's record.
    fn write_spec(&self, more: &str) {
        let payload = self.dir.path().join("payload");
        let mut files = BTreeMap::new();
        let mut waiting = vec![payload.clone()];
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    waiting.push(entry);
                } else if !entry.ends_with("install.json") {
                    let name = entry.strip_prefix(&payload).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, payload::sha256(&mut fs::File::open(entry).unwrap()).unwrap());
                }
            }
        }
        let files = serde_json::to_string(&files).unwrap();
        let image = if more.is_empty() { format!(r#""image":{IMAGE},"#) } else { more.to_owned() };
        let spec = format!(r#"{{"format":1,"run":"0123456789abcdef",{image}"files":{files}}}"#);
        self.write_to("payload", "install.json", &spec);
    }

    fn install(&self) -> Result<Report> {
        install(&self.dir.path().join("root"), &self.dir.path().join("payload"), None, &self.tools)
    }
}

fn grubenv(id: &str) -> String {
    format!("{:#<1024}", format!("# GRUB Environment Block\nsaved_entry={id}-5.14\n"))
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlqaaaaaaaaaaaaaaaaaaaaaaaa admin";

fn hash() -> String {
    format!("$6$salt${}", "a".repeat(86))
}
