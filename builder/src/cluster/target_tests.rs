use super::*;

const FILE: &str = r#"
[cluster]
name = "demo"
k3s = "v1.28.5+k3s1"
image = "alma9-k3-node-amd64-v1.28.5-v1"
provider = "qemu"

[[node]]
name = "s1"
role = "server"
cores = 1
memory = "1GiB"
disk = "4GiB"
"#;

fn file(change: impl Fn(&str) -> String) -> ClusterFile {
    ClusterFile::parse(&change(FILE)).unwrap()
}

fn bare(virtual_size: u64) -> Image {
    let disk = LocalImage { path: "/i/disk.qcow2".into(), digest: Digest::of(b"i"), virtual_size };
    Image { disk, manifest: None }
}

fn said(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_fits_is_only_warned_about() {
    let findings = check(&file(str::to_owned), &bare(4 << 30));
    assert!(said(&findings).starts_with("warning: /i/disk.qcow2 has no manifest.json"), "{findings:?}");
    assert_eq!(findings.len(), 1);
}

#[test]
fn a_disk_must_hold_the_image() {
    let findings = check(&file(str::to_owned), &bare((4 << 30) + 1));
    assert!(said(&findings).contains("error: node s1: its disk of 4GiB is smaller"), "{findings:?}");
}

#[test]
fn the_cluster_network_keeps_off_the_nat() {
    let overlapping = file(|text| text.replacen("provider", "network = \"10.0.0.0/16\"\nprovider", 1));
    let findings = check(&overlapping, &bare(1 << 30));
    assert!(said(&findings).contains("overlaps 10.0.2.0/24"), "{findings:?}");
}

#[test]
fn other_providers_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let text =
        FILE.replace("\"qemu\"", "\"hetzner\"").replace("[[node]]", "[[node]]\naddress = \"10.1.0.5/24\"");
    std::fs::write(&path, text).unwrap();
    let error = read_file(&path).unwrap_err().to_string();
    assert!(error.contains("\"hetzner\" is not supported") && error.contains("\"qemu\""), "{error}");
    let error = read_file(&dir.path().join("no.toml")).unwrap_err();
    assert!(error.is::<BadInput>() && error.to_string().contains("no.toml"), "{error}");
}

#[tokio::test]
async fn an_image_that_is_none_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let read = async |path: &Path| read_image(path, "v").await.unwrap_err().to_string();
    assert!(read(&dir.path().join("x")).await.contains("`builder bake` makes one"));
    assert!(read(dir.path()).await.contains("no manifest.json in it, nor in v"));
    let raw = dir.path().join("disk.img");
    std::fs::write(&raw, vec![0; 4096]).unwrap();
    assert!(read(&raw).await.contains("not a self-contained qcow2"));
    std::fs::create_dir(dir.path().join("v")).unwrap();
    std::fs::write(dir.path().join("v/manifest.json"), "{}").unwrap();
    assert!(read(dir.path()).await.contains("manifest.json is not one of Kiln's"));
}

#[test]
fn only_servers_are_reached_from_here() {
    let two = file(|text| {
        format!(
            "{text}\n[[node]]\nname = \"a1\"\nrole = \"agent\"\ncores = 1\nmemory = \"512MiB\"\ndisk = \"4GiB\"\n"
        )
    });
    let specs = specs(&two, Digest::of(b"i"), |_| NodeFirmware::Uefi);
    assert_eq!(specs.iter().map(|spec| spec.api).collect::<Vec<_>>(), [true, false]);
    assert_eq!(specs[1].mac, two.nodes()[1].mac);
}
