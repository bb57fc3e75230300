//! Cluster files for tests.

use super::ClusterFile;

pub(crate) const DEV: &str = r#"# The design's example, with an agent.
[cluster]
name = "home"
k3s = "v1.28.5+k3s1"
image = "alma9-k3-node-amd64-v1.28.5-v1"
provider = "proxmox"
[[node]]
name = "k3s-s1"
role = "server"
cores = 4
memory = "24GiB"
disk = "32GiB"
address = "10.23.45.31/24"
gateway = "10.23.45.1"
nameservers = ["10.23.45.1"]

[[node]]
name = "k3s-a1"
role = "agent"
cores = 2
memory = "8GiB"
disk = "32GiB"
address = "10.23.45.32/24"
"#;

/// [`DEV`] with some texts replaced, each of which must be there.
pub(crate) fn edited(edits: &[(&str, &str)]) -> ClusterFile {
    let text = edits.iter().fold(DEV.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in the file");
        text.replacen(from, to, 1)
    });
    ClusterFile::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// One agent and three servers, `s1` to `s3`, on QEMU's own network.
pub(crate) fn three_servers() -> ClusterFile {
    let mut text = "[cluster]\nname = \"ha\"\nk3s = \"v1.28.5+k3s1\"\n\
         image = \"alma9-k3-node-amd64-v1.28.5-v1\"\nprovider = \"qemu\"\ntls_san = [\"k3s.example.org\"]\n"
        .to_owned();
    for (name, role) in [("a1", "agent"), ("s1", "server"), ("s2", "server"), ("s3", "server")] {
        let size = "cores = 1\nmemory = \"1GiB\"\ndisk = \"8GiB\"\n";
        text = format!("{text}[[node]]\nname = \"{name}\"\nrole = \"{role}\"\n{size}");
    }
    ClusterFile::parse(&text).unwrap()
}
