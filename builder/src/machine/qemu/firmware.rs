//! What starts the machine: SeaBIOS, which QEMU brings along, or OVMF, which
//! each distribution puts somewhere else.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What starts the machine. Secure Boot (OVMF with enrolled keys, SMM and a
/// TPM) will be a third kind.
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

    fn find_under(root: &Path) -> Option<Self> {
        let under = |path: &str| root.join(path.trim_start_matches('/'));
        OVMF.iter()
            .map(|(code, vars)| Self { code: under(code), vars_template: under(vars) })
            .find(|files| files.code.is_file() && files.vars_template.is_file())
    }

    /// Gives a machine its own variables at `vars`.
    pub fn instantiate(&self, vars: PathBuf) -> Result<Firmware> {
        std::fs::copy(&self.vars_template, &vars).with_context(|| {
            format!("copying UEFI variables {} to {}", self.vars_template.display(), vars.display())
        })?;
        Ok(Firmware::Ovmf { code: self.code.clone(), vars })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_without_variables_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        for file in [OVMF[0].0, OVMF[2].0, OVMF[2].1] {
            let path = root.path().join(&file[1..]);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        let found = OvmfFiles::find_under(root.path()).unwrap();
        assert_eq!(found.code, root.path().join(&OVMF[2].0[1..]));
    }

    #[test]
    fn nothing_found_is_none() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(OvmfFiles::find_under(root.path()), None);
    }
}
