//! Understands what an image archive holds: `docker save` and OCI image layout.
//!
//! Turns the archive into a plan (which configuration, which layers, which references)
//! and verifies every digest that it passes; unpacks nothing. Formats: the Docker image
//! specification v1.2 (`manifest.json`), the OCI image layout specification (`index.json`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path};
use std::sync::Arc;

use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::health;
use super::reader::{Hashing, Section, sha256};
use crate::container::health::HealthCheck;

/// The largest JSON document of an archive.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// The most members of an archive.
const MAX_MEMBERS: usize = 100_000;
/// The most layers of one image; overlayfs has the same limit.
const MAX_LAYERS: usize = 500;
/// The most images of one archive.
const MAX_IMAGES: usize = 1000;
/// How deep an index may lie in an index.
const MAX_INDEX_DEPTH: usize = 4;
/// How many links of an archive lead to one file.
const MAX_LINKS: usize = 8;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("it is neither a tar archive nor one compressed with gzip or zstd")]
    NotAnArchive,
    #[error(
        "it has neither a manifest.json nor an index.json, so it is no image archive; for a root filesystem use: linkspan import"
    )]
    NoManifest,
    #[error("it has more than {MAX_MEMBERS} members")]
    TooManyMembers,
    #[error("its `{name}` is missing")]
    Missing { name: String },
    #[error("its `{name}` has {size} bytes, and {MAX_DOCUMENT_BYTES} is the most for a document")]
    DocumentTooLarge { name: String, size: u64 },
    #[error("its `{name}` cannot be understood")]
    Document {
        name: String,
        source: serde_json::Error,
    },
    #[error("its configuration `{name}` cannot be understood")]
    Configuration {
        name: String,
        source: Box<oci_spec::OciSpecError>,
    },
    #[error("its `{name}` has the digest {found}, not {wanted}")]
    WrongDigest {
        name: String,
        wanted: String,
        found: String,
    },
    #[error("{rule}")]
    Refused { rule: String },
    #[error("it is cut short or damaged")]
    Damaged { source: io::Error },
}

type Result<T> = std::result::Result<T, ArchiveError>;

/// An image of an archive, ready to be unpacked.
#[derive(Debug)]
pub(crate) struct PlannedImage {
    /// The digest of the configuration.
    pub(crate) id: String,
    pub(crate) config: ImageConfiguration,
    pub(crate) health_check: Option<HealthCheck>,
    /// Lowest first, as many as the configuration has digests.
    pub(crate) layers: Vec<PlannedLayer>,
    /// As the archive spells them.
    pub(crate) references: Vec<String>,
}

/// A layer of an archive.
#[derive(Debug, Clone)]
pub(crate) struct PlannedLayer {
    /// The member that holds it, perhaps compressed.
    pub(crate) member: String,
    /// The digest of the uncompressed layer, by the configuration.
    pub(crate) diff_id: String,
}

/// Where the members of an archive are.
#[derive(Debug)]
pub(crate) struct Archive {
    file: Arc<File>,
    members: HashMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    File { offset: u64, size: u64 },
    Link { target: String },
}

#[derive(Debug, Deserialize)]
struct DockerManifest {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

impl Archive {
    /// Reads the headers of an uncompressed archive.
    pub(crate) fn open(file: File) -> Result<Self> {
        let damaged = |source| ArchiveError::Damaged { source };
        let file = Arc::new(file);
        let mut members = HashMap::new();
        let mut archive = tar::Archive::new(&*file);
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let entry = entry.map_err(|source| match members.is_empty() {
                true => ArchiveError::NotAnArchive,
                false => damaged(source),
            })?;
            let Some(name) = entry.path().ok().and_then(|path| normal(&path)) else {
                continue;
            };
            let member = match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => Member::File {
                    offset: entry.raw_file_position(),
                    size: entry.size(),
                },
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let Some(target) = link_target(&name, &entry) else {
                        continue;
                    };
                    Member::Link { target }
                }
                _ => continue,
            };
            if members.len() >= MAX_MEMBERS {
                return Err(ArchiveError::TooManyMembers);
            }
            members.insert(name, member);
        }
        if members.is_empty() {
            return Err(ArchiveError::NotAnArchive);
        }
        Ok(Self { file, members })
    }

    /// What the archive holds.
    pub(crate) fn plan(&self) -> Result<Vec<PlannedImage>> {
        let images = if self.members.contains_key("manifest.json") {
            self.plan_docker()?
        } else if self.members.contains_key("index.json") {
            let index: ImageIndex = self.document("index.json")?;
            let mut images = Vec::new();
            self.plan_index(&index, &[], 0, &mut images)?;
            images
        } else {
            return Err(ArchiveError::NoManifest);
        };
        if images.is_empty() {
            return Err(ArchiveError::Refused {
                rule: "it holds no image for Linux".to_owned(),
            });
        }
        Ok(images)
    }

    /// The bytes of a member.
    pub(crate) fn section(&self, name: &str) -> Result<Section> {
        let missing = || ArchiveError::Missing {
            name: name.to_owned(),
        };
        let mut current = normal(Path::new(name)).ok_or_else(missing)?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&current).ok_or_else(missing)? {
                Member::File { offset, size } => {
                    return Ok(Section::new(Arc::clone(&self.file), *offset, *size));
                }
                Member::Link { target } => current.clone_from(target),
            }
        }
        Err(missing())
    }

    fn plan_docker(&self) -> Result<Vec<PlannedImage>> {
        let manifests: Vec<DockerManifest> = self.document("manifest.json")?;
        if manifests.len() > MAX_IMAGES {
            return Err(ArchiveError::Refused {
                rule: format!("it holds more than {MAX_IMAGES} images"),
            });
        }
        let mut images = Vec::new();
        for manifest in manifests {
            let bytes = self.bytes(&manifest.config)?;
            // The name of the configuration is its digest; an archive that lies about it is damaged.
            let id = sha256(&bytes);
            let stem = manifest
                .config
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .trim_end_matches(".json");
            if stem.len() == 64 && !id.ends_with(stem) {
                let wanted = format!("sha256:{stem}");
                return Err(ArchiveError::WrongDigest {
                    name: manifest.config,
                    wanted,
                    found: id,
                });
            }
            let references = manifest.repo_tags.unwrap_or_default();
            images.push(planned(
                id,
                &manifest.config,
                &bytes,
                manifest.layers,
                references,
            )?);
        }
        Ok(images)
    }

    fn plan_index(
        &self,
        index: &ImageIndex,
        inherited: &[String],
        depth: usize,
        images: &mut Vec<PlannedImage>,
    ) -> Result<()> {
        if depth > MAX_INDEX_DEPTH || index.manifests().len() > MAX_IMAGES {
            return Err(ArchiveError::Refused {
                rule: "its index is too deep or too large".to_owned(),
            });
        }
        for descriptor in index.manifests() {
            let mut references = inherited.to_vec();
            let annotations = descriptor.annotations().clone().unwrap_or_default();
            let named = [
                "io.containerd.image.name",
                "org.opencontainers.image.ref.name",
            ]
            .iter()
            .find_map(|key| annotations.get(*key));
            references.extend(named.cloned());
            let member = blob(descriptor.digest().as_ref())?;
            if descriptor.media_type().to_string().contains("index")
                || descriptor
                    .media_type()
                    .to_string()
                    .contains("manifest.list")
            {
                self.verify(&member, descriptor.digest().as_ref())?;
                let nested: ImageIndex = self.document(&member)?;
                self.plan_index(&nested, &references, depth + 1, images)?;
                continue;
            }
            if !runs_here(descriptor.platform().as_ref()) {
                continue;
            }
            self.verify(&member, descriptor.digest().as_ref())?;
            let manifest: ImageManifest = self.document(&member)?;
            images.push(self.plan_manifest(&manifest, references)?);
        }
        Ok(())
    }

    fn plan_manifest(
        &self,
        manifest: &ImageManifest,
        references: Vec<String>,
    ) -> Result<PlannedImage> {
        let id = manifest.config().digest().to_string();
        let member = blob(&id)?;
        self.verify(&member, &id)?;
        let bytes = self.bytes(&member)?;
        let mut layers = Vec::new();
        for layer in manifest.layers() {
            let digest = layer.digest().to_string();
            let member = blob(&digest)?;
            self.verify(&member, &digest)?;
            layers.push(member);
        }
        planned(id, &member, &bytes, layers, references)
    }

    /// Compares a member with the digest that it must have.
    fn verify(&self, name: &str, wanted: &str) -> Result<()> {
        let found = Hashing::new(self.section(name)?)
            .finish()
            .map_err(|source| ArchiveError::Damaged { source })?;
        if found == wanted {
            return Ok(());
        }
        let (name, wanted) = (name.to_owned(), wanted.to_owned());
        Err(ArchiveError::WrongDigest {
            name,
            wanted,
            found,
        })
    }

    fn document<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let bytes = self.bytes(name)?;
        serde_json::from_slice(&bytes).map_err(|source| ArchiveError::Document {
            name: name.to_owned(),
            source,
        })
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let section = self.section(name)?;
        let size = section.size();
        if size > MAX_DOCUMENT_BYTES {
            return Err(ArchiveError::DocumentTooLarge {
                name: name.to_owned(),
                size,
            });
        }
        let mut bytes = Vec::new();
        let mut section = section;
        section
            .read_to_end(&mut bytes)
            .map_err(|source| ArchiveError::Damaged { source })?;
        Ok(bytes)
    }
}

fn planned(
    id: String,
    name: &str,
    bytes: &[u8],
    members: Vec<String>,
    references: Vec<String>,
) -> Result<PlannedImage> {
    let config =
        ImageConfiguration::from_reader(bytes).map_err(|source| ArchiveError::Configuration {
            name: name.to_owned(),
            source: Box::new(source),
        })?;
    let health_check = health::of(bytes).map_err(|error| ArchiveError::Refused {
        rule: error.to_string(),
    })?;
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != members.len() {
        return Err(ArchiveError::Refused {
            rule: format!(
                "its manifest names {} layers and its configuration {}",
                members.len(),
                diff_ids.len()
            ),
        });
    }
    if members.len() > MAX_LAYERS {
        return Err(ArchiveError::Refused {
            rule: format!(
                "it has {} layers, and {MAX_LAYERS} is the most",
                members.len()
            ),
        });
    }
    let layers = members
        .into_iter()
        .zip(diff_ids)
        .map(|(member, diff_id)| PlannedLayer {
            member,
            diff_id: diff_id.clone(),
        })
        .collect();
    Ok(PlannedImage {
        health_check,
        id,
        config,
        layers,
        references,
    })
}

/// The member of an OCI layout that holds the blob with this digest.
fn blob(digest: &str) -> Result<String> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(format!("blobs/sha256/{hex}"))
        }
        _ => Err(ArchiveError::Refused {
            rule: format!("its digest `{digest}` is no sha256 digest"),
        }),
    }
}

/// Whether an image for this platform runs on this host; one that does not say is taken.
fn runs_here(platform: Option<&oci_spec::image::Platform>) -> bool {
    platform.is_none_or(|platform| {
        platform.os().to_string() == "linux"
            && platform.architecture().to_string() == super::goarch()
    })
}

/// A path of an archive without `.`; none when it leads out of it.
fn normal(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn link_target<R: Read>(name: &str, entry: &tar::Entry<'_, R>) -> Option<String> {
    let target = entry.link_name().ok().flatten()?;
    if entry.header().entry_type() == tar::EntryType::Link {
        return normal(&target);
    }
    normal(&Path::new(name).parent()?.join(target))
}
