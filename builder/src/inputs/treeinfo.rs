//! `.treeinfo`: what an install medium says it is (productmd's format, an INI
//! file).

use std::collections::BTreeMap;

use crate::image::key::Digest;

/// What matters of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeInfo {
    /// The distribution: `AlmaLinux`.
    pub family: String,
    /// Its version: `9.5`.
    pub version: String,
    /// What it installs on: `x86_64`.
    pub arch: String,
    /// The package collections on the medium: `AppStream`, `BaseOS`.
    pub variants: Vec<String>,
    /// Digests of files on the medium.
    pub checksums: BTreeMap<String, Digest>,
}

impl TreeInfo {
    /// Reads the file's text. Says which entry is missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entries = entries(text);
        let get = |section: &str, key: &str| {
            entries
                .get(&(section.to_owned(), key.to_owned()))
                .cloned()
                .ok_or_else(|| format!("its .treeinfo has no {key} in [{section}]"))
        };
        let variants = get("general", "variants").or_else(|_| get("tree", "variants")).unwrap_or_default();
        let checksums = entries
            .iter()
            .filter(|((section, _), _)| section == "checksums")
            .filter_map(|((_, file), sum)| {
                let digest = Digest::try_from(sum.strip_prefix("sha256:")?.to_owned()).ok()?;
                Some((file.clone(), digest))
            })
            .collect();
        Ok(Self {
            family: get("general", "family")?,
            version: get("general", "version")?,
            arch: get("general", "arch")?,
            variants: variants
                .split(',')
                .map(str::trim)
                .filter(|v| !v.is_empty())
                .map(str::to_owned)
                .collect(),
            checksums,
        })
    }

    /// The major part of the version.
    pub fn major(&self) -> &str {
        self.version.split('.').next().unwrap_or_default()
    }

    /// Name and version: `AlmaLinux 9.5`.
    pub fn name(&self) -> String {
        format!("{} {}", self.family, self.version)
    }
}

/// Section and key to value; the last one counts.
fn entries(text: &str) -> BTreeMap<(String, String), String> {
    let mut section = String::new();
    let mut entries = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with([';', '#']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once('=') {
            entries.insert((section.clone(), key.trim().to_owned()), value.trim().to_owned());
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DVD: &str = "\
[checksums]
images/efiboot.img = sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
images/odd.img = md5:0

[general]
; WARNING.0 = This section provides compatibility with pre-productmd treeinfos.
arch = x86_64
family = AlmaLinux
name = AlmaLinux 9.5
variant = BaseOS
variants = AppStream,BaseOS
version = 9.5
";

    #[test]
    fn a_dvd_says_what_it_is() {
        let info = TreeInfo::parse(DVD).unwrap();
        assert_eq!(info.name(), "AlmaLinux 9.5");
        assert_eq!((info.major(), info.arch.as_str()), ("9", "x86_64"));
        assert_eq!(info.variants, ["AppStream", "BaseOS"]);
        assert_eq!(info.checksums.len(), 1);
    }

    #[test]
    fn a_missing_entry_is_named() {
        let error = TreeInfo::parse("[general]\nfamily = AlmaLinux\n").unwrap_err();
        assert_eq!(error, "its .treeinfo has no version in [general]");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(\\PC|\n|=|\\[|\\]){0,200}") {
            let _ = TreeInfo::parse(&text);
        }
    }
}
