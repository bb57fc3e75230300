//! What starts the machine: SeaBIOS, which QEMU brings along, or OVMF, which
//! each distribution puts somewhere else.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// What starts the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// A PC BIOS.
    SeaBios,
    /// UEFI without Secure Boot.
    Ovmf {
        /// The code, shared and read-only.
        code: PathBuf,
        /// This machine's own copy of the variables.
        vars: PathBuf,
    },
    /// UEFI that starts only what Microsoft's keys vouch for, as a PC from the
    /// shop does. Its variables are written from system management mode alone.
    SecureBoot {
        /// The code, shared and read-only.
        code: PathBuf,
        /// This machine's own copy of the variables, keys included.
        vars: PathBuf,
    },
}

/// Code and variable template of an OVMF build without enrolled keys, newest
/// layout first. Debian and Ubuntu (ovmf), EL and Fedora (edk2-ovmf), Arch
/// (edk2-ovmf), openSUSE (qemu-ovmf-x86_64).
const OVMF: [(&str, &str); 7] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
];

/// Where firmware packages describe what they bring (QEMU's
/// docs/interop/firmware.json), most particular first: which files belong
/// together and which hold keys is not to be guessed from names.
const DESCRIPTIONS: [&str; 2] = ["/etc/qemu/firmware", "/usr/share/qemu/firmware"];
/// What a description of Secure Boot with keys says.
const SECURE: [&str; 3] = ["secure-boot", "enrolled-keys", "requires-smm"];

/// Where this host keeps OVMF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OvmfFiles {
    /// The code.
    pub code: PathBuf,
    /// What a new machine's variables begin as.
    pub vars_template: PathBuf,
}

impl OvmfFiles {
    /// Looks in the places the distributions use.
    pub fn find() -> Result<Self> {
        Self::find_under(Path::new("/")).context(
            "no OVMF firmware found, which UEFI machines need: install it \
             (Debian, Ubuntu: apt install ovmf; EL, Fedora, Arch: edk2-ovmf)",
        )
    }

    /// The build with Secure Boot and Microsoft's keys, as the firmware's own
    /// descriptions name it.
    pub fn find_secure() -> Result<Self> {
        Self::find_secure_under(Path::new("/")).context(
            "no OVMF firmware with Secure Boot and enrolled keys is described in /usr/share/qemu/firmware: \
             install it (Debian, Ubuntu: apt install ovmf; EL, Fedora: edk2-ovmf)",
        )
    }

    fn find_under(root: &Path) -> Option<Self> {
        OVMF.iter()
            .map(|(code, vars)| Self { code: under(root, code), vars_template: under(root, vars) })
            .find(Self::is_there)
    }

    fn find_secure_under(root: &Path) -> Option<Self> {
        DESCRIPTIONS.iter().find_map(|dir| {
            let mut names: Vec<_> =
                std::fs::read_dir(under(root, dir)).ok()?.flatten().map(|e| e.path()).collect();
            names.sort();
            names.iter().find_map(|path| {
                let found = parse_secure(&std::fs::read(path).ok()?)?;
                let found = Self {
                    code: under(root, found.code.to_str()?),
                    vars_template: under(root, found.vars_template.to_str()?),
                };
                found.is_there().then_some(found)
            })
        })
    }

    fn is_there(&self) -> bool {
        self.code.is_file() && self.vars_template.is_file()
    }

    /// Gives a machine its own variables at `vars`.
    pub fn instantiate(&self, vars: &Path) -> Result<()> {
        std::fs::copy(&self.vars_template, vars).map(drop).with_context(|| {
            format!("copying UEFI variables {} to {}", self.vars_template.display(), vars.display())
        })
    }
}

fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[derive(Deserialize)]
struct Description {
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    executable: File,
    nvram_template: File,
}

#[derive(Deserialize)]
struct File {
    filename: PathBuf,
    format: String,
}

#[derive(Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

/// The files of a description, if it is of an x86-64 Secure Boot build with
/// keys, for the machine Kiln uses and in the format it uses.
fn parse_secure(json: &[u8]) -> Option<OvmfFiles> {
    let Description { mapping, targets, features } = serde_json::from_slice(json).ok()?;
    let q35 = |machine: &String| machine == "q35" || machine.starts_with("pc-q35-");
    let ours = |target: &Target| target.architecture == "x86_64" && target.machines.iter().any(q35);
    let raw = mapping.executable.format == "raw" && mapping.nvram_template.format == "raw";
    let secure = SECURE.iter().all(|wanted| features.iter().any(|feature| feature == wanted));
    (raw && secure && targets.iter().any(ours)).then_some(OvmfFiles {
        code: mapping.executable.filename,
        vars_template: mapping.nvram_template.filename,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_without_variables_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        for file in [OVMF[0].0, OVMF[2].0, OVMF[2].1] {
            place(root.path(), file, b"x");
        }
        let found = OvmfFiles::find_under(root.path()).unwrap();
        assert_eq!(found.code, root.path().join(&OVMF[2].0[1..]));
    }

    #[test]
    fn nothing_found_is_none() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(OvmfFiles::find_under(root.path()), None);
        assert_eq!(OvmfFiles::find_secure_under(root.path()), None);
    }

    fn place(root: &Path, file: &str, bytes: &[u8]) {
        let path = under(root, file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Debian 12's (package ovmf), shortened.
    const ENROLLED: &str = r#"{
        "description": "UEFI firmware for x86_64, with Secure Boot and SMM, SB enabled, MS certs enrolled",
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": "/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "format": "raw"},
            "nvram-template": {"filename": "/usr/share/OVMF/OVMF_VARS_4M.ms.fd", "format": "raw"}
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": ["acpi-s3", "enrolled-keys", "requires-smm", "secure-boot", "verbose-dynamic"],
        "tags": []
    }"#;

    #[test]
    fn keys_are_where_the_description_says() {
        let root = tempfile::tempdir().unwrap();
        for file in ["OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd"] {
            place(root.path(), &format!("/usr/share/OVMF/{file}"), b"x");
        }
        place(root.path(), "/usr/share/qemu/firmware/10-broken.json", b"{");
        let without_keys = ENROLLED.replace("\"enrolled-keys\", ", "");
        place(root.path(), "/usr/share/qemu/firmware/20-no-keys.json", without_keys.as_bytes());
        assert_eq!(OvmfFiles::find_secure_under(root.path()), None);
        place(root.path(), "/usr/share/qemu/firmware/40-keys.json", ENROLLED.as_bytes());
        let found = OvmfFiles::find_secure_under(root.path()).unwrap();
        assert_eq!(found.vars_template, root.path().join("usr/share/OVMF/OVMF_VARS_4M.ms.fd"));
    }

    #[test]
    fn firmware_for_other_machines_is_passed_over() {
        assert!(parse_secure(ENROLLED.as_bytes()).is_some());
        for (from, to) in
            [("x86_64\", \"machines", "aarch64\", \"machines"), ("pc-q35-*", "microvm"), ("raw", "qcow2")]
        {
            assert!(ENROLLED.contains(from));
            assert_eq!(parse_secure(ENROLLED.replace(from, to).as_bytes()), None, "{to}");
        }
    }
}
