//! What a disk image is before anything in it is read: a self-contained qcow2,
//! its partition table and the boot loader's sectors, all from the host.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::failure::BadInput;
use crate::machine::qemu::img::{self, Part};

/// Bytes of a sector of these disks.
const SECTOR: u64 = 512;
/// Read from the beginning: boot sector, partition table, and the first
/// partition, which holds GRUB's core image.
const HEAD: u64 = 2 << 20;
/// Read from the end: the partition table's copy.
const TAIL: u64 = 1 << 20;
/// A word in the boot sector GRUB writes (`boot.img`).
const GRUB: &[u8] = b"GRUB";

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskFacts {
    /// Its size as a guest sees it, in bytes.
    pub virtual_size: u64,
    /// Its partitions, in order.
    pub partitions: Vec<Partition>,
    /// Whether the boot sector is GRUB's and a core image follows it.
    pub bios_loader: bool,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its number.
    pub number: u32,
    /// Its name in the table.
    pub name: String,
    /// What it is for: `bios-boot`, `efi-system`, `linux`, or its GUID.
    pub kind: String,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// Refuses what is no self-contained qcow2. QEMU would open whatever file of
/// this host a foreign image names, so this comes before QEMU sees it.
pub(crate) fn check_qcow2(path: &Path) -> Result<()> {
    let mut header = [0; 104];
    let mut file =
        std::fs::File::open(path).map_err(|error| BadInput(format!("{}: {error}", path.display())))?;
    let read = file.read(&mut header).with_context(|| format!("reading {}", path.display()))?;
    match refuse(&header[..read]) {
        None => Ok(()),
        Some(why) => Err(BadInput(format!("{} {why}", path.display())).into()),
    }
}

/// The layout is that of QEMU's docs/interop/qcow2.txt.
fn refuse(header: &[u8]) -> Option<&'static str> {
    let word = |at: usize| header.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let long = |at: usize| Some(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?));
    const EXTERNAL_DATA: u64 = 1 << 2;
    if header.get(..4) != Some(b"QFI\xfb") {
        return Some("is not a qcow2 disk image");
    }
    match (word(4), long(8), word(32), long(72)) {
        (Some(2 | 3), Some(backing), _, _) if backing != 0 => {
            Some("has a backing file: inspect the packed image, which stands alone")
        }
        (Some(2 | 3), _, Some(crypt), _) if crypt != 0 => Some("is encrypted"),
        (Some(3), _, _, Some(features)) if features & EXTERNAL_DATA != 0 => {
            Some("keeps its data in another file")
        }
        (Some(2), Some(_), Some(_), _) | (Some(3), _, _, Some(_)) => None,
        _ => Some("is cut off, or a qcow2 of a version that is not known"),
    }
}

/// Reads the partition table and the boot loader's sectors; `work` is a
/// directory for what is taken out of the image.
pub(super) async fn read(image: &Path, work: &Path) -> Result<DiskFacts> {
    let virtual_size = img::info(image).await?.virtual_size;
    let tail_at = virtual_size.saturating_sub(TAIL) / SECTOR * SECTOR;
    let (head, tail) = (work.join("head.raw"), work.join("tail.raw"));
    img::read_part(image, &head, Part::First(HEAD.min(virtual_size)))
        .await
        .context("reading the disk's beginning")?;
    img::read_part(image, &tail, Part::From(tail_at)).await.context("reading the disk's end")?;
    // One sparse file that is as long as the disk and has both its ends.
    let path = work.join("ends.raw");
    let shown = || format!("writing {}", path.display());
    let mut ends = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(shown)?;
    ends.set_len(virtual_size).with_context(shown)?;
    for (part, at) in [(&head, 0), (&tail, tail_at)] {
        let mut part = std::fs::File::open(part).with_context(|| format!("opening {}", part.display()))?;
        ends.seek(SeekFrom::Start(at)).with_context(shown)?;
        std::io::copy(&mut part, &mut ends).with_context(shown)?;
    }
    facts(ends, virtual_size)
}

fn facts(mut disk: std::fs::File, virtual_size: u64) -> Result<DiskFacts> {
    let mut sector = [0; 512];
    disk.seek(SeekFrom::Start(0))?;
    disk.read_exact(&mut sector).context("reading the boot sector")?;
    // Both copies must be whole: firmware may read either.
    let table = gpt::GptConfig::new().writable(false).only_valid_headers(true);
    let table = table.open_from_device(disk).context("reading the disk's partition table")?;
    let mut partitions = Vec::new();
    for (number, partition) in table.partitions().iter().filter(|(_, partition)| partition.is_used()) {
        partitions.push(Partition {
            number: *number,
            name: partition.name.clone(),
            kind: kind(&partition.part_type_guid.guid.to_string()),
            start: partition.first_lba * SECTOR,
            size: (partition.last_lba + 1).saturating_sub(partition.first_lba) * SECTOR,
        });
    }
    partitions.sort_by_key(|partition| partition.number);
    let mut core = [0; 512];
    if let Some(bios) = partitions.iter().find(|partition| partition.kind == "bios-boot") {
        let mut disk = table.take_device();
        disk.seek(SeekFrom::Start(bios.start))?;
        disk.read_exact(&mut core).context("reading the boot loader's partition")?;
    }
    let bios_loader = sector.ends_with(&[0x55, 0xaa])
        && sector.windows(GRUB.len()).any(|window| window == GRUB)
        && core.iter().any(|byte| *byte != 0);
    Ok(DiskFacts { virtual_size, partitions, bios_loader })
}

/// Names of partition types, from the UEFI specification and the Discoverable
/// Partitions Specification.
fn kind(guid: &str) -> String {
    match guid.to_ascii_uppercase().as_str() {
        "21686148-6449-6E6F-744E-656564454649" => "bios-boot".to_owned(),
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" => "efi-system".to_owned(),
        "0FC63DAF-8483-4772-8E79-3D69D8477DE4" => "linux".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A disk with two partitions and nothing in them, in `dir`.
    pub(in super::super) async fn partitioned(dir: &Path) -> std::path::PathBuf {
        let raw = dir.join("disk.raw");
        let disk = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&raw).unwrap();
        disk.set_len(64 << 20).unwrap();
        let mut table = gpt::GptConfig::new().writable(true).create_from_device(disk, None).unwrap();
        table.add_partition("biosboot", 1 << 20, gpt::partition_types::BIOS, 0, Some(2048)).unwrap();
        table.add_partition("root", 8 << 20, gpt::partition_types::LINUX_FS, 0, Some(2048)).unwrap();
        let mut disk = table.write().unwrap();
        gpt::mbr::ProtectiveMBR::with_lb_size(131_071).overwrite_lba0(&mut disk).unwrap();
        let image = dir.join("disk.qcow2");
        img::convert(&raw, &image, img::Compression::Zlib, 1).await.unwrap();
        image
    }

    fn header(change: impl Fn(&mut Vec<u8>)) -> Option<&'static str> {
        let mut header = vec![0; 104];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        change(&mut header);
        refuse(&header)
    }

    #[test]
    fn only_a_disk_that_stands_alone_is_opened() {
        assert_eq!(header(|_| {}), None);
        for (at, byte, why) in [
            (0, b'X', "not a qcow2"),
            (7, 9, "not known"),
            (15, 1, "backing file"),
            (35, 1, "encrypted"),
            (79, 4, "another file"),
        ] {
            let said = header(|header| header[at] = byte).unwrap_or_default();
            assert!(said.contains(why), "{at}: {said}");
        }
        assert!(header(|header| header.truncate(60)).is_some());
        assert_eq!(refuse(b""), Some("is not a qcow2 disk image"));
    }

    #[tokio::test]
    async fn partitions_are_read_from_both_ends_of_a_qcow2() {
        let dir = tempfile::tempdir().unwrap();
        let image = partitioned(dir.path()).await;
        check_qcow2(&image).unwrap();
        let facts = read(&image, dir.path()).await.unwrap();
        let seen: Vec<_> =
            facts.partitions.iter().map(|p| (p.number, p.name.as_str(), p.kind.as_str())).collect();
        assert_eq!(seen, [(1, "biosboot", "bios-boot"), (2, "root", "linux")]);
        assert_eq!((facts.partitions[0].start, facts.partitions[0].size), (1 << 20, 1 << 20));
        assert!(!facts.bios_loader);
    }

    #[tokio::test]
    async fn a_disk_without_a_table_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("empty.qcow2");
        img::create(&image, 8 << 20).await.unwrap();
        let error = format!("{:#}", read(&image, dir.path()).await.unwrap_err());
        assert!(error.contains("partition table"), "{error}");
    }
}
