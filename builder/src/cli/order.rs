//! Options of what an image is to be beyond a node: hardening, and a login for
//! emergencies.

use std::path::{Path, PathBuf};

use kiln_protocol::install::{Credential, Hardening, Login};
use kiln_protocol::names::{PasswordHash, SshPublicKey, UserName};

use crate::bake::Order;
use crate::failure::BadInput;

/// The options. No group of their own: it would have the name of the command's.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// none, baseline (ssh by key only, no root login, sysctl, services, file modes), or
    /// oscap:PROFILE (a profile of the SCAP Security Guide, such as `oscap:cis_server_l1`, and
    /// the baseline; the medium must hold openscap-scanner and scap-security-guide).
    #[arg(long, value_name = "PROFILE", default_value = "baseline")]
    harden: Hardening,
    /// A break-glass login of this name in the image itself; it may become root. By default
    /// nobody can log in to an image.
    #[arg(long, value_name = "NAME", requires = "credential")]
    login_user: Option<UserName>,
    /// Who holds one of the keys in this file (form of `authorized_keys`) may log in over ssh.
    #[arg(long, value_name = "FILE", group = "credential", requires = "login_user")]
    login_ssh_key: Option<PathBuf>,
    /// Who knows the password of the hash in this file (`openssl passwd -6`) may log in on the
    /// console.
    #[arg(long, value_name = "FILE", group = "credential", requires = "login_user")]
    login_password_hash_file: Option<PathBuf>,
}

impl Args {
    /// What is ordered; files are read.
    pub(super) fn order(self) -> Result<Order, BadInput> {
        let credential = match (self.login_ssh_key, self.login_password_hash_file) {
            (Some(path), _) => Some(Credential::SshKeys(keys("--login-ssh-key", &path)?)),
            (None, Some(path)) => Some(Credential::PasswordHash(hash("--login-password-hash-file", &path)?)),
            (None, None) => None,
        };
        if self.login_user.as_ref().is_some_and(|user| user.as_str() == "root") {
            return Err(BadInput("--login-user: root cannot log in; the login may become root".into()));
        }
        let login = self.login_user.zip(credential).map(|(user, credential)| Login { user, credential });
        Ok(Order { harden: self.harden, login })
    }
}

fn read(option: &str, path: &Path) -> Result<String, BadInput> {
    std::fs::read_to_string(path).map_err(|error| BadInput(format!("{option} {}: {error}", path.display())))
}

fn keys(option: &str, path: &Path) -> Result<Vec<SshPublicKey>, BadInput> {
    let text = read(option, path)?;
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<SshPublicKey> = keys
        .map(|(number, line)| {
            let wrong = |error| BadInput(format!("{option} {}, line {number}: {error}", path.display()));
            line.parse().map_err(wrong)
        })
        .collect::<Result<_, _>>()?;
    if keys.is_empty() {
        return Err(BadInput(format!("{option} {} holds no key", path.display())));
    }
    Ok(keys)
}

/// The file's one line. Errors do not quote it: it may be a password.
fn hash(option: &str, path: &Path) -> Result<PasswordHash, BadInput> {
    let text = read(option, path)?;
    let wrong = |why: &str| BadInput(format!("{option} {}: its text {why}", path.display()));
    let line = text.strip_suffix('\n').unwrap_or(&text);
    line.parse().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Ok(Cli::try_parse_from([&["builder"], words].concat())?.args)
    }

    #[test]
    fn images_are_hardened_and_let_nobody_in_unless_told_otherwise() {
        let order = parse(&[]).unwrap().order().unwrap();
        assert_eq!((order.harden, order.login), (Hardening::Baseline, None));
    }

    #[test]
    fn a_login_has_a_name_and_one_credential() {
        for wrong in [
            vec!["--login-user", "me"],
            vec!["--login-ssh-key", "k"],
            vec!["--login-user", "me", "--login-ssh-key", "k", "--login-password-hash-file", "h"],
            vec!["--login-user", "Me!", "--login-ssh-key", "k"],
            vec!["--harden", "strong"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn files_are_read_strictly_and_a_password_is_never_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = path.to_str().unwrap();
        let order = |option: &str, text: &str| {
            std::fs::write(&path, text).unwrap();
            parse(&["--login-user", "rescue", option, file]).unwrap().order()
        };
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq me";
        let login = order("--login-ssh-key", &format!("# mine\n{key}\n\n")).unwrap().login.unwrap();
        assert_eq!(login.credential, Credential::SshKeys(vec![key.parse().unwrap()]));
        let error = order("--login-ssh-key", "# none\n").unwrap_err().to_string();
        assert!(error.contains("holds no key"), "{error}");
        let error = order("--login-ssh-key", &format!("{key}\nnonsense\n")).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");

        let hash = format!("$6$salt${}", "a".repeat(86));
        assert!(order("--login-password-hash-file", &format!("{hash}\n")).is_ok());
        let error = order("--login-password-hash-file", "hunter2\n").unwrap_err().to_string();
        assert!(error.contains("openssl passwd -6") && !error.contains("hunter2"), "{error}");
    }
}
