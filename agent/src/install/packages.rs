//! Which packages the root holds, asked of the root's own rpm: what the
//! image's package list and bill of materials are made from.

use std::ffi::OsStr;

use anyhow::{Context as _, Result, ensure};
use kiln_protocol::install::Package;

use super::Tools;
use crate::root::Root;

/// One line a package, fields parted by tabs, which no tag holds.
const FORMAT: &str = "%{NAME}\\t%{EPOCHNUM}\\t%{VERSION}\\t%{RELEASE}\\t%{ARCH}\\t%{LICENSE}\\n";
/// What rpm prints for a tag a package does not have.
const NONE: &str = "(none)";
/// The keys packages are checked with stand in the database as if they were
/// packages.
const KEY: &str = "gpg-pubkey";

/// The packages of the root, sorted.
pub(super) fn list(root: &Root, tools: &dyn Tools) -> Result<Vec<Package>> {
    let printed = tools.run(root, "rpm", &["-qa", "--qf", FORMAT].map(OsStr::new));
    let mut packages = parse(&printed.context("listing the installed packages")?)?;
    ensure!(!packages.is_empty(), "the RPM database of {} lists no package", root.path().display());
    packages.sort();
    Ok(packages)
}

fn parse(printed: &str) -> Result<Vec<Package>> {
    let package = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, epoch, version, release, arch, license] = fields[..] else {
            anyhow::bail!("rpm printed a line of {} fields: {line:?}", fields.len());
        };
        let epoch = epoch.parse().with_context(|| format!("{epoch:?} is no epoch"))?;
        let [name, version, release, arch] = [name, version, release, arch].map(str::to_owned);
        let license = Some(license).filter(|text| *text != NONE && !text.is_empty()).map(str::to_owned);
        Ok(Package { name, epoch, version, release, arch, license })
    };
    let packages = printed.lines().map(package).collect::<Result<Vec<_>>>()?;
    Ok(packages.into_iter().filter(|package| package.name != KEY).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rpm_prints_is_read() {
        let printed = "openssl-libs\t1\t3.2.2\t6.el9_5\tx86_64\tASL 2.0\n\
                       gpg-pubkey\t0\tb86b3716\t61e69f29\t(none)\tpubkey\n\
                       k3s-selinux\t0\t1.5\t1.el9\tnoarch\t(none)\n";
        let packages = parse(printed).unwrap();
        let shown: Vec<_> = packages.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["openssl-libs-1:3.2.2-6.el9_5.x86_64", "k3s-selinux-1.5-1.el9.noarch"]);
        assert_eq!(packages[0].license.as_deref(), Some("ASL 2.0"));
        assert_eq!(packages[1].license, None);
    }

    #[test]
    fn what_rpm_does_not_print_is_refused() {
        for wrong in ["bash\t0\t5.1\n", "bash\tx\t5.1\t1\tx86_64\tGPL\n", "error: cannot open Packages\n"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
