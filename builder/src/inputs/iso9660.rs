//! The first lines of an ISO 9660 image: whether it is one, and its name.
//! Only the primary volume descriptor is read (ECMA-119, 8.4); files are
//! `xorriso`'s to extract.

use std::io::{Read, Seek, SeekFrom};

/// Where the primary volume descriptor stands: sector 16.
const DESCRIPTOR: u64 = 16 * SECTOR as u64;
const SECTOR: usize = 2048;
const IDENTIFIER: &[u8] = b"CD001";
/// Where in the descriptor the volume identifier stands.
const VOLUME_ID: std::ops::Range<usize> = 40..72;

/// Why a file is no install medium.
#[derive(Debug, thiserror::Error)]
pub enum NotAnIso {
    /// Shorter than its own header.
    #[error("is not an ISO image: it ends before the header would begin (is the download complete?)")]
    TooShort,
    /// Something else.
    #[error("is not an ISO image: there is no \"CD001\" at byte 32769")]
    NoHeader,
    /// The header says more bytes than there are.
    #[error("is truncated: {have} of {want} bytes are there (is the download complete?)")]
    Truncated {
        /// Bytes the file has.
        have: u64,
        /// Bytes its header says.
        want: u64,
    },
    /// The name is not printable ASCII, so no boot argument can carry it.
    #[error("has a volume name that is not plain text, so its installer could not find it")]
    OddName,
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

/// The volume identifier of an image.
pub fn volume_id(mut image: impl Read + Seek) -> Result<String, NotAnIso> {
    let have = image.seek(SeekFrom::End(0))?;
    if have < DESCRIPTOR + SECTOR as u64 {
        return Err(NotAnIso::TooShort);
    }
    image.seek(SeekFrom::Start(DESCRIPTOR))?;
    let mut sector = [0; SECTOR];
    image.read_exact(&mut sector)?;
    // Type 1 is the primary descriptor.
    if sector[0] != 1 || &sector[1..6] != IDENTIFIER {
        return Err(NotAnIso::NoHeader);
    }
    let sectors = u32::from_le_bytes([sector[80], sector[81], sector[82], sector[83]]);
    let want = u64::from(sectors) * SECTOR as u64;
    if have < want {
        return Err(NotAnIso::Truncated { have, want });
    }
    let name = sector[VOLUME_ID].trim_ascii_end();
    if name.is_empty() || !name.iter().all(|b| b.is_ascii_graphic() || *b == b' ') {
        return Err(NotAnIso::OddName);
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn image(name: &[u8], sectors: u32) -> Vec<u8> {
        let mut image = vec![0; 18 * SECTOR];
        let descriptor = &mut image[16 * SECTOR..];
        descriptor[0] = 1;
        descriptor[1..6].copy_from_slice(IDENTIFIER);
        descriptor[VOLUME_ID].fill(b' ');
        descriptor[40..40 + name.len()].copy_from_slice(name);
        descriptor[80..84].copy_from_slice(&sectors.to_le_bytes());
        image
    }

    fn read(image: &[u8]) -> Result<String, NotAnIso> {
        volume_id(Cursor::new(image))
    }

    #[test]
    fn the_name_is_read_without_its_padding() {
        assert_eq!(read(&image(b"AlmaLinux-9-5-x86_64-dvd", 18)).unwrap(), "AlmaLinux-9-5-x86_64-dvd");
        assert_eq!(read(&image(b"A B", 18)).unwrap(), "A B");
    }

    #[test]
    fn what_is_not_an_iso_says_why() {
        assert!(matches!(read(b"QFI\xfb"), Err(NotAnIso::TooShort)));
        assert!(matches!(read(&vec![0; 18 * SECTOR]), Err(NotAnIso::NoHeader)));
        let cut = read(&image(b"A", 19)).unwrap_err();
        assert!(matches!(cut, NotAnIso::Truncated { have: 36864, want: 38912 }), "{cut:?}");
        assert!(matches!(read(&image(b"", 18)), Err(NotAnIso::OddName)));
        assert!(matches!(read(&image(b"A\nB", 18)), Err(NotAnIso::OddName)));
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_panic(sector in proptest::collection::vec(any::<u8>(), SECTOR)) {
            let mut image = image(b"A", 18);
            image[16 * SECTOR..17 * SECTOR].copy_from_slice(&sector);
            let _ = read(&image);
        }
    }
}
