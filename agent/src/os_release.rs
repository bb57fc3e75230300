//! What `/etc/os-release` says (os-release(5)).

/// The fields anything here asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OsRelease {
    pub(crate) id: String,
    pub(crate) id_like: String,
    pub(crate) version_id: String,
    pub(crate) platform_id: String,
    pub(crate) pretty_name: String,
}

impl OsRelease {
    pub(crate) fn parse(text: &str) -> Self {
        let mut this = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once('=') else { continue };
            let value = value.trim().trim_matches(['"', '\'']).to_owned();
            match key {
                "ID" => this.id = value,
                "ID_LIKE" => this.id_like = value,
                "VERSION_ID" => this.version_id = value,
                "PLATFORM_ID" => this.platform_id = value,
                "PRETTY_NAME" => this.pretty_name = value,
                _ => {}
            }
        }
        this
    }

    /// Whether this is an Enterprise Linux 9, of whichever vendor.
    pub(crate) fn is_el9(&self) -> bool {
        let rhel_like = self.id == "rhel" || self.id_like.split_whitespace().any(|like| like == "rhel");
        let nine = self.version_id == "9" || self.version_id.starts_with("9.");
        self.platform_id == "platform:el9" || (rhel_like && nine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enterprise_linux_9_is_known_by_its_platform_or_its_family() {
        let alma = "NAME=\"AlmaLinux\"\nVERSION=\"9.5 (Teal Serval)\"\nID=\"almalinux\"\n\
                    ID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.5\"\nPLATFORM_ID=\"platform:el9\"\n\
                    PRETTY_NAME=\"AlmaLinux 9.5 (Teal Serval)\"\n";
        let parsed = OsRelease::parse(alma);
        assert!(parsed.is_el9());
        assert_eq!(parsed.pretty_name, "AlmaLinux 9.5 (Teal Serval)");
        assert!(OsRelease::parse("ID=rhel\nVERSION_ID=\"9.4\"").is_el9());
        for other in
            ["", "ID=debian\nVERSION_ID=\"12\"", "ID=almalinux\nID_LIKE=\"rhel\"\nVERSION_ID=\"8.9\""]
        {
            assert!(!OsRelease::parse(other).is_el9(), "{other}");
        }
    }
}
