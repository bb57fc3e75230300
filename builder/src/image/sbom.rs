//! The bill of materials: a `CycloneDX` document of what is in an image, as
//! vulnerability scanners read it.

use anyhow::{Context as _, Result, anyhow};
use cyclonedx_bom::external_models::normalized_string::NormalizedString;
use cyclonedx_bom::models::bom::{Bom, SpecVersion, UrnUuid};
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{License, LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata;
use kiln_protocol::install::Package;
use purl::GenericPurlBuilder;

use super::key::Digest;
use super::manifest::{FileRecord, Manifest};

/// The document's name in the result directory, by `CycloneDX`'s convention.
pub const SBOM: &str = "sbom.cdx.json";
/// What of the manifest's inputs is in the image as a file of its own: k3s
/// and its container images, the agent.
const FILES: [&str; 3] = ["agent", "k3s", "k3s-images"];

/// The document of an image, as JSON. The same image gives the same bytes.
pub fn sbom(manifest: &Manifest, packages: &[Package]) -> Result<Vec<u8>> {
    let mut components = packages.iter().map(rpm).collect::<Result<Vec<_>>>()?;
    let is_inside =
        |name: &str| FILES.iter().any(|inside| name == *inside || name.starts_with(&format!("{inside}/")));
    let inside = manifest.inputs.iter().filter(|(name, _)| is_inside(name));
    components.extend(inside.map(|(name, file)| component_of(name, file, manifest)));
    let image = Component {
        hashes: manifest.outputs.get("disk").map(|disk| sha256(disk.sha256)),
        ..Component::new(
            Classification::OperatingSystem,
            "kiln-node-image",
            &manifest.version.to_string(),
            Some("image".to_owned()),
        )
    };
    let metadata = Metadata {
        timestamp: Some(manifest.build_date.to_string().try_into().context("writing the build date")?),
        component: Some(image),
        ..Metadata::default()
    };
    let bom = Bom {
        serial_number: Some(serial_number(manifest.content_key)?),
        metadata: Some(metadata),
        components: Some(Components(components)),
        spec_version: SpecVersion::V1_5,
        ..Bom::default()
    };
    let mut json = Vec::new();
    bom.output_as_json(&mut json, SpecVersion::V1_5).context("writing the bill of materials")?;
    json.push(b'\n');
    Ok(json)
}

/// A package, named as the package URL specification names an RPM: epoch and
/// architecture are qualifiers.
fn rpm(package: &Package) -> Result<Component> {
    let version = format!("{}-{}", package.version, package.release);
    let mut purl = GenericPurlBuilder::new("rpm".to_owned(), package.name.as_str())
        .with_namespace("almalinux")
        .with_version(version.as_str())
        .with_qualifier("arch", package.arch.as_str())
        .with_context(|| format!("naming package {package}"))?;
    if package.epoch > 0 {
        purl = purl.with_qualifier("epoch", package.epoch.to_string())?;
    }
    let purl = purl.build().with_context(|| format!("naming package {package}"))?.to_string();
    // A free text: EL 9's packages do not name their licences in SPDX's terms.
    let license = |text: &String| Licenses(vec![LicenseChoice::License(License::named_license(text))]);
    Ok(Component {
        purl: purl.parse().ok(),
        licenses: package.license.as_ref().map(license),
        ..Component::new(Classification::Library, &package.name, &version, Some(purl))
    })
}

fn component_of(name: &str, file: &FileRecord, manifest: &Manifest) -> Component {
    let version = match name {
        "agent" => manifest.tools.get("builder").map_or("", String::as_str),
        _ => manifest.k3s_version.as_str(),
    };
    let kind =
        if name.starts_with("k3s-images/") { Classification::File } else { Classification::Application };
    let shown = if name == "agent" { "kiln-agent" } else { name };
    let mut component = Component::new(kind, shown, version, Some(format!("input:{name}")));
    component.description = Some(NormalizedString::new(&file.name));
    component.hashes = Some(sha256(file.sha256));
    component
}

fn sha256(digest: Digest) -> Hashes {
    Hashes(vec![Hash { alg: HashAlgorithm::SHA_256, content: HashValue(digest.to_string()) }])
}

/// A UUID of version 8 (RFC 9562: whatever its maker likes) out of the content
/// key: one image, one document.
fn serial_number(key: Digest) -> Result<UrnUuid> {
    let hex = key.to_string();
    let uuid = format!(
        "urn:uuid:{}-{}-8{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    );
    UrnUuid::new(uuid).map_err(|error| anyhow!("numbering the bill of materials: {error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::test_manifest;
    use cyclonedx_bom::validation::Validate as _;
    use std::collections::BTreeMap;

    fn package(name: &str, epoch: u32) -> Package {
        Package {
            name: name.into(),
            epoch,
            version: "3.2.2".into(),
            release: "6.el9_5".into(),
            arch: "x86_64".into(),
            license: Some("ASL 2.0".into()),
        }
    }

    fn manifest() -> Manifest {
        let file =
            |name: &str| FileRecord { name: name.into(), size: 4, sha256: Digest::of(name.as_bytes()) };
        let inputs = ["iso", "k3s", "agent"].map(|name| (name.to_owned(), file(name)));
        Manifest { inputs: BTreeMap::from(inputs), ..test_manifest(b"disk") }
    }

    #[test]
    fn the_document_is_valid_and_names_what_is_inside() {
        let json = sbom(&manifest(), &[package("openssl-libs", 1), package("libstdc++", 0)]).unwrap();
        let bom = Bom::parse_from_json(json.as_slice()).unwrap();
        assert!(
            bom.validate_version(SpecVersion::V1_5).passed(),
            "{:?}",
            bom.validate_version(SpecVersion::V1_5)
        );
        let components = bom.components.unwrap().0;
        let purls: Vec<_> =
            components.iter().filter_map(|c| c.purl.as_ref()).map(ToString::to_string).collect();
        assert_eq!(
            purls,
            [
                "pkg:rpm/almalinux/openssl-libs@3.2.2-6.el9_5?arch=x86_64&epoch=1",
                "pkg:rpm/almalinux/libstdc++@3.2.2-6.el9_5?arch=x86_64",
            ]
        );
        let names: Vec<_> = components.iter().map(|component| component.name.to_string()).collect();
        assert_eq!(names, ["openssl-libs", "libstdc++", "kiln-agent", "k3s"], "the ISO is not in the image");
    }

    #[test]
    fn one_image_has_one_document() {
        let packages = [package("a", 0)];
        assert_eq!(sbom(&manifest(), &packages).unwrap(), sbom(&manifest(), &packages).unwrap());
    }
}
