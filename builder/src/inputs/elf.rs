//! The header of an ELF program, as far as it says what a file is for.

use crate::image::version::Arch;

/// Bytes of a file that are enough for [`check`].
pub const HEADER: usize = 20;

/// Whether the file that begins with `header` is a program for `arch`. Says
/// what it is instead.
pub fn check(header: &[u8], arch: Arch) -> Result<(), String> {
    if header.len() < HEADER || &header[..4] != b"\x7fELF" {
        return Err(format!("is not a Linux program but {}", describe(header)));
    }
    let class = header[4];
    let machine = u16::from_le_bytes([header[18], header[19]]);
    let found = match (class, machine) {
        (2, 62) => "amd64",
        (2, 183) => "arm64",
        (1, 40) => "32-bit arm",
        (1, 3) => "32-bit x86",
        (2, 22) => "s390x",
        _ => "another architecture",
    };
    if found == arch.as_str() {
        Ok(())
    } else {
        Err(format!("is a program for {found}, not for {}", arch.as_str()))
    }
}

fn describe(header: &[u8]) -> &'static str {
    if header.is_empty() {
        "an empty file"
    } else if header.starts_with(b"#!") {
        "a script"
    } else if header.starts_with(b"<") {
        "a web page (did the download fail?)"
    } else if header.starts_with(b"Not Found") {
        "a saved \"Not Found\" answer (did the download fail?)"
    } else if header.starts_with(&[0x1f, 0x8b]) || header.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        "a compressed archive"
    } else {
        "something else"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(class: u8, machine: u16) -> Vec<u8> {
        let mut header = b"\x7fELF".to_vec();
        header.push(class);
        header.resize(18, 0);
        header.extend(machine.to_le_bytes());
        header
    }

    #[test]
    fn a_program_is_for_one_architecture() {
        assert_eq!(check(&header(2, 62), Arch::Amd64), Ok(()));
        assert_eq!(check(&header(2, 183), Arch::Arm64), Ok(()));
        assert_eq!(check(&header(2, 183), Arch::Amd64).unwrap_err(), "is a program for arm64, not for amd64");
    }

    #[test]
    fn what_it_is_instead_is_said() {
        for (file, what) in [
            (&b""[..], "an empty file"),
            (b"#!/bin/sh\necho k3s v1.28.5", "a script"),
            (b"<!DOCTYPE html><html></html>", "a web page"),
            (b"Not Found: no such thing here", "\"Not Found\" answer"),
            (b"\x1f\x8b\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "a compressed archive"),
            (b"\x7fELF", "something else"),
        ] {
            let error = check(file, Arch::Amd64).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_panic(header in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = check(&header, Arch::Amd64);
        }
    }
}
